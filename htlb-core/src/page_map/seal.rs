// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Keeping every page of a buffer where it is, and what else must not overlap on a whole buffer.
//!
//! One word counts who is inside, so that there is no moment between "nobody objects" and "I am in":
//!
//! | enters | unless, failing | unless, waiting |
//! |---|---|---|
//! | a seal | | a punch is under way |
//! | a reservation (`claim_holes`) | | a punch is under way |
//! | a punch or a truncate | a seal lives: `Sealed` | a reservation is under way |
//! | an `unpromise`, which counts as a punch | | a reservation is under way |
//!
//! Seals live long and nobody waits for their end; punches and reservations are short, and who meets them waits for both
//! with the one bit. Reservations keep punches out because a page that went away under one would leave a hole
//! that it had passed over as covered.

use static_assertions::assert_not_impl_any;

use super::PageMap;
use crate::error::Error;
use crate::step::{Stop, WaitFor, Waiting, Wake};
use crate::sync::{AtomicU64, Ordering};

const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
const SEAL: u64 = 1;
const RESERVATION: u64 = 1 << COUNT_BITS;
const PUNCH: u64 = 1 << (2 * COUNT_BITS);
const WAITERS: u64 = 1 << 63;

static_assertions::const_assert!(3 * COUNT_BITS < 63);

/// Keeps every page of the buffer in place: while one lives, punch and truncate are refused.
///
/// For a device that has the whole buffer mapped: one count, not one pin for each page. Filling and growing go on.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lost seal forbids punch and truncate for ever"]
pub struct Seal(());

assert_not_impl_any!(Seal: Clone, Copy);

/// Who enters, or leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrant {
    Seal,
    Reservation,
    Punch,
    Unpromise,
}

impl Entrant {
    const fn unit(self) -> u64 {
        match self {
            Self::Seal => SEAL,
            Self::Reservation => RESERVATION,
            Self::Punch | Self::Unpromise => PUNCH,
        }
    }

    /// The bits of its count.
    const fn count(self) -> u64 {
        self.unit().wrapping_mul(COUNT)
    }

    const fn admitted(self, word: u64) -> Result<(), Stop> {
        let (seals, transient) = match self {
            Self::Seal | Self::Reservation => (0, Self::Punch.count()),
            Self::Punch => (Self::Seal.count(), Self::Reservation.count()),
            Self::Unpromise => (0, Self::Reservation.count()),
        };
        if word & seals != 0 {
            Err(Stop::Fail(Error::Sealed))
        } else if word & transient != 0 {
            Err(Stop::Wait(WaitFor::Seal))
        } else if word & self.count() == self.count() {
            Err(Stop::Fail(Error::PinOverflow))
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
pub(super) struct Exclusion(AtomicU64);

impl Exclusion {
    const TRANSIENT: u64 = COUNT * (RESERVATION | PUNCH);

    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(super) fn enter(&self, who: Entrant) -> Result<(), Stop> {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            who.admitted(now)?;
            // ORDER: acquire, to see the slots as those who were kept out left them.
            match self.0.compare_exchange_weak(
                now,
                now.wrapping_add(who.unit()),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(changed) => now = changed,
            }
        }
    }

    pub(super) fn leave(&self, who: Entrant) -> Wake {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            if now & who.count() == 0 {
                return Wake::NOBODY;
            }
            let rest = now.wrapping_sub(who.unit());
            let last = rest & Self::TRANSIENT == 0;
            let becomes = if last { rest & !WAITERS } else { rest };
            // ORDER: release, the other half of `enter`.
            match self
                .0
                .compare_exchange_weak(now, becomes, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) if becomes != rest => return Wake::waiters_of(WaitFor::Seal),
                Ok(_) => return Wake::NOBODY,
                Err(changed) => now = changed,
            }
        }
    }

    fn prepare_wait(&self) -> Waiting {
        let mut now = self.0.load(Ordering::Relaxed);
        loop {
            if now & Self::TRANSIENT == 0 {
                return Waiting::Retry;
            }
            if now & WAITERS != 0 {
                return Waiting::Sleep;
            }
            // ORDER: relaxed is enough, since a read-modify-write does not break the chain from `leave` to `enter`.
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

    pub(super) fn has(&self, who: Entrant) -> bool {
        self.0.load(Ordering::Relaxed) & who.count() != 0
    }
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// Seals the buffer against punch and truncate.
    ///
    /// # Errors
    /// [`Stop::Wait`] for [`WaitFor::Seal`] while a punch is under way; [`Error::PinOverflow`] beyond a million seals.
    #[doc(alias = "F_SEAL_SHRINK")]
    pub fn seal(&self) -> Result<Seal, Stop> {
        self.exclusion.enter(Entrant::Seal)?;
        Ok(Seal(()))
    }

    /// The token of a seal that is held, for those who could not keep it: as [`PageMap::recall_pin`]. `None` where there
    /// is no seal.
    pub fn recall_seal(&self) -> Option<Seal> {
        self.is_sealed().then_some(Seal(()))
    }

    /// Gives a seal back. Cannot fail, and may be called in atomic context.
    pub fn unseal(&self, seal: Seal) {
        let Seal(()) = seal;
        // Nobody waits for the end of a seal.
        let _: Wake = self.exclusion.leave(Entrant::Seal);
    }

    /// Whether a seal lives now.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.exclusion.has(Entrant::Seal)
    }

    /// Marks the punches and reservations under way, so that the end of the last brings a [`Wake`].
    ///
    /// As [`PageMap::prepare_wait`]. A caller that holds a punch or a reservation would wait for itself.
    pub fn prepare_wait_seal(&self) -> Waiting {
        self.exclusion.prepare_wait()
    }

    pub(super) fn enter(&self, who: Entrant) -> Result<(), Stop> {
        self.exclusion.enter(who)
    }

    pub(super) fn leave(&self, who: Entrant, wake: &mut impl FnMut(WaitFor)) {
        if let Some(waiters) = self.exclusion.leave(who).target() {
            wake(waiters);
        }
    }
}
