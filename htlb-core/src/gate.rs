// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The gate that lets an inspection see a machine at rest.
//!
//! A slot and the ledger are two stores; between them an operation has one behind it and one to come. Whoever
//! changes both passes through the gate. To `check()`, close it, wait until it is drained, look, and open it again.
//!
//! Passes do not nest: a thread inside that enters again, or waits for the gate to drain, would wait for itself. An operation
//! that has to wait for a claim leaves first, and enters again afterwards.
//!
//! ```
//! use htlb_core::gate::Gate;
//! use htlb_core::{Stop, WaitFor};
//! let gate = Gate::new();
//! let Ok(pass) = gate.enter() else { unreachable!() };
//! let Ok(closing) = gate.close() else { unreachable!() };
//! assert!(!gate.is_drained(&closing));
//! assert_eq!(gate.enter().err(), Some(Stop::Wait(WaitFor::Gate)));
//! let _ = gate.leave(pass);
//! assert!(gate.is_drained(&closing));
//! let _ = gate.reopen(closing);
//! assert!(gate.enter().is_ok());
//! ```

use static_assertions::assert_not_impl_any;

use crate::error::Error;
use crate::step::{Stop, WaitFor, Waiting, Wake};
use crate::sync::{AtomicU64, Ordering};

const CLOSED: u64 = 1 << 63;
const WAITERS: u64 = 1 << 62;
const INSIDE: u64 = WAITERS - 1;

static_assertions::const_assert_eq!(CLOSED ^ WAITERS ^ INSIDE, u64::MAX);

/// Counts who is inside, and keeps newcomers out while an inspection is under way.
#[derive(Debug)]
pub struct Gate(AtomicU64);

/// The right to be inside.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lost pass keeps the gate from draining for ever"]
pub struct Pass(());

/// The closed gate.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a gate that is not reopened stays closed for ever"]
pub struct Closing(());

assert_not_impl_any!(Pass: Clone, Copy);
assert_not_impl_any!(Closing: Clone, Copy);

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// An open gate with nobody inside.
    #[must_use]
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// An open gate with nobody inside.
    #[must_use]
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Enters. One atomic operation where nobody else does the same at this moment.
    ///
    /// # Errors
    /// [`Stop::Wait`] for [`WaitFor::Gate`] while it is closed; [`Error::CounterOverflow`] beyond 2^62 passes.
    pub fn enter(&self) -> Result<Pass, Stop> {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            if now & CLOSED != 0 {
                return Err(Stop::Wait(WaitFor::Gate));
            }
            if now & INSIDE == INSIDE {
                return Err(Error::CounterOverflow.into());
            }
            // ORDER: acquire, to see what an inspection that has ended left behind.
            match self.0.compare_exchange_weak(
                now,
                now.wrapping_add(1),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(Pass(())),
                Err(changed) => now = changed,
            }
        }
    }

    /// Leaves. One atomic operation; cannot fail.
    pub fn leave(&self, pass: Pass) -> Wake {
        let Pass(()) = pass;
        // INVARIANT: the pass proves that the count is at least one.
        // ORDER: release, so that the inspection sees all that was done inside.
        let before = self.0.fetch_sub(1, Ordering::Release);
        // The mark stays for those who wait to enter: the last to leave wakes the inspector, and they set it again.
        if before & (CLOSED | WAITERS | INSIDE) == (CLOSED | WAITERS | 1) {
            Wake::waiters_of(WaitFor::Gate)
        } else {
            Wake::NOBODY
        }
    }

    /// Closes the gate to newcomers; those inside go on.
    ///
    /// # Errors
    /// [`Stop::Wait`] for [`WaitFor::Gate`] while somebody else has closed it.
    pub fn close(&self) -> Result<Closing, Stop> {
        // ORDER: acquire, to see what an earlier inspection left behind.
        let before = self.0.fetch_or(CLOSED, Ordering::Acquire);
        if before & CLOSED == 0 {
            Ok(Closing(()))
        } else {
            Err(Stop::Wait(WaitFor::Gate))
        }
    }

    /// Whether everybody has left: from then on the closer is alone, and sees all that was done inside.
    #[must_use]
    pub fn is_drained(&self, closing: &Closing) -> bool {
        let Closing(()) = closing;
        // ORDER: acquire, the other half of `leave`.
        self.0.load(Ordering::Acquire) & INSIDE == 0
    }

    /// Opens the gate again. Cannot fail.
    pub fn reopen(&self, closing: Closing) -> Wake {
        let Closing(()) = closing;
        // ORDER: release, the other half of `enter` and `close`.
        let before = self.0.fetch_and(INSIDE, Ordering::Release);
        if before & WAITERS == 0 {
            Wake::NOBODY
        } else {
            Wake::waiters_of(WaitFor::Gate)
        }
    }

    /// Marks the closed gate, so that its opening brings a [`Wake`]: for those who wait to enter or to close it.
    ///
    /// The last look before going to sleep, on the wait queue already; asked again after every wake-up.
    pub fn prepare_wait(&self) -> Waiting {
        self.mark_while(|word| word & CLOSED != 0)
    }

    /// Marks the closed gate, so that the last one to leave brings a [`Wake`]: for the closer.
    pub fn prepare_wait_drained(&self, closing: &Closing) -> Waiting {
        let Closing(()) = closing;
        self.mark_while(|word| word & INSIDE != 0)
    }

    fn mark_while(&self, blocked: impl Fn(u64) -> bool) -> Waiting {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            if !blocked(now) {
                return Waiting::Retry;
            }
            // A stale mark does no harm: whoever ended what it marked has yet to take the wait queue's lock to wake us.
            if now & WAITERS != 0 {
                return Waiting::Sleep;
            }
            match self.0.compare_exchange_weak(
                now,
                now | WAITERS,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Waiting::Sleep,
                Err(changed) => now = changed,
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const GATE: Option<WaitFor> = Some(WaitFor::Gate);

    #[test]
    fn only_the_last_to_leave_a_closed_and_marked_gate_wakes() {
        let gate = Gate::new();
        let passes = [gate.enter().unwrap(), gate.enter().unwrap()];
        let [first, second] = passes;
        assert_eq!(gate.prepare_wait(), Waiting::Retry);
        let closing = gate.close().unwrap();
        assert_eq!(gate.prepare_wait_drained(&closing), Waiting::Sleep);
        assert_eq!(gate.leave(first).target(), None);
        assert!(!gate.is_drained(&closing));
        assert_eq!(gate.leave(second).target(), GATE);
        assert_eq!(gate.prepare_wait_drained(&closing), Waiting::Retry);
        assert!(gate.is_drained(&closing));
        assert_eq!(gate.reopen(closing).target(), GATE);
        let pass = gate.enter().unwrap();
        assert_eq!(gate.leave(pass).target(), None);
    }

    #[test]
    fn a_closed_gate_keeps_newcomers_and_a_second_closer_waiting() {
        let gate = Gate::default();
        let closing = gate.close().unwrap();
        assert!(gate.is_drained(&closing));
        let stop = Stop::Wait(WaitFor::Gate);
        assert_eq!(gate.enter(), Err(stop));
        assert_eq!(gate.close(), Err(stop));
        assert_eq!(gate.reopen(closing).target(), None);

        let closing = gate.close().unwrap();
        assert_eq!(gate.prepare_wait(), Waiting::Sleep);
        assert_eq!(gate.prepare_wait(), Waiting::Sleep);
        assert_eq!(gate.reopen(closing).target(), GATE);
        // The mark belonged to the closing that has ended.
        let closing = gate.close().unwrap();
        assert_eq!(gate.reopen(closing).target(), None);
    }

    #[test]
    fn a_full_gate_refuses() {
        let gate = Gate(AtomicU64::new(INSIDE));
        assert_eq!(gate.enter(), Err(Stop::Fail(Error::CounterOverflow)));
        assert_eq!(gate.0.into_inner(), INSIDE);
    }
}
