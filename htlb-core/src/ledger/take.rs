// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages going into use and coming back.
//!
//! The ledger decides the class; which page of it, the pool says. Whoever takes a page says for which
//! reach and account, and whoever puts it back says the same: a page in use belongs to both.

use super::reserve::Asker;
use super::tables::{OfClass, OfKind};
use super::witness::Region;
use super::{AccountId, Ledger, Promise};
use crate::error::Error;
use crate::reach::{Class, NodeMask, Reach};
use crate::step::Stop;
use crate::units::PageCount;

/// What becomes of a page that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a surplus page must go back to the system"]
pub enum Put {
    /// It is free: put it into the pool.
    Kept,
    /// It was surplus and is no longer counted: give it back to the system.
    Surplus,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// Takes one promised page: the promise ends, and a page of the returned class is in use. The account stays charged.
    ///
    /// On a node of `prefer` if that is possible without breaking another promise, and the least scarce there;
    /// an empty `prefer` prefers nothing.
    ///
    /// # Errors
    /// The promise back where it is not of one page, or this ledger never gave it.
    #[doc(alias = "dequeue_hugetlb_folio_vma")]
    pub fn take_promised(&mut self, promise: Promise, prefer: NodeMask) -> Result<Class, Promise> {
        if promise.pages() != PageCount::ONE {
            return Err(promise);
        }
        let Some((kind, _, _)) = self.giver(&promise) else {
            return Err(promise);
        };
        let Some(class) = self.choose(kind, Region::of(promise.reach()), prefer) else {
            return Err(promise);
        };
        self.promise_less(kind, 1);
        self.use_slack(kind, class, 1);
        Ok(class)
    }

    /// Undoes [`Self::take_promised`]: the page is free again, and promised again. Cannot fail.
    ///
    /// A page that this ledger never gave makes a promise of no pages, and [`Self::check`] reports it.
    #[doc(alias = "restore_reserve_on_error")]
    pub fn put_promised(&mut self, class: Class, reach: Reach, account: AccountId) -> Promise {
        let Some((kind, _, _)) = self.user(class, reach, account) else {
            self.stray();
            return Promise::mint(reach, account, PageCount::ZERO);
        };
        self.unuse(kind, class);
        self.bind(kind, class, 1);
        self.promise_more(kind, 1);
        Promise::mint(reach, account, PageCount::ONE)
    }

    /// Takes one page without a promise, one that no promise needs; the account's own unused minimum counts as its own.
    ///
    /// `prefer` as for [`Self::take_promised`].
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::AccountLimit`], [`Error::AccountInvalid`], [`Stop::Metadata`].
    pub fn take_free(
        &mut self,
        reach: Reach,
        account: AccountId,
        prefer: NodeMask,
    ) -> Result<Class, Stop> {
        let asker = self.asker(reach, account, 1)?;
        self.enough(1u64.saturating_sub(asker.draw))?;
        let kind = self.kind_or_new(reach)?;
        self.let_go(asker);
        let Some(class) = self.pick(Region::of(reach), prefer) else {
            self.put_back(asker);
            return Err(Error::NoRoom.into());
        };
        self.charge(asker.account, asker.minimum, 1);
        self.use_slack(kind, class, 1);
        Ok(class)
    }

    /// Takes `pages` pages of exactly this class, none of which a promise needs: for a contiguous run.
    ///
    /// # Errors
    /// [`Error::OutOfReach`] where `reach` does not cover `class`, and as for [`Self::take_free`].
    pub fn take_exact(
        &mut self,
        class: Class,
        reach: Reach,
        account: AccountId,
        pages: PageCount,
    ) -> Result<(), Stop> {
        let n = pages.raw();
        if !self.words.knows(class) {
            return Err(Error::NodeInvalid.into());
        }
        if !reach.covers(class) {
            return Err(Error::OutOfReach.into());
        }
        let asker = self.asker(reach, account, n)?;
        self.enough(n.saturating_sub(asker.draw))?;
        if n == 0 {
            return Ok(());
        }
        let kind = self.kind_or_new(reach)?;
        self.let_go(asker);
        if !self.clear(class, n) {
            self.put_back(asker);
            return Err(Error::NoRoom.into());
        }
        self.charge(asker.account, asker.minimum, n);
        self.use_slack(kind, class, n);
        Ok(())
    }

    /// Takes back one page that `reach` and `account` had in use. Cannot fail.
    ///
    /// The account's minimum is restored first; a page that it does not need leaves if its class has surplus ones.
    /// A page that this ledger never gave changes nothing but what [`Self::check`] says.
    ///
    /// Mirrors `mm/hugetlb.c: free_huge_folio`.
    #[doc(alias = "free_huge_folio")]
    pub fn put(&mut self, class: Class, reach: Reach, account: AccountId) -> Put {
        let Some((kind, account, minimum)) = self.user(class, reach, account) else {
            self.stray();
            return Put::Kept;
        };
        self.unuse(kind, class);
        let regained = self.uncharge(account, minimum, 1);
        match minimum {
            // INVARIANT: the class lies within the reach of the page's user, and that within the minimum's.
            Some(minimum) if regained > 0 => self.bind(minimum, class, 1),
            _ if self.words.class(class, OfClass::Surplus) > 0 => {
                self.leave(class, 1);
                self.lose_surplus(class, 1);
                return Put::Surplus;
            }
            _ => {}
        }
        Put::Kept
    }

    /// Gives up one page in use that must not come back, such as one with a memory error: the account is no
    /// longer charged, and the page no longer counted, as surplus if its class has any.
    ///
    /// Mirrors `mm/hugetlb.c: remove_hugetlb_folio`.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where the account's minimum would need the page and no other can replace it: nothing changed,
    /// the page stays in use, and the host may grow the pool and try again. [`Error::FrameInvalid`] where `reach` and
    /// `account` have no page in that class.
    #[doc(alias = "remove_hugetlb_folio")]
    pub fn remove(&mut self, class: Class, reach: Reach, account: AccountId) -> Result<(), Error> {
        let (kind, account, minimum) = self
            .user(class, reach, account)
            .ok_or(Error::FrameInvalid)?;
        if let Some(minimum) = minimum {
            let regained = self.regains(account, 1);
            if regained > 0 && self.assign(minimum, regained) > 0 {
                return Err(Error::NoRoom);
            }
        }
        self.uncharge(account, minimum, 1);
        self.lose(kind, class);
        Ok(())
    }

    /// Gives up one page in use, as [`Self::remove`] does, for a free one that no promise needs, and says of which class that is:
    /// its user keeps a page, and the account its charge.
    ///
    /// `prefer` as for [`Self::take_promised`].
    ///
    /// # Errors
    /// [`Error::NoRoom`] where every other page is promised or in use: nothing changed. [`Error::FrameInvalid`] where `reach`
    /// and `account` have no page in `class`.
    #[doc(alias = "dissolve_free_hugetlb_folio")]
    pub fn exchange(
        &mut self,
        class: Class,
        reach: Reach,
        account: AccountId,
        prefer: NodeMask,
    ) -> Result<Class, Error> {
        let (kind, _, _) = self
            .user(class, reach, account)
            .ok_or(Error::FrameInvalid)?;
        self.enough(1)?;
        let other = self.pick(Region::of(reach), prefer).ok_or(Error::NoRoom)?;
        self.use_slack(kind, other, 1);
        self.lose(kind, class);
        Ok(other)
    }

    /// The class from which a promise of `kind` is kept; it has slack for that afterwards, and `kind` one page less assigned.
    fn choose(&mut self, kind: usize, region: Region, prefer: NodeMask) -> Option<Class> {
        let given = self.scarcest_assigned(kind)?;
        self.unbind(kind, given, 1);
        let near = region.on(prefer);
        let class = match self.widest_usable(near, kind) {
            Some(class) => class,
            // The page may be anywhere now, so moving the others out of its way is worth a search.
            None => match self
                .room(near, 1)
                .or_else(|| self.widest_usable(region, kind))
            {
                Some(class) => class,
                None => {
                    self.bind(kind, given, 1);
                    return None;
                }
            },
        };
        if self.slack(class) == 0 {
            self.unbind(kind, class, 1);
            self.bind(kind, given, 1);
        }
        Some(class)
    }

    fn let_go(&mut self, asker: Asker) {
        if let Some(minimum) = asker.minimum {
            self.unassign(minimum, asker.draw);
        }
    }

    fn put_back(&mut self, asker: Asker) {
        if let Some(minimum) = asker.minimum {
            self.restore(minimum, asker.draw);
        }
    }

    /// Brings `n` pages of slack into use.
    fn use_slack(&mut self, kind: usize, class: Class, n: u64) {
        self.words.slack_sub(class, n);
        self.words.class_sub(class, OfClass::Free, n);
        self.totals.free = self.totals.free.saturating_sub(n);
        self.words.kind_add(kind, OfKind::Held, n);
    }

    /// Makes one page in use a free one, with slack.
    fn unuse(&mut self, kind: usize, class: Class) {
        self.words.kind_sub(kind, OfKind::Held, 1);
        self.words.class_add(class, OfClass::Free, 1);
        self.totals.free = self.totals.free.saturating_add(1);
        self.words.slack_add(class, 1);
    }

    /// Counts one page in use no longer, as surplus if its class has any.
    fn lose(&mut self, kind: usize, class: Class) {
        self.unuse(kind, class);
        self.leave(class, 1);
        if self.words.class(class, OfClass::Surplus) > 0 {
            self.lose_surplus(class, 1);
        }
    }

    /// Who has a page of `class` in use: kind, account, and the minimum that it counts against; `None` for a
    /// page that cannot have been given.
    #[inline]
    fn user(
        &mut self,
        class: Class,
        reach: Reach,
        account: AccountId,
    ) -> Option<(usize, usize, Option<usize>)> {
        if !self.words.knows(class) || !reach.covers(class) {
            return None;
        }
        let kind = self.kind(reach)?;
        let account = self.account(account).ok()?;
        let minimum = self.minimum(account, reach);
        let in_use = self.words.class(class, OfClass::Nr) > self.words.class(class, OfClass::Free)
            && self.words.kind(kind, OfKind::Held) > 0
            && self.has_charged(account, minimum, 1);
        in_use.then_some((kind, account, minimum))
    }
}
