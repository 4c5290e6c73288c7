// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Giving promises and taking them back.

use super::tables::OfKind;
use super::{AccountId, Ledger, Promise};
use crate::error::Error;
use crate::reach::Reach;
use crate::step::Stop;
use crate::units::PageCount;

/// Who asks, and what of it the account's own minimum covers.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    /// The index of the account.
    pub(super) account: usize,
    /// The kind of the account's minimum, if the request counts against it.
    pub(super) minimum: Option<usize>,
    /// How many pages come out of the unused minimum.
    pub(super) draw: u64,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// Promises `pages` pages of `reach`, all or none.
    ///
    /// Granted only if every promise given so far can still be kept together with this one; a granted promise never
    /// fails. What the account has unused of its minimum is used first.
    ///
    /// Mirrors `mm/hugetlb.c: hugetlb_reserve_pages`, with node and address limits.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::AccountLimit`], [`Error::AccountInvalid`], [`Stop::Metadata`].
    #[doc(alias = "hugetlb_reserve_pages")]
    #[doc(alias = "hugetlb_acct_memory")]
    #[doc(alias = "region_chg")]
    pub fn reserve(
        &mut self,
        reach: Reach,
        account: AccountId,
        pages: PageCount,
    ) -> Result<Promise, Stop> {
        let n = pages.raw();
        let asker = self.asker(reach, account, n)?;
        self.enough(n.saturating_sub(asker.draw))?;
        if n > 0 {
            let kind = self.kind_or_new(reach)?;
            let missing = self.assign_drawing(kind, asker, n);
            if missing > 0 {
                self.unassign_drawing(kind, asker, n.saturating_sub(missing));
                return Err(Error::NoRoom.into());
            }
            self.charge(asker.account, asker.minimum, n);
            self.promise_more(kind, n);
        }
        Ok(Promise::mint(reach, account, pages))
    }

    /// How many more pages of `reach` would have to be free for [`Self::reserve`] to succeed; zero where it would now.
    ///
    /// For a front end that grows the pool by surplus pages before it promises: it learns how many to
    /// allocate, with no lock held, and asks again. Promises nothing.
    ///
    /// Mirrors the question of `mm/hugetlb.c: gather_surplus_pages`.
    ///
    /// # Errors
    /// [`Error::AccountLimit`], [`Error::AccountInvalid`], [`Stop::Metadata`].
    #[doc(alias = "gather_surplus_pages")]
    pub fn shortage(
        &mut self,
        reach: Reach,
        account: AccountId,
        pages: PageCount,
    ) -> Result<PageCount, Stop> {
        let n = pages.raw();
        let asker = self.asker(reach, account, n)?;
        if n == 0 {
            return Ok(PageCount::ZERO);
        }
        let kind = self.kind_or_new(reach)?;
        let missing = self.assign_drawing(kind, asker, n);
        self.unassign_drawing(kind, asker, n.saturating_sub(missing));
        Ok(PageCount::new(missing))
    }

    /// Takes a promise back. Cannot fail.
    ///
    /// The account's minimum is restored first. A promise that this ledger never gave changes nothing but what
    /// [`Self::check`] says.
    ///
    /// Mirrors `mm/hugetlb.c: hugetlb_unreserve_pages`.
    #[doc(alias = "hugetlb_unreserve_pages")]
    pub fn release(&mut self, promise: Promise) {
        let n = promise.pages().raw();
        if n == 0 {
            return;
        }
        let Some((kind, account, minimum)) = self.giver(&promise) else {
            return self.stray();
        };
        self.unassign(kind, n);
        self.promise_less(kind, n);
        let regained = self.uncharge(account, minimum, n);
        if let Some(minimum) = minimum {
            // INVARIANT: the pages just unassigned lie within the minimum's reach and are as many at least, so
            // this finds them; were it not so, `check` would report a minimum without cover.
            let _none = self.assign(minimum, regained);
        }
    }

    /// Checks the account and its limit for `n` pages of `reach` more.
    #[inline]
    pub(super) fn asker(&self, reach: Reach, id: AccountId, n: u64) -> Result<Asker, Error> {
        let account = self.account(id)?;
        let minimum = self.minimum(account, reach);
        let draw = match minimum {
            Some(_) => n.min(self.unused_minimum(account)),
            None => 0,
        };
        self.within_limits(account, n, draw)?;
        Ok(Asker {
            account,
            minimum,
            draw,
        })
    }

    /// The quick refusal: fewer pages than that are free and not promised, wherever they are.
    #[inline]
    pub(super) fn enough(&self, n: u64) -> Result<(), Error> {
        if n > self.totals.free.saturating_sub(self.totals.reserved) {
            Err(Error::NoRoom)
        } else {
            Ok(())
        }
    }

    /// Where a promise came from: kind, account, and the minimum that it counts against.
    #[inline]
    pub(super) fn giver(&mut self, promise: &Promise) -> Option<(usize, usize, Option<usize>)> {
        let n = promise.pages().raw();
        let kind = self.kind(promise.reach())?;
        let account = self.account(promise.account()).ok()?;
        let minimum = self.minimum(account, promise.reach());
        let given =
            self.words.kind(kind, OfKind::Promised) >= n && self.has_charged(account, minimum, n);
        given.then_some((kind, account, minimum))
    }

    /// Lets the minimum's `draw` pages go, assigns `n` to `kind`, and returns how many could not be.
    fn assign_drawing(&mut self, kind: usize, asker: Asker, n: u64) -> u64 {
        if let Some(minimum) = asker.minimum {
            self.unassign(minimum, asker.draw);
        }
        self.assign(kind, n)
    }

    /// Undoes [`Self::assign_drawing`] where it assigned `n` pages.
    fn unassign_drawing(&mut self, kind: usize, asker: Asker, n: u64) {
        self.unassign(kind, n);
        if let Some(minimum) = asker.minimum {
            self.restore(minimum, asker.draw);
        }
    }

    /// Gives a minimum back what was let go for an attempt that failed.
    pub(super) fn restore(&mut self, minimum: usize, draw: u64) {
        // INVARIANT: the same pages are free and the same ones promised as before the attempt, when an assignment
        // existed; the search is complete, so it finds one again.
        let _none = self.assign(minimum, draw);
    }

    #[inline]
    pub(super) fn promise_more(&mut self, kind: usize, n: u64) {
        self.words.kind_add(kind, OfKind::Promised, n);
        self.totals.reserved = self.totals.reserved.saturating_add(n);
    }

    #[inline]
    pub(super) fn promise_less(&mut self, kind: usize, n: u64) {
        self.words.kind_sub(kind, OfKind::Promised, n);
        self.totals.reserved = self.totals.reserved.saturating_sub(n);
    }
}
