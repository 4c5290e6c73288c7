// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every allocation in the module is made to fail in turn: an error comes back, nothing leaks, and the books are right.
//!
//! Each [`Trial`] runs one operation with its first allocation failing, then with its second, until it has no more. Of each
//! it is written down how many allocations it has at least: fewer means that the injection no longer reaches them.

mod devices;
mod faults;
mod loading;
mod operations;

use std::fmt::Display;
use std::ops::Range;

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Limit, Stats};
use htlb_core::{HugeSize, NodeId};
use htlb_user::device::{Account, Device};

use super::meminfo::Memory;
use super::{cases, is_debug_kernel, rest, skip, Group, Module};
use devices::{dma_bufs_and_donations, what_drivers_call};
use faults::Faults;
use loading::the_module_itself;
use operations::{
    a_fault_without_memory, books_that_are_looked_at, buffers_of_charged_pages,
    buffers_of_every_rung, files_of_new_users, many_kinds_of_promises,
    more_files_than_there_is_room_for, pools_of_another_size, ranges_of_a_buffer,
    tables_of_any_size,
};

pub(super) const GROUP: Group = Group {
    name: "inject",
    modules: &[
        Module::new("htlb", "pages_2m=16"),
        Module::new("htlb_caller", ""),
        Module::new("htlb_importer", ""),
    ],
    cases: || {
        cases![
            files_of_new_users.within(120),
            more_files_than_there_is_room_for.within(120),
            many_kinds_of_promises.within(120),
            buffers_of_every_rung.within(120),
            buffers_of_charged_pages.within(120),
            tables_of_any_size.within(120),
            a_fault_without_memory.within(120),
            ranges_of_a_buffer.within(120),
            pools_of_another_size.within(120),
            books_that_are_looked_at.within(120),
            dma_bufs_and_donations.within(120),
            what_drivers_call.within(120),
            // The last one: it takes the module out.
            the_module_itself.within(240),
        ]
    },
};

/// No operation has more allocations.
const MOST: u32 = 2000;

/// What must be the same after an operation was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Books {
    pools: Vec<Stats>,
    usage: Vec<Limit>,
}

impl Books {
    fn of(device: &Device) -> Result<Self> {
        let (mut pools, mut usage) = (Vec::new(), Vec::new());
        for size in [HugeSize::MIB2, HugeSize::GIB1] {
            for node in [None, Some(NodeId::new(0)?), Some(NodeId::new(1)?)] {
                pools.push(device.stats(size, node)?);
            }
            usage.push(device.usage(Account::ThisFile, size)?);
            usage.push(device.usage(Account::User(0), size)?);
        }
        Ok(Self { pools, usage })
    }
}

/// An operation, tried with each of its allocations failing.
struct Trial<'a> {
    name: &'a str,
    device: &'a Device,
    faults: &'a Faults,
    /// What it may answer when memory is short.
    errors: &'a [i32],
}

/// Watches the module, on a kernel that can.
fn watched() -> Result<(Device, Faults)> {
    if !is_debug_kernel() {
        return skip("Debian's kernel has no fault injection");
    }
    let code: Range<u64> = faults::text_of("htlb")?;
    Ok((Device::open()?, Faults::below(&code)?))
}

impl Trial<'_> {
    /// Runs `operation` until it has no allocation left that did not fail once; what it gives is handed to `undo`. It has
    /// at least `least` allocations.
    fn run<T, E: Errno>(
        &self,
        least: u32,
        mut operation: impl FnMut() -> Result<T, E>,
        mut undo: impl FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let name = self.name;
        let before = Books::of(self.device)?;
        let (mut reached, mut refused) = (0, 0);
        for number in 1..=MOST {
            let (done, fired) = self.faults.at(number, &mut operation)?;
            match done {
                Ok(value) => undo(value)
                    .with_context(|| format!("{name}: undoing the one with failure {number}"))?,
                Err(error) => {
                    ensure!(fired, "{name} fails without a reason: {error}");
                    let errno = error.errno();
                    ensure!(
                        self.errors.contains(&errno),
                        "{name}, failure {number}: errno {errno}: {error}"
                    );
                    refused += 1;
                }
            }
            let after = Books::of(self.device)?;
            ensure!(
                before == after,
                "{name}, failure {number}: {before:?} became {after:?}"
            );
            rest::check()
                .map_err(|broken| anyhow::anyhow!("{name}, failure {number}: {broken}"))?;
            if !fired {
                let free = Memory::now()?.field("MemFree");
                println!("{name}: {reached} allocations failed, {refused} of them with an error; {free} bytes are free");
                ensure!(
                    reached >= least,
                    "{name} reached {reached} allocations only, not {least}"
                );
                return Ok(());
            }
            reached += 1;
        }
        anyhow::bail!("{name} has more than {MOST} allocations")
    }
}

/// An error with a number.
trait Errno: Display {
    fn errno(&self) -> i32;
}

impl Errno for std::io::Error {
    fn errno(&self) -> i32 {
        self.raw_os_error().unwrap_or(0)
    }
}

impl Errno for htlb_user::device::DeviceError {
    fn errno(&self) -> i32 {
        self.errno()
    }
}
