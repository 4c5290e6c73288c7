// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pages of one size: how many there are for whom, and which ones.
//!
//! A stock is a [`Ledger`] and a [`Pool`] that move together under one lock. Every operation asks the ledger
//! first, since only it can refuse; what the ledger granted, the pool has.
//!
//! INVARIANT: for each class, the ledger's free count is the number of free pages in the pool.

use crate::error::Error;
use crate::frame::{Condition, Frame};
use crate::ledger::{AccountId, Counts, Ledger, Promise, Put};
use crate::pool::{Pool, Run};
use crate::reach::{Class, NodeMask, Reach};
use crate::request::Fill;
use crate::step::{Stop, Table};
use crate::units::{HugeSize, PageCount, Pfn};

mod audit;

pub use audit::{Held, Violation};

/// Who answers for a page: kept where the page is, needed when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Charge {
    /// What the page was chosen from.
    pub reach: Reach,
    /// Whose limit it counts against.
    pub account: AccountId,
}

/// Whether new pages stay, or leave when they are no longer used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Supply {
    /// They belong to the pool until it shrinks.
    Persistent,
    /// They cover a shortage, within the overcommit limit, and leave when they come back.
    Surplus,
}

/// What became of a page that was put back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a page that leaves must be freed by the back end"]
pub enum Returned {
    /// It is free in the pool.
    Kept,
    /// It was surplus, or never the pool's: the back end frees it to the system.
    Leaves(Frame),
}

/// The pages of one size: how many for whom, and which.
///
/// `M` is the memory of its tables, given by the host. See [`crate::host::Host`] for who calls this, and
/// `htlb-core/examples` for a host of its own.
#[derive(Debug)]
#[doc(alias = "hstate")]
pub struct Stock<M> {
    ledger: Ledger<M>,
    pool: Pool<M>,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Stock<M> {
    /// A stock without pages.
    #[must_use]
    pub const fn new(ledger: Ledger<M>, pool: Pool<M>) -> Self {
        Self { ledger, pool }
    }

    /// The page size.
    #[must_use]
    pub fn size(&self) -> HugeSize {
        self.pool.size()
    }

    /// How many: promises, accounts and counts.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger<M> {
        &self.ledger
    }

    /// The ledger, for accounts and limits; pages come and go through the stock only.
    pub fn ledger_mut(&mut self) -> &mut Ledger<M> {
        &mut self.ledger
    }

    /// Which: the free pages.
    #[must_use]
    pub const fn pool(&self) -> &Pool<M> {
        &self.pool
    }

    /// The counts that users see.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.ledger.totals()
    }

    /// New tables for the ledger or the pool, as [`Stop::Metadata`] asked; returns memory to free with no lock held: the
    /// old tables, or the new ones where somebody else was faster.
    pub fn adopt(&mut self, table: Table, bigger: M) -> M {
        match table {
            Table::Ledger => match self.ledger.adopt(bigger) {
                Ok(old) => old,
                Err((new, _)) => new,
            },
            Table::Pool => self.pool.adopt(bigger),
        }
    }

    /// Takes in a page that the back end got from its system; it is free from now on.
    ///
    /// # Errors
    /// Gives the frame back with [`Error::FrameInvalid`] for a page that is here already or of another size,
    /// [`Error::OvercommitLimit`] for one surplus page too many, or a need for tables.
    #[doc(alias = "add_hugetlb_folio")]
    pub fn add(
        &mut self,
        frame: Frame,
        class: Class,
        condition: Condition,
        supply: Supply,
    ) -> Result<(), (Frame, Stop)> {
        if frame.size() != self.size() {
            return Err((frame, Error::FrameInvalid.into()));
        }
        let grown = self
            .pool
            .room_for([(frame.pfn(), class)])
            .and_then(|()| match supply {
                Supply::Persistent => self.ledger.grow(class, PageCount::ONE),
                Supply::Surplus => self.ledger.grow_surplus(class, PageCount::ONE),
            });
        match grown {
            // INVARIANT: the pool has room, so both counts of free pages go up by one.
            Ok(()) => self.pool.add(frame, class, condition),
            Err(stop) => Err((frame, stop)),
        }
    }

    /// How many more pages a promise of `pages` pages would need; zero where it would be granted.
    ///
    /// # Errors
    /// [`Error::AccountLimit`], or a need for tables.
    pub fn shortage(&mut self, charge: Charge, pages: PageCount) -> Result<PageCount, Stop> {
        self.ledger.shortage(charge.reach, charge.account, pages)
    }

    /// A promise of `pages` pages within the reach, all of them or none.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::AccountLimit`], or a need for tables.
    pub fn reserve(&mut self, charge: Charge, pages: PageCount) -> Result<Promise, Stop> {
        self.ledger.reserve(charge.reach, charge.account, pages)
    }

    /// Gives a promise back.
    pub fn release(&mut self, promise: Promise) {
        self.ledger.release(promise);
    }

    /// Turns a promise of one page into that page, on a preferred node where no promise suffers by it.
    ///
    /// # Errors
    /// Gives the promise back where this stock never gave it.
    #[doc(alias = "dequeue_hugetlb_folio_vma")]
    pub fn take(
        &mut self,
        promise: Promise,
        prefer: NodeMask,
        fill: Fill,
    ) -> Result<(Frame, Condition), Promise> {
        let (reach, account) = (promise.reach(), promise.account());
        let class = self.ledger.take_promised(promise, prefer)?;
        // INVARIANT: both count the same free pages, so the pool has one of this class.
        self.pool
            .take(class, wanted(fill))
            .ok_or_else(|| self.ledger.put_promised(class, reach, account))
    }

    /// Undoes [`Stock::take`]: the page is free again, and promised again.
    ///
    /// # Errors
    /// Gives the frame back where it is not this pool's.
    pub fn untake(
        &mut self,
        frame: Frame,
        charge: Charge,
        condition: Condition,
    ) -> Result<Promise, Frame> {
        let class = self.pool.put(frame, condition)?;
        Ok(self
            .ledger
            .put_promised(class, charge.reach, charge.account))
    }

    /// A page without a promise, only if no promise needs it.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::AccountLimit`], or a need for tables.
    pub fn take_free(
        &mut self,
        charge: Charge,
        prefer: NodeMask,
        fill: Fill,
    ) -> Result<(Frame, Condition), Stop> {
        let class = self
            .ledger
            .take_free(charge.reach, charge.account, prefer)?;
        self.pool.take(class, wanted(fill)).ok_or_else(|| {
            let promise = self
                .ledger
                .put_promised(class, charge.reach, charge.account);
            self.ledger.release(promise);
            Error::NoRoom.into()
        })
    }

    /// Takes `pages` physically contiguous pages, the first aligned to `align` base pages; none of them is needed by
    /// a promise.
    ///
    /// # Errors
    /// [`Error::NoContiguousRun`], [`Error::NoRoom`], [`Error::AccountLimit`], or a need for tables.
    #[doc(alias = "alloc_contig_pages")]
    pub fn take_run(&mut self, charge: Charge, pages: PageCount, align: u64) -> Result<Run, Stop> {
        let found = self
            .pool
            .find_run(pages, align, |class| charge.reach.covers(class))?;
        for (taken, (class, pages)) in found.classes().enumerate() {
            if let Err(stop) = self
                .ledger
                .take_exact(class, charge.reach, charge.account, pages)
            {
                for (class, pages) in found.classes().take(taken) {
                    for _ in 0..pages.raw() {
                        let promise = self
                            .ledger
                            .put_promised(class, charge.reach, charge.account);
                        self.ledger.release(promise);
                    }
                }
                return Err(stop);
            }
        }
        Ok(found.take())
    }

    /// Takes a page back; it counts as dirty unless `condition` says otherwise.
    #[doc(alias = "free_huge_folio")]
    pub fn put(&mut self, frame: Frame, charge: Charge, condition: Condition) -> Returned {
        let known = self.pool.knows(frame.pfn());
        let Some(class) = known.filter(|_| frame.size() == self.size()) else {
            return Returned::Leaves(frame);
        };
        match self.ledger.put(class, charge.reach, charge.account) {
            Put::Kept => match self.pool.put(frame, condition) {
                Ok(_) => Returned::Kept,
                Err(frame) => Returned::Leaves(frame),
            },
            Put::Surplus => {
                let removed = self.pool.remove(&frame);
                debug_assert_eq!(removed, Ok(class));
                Returned::Leaves(frame)
            }
        }
    }

    /// A page in use leaves the pool for good, because its memory went bad.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where an account's minimum needs the page, [`Error::FrameInvalid`] for a page that is not in use
    /// here.
    pub fn retire(&mut self, frame: &Frame, charge: Charge) -> Result<(), Error> {
        let class = self.in_use(frame)?;
        self.ledger.remove(class, charge.reach, charge.account)?;
        self.pool.remove(frame).map(drop)
    }

    /// A page in use leaves the pool for good, because its memory went bad, and its user gets another one that no promise
    /// needs, as for [`Stock::take`].
    ///
    /// # Errors
    /// [`Error::NoRoom`] where there is no other, [`Error::FrameInvalid`] for a page that is not in use here. The bad page
    /// stays in use then.
    #[doc(alias = "dissolve_free_hugetlb_folio")]
    pub fn exchange(
        &mut self,
        bad: &Frame,
        charge: Charge,
        prefer: NodeMask,
        fill: Fill,
    ) -> Result<(Frame, Condition), Error> {
        let class = self.in_use(bad)?;
        let other = self
            .ledger
            .exchange(class, charge.reach, charge.account, prefer)?;
        // INVARIANT: it is in use here, so the pool can forget it; both count the same free pages, so the pool has one of this
        // class.
        self.pool.remove(bad)?;
        self.pool.take(other, wanted(fill)).ok_or(Error::NoRoom)
    }

    /// A page in use becomes free, and another free one of its class comes into use for it, whoever that is promised to: the
    /// same page where there is no other.
    pub fn swap(&mut self, frame: Frame, fill: Fill) -> (Frame, Condition) {
        let class = self.in_use(&frame).ok();
        let other = class.and_then(|class| self.pool.take(class, wanted(fill)));
        let Some((other, condition)) = other else {
            return (frame, Condition::Dirty);
        };
        match self.pool.put(frame, Condition::Dirty) {
            Ok(_) => (other, condition),
            // INVARIANT: it was in use here, so the pool has its place.
            Err(frame) => (frame, Condition::Dirty),
        }
    }

    /// The class of a page of this pool that is not free.
    fn in_use(&self, frame: &Frame) -> Result<Class, Error> {
        let in_use = frame.size() == self.size() && self.pool.condition(frame.pfn()).is_none();
        let class = self.pool.knows(frame.pfn()).filter(|_| in_use);
        class.ok_or(Error::FrameInvalid)
    }

    /// A free page of `class` that no promise needs leaves the stock for good.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    #[doc(alias = "remove_pool_hugetlb_folio")]
    pub fn shrink(&mut self, class: Class) -> Result<Frame, Stop> {
        self.shrink_one(class).map(|(frame, _)| frame)
    }

    fn shrink_one(&mut self, class: Class) -> Result<(Frame, Condition), Stop> {
        self.ledger.shrink(class, PageCount::ONE)?;
        self.pull(class).ok_or(Error::NoRoom.into())
    }

    /// A free surplus page that no promise needs any more, if there is one: to be called after a release until `None`.
    #[doc(alias = "return_unused_surplus_pages")]
    pub fn drop_surplus(&mut self) -> Option<Frame> {
        let class = self.ledger.drop_surplus()?;
        self.pull(class).map(|(frame, _)| frame)
    }

    /// Takes a free page out of the pool whose count the ledger has already lost.
    fn pull(&mut self, class: Class) -> Option<(Frame, Condition)> {
        let (frame, condition) = self.pool.take(class, Condition::Dirty)?;
        let removed = self.pool.remove(&frame);
        debug_assert_eq!(removed, Ok(class));
        Some((frame, condition))
    }

    /// Breaks one free page of `class` into pages of the smaller stock, promises untouched on both sides. Returns the
    /// large page's first frame number: the back end splits the page itself before anybody can take a part, so it
    /// holds the smaller stock's lock until then. `class_of` says where each part lies.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where no such page is free of promises, [`Error::PageSizeInvalid`] where `smaller` is not, or a
    /// need for tables, which are the smaller stock's.
    #[doc(alias = "demote_pool_huge_page")]
    pub fn demote(
        &mut self,
        class: Class,
        smaller: &mut Self,
        class_of: impl Fn(Pfn, HugeSize) -> Class,
    ) -> Result<Pfn, Stop> {
        if smaller.size() >= self.size() {
            return Err(Error::PageSizeInvalid.into());
        }
        let (frame, condition) = self.shrink_one(class)?;
        let first = frame.pfn();
        let (whole, part) = (self.size(), smaller.size());
        let class_of = &class_of;
        let parts = move || {
            let step = usize::try_from(part.base_pages()).unwrap_or(usize::MAX);
            (0..whole.base_pages())
                .step_by(step)
                .filter_map(move |offset| {
                    let pfn = Pfn::new(first.raw().checked_add(offset)?);
                    Some((pfn, class_of(pfn, part)))
                })
        };
        let mut grown = 0usize;
        let outcome = smaller.pool.room_for(parts()).and_then(|()| {
            parts().try_for_each(|(_, class)| {
                smaller.ledger.grow(class, PageCount::ONE)?;
                grown = grown.saturating_add(1);
                Ok(())
            })
        });
        if let Err(stop) = outcome {
            for (_, class) in parts().take(grown) {
                // Grown a moment ago under the same lock: free, and promised to nobody.
                let shrunk = smaller.ledger.shrink(class, PageCount::ONE);
                debug_assert_eq!(shrunk, Ok(()));
            }
            let restored = self
                .ledger
                .grow(class, PageCount::ONE)
                .map(|()| self.pool.add(frame, class, condition));
            debug_assert!(matches!(restored, Ok(Ok(()))));
            return Err(stop);
        }
        for (pfn, class) in parts() {
            let added = smaller.pool.add(Frame::mint(pfn, part), class, condition);
            debug_assert!(added.is_ok());
        }
        Ok(frame.into_pfn())
    }
}

/// Which of the free pages suit a request best: clean ones are for those who need them clean.
const fn wanted(fill: Fill) -> Condition {
    match fill {
        Fill::Zeroed => Condition::Clean,
        Fill::DirtyWithinOwner => Condition::Dirty,
    }
}
