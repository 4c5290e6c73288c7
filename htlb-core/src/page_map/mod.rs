// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Offset to page: one atomic slot per page, and nothing beside it.
//!
//! The slots are memory that the front end hands in, 8 bytes per page, as many as the [`Extents`] have pages. Their
//! number is fixed; the size of the buffer is an atomic below that capacity, so growing and truncating never move
//! a slot under a reader. A slot is in one of four states:
//!
//! ```text
//!            claim_holes, commit_promises
//!      Hole ─────────────────────────────► Promised
//!       ▲ │ ◄───────────────────────────── │  ▲
//!       │ │           unpromise            │  │
//!       │ └──────────► Claimed ◄───────────┘  │   abort restores what was claimed
//!       │  claim      origin, frame?          │
//!       │             │ commit    ▲ claim_range
//!       │             ▼           │
//!       │           Present (pfn, pins)
//!       └── next_removed: from Claimed, by a punch or a truncate
//! ```
//!
//! *Claimed* is exclusive, and serves filling, punching and changes of promises alike. A claim is a value:
//! [`SlotClaim`] (a page is being found for it), [`FilledClaim`] (the page has been found), [`RangeClaim`] (a punch or a
//! truncate), [`PromiseClaim`]. None is `Clone`; each is consumed by what ends it. They hold indices, not
//! references, so that a driver can keep them in its own records; one must go back to the map that gave it.
//! Losing one hangs its waiters, so front ends wrap them in guards. [`PagePin`] and [`Seal`] are not claims: they keep a
//! page, or all pages, from being removed, and nobody waits for their end.
//!
//! # Invariants
//!
//! - A present slot has the number of a frame that [`attach`](PageMap::attach) consumed; the frame is minted again only by
//!   the swap that empties the slot. So a frame is in one slot or outside the map, never both.
//! - Pages are present only below the size: a truncate claims the slots before it lowers the size, and a claim looks at
//!   the size again after it has the slot.
//! - While a seal lives no punch is under way, and the reverse ([`Seal`]).
//! - An operation that cannot finish puts back every slot that it had claimed. Since somebody may have begun to wait for
//!   one of them meanwhile, such operations take a `wake` function; where there is at most one waiter's place to
//!   name, the answer carries a [`Wake`](crate::Wake) instead.
//!
//! # Waiting
//!
//! [`Stop::Wait`](crate::Stop::Wait) names a slot or the seal. The front end queues itself, then asks
//! [`PageMap::prepare_wait`] (or [`PageMap::prepare_wait_seal`]). [`Waiting::Sleep`](crate::Waiting::Sleep) means that
//! whoever ends the claim will see the mark and wake the queue, [`Waiting::Retry`](crate::Waiting::Retry) that there is
//! nothing to wait for any more. As the condition of a `wait_event`, "`prepare_wait` says `Retry`" loses no wake-up, since
//! each look sets the mark of the claim that it finds.
//!
//! A thread that holds a claim may wait only for *lower* slots; any other wait is [`Error::WouldDeadlock`]. So every chain
//! of waits descends and none can close, and a producer that touches the page it is filling gets an
//! error, not a hang. Claims on ranges never wait while they hold anything.
//!
//! Neighbours: the ledger counts the promises that the slots record (one ledger for each page size, hence
//! [`PerExtent`]), the pool has the frames that are in no slot.

mod census;
mod claim;
mod drain;
mod extents;
mod pin;
mod promise;
mod punch;
mod seal;
mod slot;

pub use census::Census;
pub use claim::{AttachRefused, Claim, FilledClaim, SlotClaim};
pub use drain::Drain;
pub use extents::{Extent, Extents, PerExtent, SlotRange};
pub use pin::PagePin;
pub use promise::PromiseClaim;
pub use punch::{Emptied, RangeClaim, Removed};
pub use seal::Seal;
pub use slot::{Origin, MAX_PINS};

use crate::error::Error;
use crate::step::WaitFor;
use crate::sync::{AtomicU64, Ordering};
use crate::units::{ByteLen, ByteOffset, ByteRange, HugeSize, PageIndex, Pfn};
use seal::Exclusion;
use slot::{Slot, SlotCell};

/// Where a page is.
///
/// A hint: the page may be removed at any moment, unless the caller holds a [`PagePin`] on it or a [`Seal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The first frame number of the page.
    pub pfn: Pfn,
    /// The size of the page.
    pub size: HugeSize,
    /// From the start of the page to the offset that was asked for, in bytes.
    pub offset_in_page: ByteOffset,
}

/// The pages of one buffer.
///
/// Every operation but the last, [`PageMap::drain`], takes `&self`, takes no lock and may run on any thread.
///
/// ```
/// use core::sync::atomic::AtomicU64;
/// use htlb_core::page_map::{Claim, Extents, PageMap};
/// use htlb_core::{ByteLen, ByteOffset, Error, Frame, HugeSize, PageCount, Pfn, Stop};
///
/// let extents = Extents::new(&[(HugeSize::MIB2, PageCount::new(2))])?;
/// let slots = [const { AtomicU64::new(0) }; 2];
/// let map = PageMap::new(slots, extents, extents.capacity())?;
///
/// // A driver puts a page at 2 MiB ...
/// let index = map.index_at(ByteOffset::new(2 << 20))?;
/// let Ok(Claim::Granted(claim)) = map.claim(index, |_| ()) else { unreachable!() };
/// let frame = Frame::new(Pfn::new(512), HugeSize::MIB2)?;
/// let Ok(filled) = map.attach(claim, frame) else { unreachable!() };
/// let (_, wake) = map.commit(filled);
/// assert_eq!(wake.target(), None);
///
/// // ... and anyone finds it there.
/// let page = map.page_at(ByteOffset::new((2 << 20) + 5))?;
/// assert_eq!((page.pfn, page.offset_in_page.raw()), (Pfn::new(512), 5));
/// assert_eq!(map.page_at(ByteOffset::ZERO), Err(Error::NotPresent));
/// assert_eq!(map.page_at(ByteOffset::new(4 << 20)), Err(Error::RangeBeyondEnd));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[doc(alias = "resv_map")]
pub struct PageMap<S> {
    slots: S,
    extents: Extents,
    size: AtomicU64,
    exclusion: Exclusion,
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// A buffer of `size` bytes, all holes.
    ///
    /// `slots` is zeroed memory, one word for each page of `extents`.
    ///
    /// # Errors
    /// [`Error::SlotsMismatch`] for fewer or more slots, or any that is not zero; [`Error::BeyondCapacity`] for a size
    /// above that of the extents.
    pub fn new(slots: S, extents: Extents, size: ByteLen) -> Result<Self, Error> {
        if slots.as_ref().len() != extents.slots() {
            return Err(Error::SlotsMismatch);
        }
        if size.raw() > extents.capacity().raw() {
            return Err(Error::BeyondCapacity);
        }
        if slots
            .as_ref()
            .iter()
            .any(|slot| SlotCell(slot).read() != Slot::HOLE)
        {
            return Err(Error::SlotsMismatch);
        }
        Ok(Self {
            slots,
            extents,
            size: AtomicU64::new(size.raw()),
            exclusion: Exclusion::new(),
        })
    }

    /// The extents, which never change.
    #[must_use]
    pub const fn extents(&self) -> &Extents {
        &self.extents
    }

    /// The size in bytes, at most the capacity of the extents.
    #[must_use]
    #[doc(alias = "i_size_read")]
    pub fn size(&self) -> ByteLen {
        ByteLen::new(self.size.load(Ordering::Relaxed))
    }

    /// Raises the size to `size`, and gives the size that it had; does nothing to a buffer that is as large already.
    ///
    /// The new pages are holes, unless they were promised before, as [`Extents::covering`] with the new size allows.
    ///
    /// # Errors
    /// [`Error::BeyondCapacity`].
    pub fn grow(&self, size: ByteLen) -> Result<ByteLen, Error> {
        if size.raw() > self.extents.capacity().raw() {
            return Err(Error::BeyondCapacity);
        }
        Ok(ByteLen::new(
            self.size.fetch_max(size.raw(), Ordering::Relaxed),
        ))
    }

    /// The page at `offset`.
    ///
    /// Wait-free and callable in any context: one compare with the size, at most two to find the extent, one load.
    /// The contents that the page was filled with are visible to the caller.
    ///
    /// # Errors
    /// [`Error::RangeBeyondEnd`] from the size on, whether or not anything is populated; [`Error::NotPresent`] where
    /// there is no page (yet).
    #[inline]
    #[doc(alias = "hugetlb_filemap_get_folio")]
    pub fn page_at(&self, offset: ByteOffset) -> Result<Located, Error> {
        let offset = offset.raw();
        if offset >= self.size.load(Ordering::Relaxed) {
            return Err(Error::RangeBeyondEnd);
        }
        // The first extent has the largest pages and nearly all of the bytes. Kept apart, its lookup needs no choice of
        // operands, and costs a third less.
        match self.extents.first_holding(offset) {
            Some(first) => self.locate(first, offset),
            None => self.locate_later(offset),
        }
    }

    #[inline(never)]
    fn locate_later(&self, offset: u64) -> Result<Located, Error> {
        self.locate(self.extents.holding(offset), offset)
    }

    #[inline]
    fn locate(&self, extent: &Extent, offset: u64) -> Result<Located, Error> {
        let slot = self
            .cell(extent.slot_of(offset))
            .ok_or(Error::RangeBeyondEnd)?
            .read();
        if !slot.is_present() {
            return Err(Error::NotPresent);
        }
        let size = extent.size();
        Ok(Located {
            pfn: slot.pfn(),
            size,
            // An extent begins on a boundary of its page size.
            offset_in_page: ByteOffset::new(offset & size.bytes().wrapping_sub(1)),
        })
    }

    /// The index of the page that holds `offset`.
    ///
    /// # Errors
    /// [`Error::RangeBeyondEnd`] from the size on.
    #[inline]
    pub fn index_at(&self, offset: ByteOffset) -> Result<PageIndex, Error> {
        if offset.raw() >= self.size.load(Ordering::Relaxed) {
            return Err(Error::RangeBeyondEnd);
        }
        Ok(PageIndex::new(self.extents.slot_of(offset.raw())))
    }

    /// The pages that `range` covers: [`Extents::covering`] with the size that the buffer has now.
    ///
    /// # Errors
    /// As there.
    pub fn pages(&self, range: ByteRange) -> Result<SlotRange, Error> {
        self.extents.covering(range, self.size())
    }

    /// Gives the memory of the slots back.
    pub fn into_slots(self) -> S {
        self.slots
    }

    fn all_slots(&self) -> SlotRange {
        // CAST: a usize fits u64 on every target.
        SlotRange::new(0, self.extents.slots() as u64)
    }

    #[inline]
    fn cell(&self, slot: u64) -> Option<SlotCell<'_>> {
        let index = usize::try_from(slot).ok()?;
        self.slots.as_ref().get(index).map(SlotCell)
    }

    /// The slot of a page that lies, at least in part, below the size, and the size of that page.
    fn cell_below_size(&self, index: PageIndex) -> Result<(SlotCell<'_>, HugeSize), Error> {
        let slot = index.raw();
        let cell = self.cell(slot).ok_or(Error::RangeBeyondEnd)?;
        let extent = self.extents.holding_slot(slot);
        if extent.start_of(slot) >= self.size.load(Ordering::Relaxed) {
            return Err(Error::RangeBeyondEnd);
        }
        Ok((cell, extent.size()))
    }
}

/// Wakes those who wait for the claim that `ended` was.
fn wake_waiters(ended: Slot, slot: u64, wake: &mut impl FnMut(WaitFor)) {
    if ended.has_waiters() {
        wake(WaitFor::Slot(PageIndex::new(slot)));
    }
}
