// SPDX-License-Identifier: GPL-2.0-only
//! What is decided when the module is loaded.

use htlb_core::{Error as Reason, Exclusive, Gfp, HugeSize, PageCount};
use kernel::prelude::*;

use crate::ffi::system;
use crate::machine::{Machine, SIZES};

/// For the pool's own pages: unmovable, uncharged, without a warning, and not at any price.
pub(crate) const POOL_GFP: Gfp = Gfp::HIGHUSER.union(Gfp::COMP).union(Gfp::NOWARN).union(Gfp::RETRY_MAYFAIL);

/// What `low_bits` may be.
const LOW_BITS: core::ops::RangeInclusive<u8> = 24..=32;

/// Pages for the pool of a size when the module is loaded.
fn first_pages(size: HugeSize) -> u64 {
    match size {
        HugeSize::GIB1 => *crate::module_parameters::pages_1g.value_ref(),
        _ => *crate::module_parameters::pages_2m.value_ref(),
    }
}

/// How much surplus a size may have: half of the memory, unless told otherwise.
fn overcommit(size: HugeSize) -> u64 {
    let told = match size {
        HugeSize::GIB1 => *crate::module_parameters::overcommit_1g.value_ref(),
        _ => *crate::module_parameters::overcommit_2m.value_ref(),
    };
    u64::try_from(told).unwrap_or((system::total_memory() / 2) >> size.shift())
}

/// Adds the pages below an address to the pool; says how many.
fn low_pages(machine: &Machine) -> Result<PageCount, Reason> {
    let wanted = *crate::module_parameters::low_2m.value_ref();
    let bits = *crate::module_parameters::low_bits.value_ref();
    if !LOW_BITS.contains(&bits) {
        pr_err!("low_bits is {}: 24 to 32 are possible\n", bits);
        return Err(Reason::DmaMaskInvalid);
    }
    if wanted == 0 {
        return Ok(PageCount::ZERO);
    }
    let got = machine.add_low(HugeSize::MIB2, bits, PageCount::new(wanted))?;
    if got.raw() < wanted {
        pr_warn!("{} pages of 2048 KiB below 2^{} wanted, {} to be had\n", wanted, bits, got.raw());
    }
    Ok(got)
}

/// Fills the pools as the parameters say; what could not be had is said in the log.
pub(crate) fn apply(machine: &Machine) -> Result<(), Reason> {
    for size in SIZES {
        if let Some(lock) = machine.stock(size) {
            lock.with(|stock| stock.ledger_mut().set_overcommit(PageCount::new(overcommit(size))));
        }
        let low = if size == HugeSize::MIB2 { low_pages(machine)? } else { PageCount::ZERO };
        let wanted = first_pages(size).saturating_add(low.raw());
        if wanted > low.raw() {
            let got = machine.resize(size, system::memory_nodes(), PageCount::new(wanted))?;
            if got.raw() < wanted {
                pr_warn!("{} pages of {} KiB wanted, {} to be had; RESIZE can try again\n", wanted, size.bytes() >> 10, got.raw());
            }
        }
    }
    Ok(())
}
