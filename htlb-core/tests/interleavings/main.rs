// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every interleaving, under every order that the memory model allows, of a few operations of the core:
//! `cargo xtask test --only loom`, or
//! `RUSTFLAGS="--cfg loom" cargo test --release -p htlb-core --test interleavings --target-dir target/loom -- --nocapture`.
//!
//! | module | what runs at once | threads | slots, pages | preemptions |
//! |---|---|---|---|---|
//! | [`pairs`] | each of the 11 operations with each, itself too, from every state of the slots | 2 | 1 slot | at most 3 |
//! | [`pairs`] | the same; the second slot makes claims on ranges end half-way | 2 | 2 slots | at most 2 |
//! | [`triples`] | three operations, of which one waits for, or gives way to, another | 3 | 1 and 2 slots | at most 2 |
//! | [`gate`] | passes and inspections with waits on the gate; a mark on a claim and its end | 2, 3 | 1 slot | any number; at most 2 with 3 threads |
//! | [`machine`] | the driver's loops with a stock: two populates with one page left, a release or a failed fill against a populate, resizes against reservations | 2 | 1 and 2 pages | any number, or as the model says |
//!
//! The 11 operations of a map: fill (claim, attach, commit), give up (claim, attach, detach, abort), look up, pin and unpin, punch,
//! truncate, grow, seal and unseal, reserve (claim, commit), refuse (claim, abort: the ledger had no room), unpromise. Whoever
//! is told to wait marks what it waits for and sleeps on a condition variable, so a wake-up that is not owed or not paid is a deadlock,
//! which loom finds.
//!
//! Pairs and triples have no expectation written down for each: what the threads say and leave must be what the same steps say
//! and leave **one at a time**, in some order; and every such order must show up. Beside that, in each interleaving: whoever sees a
//! page sees its contents; under a pin or a seal it stays, and is not reused; no page lies beyond the size; the promises
//! that were counted are those in the slots; and afterwards nothing is claimed, pinned, sealed or kept out.
//!
//! Each model runs twice, with two kinds of [`Loads`]: loom alone misses orders. It prints how many interleavings that was.
//! What loom cannot show: a load that is carried out after a later store of its thread, and spurious failures of weak exchanges; there the
//! reasons beside the orders in the code stand alone.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod actor;
mod gate;
mod host;
mod machine;
mod map;
mod pairs;
mod triples;

use htlb_core::sync::Loads;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How often loom may take a thread off that could go on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preemptions {
    Any,
    AtMost(usize),
}

/// What all interleavings of a model came to.
#[derive(Default)]
pub(crate) struct Explored {
    pub(crate) interleavings: u64,
    pub(crate) outcomes: BTreeSet<String>,
}

/// Runs every interleaving of `model`, which says what came of it: once with each kind of [`Loads`].
pub(crate) fn explore(
    preemptions: Preemptions,
    model: impl Fn() -> String + Send + Sync + 'static,
) -> Explored {
    let model = Arc::new(model);
    let mut all = Explored::default();
    for loads in [Loads::MayBeOld, Loads::Exchange] {
        loads.choose();
        let again = model.clone();
        let one = explore_with_loads(preemptions, move || again());
        all.interleavings += one.interleavings;
        all.outcomes.extend(one.outcomes);
    }
    all
}

fn explore_with_loads(
    preemptions: Preemptions,
    model: impl Fn() -> String + Send + Sync + 'static,
) -> Explored {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    builder.preemption_bound = match preemptions {
        Preemptions::Any => None,
        Preemptions::AtMost(bound) => Some(bound),
    };
    // std's, which loom does not see.
    let runs = Arc::new(AtomicU64::new(0));
    let outcomes = Arc::new(Mutex::new(BTreeSet::new()));
    let (counter, seen) = (runs.clone(), outcomes.clone());
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        let outcome = model();
        seen.lock().unwrap().insert(outcome);
    });
    let outcomes = outcomes.lock().unwrap().clone();
    Explored {
        interleavings: runs.load(Ordering::Relaxed),
        outcomes,
    }
}

/// Runs a model whose outcomes must be exactly those `expected`.
pub(crate) fn exactly(
    name: &str,
    preemptions: Preemptions,
    expected: &[&str],
    model: impl Fn() -> String + Send + Sync + 'static,
) {
    let explored = explore(preemptions, model);
    print(name, 1, explored.interleavings, preemptions);
    let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
    assert_eq!(explored.outcomes, expected, "{name}");
}

/// The line that `cargo xtask test` adds up.
pub(crate) fn print(name: &str, models: u64, interleavings: u64, preemptions: Preemptions) {
    let bound = match preemptions {
        Preemptions::Any => "any number of preemptions".to_owned(),
        Preemptions::AtMost(bound) => format!("at most {bound} preemptions"),
    };
    println!("loom: {name}: {models} models, {interleavings} interleavings, {bound}");
}
