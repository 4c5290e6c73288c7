// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The module under pressure: everything that can be done to it, at random, by processes and threads that race, while memory is short,
//! while it is to be unloaded, and by hundreds.
//!
//! A [`storm::Storm`] is made of rounds. In a round processes come, are killed and are followed by others, each with threads that
//! are an [`actor::Actor`] each; then all end, and at that pause the books are compared, the pools are as they were, and nothing is in use.
//! What the kernel's log says is judged as for every other case. Choices come from a number that is printed: `--seed` makes an actor
//! choose again what it chose, though not when.

mod actor;
mod child;
mod device;
mod memory;
mod modules;
mod plan;
mod storm;
mod tally;
mod view;
mod world;

use std::time::Duration;

use anyhow::{ensure, Result};
use htlb_core::{Gfp, HugeSize};

use super::span::HugetlbPool;
use super::{cases, is_debug_kernel, Group, Module};
use memory::{a_small_memory_cgroup, memory_is_nearly_gone_and_in_pieces};
use modules::{a_driver_loses_its_device_at_bad_moments, modules_leave_at_bad_moments};
use plan::Plan;
use storm::{Storm, Victims};
use tally::Kind;
use world::Measure;

/// What the module is loaded with; [`modules`] loads it so again.
const HTLB: Module = Module::new("htlb", "pages_2m=16 low_2m=10 low_bits=28");
const IMPORTER: Module = Module::new("htlb_importer", "");

pub(super) const GROUP: Group = Group {
    name: "stress",
    modules: &[HTLB, IMPORTER],
    cases: || {
        cases![
            threads_and_processes_do_anything_at_all.within(120),
            hundreds_of_processes.within(120),
            a_small_memory_cgroup,
            memory_is_nearly_gone_and_in_pieces.within(120),
            a_driver_loses_its_device_at_bad_moments.within(120),
            // Last, since it loads the module anew, with the low pages that the driver needs.
            modules_leave_at_bad_moments.within(120),
        ]
    },
};

const SMALL: Measure = Measure {
    processes: 3,
    threads: 3,
    buffers: 6,
    pages: 4,
    gfp: Gfp::empty(),
};

fn nothing() -> Result<()> {
    Ok(())
}

fn threads_and_processes_do_anything_at_all() -> Result<()> {
    let plan = Plan::of("threads_and_processes", 20)?;
    let pool = HugetlbPool::of(HugeSize::MIB2, 12)?;
    let mut storm = Storm::new(plan, SMALL, Victims::None, &nothing)?;
    let done = storm.rounds(Duration::from_secs(5), Kind::ALL);
    storm.report();
    done?;
    drop(storm);
    ensure!(
        pool.free()? == pool.total()?,
        "hugetlb has {} of {}",
        pool.free()?,
        pool.total()?
    );
    Ok(())
}

/// Each with a file of its own, and a buffer or two.
fn hundreds_of_processes() -> Result<()> {
    let plan = Plan::of("hundreds", 2)?;
    let measure = Measure {
        processes: if is_debug_kernel() { 40 } else { 200 },
        threads: 1,
        buffers: 2,
        pages: 1,
        gfp: Gfp::empty(),
    };
    let mut storm = Storm::new(plan, measure, Victims::None, &nothing)?;
    let kinds = [Kind::Create, Kind::Map, Kind::Punch, Kind::Fork];
    let done = storm.rounds(Duration::from_secs(5), &kinds);
    storm.report();
    done
}
