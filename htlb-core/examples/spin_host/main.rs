// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A host of its own kind for the core: `cargo run -p htlb-core --example spin_host --features spin`.
//!
//! All that matters is in `host.rs`, which uses nothing but `core` and this crate. Only this file has std, to print.

mod host;

use host::Monitor;
use htlb_core::driver::{self, Content};
use htlb_core::{AddressBits, ByteLen, ByteOffset, ByteRange, Error, Pfn};

const MIB: u64 = 1 << 20;

/// The first frame at 4 GiB, which a 32-bit device cannot reach.
const AT_4GIB: Pfn = Pfn::new(1 << 20);

/// 16 pages of 2 MiB before that.
const FIRST: Pfn = Pfn::new((1 << 20) - 16 * 512);

fn main() -> Result<(), Error> {
    // 32 pages of 2 MiB, half of them below 4 GiB.
    let monitor = Monitor::new(FIRST, 32)?;

    // A guest that can use any address gets what the others cannot use; one with a 32-bit device gets the rest.
    let mut large = monitor.admit(ByteLen::new(40 * MIB), AddressBits::ALL)?;
    let mut legacy = monitor.admit(ByteLen::new(20 * MIB), AddressBits::new(32)?)?;
    println!("two guests admitted, {} pages to spare", monitor.spare());

    // Nothing is populated yet, but of the 32 pages 30 are promised: three more cannot be.
    let third = monitor.admit(ByteLen::new(6 * MIB), AddressBits::ALL);
    assert_eq!(third.err(), Some(Error::NoRoom));

    // A fault of the guest: the page was promised, so it comes.
    let page = driver::fault(&monitor, &legacy, ByteOffset::new(5 * MIB))?;
    println!("guest address 5 MiB is at frame {:#x}", page.pfn.raw());
    assert!(page.pfn < AT_4GIB, "its device reaches it");

    let all = ByteRange::at(ByteOffset::ZERO, large.map().size())?;
    let populated = driver::populate(&monitor, &large, all, &mut Content::Zeroes)?;
    println!("{populated} pages populated");

    driver::release(&monitor, &mut large)?;
    driver::release(&monitor, &mut legacy)?;
    assert_eq!(monitor.spare().raw(), 32);
    assert!(monitor.is_sound());
    println!("both guests gone, {} pages to spare", monitor.spare());
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn guests_come_and_go() -> Result<(), htlb_core::Error> {
        super::main()
    }
}
