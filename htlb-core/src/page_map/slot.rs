// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One page's slot: 64 bits that say all there is to know about it.
//!
//! ```text
//!  63 62   61      60      59 ........ 40   39 .............. 0
//! ┌───────┬───────┬───────┬───────────────┬────────────────────┐
//! │ state │origin │waiters│     pins      │    frame number    │
//! └───────┴───────┴───────┴───────────────┴────────────────────┘
//! ```
//!
//! Zero is a hole, so zeroed memory is a valid table. Only a present page can be pinned, and 0 is a legal frame
//! number, so a claimed slot uses two of its idle pin bits to say whether it holds a frame, and whether it was
//! claimed by a change of promises rather than by a fill or a punch.
//!
//! Every change of a slot is a read-modify-write, never a plain store. So whoever reads any later value of a slot
//! with acquire order also sees what was written before the release that made the page present.

use crate::sync::{AtomicU64, Ordering};
use crate::units::Pfn;

const FRAME_BITS: u32 = 40;
const PIN_BITS: u32 = 20;

const FRAME: u64 = (1 << FRAME_BITS) - 1;
const PIN: u64 = 1 << FRAME_BITS;
const PINS: u64 = ((1 << PIN_BITS) - 1) << FRAME_BITS;
const WAITERS: u64 = 1 << 60;
const ORIGIN: u64 = 1 << 61;
const STATE: u64 = 3 << 62;

const HOLE: u64 = 0;
const PROMISED: u64 = 1 << 62;
const CLAIMED: u64 = 2 << 62;
const PRESENT: u64 = 3 << 62;

/// In the pin bits of a claimed slot: the frame number is valid.
const HOLDS_FRAME: u64 = PIN;
/// In the pin bits of a claimed slot: a change of promises claimed it.
const FOR_PROMISE: u64 = PIN << 1;

static_assertions::const_assert_eq!(FRAME, Pfn::MAX.raw());
static_assertions::const_assert_eq!(FRAME ^ PINS ^ WAITERS ^ ORIGIN ^ STATE, u64::MAX);
static_assertions::const_assert_eq!(FRAME & PINS, 0);
static_assertions::const_assert_eq!(PINS & (WAITERS | ORIGIN | STATE), 0);
static_assertions::const_assert_eq!((HOLDS_FRAME | FOR_PROMISE) & !PINS, 0);

/// The most pins that one page can have.
pub const MAX_PINS: u64 = PINS >> FRAME_BITS;

/// What a slot was before it was claimed, and becomes again when the claim is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Nothing: a page for it must be found among those that no promise needs.
    Hole,
    /// A promise: a page for it is certain.
    Promised,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Hole,
    Promised,
    Claimed,
    Present,
}

/// A slot's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl Slot {
    pub(super) const HOLE: Self = Self(HOLE);
    pub(super) const PROMISED: Self = Self(PROMISED);

    pub(super) const fn claimed(origin: Origin) -> Self {
        match origin {
            Origin::Hole => Self(CLAIMED),
            Origin::Promised => Self(CLAIMED | ORIGIN),
        }
    }

    pub(super) const fn present(pfn: Pfn) -> Self {
        Self(PRESENT | (pfn.raw() & FRAME))
    }

    pub(super) const fn state(self) -> State {
        match self.0 & STATE {
            HOLE => State::Hole,
            PROMISED => State::Promised,
            CLAIMED => State::Claimed,
            _ => State::Present,
        }
    }

    pub(super) const fn is_present(self) -> bool {
        self.0 >= PRESENT
    }

    pub(super) const fn is_claimed(self) -> bool {
        self.0 & STATE == CLAIMED
    }

    /// Of a claimed slot.
    pub(super) const fn origin(self) -> Origin {
        if self.0 & ORIGIN == 0 {
            Origin::Hole
        } else {
            Origin::Promised
        }
    }

    pub(super) const fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    /// Of a claimed slot.
    pub(super) const fn holds_frame(self) -> bool {
        self.0 & HOLDS_FRAME != 0
    }

    /// Of a claimed slot.
    pub(super) const fn is_for_promise(self) -> bool {
        self.0 & FOR_PROMISE != 0
    }

    /// Of a present slot.
    pub(super) const fn pins(self) -> u64 {
        (self.0 & PINS) >> FRAME_BITS
    }

    /// Of a present slot, or of a claimed one that holds a frame.
    pub(super) const fn pfn(self) -> Pfn {
        Pfn::new(self.0 & FRAME)
    }

    pub(super) const fn with_waiters(self) -> Self {
        Self(self.0 | WAITERS)
    }

    /// Of a claimed slot without a frame.
    pub(super) const fn with_frame(self, pfn: Pfn) -> Self {
        Self(self.0 | HOLDS_FRAME | (pfn.raw() & FRAME))
    }

    /// Of a claimed slot.
    pub(super) const fn for_promise(self) -> Self {
        Self(self.0 | FOR_PROMISE)
    }

    /// Of a present slot: one pin more, unless the counter is full.
    pub(super) const fn pinned(self) -> Option<Self> {
        if self.0 & PINS == PINS {
            None
        } else {
            Some(Self(self.0.wrapping_add(PIN)))
        }
    }

    /// Of a present slot: one pin less, unless it has none.
    pub(super) const fn unpinned(self) -> Option<Self> {
        if self.0 & PINS == 0 {
            None
        } else {
            Some(Self(self.0.wrapping_sub(PIN)))
        }
    }

    /// What a claim by a punch or a change of promises goes back to: the page, if it holds one, else its origin.
    pub(super) const fn restored(self) -> Self {
        if self.holds_frame() {
            return Self::present(self.pfn());
        }
        match self.origin() {
            Origin::Hole => Self::HOLE,
            Origin::Promised => Self::PROMISED,
        }
    }
}

/// A slot's place: the only three ways in which the table is touched.
#[derive(Clone, Copy)]
pub(super) struct SlotCell<'a>(pub(super) &'a AtomicU64);

impl SlotCell<'_> {
    #[inline]
    pub(super) fn read(self) -> Slot {
        // ORDER: acquire, so that what the claimant wrote to a page is seen by whoever finds it present.
        Slot(self.0.load(Ordering::Acquire))
    }

    /// Replaces `old` by `new`, or says what is there instead.
    pub(super) fn exchange(self, old: Slot, new: Slot) -> Result<(), Slot> {
        // ORDER: acquire for a claim or a pin, which goes on to the page or to the size that a truncate lowered
        // before it published the hole; release for an unpin, whose accesses to the page must precede its reuse.
        match self
            .0
            .compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) => Ok(()),
            Err(now) => Err(Slot(now)),
        }
    }

    /// Ends the caller's own claim with `new`, and gives what the claim had become.
    pub(super) fn publish(self, new: Slot) -> Slot {
        // ORDER: release, the other half of `read` and `exchange`. The waiters bit that comes back needs no acquire:
        // the wait queue's own lock orders the sleeper against the waker.
        Slot(self.0.swap(new.0, Ordering::Release))
    }

    /// Records a frame in the caller's own claim.
    pub(super) fn attach(self, pfn: Pfn) {
        // ORDER: none; nobody but the claimant and a census under a closed gate looks at a claim's frame.
        self.0
            .fetch_or(Slot(0).with_frame(pfn).0, Ordering::Relaxed);
    }

    /// Removes the frame from the caller's own claim.
    pub(super) fn detach(self) {
        // ORDER: none, as in `attach`.
        self.0.fetch_and(!(HOLDS_FRAME | FRAME), Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_a_hole_and_every_field_survives_its_neighbours() {
        assert_eq!(Slot(0), Slot::HOLE);
        for pfn in [Pfn::ZERO, Pfn::new(0x5a_5a5a_5a5a), Pfn::MAX] {
            for origin in [Origin::Hole, Origin::Promised] {
                let slot = Slot::claimed(origin).with_waiters();
                assert_eq!(slot.state(), State::Claimed);
                assert!(!slot.holds_frame() && slot.has_waiters());
                let slot = slot.with_frame(pfn);
                assert!(slot.holds_frame() && slot.has_waiters() && !slot.is_for_promise());
                assert_eq!((slot.pfn(), slot.origin()), (pfn, origin));
                assert_eq!(slot.restored(), Slot::present(pfn));
                let slot = Slot::claimed(origin).for_promise();
                assert!(slot.is_for_promise() && !slot.holds_frame());
                assert_eq!(slot.origin(), origin);
            }
            let slot = Slot::present(pfn);
            assert!(slot.is_present() && !slot.has_waiters());
            assert_eq!((slot.pfn(), slot.pins()), (pfn, 0));
            assert_eq!(slot.unpinned(), None);
        }
    }

    #[test]
    fn pins_stop_at_the_last_bit() {
        let mut slot = Slot::present(Pfn::MAX);
        for pins in 1..=MAX_PINS {
            slot = slot.pinned().unwrap_or(Slot::HOLE);
            assert_eq!(slot.pins(), pins);
        }
        assert_eq!(slot.pinned(), None);
        assert_eq!((slot.pfn(), slot.state()), (Pfn::MAX, State::Present));
        assert_eq!(slot.unpinned().map(Slot::pins), Some(MAX_PINS - 1));
    }

    #[test]
    fn a_claim_keeps_its_origin_and_waiters_over_attach_and_detach() {
        let word = AtomicU64::new(Slot::claimed(Origin::Promised).with_waiters().0);
        let cell = SlotCell(&word);
        cell.attach(Pfn::MAX);
        assert_eq!(cell.read().pfn(), Pfn::MAX);
        cell.detach();
        assert_eq!(cell.read(), Slot::claimed(Origin::Promised).with_waiters());
        cell.attach(Pfn::ZERO);
        assert!(cell.read().holds_frame());
    }
}
