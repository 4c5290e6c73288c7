// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The module's own beginning.

use std::fs;

use anyhow::{bail, ensure, Context, Result};
use htlb_core::uapi::DEVICE;
use htlb_user::device::Device;

use super::faults::{text_of_function, Faults};
use super::{Books, MOST};
use crate::guest::meminfo::Memory;
use crate::guest::{is_debug_kernel, rest, skip, Module};

const MIB2: u64 = 2 << 20;

/// Loading it, with every allocation of its beginning failing in turn.
pub(super) fn the_module_itself() -> Result<()> {
    if !is_debug_kernel() {
        return skip("Debian's kernel has no fault injection");
    }
    let module = Module::new("htlb", "pages_2m=4");
    Module::new("htlb_caller", "").unload()?;
    module.unload()?;
    let before = Memory::settled()?;
    let faults = Faults::below(&text_of_function("do_init_module")?)?;
    let (mut refused, mut less) = (0_u32, 0_u32);
    for number in 1..=MOST {
        let (done, fired) = faults.at(number, || module.load())?;
        match done {
            Ok(()) => {
                let device = Device::open()?;
                let there = Books::of(&device)?
                    .pools
                    .first()
                    .map_or(0, |stats| stats.total);
                // Files for debugging may be missing: the kernel does not let anything fail for them.
                match fs::exists(rest::CHECK)? {
                    true => {
                        rest::wait().with_context(|| format!("loading with failure {number}"))?
                    }
                    false => ensure!(fired, "there are no books to look at"),
                }
                drop(device);
                module.unload()?;
                ensure!(fired || there == 4 * MIB2, "{there} bytes in the pool");
                less += u32::from(there < 4 * MIB2);
            }
            Err(error) => {
                ensure!(fired, "loading fails without a reason: {error:#}");
                ensure!(
                    !module.is_loaded()?,
                    "failure {number}: it is there all the same"
                );
                ensure!(
                    !fs::exists(DEVICE)?,
                    "failure {number}: its device is there"
                );
                refused += 1;
            }
        }
        if !fired {
            let reached = number - 1;
            println!("loading: {reached} allocations failed, {refused} of them with an error, {less} with a smaller pool");
            ensure!(reached >= 20, "loading reached {reached} allocations only");
            before.is_back()?;
            // As the group had it.
            return module.load();
        }
    }
    bail!("loading has more than {MOST} allocations")
}
