// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The n-th call that fails.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What the core asks of its host and may be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Memory for tables.
    Words,
    /// Memory for slots.
    Slots,
    /// Pages for a pool.
    Supply,
    /// One page from the system.
    Page,
    /// A contiguous run from the system.
    SupplyRun,
    /// Zeroing a page.
    Clear,
    /// Going to sleep.
    Wait,
    /// A long loop that goes on.
    Interrupt,
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The n-th alone, counted from 0.
    Only(u64),
    /// The n-th and all that follow.
    From(u64),
}

#[derive(Debug, Default)]
struct State {
    failing: Option<Failing>,
    only: Option<Call>,
    seen: u64,
    fired: Vec<Call>,
}

/// Counts the calls, and says which fail.
#[derive(Debug, Default)]
pub struct Faults(Mutex<State>);

impl Faults {
    /// From now on these calls fail; those of one kind, or of every kind.
    pub fn arm(&self, failing: Failing, only: Option<Call>) {
        *self.state() = State {
            failing: Some(failing),
            only,
            ..State::default()
        };
    }

    /// No more failures; which calls failed since [`Faults::arm`].
    pub fn disarm(&self) -> Vec<Call> {
        std::mem::take(&mut *self.state()).fired
    }

    /// Whether this call fails.
    pub fn hit(&self, call: Call) -> bool {
        let mut state = self.state();
        if state.only.is_some_and(|only| only != call) {
            return false;
        }
        let number = state.seen;
        state.seen += 1;
        let fails = match state.failing {
            None => false,
            Some(Failing::Only(n)) => number == n,
            Some(Failing::From(n)) => number >= n,
        };
        if fails {
            state.fired.push(call);
        }
        fails
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a call of the host can be made to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Revoking mappings.
    Unmap,
    /// Getting pages from the system.
    Supply,
}

/// Calls that last until so many threads wait for what they do.
#[derive(Debug, Default)]
pub struct Stalls(Mutex<Option<(Point, u64)>>);

impl Stalls {
    /// The next call there lasts until `sleepers` threads sleep.
    pub fn set(&self, point: Point, sleepers: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((point, sleepers));
    }

    /// Lasts, if that was asked for.
    ///
    /// # Panics
    /// After half a minute.
    pub fn at(&self, point: Point, sleeping: impl Fn() -> u64) {
        let mut stall = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, sleepers)) = stall.take_if(|(at, _)| *at == point) else {
            return;
        };
        drop(stall);
        for _ in 0..30_000 {
            if sleeping() >= sleepers {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("nobody waits at {point:?}");
    }

    /// Whether a call is still to last.
    pub fn is_set(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}
