// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Removing pages and promises: punch a range, truncate the end.
//!
//! Both claim every slot of the range in ascending order, holes included: then all of the range is a hole at one moment, and
//! no fill can slip a page past the end that a truncate sets. What cannot be claimed (a pin, somebody's
//! claim) ends the attempt with all slots as they were. What has been claimed goes in any order and speed that the
//! front end likes: it revokes its mappings of the whole range, then takes page by page.

use static_assertions::assert_not_impl_any;

use super::seal::Entrant;
use super::slot::{Origin, Slot, SlotCell, State};
use super::{wake_waiters, PageMap, SlotRange};
use crate::error::Error;
use crate::frame::Frame;
use crate::step::{Stop, WaitFor, Wake};
use crate::sync::{AtomicU64, Ordering};
use crate::units::{ByteLen, HugeSize, PageCount, PageIndex};

/// The exclusive right to remove what a range of slots holds: a punch or a truncate under way.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lost claim hangs its waiters: end it"]
pub struct RangeClaim {
    next: u64,
    end: u64,
    /// The size to go back to where a truncate ends before it has removed everything.
    truncated_from: Option<u64>,
}

assert_not_impl_any!(RangeClaim: Clone, Copy);

impl RangeClaim {
    /// The slots that are claimed still, as half-open indices.
    #[must_use]
    pub const fn remaining(&self) -> (PageIndex, PageIndex) {
        (PageIndex::new(self.next), PageIndex::new(self.end))
    }

    /// The number of slots that are claimed still.
    #[must_use]
    pub const fn count(&self) -> PageCount {
        PageCount::new(self.end.saturating_sub(self.next))
    }
}

/// What a slot held.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "frames and promises are to be given back"]
pub enum Removed {
    /// A page, which the front end gives to the pool, or to whoever it came from.
    Frame(Frame),
    /// One promise of a page of this size, to release.
    Promise(HugeSize),
    /// Neither: it was a hole.
    Nothing,
}

/// A slot that has become a hole.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what was removed is to be given back, and the waiters to be woken"]
pub struct Emptied {
    /// The slot.
    pub index: PageIndex,
    /// What it held.
    pub removed: Removed,
    /// Who waits for it.
    pub wake: Wake,
}

impl Removed {
    /// What a slot without pins held.
    pub(super) const fn from_slot(slot: Slot, size: HugeSize) -> Self {
        match slot.state() {
            State::Present => Self::Frame(Frame::mint(slot.pfn(), size)),
            State::Claimed if slot.holds_frame() => Self::Frame(Frame::mint(slot.pfn(), size)),
            State::Claimed if matches!(slot.origin(), Origin::Promised) => Self::Promise(size),
            State::Promised => Self::Promise(size),
            State::Claimed | State::Hole => Self::Nothing,
        }
    }
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// Claims the pages of a range, to remove them.
    ///
    /// # Errors
    /// [`Error::Pinned`] and [`Error::Sealed`]; [`Stop::Wait`] for the slot that somebody else has, or for
    /// [`WaitFor::Seal`] while a reservation is under way. All slots are then as they were, and `wake` has been called
    /// for each that somebody began to wait for meanwhile.
    #[doc(alias = "hugetlbfs_punch_hole")]
    pub fn claim_range(
        &self,
        range: SlotRange,
        mut wake: impl FnMut(WaitFor),
    ) -> Result<RangeClaim, Stop> {
        self.enter(Entrant::Punch)?;
        let mut claim = RangeClaim {
            next: range.slots().start,
            end: range.slots().start,
            truncated_from: None,
        };
        match self.extend_claim(&mut claim, range.slots().end) {
            Ok(()) => Ok(claim),
            Err(stop) => {
                self.end_range(claim, &mut wake);
                Err(stop)
            }
        }
    }

    /// Lowers the size to `size`, and claims the pages that lie wholly beyond it, to remove them.
    ///
    /// A page that the new end cuts stays, with what it holds: the front end zeroes its tail. A buffer that is as small
    /// already stays as it is, and the claim is empty. If the claim ends before all is removed, the old size comes back.
    ///
    /// # Errors
    /// As [`PageMap::claim_range`]; the size is then unchanged.
    #[doc(alias = "hugetlb_vmtruncate")]
    pub fn truncate(
        &self,
        size: ByteLen,
        mut wake: impl FnMut(WaitFor),
    ) -> Result<RangeClaim, Stop> {
        self.enter(Entrant::Punch)?;
        let new = size.raw();
        let first = self.extents.slots_for(new);
        let mut claim = RangeClaim {
            next: first,
            end: first,
            truncated_from: None,
        };
        let mut old = self.size.load(Ordering::Relaxed);
        // INVARIANT: no page beyond the size. It is lowered only once all slots between the two are claimed; a grow
        // in between makes the exchange fail, and the rest is claimed too.
        while new < old {
            if let Err(stop) = self.extend_claim(&mut claim, self.extents.slots_for(old)) {
                self.end_range(claim, &mut wake);
                return Err(stop);
            }
            // ORDER: relaxed; `next_removed` releases the new size with each hole that it publishes.
            match self
                .size
                .compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => {
                    claim.truncated_from = Some(old);
                    break;
                }
                Err(changed) => old = changed,
            }
        }
        Ok(claim)
    }

    /// Empties the next slot of the claim, which becomes a hole; `None` after the last.
    ///
    /// The claim is to be ended even then.
    pub fn next_removed(&self, claim: &mut RangeClaim) -> Option<Emptied> {
        if claim.next >= claim.end {
            return None;
        }
        let slot = claim.next;
        let cell = self.cell(slot)?;
        let size = self.extents.holding_slot(slot).size();
        claim.next = slot.wrapping_add(1);
        let index = PageIndex::new(slot);
        let held = cell.publish(Slot::HOLE);
        let wake = if held.has_waiters() {
            Wake::waiters_of(WaitFor::Slot(index))
        } else {
            Wake::NOBODY
        };
        Some(Emptied {
            index,
            removed: Removed::from_slot(held, size),
            wake,
        })
    }

    /// Ends a punch or a truncate: what has not been removed is put back as it was.
    pub fn end_range(&self, claim: RangeClaim, mut wake: impl FnMut(WaitFor)) {
        if let Some(old) = claim.truncated_from.filter(|_| claim.next < claim.end) {
            // INVARIANT: no page beyond the size, so the size comes back first.
            self.size.fetch_max(old, Ordering::Relaxed);
        }
        for slot in claim.next..claim.end {
            if let Some(cell) = self.cell(slot) {
                let ended = cell.publish(cell.read().restored());
                wake_waiters(ended, slot, &mut wake);
            }
        }
        self.leave(Entrant::Punch, &mut wake);
    }

    /// Claims the slots from the end of the claim up to `end`; on failure the claim covers those that it got.
    fn extend_claim(&self, claim: &mut RangeClaim, end: u64) -> Result<(), Stop> {
        while claim.end < end {
            let cell = self.cell(claim.end).ok_or(Error::RangeBeyondEnd)?;
            claim_to_remove(cell, PageIndex::new(claim.end))?;
            claim.end = claim.end.wrapping_add(1);
        }
        Ok(())
    }
}

fn claim_to_remove(cell: SlotCell<'_>, index: PageIndex) -> Result<(), Stop> {
    let mut now = cell.read();
    loop {
        let claimed = match now.state() {
            State::Hole => Slot::claimed(Origin::Hole),
            State::Promised => Slot::claimed(Origin::Promised),
            State::Claimed => return Err(Stop::Wait(WaitFor::Slot(index))),
            State::Present if now.pins() > 0 => return Err(Error::Pinned.into()),
            State::Present => Slot::claimed(Origin::Hole).with_frame(now.pfn()),
        };
        match cell.exchange(now, claimed) {
            Ok(()) => return Ok(()),
            Err(changed) => now = changed,
        }
    }
}
