// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Breadth first through every state that some sequence of operations reaches.
//!
//! A state is kept as the step that first led to it from its parent; it is brought back by doing its steps again.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::machine::Machine;
use crate::op::{all, apply, Op};
use crate::state::Key;

/// Which operation, and which of its calls of the host fails.
#[derive(Clone, Copy, Debug)]
struct Step {
    op: u8,
    failing: Option<u8>,
}

/// How a state was found.
#[derive(Clone, Copy, Debug)]
struct Found {
    parent: u32,
    step: Step,
}

/// A state's key is as good as random after one multiplication.
#[derive(Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("keys are words");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

type Seen = HashSet<u64, BuildHasherDefault<Mixed>>;

/// The states seen, in parts that threads can use at once.
struct Visited(Vec<Mutex<Seen>>);

impl Visited {
    fn new() -> Self {
        Self((0..64).map(|_| Mutex::default()).collect())
    }

    fn insert(&self, key: Key) -> bool {
        let part = key.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        lock(&self.0[part as usize]).insert(key.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// Operations in a row.
    pub(crate) length: usize,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) states: usize,
    /// Operations that were tried, each failure of a call counting as one.
    pub(crate) transitions: u64,
    /// Of these, such as ended with an error.
    pub(crate) refused: u64,
    /// Of these, such in which a call of the host failed.
    pub(crate) failures: u64,
    /// New states by the length of the shortest sequence that leads there.
    pub(crate) levels: Vec<usize>,
    /// Whether no longer sequence leads anywhere new.
    pub(crate) closed: bool,
}

/// What one thread found in one level.
#[derive(Default)]
struct Share {
    found: Vec<Found>,
    transitions: u64,
    refused: u64,
    failures: u64,
}

/// The search.
struct Search {
    ops: Vec<Op>,
    start: Mutex<Machine>,
    visited: Visited,
    states: Vec<Found>,
}

/// Visits every state within the bound.
///
/// # Panics
/// With the sequence of operations that ends in a state where something does not hold.
pub(crate) fn exhaust(bound: Bound, threads: usize) -> Report {
    let machine = Machine::new();
    let first = machine.key().expect("a machine at rest");
    let root = Found {
        parent: 0,
        step: Step {
            op: 0,
            failing: None,
        },
    };
    let mut search = Search {
        ops: all(),
        start: Mutex::new(machine),
        visited: Visited::new(),
        states: vec![root],
    };
    search.visited.insert(first);
    let mut report = Report {
        levels: vec![1],
        ..Report::default()
    };
    let mut level = 0..1;
    for _ in 0..bound.length {
        let next = AtomicUsize::new(level.start);
        let end = level.end;
        let shares: Vec<Share> = thread::scope(|scope| {
            let work = || search.work(&next, end);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, _>| worker.join();
            let shares = workers.into_iter().map(join).collect::<Result<_, _>>();
            shares.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        for share in shares {
            search.states.extend(share.found);
            report.transitions += share.transitions;
            report.refused += share.refused;
            report.failures += share.failures;
        }
        level = level.end..search.states.len();
        if level.is_empty() {
            report.closed = true;
            break;
        }
        report.levels.push(level.len());
    }
    report.states = search.states.len();
    report
}

impl Search {
    fn work(&self, next: &AtomicUsize, end: usize) -> Share {
        const BATCH: usize = 64;
        let mut share = Share::default();
        let start = lock(&self.start).copy();
        loop {
            let first = next.fetch_add(BATCH, Ordering::Relaxed);
            if first >= end {
                return share;
            }
            for state in first..end.min(first + BATCH) {
                self.leave(state, &start, &mut share);
            }
        }
    }

    /// The steps that lead to a state.
    fn path(&self, mut state: usize) -> Vec<Step> {
        let mut path = Vec::new();
        while state != 0 {
            let Found { parent, step } = self.states[state];
            path.push(step);
            state = parent as usize;
        }
        path.reverse();
        path
    }

    /// Leaves a state in every direction.
    fn leave(&self, state: usize, start: &Machine, share: &mut Share) {
        let path = self.path(state);
        let mut here = start.copy();
        for step in &path {
            here.failing.set(step.failing);
            let _ = apply(&mut here, self.ops[usize::from(step.op)]);
        }
        here.failing.set(None);
        let checked = |outcome: Result<Key, String>, step: Option<Step>| {
            outcome.unwrap_or_else(|why| panic!("{why}\nafter [\n{}]", self.named(&path, step)))
        };
        let before = checked(here.key(), None);
        let settled = checked(here.settled(), None);
        for (number, op) in (0u8..).zip(&self.ops) {
            let mut failing = None;
            let mut calls = 0;
            loop {
                let step = Step {
                    op: number,
                    failing,
                };
                let mut there = here.copy();
                there.failing.set(failing);
                let Some(outcome) = apply(&mut there, *op) else {
                    break;
                };
                if failing.is_none() {
                    calls = there.calls.get();
                }
                there.failing.set(None);
                share.transitions += 1;
                share.refused += u64::from(outcome.is_err());
                share.failures += u64::from(failing.is_some());
                let after = checked(there.key(), Some(step));
                // Surplus pages that nobody needs may leave whenever somebody looks.
                let unchanged = [before.facts(), settled.facts()].contains(&after.facts());
                if outcome.is_err() && !unchanged {
                    let why = format!("I8: {outcome:?} changed {before:x?} to {after:x?}");
                    checked(Err(why), Some(step));
                }
                if self.visited.insert(after) {
                    let holds = there.audit();
                    let holds = holds.and_then(|()| there.promises_hold());
                    let holds = holds.and_then(|()| there.all_comes_back());
                    checked(holds.map(|()| after), Some(step));
                    share.found.push(Found {
                        parent: u32::try_from(state).expect("few states"),
                        step,
                    });
                }
                // Every call that is made without a failure fails once, alone: until then all is the same.
                let following = failing.map_or(0, |call| call + 1);
                if following >= calls {
                    break;
                }
                failing = Some(following);
            }
        }
    }

    /// A sequence of steps, one a line.
    fn named(&self, path: &[Step], last: Option<Step>) -> String {
        let name = |step: Step| {
            let op = self.ops[usize::from(step.op)];
            match step.failing {
                None => format!("    {op:?},\n"),
                Some(call) => format!("    {op:?}, whose call {call} of the host fails,\n"),
            }
        };
        path.iter().copied().chain(last).map(name).collect()
    }
}
