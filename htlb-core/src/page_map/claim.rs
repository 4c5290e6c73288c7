// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Filling one slot: claim it, find a page for it, publish the page; and waiting for someone who does.
//!
//! The claim comes first and the page second, so two that populate the same offset end with one page and one charge: one
//! has the claim, the other waits. What the claim holds is in its type: a [`SlotClaim`] has no frame and can be
//! aborted, a [`FilledClaim`] has one and can be committed, and only `attach` and `detach` lead from one to the other.

use static_assertions::assert_not_impl_any;

use super::slot::{Origin, Slot, State};
use super::{Located, PageMap};
use crate::error::Error;
use crate::frame::Frame;
use crate::step::{Stop, WaitFor, Waiting, Wake};
use crate::sync::AtomicU64;
use crate::units::{ByteOffset, HugeSize, PageIndex, Pfn};

/// What came of a claim.
#[derive(Debug)]
#[must_use]
pub enum Claim {
    /// The slot is the caller's, to find a page for.
    Granted(SlotClaim),
    /// There is a page already.
    Present(Located),
}

/// The exclusive right to find a page for one slot.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lost claim hangs its waiters: abort it, or attach a frame"]
pub struct SlotClaim {
    index: PageIndex,
    size: HugeSize,
    origin: Origin,
}

/// The exclusive right to fill the page that has been found for one slot, and to publish it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lost claim hangs its waiters: commit it, or detach the frame"]
pub struct FilledClaim {
    claim: SlotClaim,
    pfn: Pfn,
}

assert_not_impl_any!(SlotClaim: Clone, Copy);
assert_not_impl_any!(FilledClaim: Clone, Copy);

impl SlotClaim {
    /// The slot.
    #[must_use]
    pub const fn index(&self) -> PageIndex {
        self.index
    }

    /// The size of the page that it needs.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.size
    }

    /// What the slot was: whether the page is found under a promise.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }
}

impl FilledClaim {
    /// The slot.
    #[must_use]
    pub const fn index(&self) -> PageIndex {
        self.claim.index
    }

    /// The size of the page.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.claim.size
    }

    /// The first frame number of the page.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// What the slot was before it was claimed.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.claim.origin
    }

    const fn located(&self) -> Located {
        Located {
            pfn: self.pfn,
            size: self.claim.size,
            offset_in_page: ByteOffset::ZERO,
        }
    }
}

/// A frame that does not fit the slot, and everything that the caller had.
#[derive(Debug)]
#[must_use = "the claim and the frame are still to be given back"]
pub struct AttachRefused {
    /// Why.
    pub error: Error,
    /// The claim, as it was.
    pub claim: SlotClaim,
    /// The frame, which stays the caller's.
    pub frame: Frame,
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// Claims the slot of a page to fill it, or finds the page there.
    ///
    /// `wake` is called only where the buffer was truncated during the call.
    ///
    /// # Errors
    /// [`Stop::Wait`] for the slot where somebody else has it; [`Error::RangeBeyondEnd`].
    pub fn claim(&self, index: PageIndex, mut wake: impl FnMut(WaitFor)) -> Result<Claim, Stop> {
        let (cell, size) = self.cell_below_size(index)?;
        let mut now = cell.read();
        let origin = loop {
            let origin = match now.state() {
                State::Hole => Origin::Hole,
                State::Promised => Origin::Promised,
                State::Claimed => return Err(Stop::Wait(WaitFor::Slot(index))),
                State::Present => {
                    return Ok(Claim::Present(Located {
                        pfn: now.pfn(),
                        size,
                        offset_in_page: ByteOffset::ZERO,
                    }))
                }
            };
            match cell.exchange(now, Slot::claimed(origin)) {
                Ok(()) => break origin,
                Err(changed) => now = changed,
            }
        };
        let claim = SlotClaim {
            index,
            size,
            origin,
        };
        // INVARIANT: no page beyond the size. A truncate lowers the size before it publishes the holes; so if this slot
        // was one of them, the exchange acquired the lower size, and if it was not, the truncate now meets this claim.
        if let Err(error) = self.cell_below_size(index) {
            let (_, owed) = self.abort(claim);
            if let Some(waiters) = owed.target() {
                wake(waiters);
            }
            return Err(error.into());
        }
        Ok(Claim::Granted(claim))
    }

    /// Records the frame that has been found for a claimed slot: from now on the map answers for it.
    ///
    /// # Errors
    /// [`AttachRefused`] for a frame of another size than the slot's extent, with claim and frame in it.
    pub fn attach(&self, claim: SlotClaim, frame: Frame) -> Result<FilledClaim, AttachRefused> {
        match self.cell(claim.index.raw()) {
            Some(cell) if frame.size() == claim.size => {
                let pfn = frame.into_pfn();
                cell.attach(pfn);
                Ok(FilledClaim { claim, pfn })
            }
            _ => Err(AttachRefused {
                error: Error::FrameSizeMismatch,
                claim,
                frame,
            }),
        }
    }

    /// Takes the frame out of the claim again: filling it failed.
    pub fn detach(&self, filled: FilledClaim) -> (SlotClaim, Frame) {
        let FilledClaim { claim, pfn } = filled;
        if let Some(cell) = self.cell(claim.index.raw()) {
            cell.detach();
        }
        let frame = Frame::mint(pfn, claim.size);
        (claim, frame)
    }

    /// Publishes the page: one swap, after which everybody finds it with the contents that it was filled with.
    #[doc(alias = "hugetlb_add_to_page_cache")]
    pub fn commit(&self, filled: FilledClaim) -> (Located, Wake) {
        let located = filled.located();
        (
            located,
            self.end_claim(filled.claim, Slot::present(located.pfn)),
        )
    }

    /// Gives the slot up as it was, and says what that is.
    pub fn abort(&self, claim: SlotClaim) -> (Origin, Wake) {
        let origin = claim.origin;
        (
            origin,
            self.end_claim(claim, Slot::restored(Slot::claimed(origin))),
        )
    }

    fn end_claim(&self, claim: SlotClaim, becomes: Slot) -> Wake {
        match self.cell(claim.index.raw()) {
            Some(cell) if cell.publish(becomes).has_waiters() => {
                Wake::waiters_of(WaitFor::Slot(claim.index))
            }
            _ => Wake::NOBODY,
        }
    }

    /// Whether somebody has the slot now.
    #[must_use]
    pub fn is_claimed(&self, index: PageIndex) -> bool {
        self.cell(index.raw())
            .is_some_and(|cell| cell.read().is_claimed())
    }

    /// Whether a page is there now.
    #[must_use]
    pub fn is_present(&self, index: PageIndex) -> bool {
        self.cell(index.raw())
            .is_some_and(|cell| cell.read().is_present())
    }

    /// Marks the claim on a slot, so that its end brings a [`Wake`]: the last look before going to sleep.
    ///
    /// The caller is on the wait queue already. `holding` is the lowest slot that it has claimed itself. Asked again after
    /// every wake-up, this is the whole condition of the wait.
    ///
    /// # Errors
    /// [`Error::WouldDeadlock`] where the claimed slot does not lie below `holding`: it may be the caller's own, or that of
    /// somebody who waits for the caller.
    pub fn prepare_wait(
        &self,
        index: PageIndex,
        holding: Option<PageIndex>,
    ) -> Result<Waiting, Error> {
        let Some(cell) = self.cell(index.raw()) else {
            return Ok(Waiting::Retry);
        };
        let mut now = cell.read();
        loop {
            if !now.is_claimed() {
                return Ok(Waiting::Retry);
            }
            if holding.is_some_and(|held| index >= held) {
                return Err(Error::WouldDeadlock);
            }
            if now.has_waiters() {
                return Ok(Waiting::Sleep);
            }
            match cell.exchange(now, now.with_waiters()) {
                Ok(()) => return Ok(Waiting::Sleep),
                Err(changed) => now = changed,
            }
        }
    }
}
