// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The gate: who closes it is alone, sees everything, and everybody who waits for it is woken; and what a mark on a claim owes.

use crate::actor::{Actor, Operation};
use crate::map::{Initially, Shared};
use crate::{exactly, Preemptions};
use htlb_core::gate::{Closing, Gate, Pass};
use htlb_core::page_map::Claim;
use htlb_core::sync::{AtomicU64, Ordering};
use htlb_core::{PageIndex, Stop, WaitFor, Waiting, Wake};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::sync::Arc;

/// A gate, what is changed behind it in two steps, and the queue before it.
struct Guarded {
    gate: Gate,
    steps: [AtomicU64; 2],
    lock: Mutex<()>,
    queue: Condvar,
}

impl Guarded {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            gate: Gate::new(),
            steps: [AtomicU64::new(0), AtomicU64::new(0)],
            lock: Mutex::new(()),
            queue: Condvar::new(),
        })
    }

    fn sleep_while(&self, look: impl Fn() -> Waiting) {
        let held = self.lock.lock().unwrap();
        if look() == Waiting::Sleep {
            drop(self.queue.wait(held).unwrap());
        }
    }

    fn pay(&self, owed: Wake) {
        if owed.target() == Some(WaitFor::Gate) {
            drop(self.lock.lock().unwrap());
            self.queue.notify_all();
        }
    }

    fn enter(&self) -> Pass {
        loop {
            match self.gate.enter() {
                Ok(pass) => return pass,
                Err(stop) => assert_eq!(stop, Stop::Wait(WaitFor::Gate)),
            }
            self.sleep_while(|| self.gate.prepare_wait());
        }
    }

    fn close(&self) -> Closing {
        let closing = loop {
            match self.gate.close() {
                Ok(closing) => break closing,
                Err(stop) => assert_eq!(stop, Stop::Wait(WaitFor::Gate)),
            }
            self.sleep_while(|| self.gate.prepare_wait());
        };
        while !self.gate.is_drained(&closing) {
            self.sleep_while(|| self.gate.prepare_wait_drained(&closing));
        }
        closing
    }

    /// Passes through, and changes both.
    fn pass(&self) {
        let pass = self.enter();
        for step in &self.steps {
            step.store(step.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.pay(self.gate.leave(pass));
    }

    /// Looks at both, at rest.
    fn inspect(&self) -> u64 {
        let closing = self.close();
        let [first, second] = &self.steps;
        let first = first.load(Ordering::Relaxed);
        assert_eq!(first, second.load(Ordering::Relaxed), "somebody is inside");
        self.pay(self.gate.reopen(closing));
        first
    }
}

#[test]
fn who_closes_is_alone_and_sees_everything() {
    exactly(
        "an inspection and a pass",
        Preemptions::Any,
        &["0", "1"],
        || {
            let guarded = Guarded::new();
            let other = guarded.clone();
            let other = thread::spawn(move || other.pass());
            let seen = guarded.inspect();
            other.join().unwrap();
            assert_eq!(guarded.inspect(), 1);
            seen.to_string()
        },
    );
}

#[test]
fn inspections_take_turns() {
    exactly("two inspections", Preemptions::Any, &["0 0"], || {
        let guarded = Guarded::new();
        let other = guarded.clone();
        let other = thread::spawn(move || other.inspect());
        format!("{} {}", guarded.inspect(), other.join().unwrap())
    });
}

#[test]
fn two_inspections_and_a_pass() {
    let expected = ["0 0", "0 1", "1 0", "1 1"];
    exactly(
        "two inspections and a pass",
        Preemptions::AtMost(2),
        &expected,
        || {
            let guarded = Guarded::new();
            let (one, two) = (guarded.clone(), guarded.clone());
            let one = thread::spawn(move || one.inspect());
            let two = thread::spawn(move || two.pass());
            let mine = guarded.inspect();
            two.join().unwrap();
            format!("{mine} {}", one.join().unwrap())
        },
    );
}

/// What an inspection changes is seen by who enters later, through the gate alone.
#[test]
fn who_enters_sees_what_an_inspection_left() {
    exactly(
        "a pass after an inspection",
        Preemptions::Any,
        &["0", "7"],
        || {
            let guarded = Guarded::new();
            let other = guarded.clone();
            let other = thread::spawn(move || {
                let Ok(closing) = other.gate.close() else {
                    panic!("nobody else closes it");
                };
                let drained = other.gate.is_drained(&closing);
                if drained {
                    other.steps[0].store(3, Ordering::Relaxed);
                    other.steps[0].store(7, Ordering::Relaxed);
                }
                let _ = other.gate.reopen(closing);
                drained
            });
            let seen = guarded.gate.enter().ok().map(|pass| {
                let seen = guarded.steps[0].load(Ordering::Relaxed);
                let _ = guarded.gate.leave(pass);
                seen
            });
            let drained = other.join().unwrap();
            assert!(drained || seen == Some(0));
            assert_ne!(seen, Some(3), "an inspection half done");
            seen.unwrap_or(0).to_string()
        },
    );
}

/// A mark is owed a wake-up, and nobody else is: a wake-up for every end would be correct and slow.
#[test]
fn a_mark_brings_a_wake_up_and_nothing_else_does() {
    let expected = ["sleep, woken", "retry, nobody"];
    exactly("a mark on a claim", Preemptions::Any, &expected, || {
        let shared = Arc::new(Shared::new(&[Initially::Hole], 1));
        let other = shared.clone();
        let other = thread::spawn(move || {
            let Ok(Claim::Granted(claim)) = other.map.claim(PageIndex::ZERO, |_| ()) else {
                panic!("nobody else claims it");
            };
            let (_, owed) = other.map.abort(claim);
            owed.target()
        });
        let slept = shared.map.prepare_wait(PageIndex::ZERO, None) == Ok(Waiting::Sleep);
        let woken = other.join().unwrap();
        let slot = Some(WaitFor::Slot(PageIndex::ZERO));
        assert_eq!(woken, slept.then_some(slot).flatten());
        // The next claim does not inherit it.
        let mut next = Actor::new(0, Operation::Fill);
        next.run(&shared);
        match slept {
            true => "sleep, woken".to_owned(),
            false => "retry, nobody".to_owned(),
        }
    });
}
