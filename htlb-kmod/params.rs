// SPDX-License-Identifier: GPL-2.0-only
//! What is decided when the module is loaded.

use htlb_core::{Error as Reason, Exclusive, Gfp, HugeSize, PageCount};
use kernel::prelude::*;

use crate::ffi::system;
use crate::machine::{Machine, SIZES};

/// For the pool's own pages: unmovable, uncharged, without a warning, and not at any price.
pub(crate) const POOL_GFP: Gfp = Gfp::HIGHUSER.union(Gfp::COMP).union(Gfp::NOWARN).union(Gfp::RETRY_MAYFAIL);

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

/// Fills the pools as the parameters say; what could not be had is said in the log.
pub(crate) fn apply(machine: &Machine) -> Result<(), Reason> {
    for size in SIZES {
        if let Some(lock) = machine.stock(size) {
            lock.with(|stock| stock.ledger_mut().set_overcommit(PageCount::new(overcommit(size))));
        }
        let wanted = first_pages(size);
        if wanted > 0 {
            let got = machine.resize(size, system::memory_nodes(), PageCount::new(wanted))?;
            if got.raw() < wanted {
                pr_warn!("{} pages of {} KiB wanted, {} to be had; RESIZE can try again\n", wanted, size.bytes() >> 10, got.raw());
            }
        }
    }
    Ok(())
}
