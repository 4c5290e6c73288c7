// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Linux as the oracle: random operations through the core and through the hugetlbfs of the running kernel, in lock step.
//!
//! A case is a machine of 4 to 12 pages of 2 MiB with three mounts (`size=`, `min_size=`, both, neither), four files and up to
//! three mappings of each. After every step these are the same on both sides: `nr_hugepages`, `free_hugepages`,
//! `resv_hugepages`, `surplus_hugepages`; `f_blocks` and `f_bfree` of every mount; size and pages of every file; and whether
//! the step was refused. The core's side is the one that predicts: `htlb` holds a ledger, a pool and page maps, and no count of
//! its own.
//!
//! The mounts are made with `fsopen` and attached nowhere, each in a mount namespace of its own. A fault is
//! `MADV_POPULATE_WRITE` or `_READ`: what would be a SIGBUS is an errno.
//!
//! # Where htlb means to be different
//!
//! Each is counted when it happens, the number that Linux then shows is predicted, and anything else is a failure.
//!
//! | | Linux | htlb |
//! |---|---|---|
//! | `KeptReservations` | a punched page that was reserved and never touched stays reserved | a punched range is a hole: the promise is given back. The punch is compared first without these promises, then done, checked and undone |
//! | `HeldBack` | `min_size=` is filled up with whatever comes back, though the minimum is in use | what is unused of a minimum is promised, never more; promises to nobody stand for the rest |
//! | `BrokenMinimum` | a page that comes back while there are surplus pages leaves, also where `min_size=` reserves it: more is reserved than is free | it stays. The case ends there |
//! | `LostLimit` | a fault refused for want of a page counts against `size=` until the end of the mount (twice where `MADV_POPULATE` tries twice), and the subpool is never freed | an `Err` changes nothing; the account's limit is lowered by what Linux lost |
//! | `NotAsked` | refusals for want of a page on a mount with both `size=` and `min_size=` spoil `resv_hugepages` until the next boot: a fault's keeps the minimum for ever, a reservation's forgets a part of the minimum that the unmount then takes off all the same (6.18: 0 becomes 2^64 - 1) | so they are not asked |
//! | `BeyondTheEnd` | pages that a refused `fallocate` put beyond the end of the file stay there, and a fault maps them | the buffer stays that long |
//!
//! Promises by node and by reach have no counterpart: here there is one node, and every reach is any page. Neither has the rung
//! below the pool: the simulated system gives surplus pages and nothing beside. Pages that stay when the pool shrinks are
//! surplus for Linux also where they are free and promised; `Ledger::retire` says the same when it is told to.
//!
//! Linux may also lack a huge page in one piece, where the memory of the machine is fragmented: `htlb_buddy_alloc_fail` counts
//! that, and a case in which it rose is compacted for and run again.
//!
//! # Running it
//!
//! `HTLB_ORACLE_STEPS` sets the number of steps (100,000, or 2,000,000 with `HTLB_LONG=1`). A case that fails is made as short
//! as it can be and printed with its seed; `HTLB_ORACLE_SEED=... cargo test -p htlb-tests --test hugetlbfs_oracle` runs that one
//! again.

mod htlb;
mod kernel;
mod linux;
mod mapping;
mod op;
mod replay;
mod subpool;
mod world;

/// 2 MiB.
const PAGE: u64 = 2 << 20;

use std::env;
use std::time::{Duration, Instant};

use htlb_tests::host::PoolLease;
use htlb_tests::skip::skip;
use htlb_tests::{figures, is_long};

use linux::Linux;
use replay::Failure;
use world::{Difference, Tally};

/// The first seed; each case has the next one.
const SEED: u64 = 0x6874_6c62;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

#[test]
fn the_core_and_the_kernel_count_the_same() {
    const NAME: &str = "the_core_and_the_kernel_count_the_same";
    // ORDER: the lease outlives everything that has pages.
    let lease = match PoolLease::take() {
        Ok(lease) => lease,
        Err(why) => return skip(NAME, &why.to_string()),
    };
    let found = Linux::new().map_err(|error| format!("the pool cannot be sized: {error}"));
    let looked = found.and_then(|mut linux| Ok((kernel::look(&mut linux)?, linux)));
    let (kernel, mut linux) = match looked {
        Ok(looked) => looked,
        Err(why) => return skip(NAME, &why),
    };
    let mut tally = Tally::default();
    let mut run = |seed, tally: &mut Tally| match replay::seeded(seed, &mut linux, kernel, tally) {
        Ok(()) => true,
        Err(Failure::Differs(why)) => panic!("{why}"),
        Err(Failure::Fragmented(why)) => {
            skip(NAME, &format!("this machine's memory is in pieces: {why}"));
            false
        }
    };
    if let Some(seed) = number("HTLB_ORACLE_SEED") {
        run(seed, &mut tally);
        return;
    }
    let wanted = number("HTLB_ORACLE_STEPS");
    let wanted = wanted.unwrap_or(if is_long() { 2_000_000 } else { 100_000 });
    let start = Instant::now();
    let mut cases = 0;
    while tally.steps < wanted {
        if !run(SEED + cases, &mut tally) {
            return;
        }
        cases += 1;
    }
    report(cases, &tally, start.elapsed());
    drop(linux);
    drop(lease);
    if wanted >= 100_000 {
        let expected = Difference::ALL
            .into_iter()
            .filter(|how| kernel.refused_faults_leak || *how != Difference::LostLimit);
        for how in expected {
            assert!(
                tally.differences.contains_key(&how),
                "{how:?} never happened"
            );
        }
        assert!(tally.refused * 20 > tally.steps, "too little was refused");
    }
}

fn report(cases: u64, tally: &Tally, took: Duration) {
    let differences: Vec<String> = tally
        .differences
        .iter()
        .map(|(how, times)| format!("{how:?} {times}"))
        .collect();
    let seconds = took.as_secs_f64();
    figures::note(&format!(
        "hugetlbfs oracle: {} steps in {cases} cases, {} of them refused on both sides, {} cases again for want of whole memory, in {seconds:.1} s ({:.0} steps/s); {}",
        tally.steps,
        tally.refused,
        tally.fragmented,
        tally.steps as f64 / seconds,
        differences.join(", ")
    ));
}
