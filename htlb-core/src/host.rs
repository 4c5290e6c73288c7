// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the core asks of the world: one trait, which a back end implements for one buffer at a time.
//!
//! None of these is called with a lock held, except [`Host::take_run`], which says so.

use crate::error::Error;
use crate::frame::{Condition, Frame};
use crate::ledger::AccountId;
use crate::lock::Exclusive;
use crate::page_map::PageMap;
use crate::policy::Attempt;
use crate::reach::NodeMask;
use crate::step::{Stop, WaitFor};
use crate::stock::{Charge, Stock};
use crate::sync::AtomicU64;
use crate::units::{ByteRange, HugeSize, PageCount, PageIndex, Pfn};

/// A page that has been claimed for filling and that nobody else can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blank {
    /// Its first frame.
    pub pfn: Pfn,
    /// Its size.
    pub size: HugeSize,
    /// Where its first byte is in the buffer, in bytes.
    pub offset: u64,
    /// Whether it is known to hold only zeroes.
    pub condition: Condition,
}

/// What a page holds when a slot gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Contents {
    /// Only zeroes.
    Zeroes,
    /// Anything, perhaps somebody else's: to be cleared.
    Anything,
    /// What the same owner left, which may stay.
    OwnData,
}

impl From<Condition> for Contents {
    fn from(condition: Condition) -> Self {
        match condition {
            Condition::Clean => Self::Zeroes,
            Condition::Dirty => Self::Anything,
        }
    }
}

/// Whether a page that left its slot can be used again.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a page in limbo is still charged"]
pub enum Reclaim {
    /// Nobody holds it.
    Free(Frame),
    /// Somebody still does: the back end keeps it in limbo, with its charge, until the last holder lets go.
    Limbo,
}

/// A back end, as seen by one buffer.
pub trait Host {
    /// Memory for tables.
    type Words: AsRef<[u64]> + AsMut<[u64]>;
    /// Memory for a page map's slots.
    type Slots: AsRef<[AtomicU64]>;
    /// A run of contiguous frames that has been taken.
    type Run: Iterator<Item = Frame>;
    /// The lock around a stock.
    type Lock: Exclusive<Stock<Self::Words>>;

    /// The stock that serves this attempt, or `None` where every such page comes from [`Host::page`].
    fn stock(&self, attempt: &Attempt) -> Option<&Self::Lock>;

    /// The account that pays for pages of this attempt.
    fn account(&self, attempt: &Attempt) -> AccountId;

    /// A page that is set aside for the page at `index` of this buffer, or that the same owner gave up earlier: already
    /// charged, and in use as far as the stock knows.
    ///
    /// It is charged to the stock of the attempt, with its reach and account, by which its return is counted: a page kept for
    /// another reach is not an answer, even where it lies within this one, nor is one of a stock for an attempt without one.
    fn own(&self, _attempt: &Attempt, _index: PageIndex) -> Option<(Frame, Contents)> {
        None
    }

    /// Sets a page of [`Host::own`] aside again, because filling it failed; gives it back where that is not wanted. What was
    /// [`Contents::OwnData`] is the owner's still, whatever its producer left; anything else may hold anything now.
    ///
    /// # Errors
    /// The frame.
    fn set_aside(&self, frame: Frame, _attempt: &Attempt, _index: PageIndex) -> Result<(), Frame> {
        Err(frame)
    }

    /// Keeps a page that left its slot for the same owner, still charged; gives it back where there is no room for it.
    ///
    /// # Errors
    /// The frame.
    fn keep(&self, frame: Frame, _attempt: &Attempt) -> Result<(), Frame> {
        Err(frame)
    }

    /// `words` zeroed words for tables.
    ///
    /// # Errors
    /// [`Error::OutOfMetadata`].
    fn words(&self, words: usize) -> Result<Self::Words, Error>;

    /// `slots` zeroed slots.
    ///
    /// # Errors
    /// [`Error::OutOfMetadata`].
    fn slots(&self, slots: usize) -> Result<Self::Slots, Error>;

    /// Gets up to `pages` pages from the system and puts them into the stock of `attempt`; says how many came.
    /// Mirrors `mm/hugetlb.c: gather_surplus_pages`.
    ///
    /// # Errors
    /// Why none came.
    fn supply(
        &self,
        attempt: &Attempt,
        prefer: NodeMask,
        pages: PageCount,
    ) -> Result<PageCount, Error>;

    /// A page for this buffer alone, which goes back to the system and never to a pool.
    ///
    /// # Errors
    /// [`Error::OutOfPages`] or [`Error::OutOfReach`].
    fn page(&self, attempt: &Attempt, prefer: NodeMask) -> Result<(Frame, Condition), Error>;

    /// Takes `pages` physically contiguous pages from the stock, the first aligned to `align` bytes. A back end whose
    /// frame numbers are physical calls [`Stock::take_run`], which counts the alignment in base pages. Runs under the
    /// stock's lock.
    ///
    /// # Errors
    /// [`Error::NoContiguousRun`] and those of [`Stock::take_run`].
    fn take_run(
        &self,
        stock: &mut Stock<Self::Words>,
        charge: Charge,
        pages: PageCount,
        align: u64,
    ) -> Result<(Self::Run, Condition), Stop>;

    /// As [`Host::supply`], but `pages` contiguous ones or none; says whether they came.
    ///
    /// # Errors
    /// Why they did not.
    #[doc(alias = "alloc_contig_pages")]
    fn supply_run(&self, _attempt: &Attempt, _pages: PageCount, _align: u64) -> Result<(), Error> {
        Err(Error::NoContiguousRun)
    }

    /// Whether the memory of a page that the stock just gave is known to be bad. Such a page is exchanged for another one, and
    /// [freed](Host::free).
    #[doc(alias = "PageHWPoison")]
    fn is_poisoned(&self, _frame: &Frame) -> bool {
        false
    }

    /// Learns where a page is going to be, before it is filled and before anybody can see it there. Called once for each page
    /// that a slot gets.
    ///
    /// # Errors
    /// [`Error::Interrupted`] where the caller is told to go, so that long loops can be ended; the page goes back.
    fn place(&self, _page: &Blank) -> Result<(), Error> {
        Ok(())
    }

    /// Zeroes the bytes of `page` from `from` to its end.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    fn clear(&self, page: &Blank, from: u64) -> Result<(), Error>;

    /// Whether the caller is told to go: asked between the stretches of a long punch or truncate, which then ends.
    fn is_interrupted(&self) -> bool {
        false
    }

    /// Revokes every mapping of the range, whose slots are claimed. Cannot fail.
    fn unmap(&self, range: ByteRange);

    /// The back end's own check on a page that left its slot, after [`Host::unmap`].
    fn reclaim(&self, frame: Frame, attempt: &Attempt, charge: Charge) -> Reclaim;

    /// Lets a page go to the system; one with bad memory must not come back from there.
    fn free(&self, frame: Frame, attempt: &Attempt);

    /// Sleeps until `what` of this map may have changed; returning early is allowed.
    ///
    /// The last look before sleeping is the map's: [`PageMap::prepare_wait`], with `holding` passed on, and
    /// [`PageMap::prepare_wait_seal`].
    ///
    /// # Errors
    /// [`Error::Interrupted`] by a fatal signal, and those of the last look.
    fn wait(
        &self,
        map: &PageMap<Self::Slots>,
        what: WaitFor,
        holding: Option<PageIndex>,
    ) -> Result<(), Error>;

    /// Wakes those who wait for `what` of this map.
    fn wake(&self, map: &PageMap<Self::Slots>, what: WaitFor);
}
