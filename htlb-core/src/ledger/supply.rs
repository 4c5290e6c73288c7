// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages coming into being and leaving: persistent ones, and surplus ones up to the overcommit limit.
//!
//! Pages of a class are alike; `surplus` says how many of them should leave, not which. A surplus page leaves when
//! it comes back from use and its account's minimum does not need it, or by [`Ledger::drop_surplus`] while free.

use super::tables::OfClass;
use super::witness::Region;
use super::Ledger;
use crate::error::Error;
use crate::reach::Class;
use crate::step::Stop;
use crate::units::PageCount;

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// Adds `pages` free persistent pages.
    ///
    /// Where surplus pages exist, the host should first [`absorb`](Self::absorb) them and allocate only the rest.
    ///
    /// # Errors
    /// [`Error::NodeInvalid`] for a node beyond [`Tables::nodes`](super::Tables::nodes), [`Error::CounterOverflow`].
    #[doc(alias = "set_max_huge_pages")]
    pub fn grow(&mut self, class: Class, pages: PageCount) -> Result<(), Stop> {
        self.can_grow(class, pages)?;
        self.join(class, pages.raw());
        Ok(())
    }

    /// Adds `pages` free surplus pages.
    ///
    /// Mirrors `mm/hugetlb.c: alloc_surplus_hugetlb_folio`.
    ///
    /// # Errors
    /// [`Error::OvercommitLimit`] beyond [`Self::set_overcommit`], and as for [`Self::grow`].
    #[doc(alias = "alloc_surplus_hugetlb_folio")]
    pub fn grow_surplus(&mut self, class: Class, pages: PageCount) -> Result<(), Stop> {
        self.can_grow(class, pages)?;
        let n = pages.raw();
        if n > self.overcommit.saturating_sub(self.totals.surplus) {
            return Err(Error::OvercommitLimit.into());
        }
        self.join(class, n);
        self.gain_surplus(class, n);
        Ok(())
    }

    /// Takes `pages` free persistent pages out, none of which a promise needs.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where fewer are free, persistent and needed by nobody; [`Error::NodeInvalid`].
    #[doc(alias = "remove_pool_hugetlb_folio")]
    pub fn shrink(&mut self, class: Class, pages: PageCount) -> Result<(), Stop> {
        let n = pages.raw();
        self.known(class)?;
        self.enough(n)?;
        if n > self.persistent(class) || !self.clear(class, n) {
            return Err(Error::NoRoom.into());
        }
        self.leave(class, n);
        Ok(())
    }

    /// Sets how many surplus pages there may be; those that exist stay.
    #[doc(alias = "nr_overcommit_hugepages")]
    pub fn set_overcommit(&mut self, pages: PageCount) {
        self.overcommit = pages.raw();
    }

    /// Declares `pages` persistent pages surplus, so that they leave when they come back from use: the way to
    /// shrink below what is in use. The overcommit limit does not count here.
    ///
    /// Mirrors `mm/hugetlb.c: adjust_pool_surplus`.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where the class has fewer persistent pages; [`Error::NodeInvalid`].
    #[doc(alias = "adjust_pool_surplus")]
    pub fn retire(&mut self, class: Class, pages: PageCount) -> Result<(), Stop> {
        self.known(class)?;
        if pages.raw() > self.persistent(class) {
            return Err(Error::NoRoom.into());
        }
        self.gain_surplus(class, pages.raw());
        Ok(())
    }

    /// Declares up to `pages` surplus pages persistent, and returns how many: the first step of growing.
    pub fn absorb(&mut self, class: Class, pages: PageCount) -> PageCount {
        if !self.words.knows(class) {
            return PageCount::ZERO;
        }
        let n = pages.raw().min(self.words.class(class, OfClass::Surplus));
        self.lose_surplus(class, n);
        PageCount::new(n)
    }

    /// Takes one free surplus page out that no promise needs, if there is one: the host removes a free page of the
    /// returned class from the pool and gives it back to the system. To be called until `None` after a release.
    ///
    /// Mirrors `mm/hugetlb.c: return_unused_surplus_pages`.
    #[doc(alias = "return_unused_surplus_pages")]
    pub fn drop_surplus(&mut self) -> Option<Class> {
        if self.totals.surplus == 0 || self.enough(1).is_err() {
            return None;
        }
        let surplus =
            |ledger: &Self, class: &Class| ledger.words.class(*class, OfClass::Surplus) > 0;
        let ready = self
            .words
            .classes()
            .find(|class| surplus(self, class) && self.slack(*class) > 0);
        let class = match ready {
            Some(class) => class,
            None => self.words.classes().find_map(|class| {
                let free = self.words.class(class, OfClass::Free) > 0;
                (free && surplus(self, &class))
                    .then(|| self.room(Region::only(class), 1))
                    .flatten()
            })?,
        };
        self.leave(class, 1);
        self.lose_surplus(class, 1);
        Some(class)
    }

    fn known(&self, class: Class) -> Result<(), Error> {
        if self.words.knows(class) {
            Ok(())
        } else {
            Err(Error::NodeInvalid)
        }
    }

    fn can_grow(&self, class: Class, pages: PageCount) -> Result<(), Error> {
        self.known(class)?;
        // Every other count is at most this one, so none of them can overflow either.
        match self.totals.nr.checked_add(pages.raw()) {
            Some(_) => Ok(()),
            None => Err(Error::CounterOverflow),
        }
    }

    fn persistent(&self, class: Class) -> u64 {
        let nr = self.words.class(class, OfClass::Nr);
        nr.saturating_sub(self.words.class(class, OfClass::Surplus))
    }

    /// Counts `n` new pages, free and with slack.
    fn join(&mut self, class: Class, n: u64) {
        self.words.class_add(class, OfClass::Nr, n);
        self.words.class_add(class, OfClass::Free, n);
        self.words.slack_add(class, n);
        self.totals.nr = self.totals.nr.saturating_add(n);
        self.totals.free = self.totals.free.saturating_add(n);
    }

    /// Counts `n` pages no longer, that were free and slack.
    pub(super) fn leave(&mut self, class: Class, n: u64) {
        self.words.slack_sub(class, n);
        self.words.class_sub(class, OfClass::Free, n);
        self.words.class_sub(class, OfClass::Nr, n);
        self.totals.nr = self.totals.nr.saturating_sub(n);
        self.totals.free = self.totals.free.saturating_sub(n);
    }

    fn gain_surplus(&mut self, class: Class, n: u64) {
        self.words.class_add(class, OfClass::Surplus, n);
        self.totals.surplus = self.totals.surplus.saturating_add(n);
    }

    pub(super) fn lose_surplus(&mut self, class: Class, n: u64) {
        self.words.class_sub(class, OfClass::Surplus, n);
        self.totals.surplus = self.totals.surplus.saturating_sub(n);
    }
}
