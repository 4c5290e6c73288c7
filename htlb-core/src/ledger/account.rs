// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Accounts: opened, limited and closed.
//!
//! An account is Linux's `hugepage_subpool` with a reach, and perhaps with another account above it: a file's
//! below its user's. Then both limits hold. What is charged, and when, `charge` says.
//!
//! # Two levels
//!
//! An account that is below another has none below it, and one that has a minimum has none either. So a guarantee is
//! always one to a single account, and no limit that others use up can stand in its way: a child's minimum counts
//! against its parent's limit from the day it is opened, used or not. The root account has no limit; "below the root"
//! and "below none" mean the same, and it keeps no books of the accounts below it.

use super::tables::{OfAccount, OfKind, OPEN};
use super::Ledger;
use crate::error::Error;
use crate::reach::Reach;
use crate::step::Stop;
use crate::units::PageCount;

/// An account of one ledger.
///
/// It carries a generation, so that an id kept beyond [`Ledger::close_account`] names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccountId {
    index: u16,
    generation: u32,
}

impl AccountId {
    /// The account that every ledger has: no limit, no minimum, never closed.
    pub const ROOT: Self = Self {
        index: 0,
        generation: 0,
    };

    #[inline]
    pub(super) const fn index(self) -> usize {
        self.index as usize
    }

    const fn state(self) -> u64 {
        OPEN | self.generation as u64
    }
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// Opens an account that may use at most `max` pages (`None`: no limit), and to which `min` pages of `min_reach`
    /// are promised from now on.
    ///
    /// Mirrors `mm/hugetlb.c: hugepage_new_subpool`.
    ///
    /// # Errors
    /// [`Error::AccountMinimumAboveMaximum`]; [`Error::NoRoom`] where the minimum cannot be promised;
    /// [`Stop::Metadata`].
    ///
    /// ```
    /// use htlb_core::ledger::{AccountId, Ledger, Tables};
    /// use htlb_core::{Class, Error, HugeSize, NodeId, PageCount, Pfn, Reach, Stop};
    /// let tables = Tables { nodes: 1, kinds: 4, accounts: 2 };
    /// let mut ledger = Ledger::new(vec![0; tables.words()], tables)?;
    /// ledger.grow(Class::of(Pfn::new(0), HugeSize::MIB2, NodeId::ZERO), PageCount::new(3))?;
    /// let two = PageCount::new(2);
    /// let account = ledger.open_account(Some(two), two, Reach::ANY)?;
    /// // Two of the three pages are the account's, whoever asks.
    /// assert_eq!(ledger.reserve(Reach::ANY, AccountId::ROOT, two), Err(Stop::Fail(Error::NoRoom)));
    /// let promise = ledger.reserve(Reach::ANY, account, two)?;
    /// assert_eq!(ledger.close_account(account), Err(Error::AccountBusy));
    /// ledger.release(promise);
    /// ledger.close_account(account)?;
    /// # Ok::<(), Stop>(())
    /// ```
    #[doc(alias = "hugepage_new_subpool")]
    #[doc(alias = "max_hpages")]
    #[doc(alias = "min_hpages")]
    pub fn open_account(
        &mut self,
        max: Option<PageCount>,
        min: PageCount,
        min_reach: Reach,
    ) -> Result<AccountId, Stop> {
        self.open_account_under(AccountId::ROOT, max, min, min_reach)
    }

    /// Opens an account below another: whatever it has counts against the limits of both.
    ///
    /// Below [`AccountId::ROOT`] is below none. The minimum counts against the parent's limit from now on, used or not.
    ///
    /// # Errors
    /// As for [`Self::open_account`]; [`Error::AccountInvalid`] for a parent that is not open,
    /// [`Error::AccountParentInvalid`] for one that is below another or has a minimum; [`Error::AccountLimit`] where
    /// the parent's limit does not allow the minimum.
    ///
    /// ```
    /// use htlb_core::ledger::{AccountId, Ledger, Tables};
    /// use htlb_core::{Class, Error, HugeSize, NodeId, PageCount, Pfn, Reach, Stop};
    /// let tables = Tables { nodes: 1, kinds: 4, accounts: 4 };
    /// let mut ledger = Ledger::new(vec![0; tables.words()], tables)?;
    /// ledger.grow(Class::of(Pfn::new(0), HugeSize::MIB2, NodeId::ZERO), PageCount::new(9))?;
    /// let (none, two) = (PageCount::ZERO, PageCount::new(2));
    /// let user = ledger.open_account(Some(PageCount::new(3)), none, Reach::ANY)?;
    /// let first = ledger.open_account_under(user, Some(two), none, Reach::ANY)?;
    /// let second = ledger.open_account_under(user, None, none, Reach::ANY)?;
    /// let promise = ledger.reserve(Reach::ANY, first, two)?;
    /// // The second file has no limit of its own, but its user has one page left.
    /// let refused = ledger.reserve(Reach::ANY, second, two);
    /// assert_eq!(refused, Err(Stop::Fail(Error::AccountLimit)));
    /// assert_eq!(ledger.usage(user)?.used, two);
    /// # ledger.release(promise);
    /// # Ok::<(), Stop>(())
    /// ```
    pub fn open_account_under(
        &mut self,
        parent: AccountId,
        max: Option<PageCount>,
        min: PageCount,
        min_reach: Reach,
    ) -> Result<AccountId, Stop> {
        let limit = max.map_or(u64::MAX, PageCount::raw);
        let min = min.raw();
        if min > limit {
            return Err(Error::AccountMinimumAboveMaximum.into());
        }
        let above = self.account(parent)?;
        if !self.can_be_parent(above) {
            return Err(Error::AccountParentInvalid.into());
        }
        if parent != AccountId::ROOT {
            self.within_limit(above, min)?;
        }
        self.enough(min)?;
        let index = (0..self.words.tables().accounts)
            .find(|&index| self.words.account(usize::from(index), OfAccount::State) & OPEN == 0)
            .ok_or_else(|| self.need())?;
        let account = usize::from(index);
        self.replace_minimum(account, 0, min, min_reach)?;
        // CAST: only the low half holds the generation, and the account is not open.
        #[allow(clippy::cast_possible_truncation)]
        let generation = self.words.account(account, OfAccount::State) as u32;
        let id = AccountId { index, generation };
        for (field, value) in [
            (OfAccount::State, id.state()),
            (OfAccount::Max, limit),
            (OfAccount::Used, 0),
            (OfAccount::Inside, 0),
            (OfAccount::Parent, above as u64),
            (OfAccount::Children, 0),
            (OfAccount::Below, 0),
        ] {
            self.words.account_set(account, field, value);
        }
        if let Some(above) = self.parent(account) {
            self.words.account_add(above, OfAccount::Children, 1);
            self.words.account_add(above, OfAccount::Below, min);
        }
        Ok(id)
    }

    /// Sets the most that an account may use; `None` for no limit.
    ///
    /// Never below what it has now, so that nobody is ever above a limit: to stop an account from growing, set its
    /// limit to its use, and lower it again as pages come back.
    ///
    /// # Errors
    /// [`Error::AccountBusy`] where the account and those below it have more than `max` pages,
    /// [`Error::AccountMinimumAboveMaximum`] below its minimum; [`Error::AccountInvalid`] for the root account, and for one
    /// that is not open.
    ///
    /// ```
    /// use htlb_core::ledger::{AccountId, Ledger, Tables};
    /// use htlb_core::{Class, Error, HugeSize, NodeId, PageCount, Pfn, Reach, Stop};
    /// let tables = Tables { nodes: 1, kinds: 4, accounts: 2 };
    /// let mut ledger = Ledger::new(vec![0; tables.words()], tables)?;
    /// ledger.grow(Class::of(Pfn::new(0), HugeSize::MIB2, NodeId::ZERO), PageCount::new(3))?;
    /// let account = ledger.open_account(None, PageCount::ZERO, Reach::ANY)?;
    /// let promise = ledger.reserve(Reach::ANY, account, PageCount::new(2))?;
    /// assert_eq!(ledger.set_limit(account, Some(PageCount::ONE)), Err(Error::AccountBusy));
    /// ledger.set_limit(account, Some(PageCount::new(2)))?;
    /// let more = ledger.reserve(Reach::ANY, account, PageCount::ONE);
    /// assert_eq!(more, Err(Stop::Fail(Error::AccountLimit)));
    /// # ledger.release(promise);
    /// # Ok::<(), Stop>(())
    /// ```
    pub fn set_limit(&mut self, id: AccountId, max: Option<PageCount>) -> Result<(), Error> {
        let account = self.account_but_root(id)?;
        let limit = max.map_or(u64::MAX, PageCount::raw);
        if limit < self.words.account(account, OfAccount::Min) {
            return Err(Error::AccountMinimumAboveMaximum);
        }
        if limit < self.charged(account) {
            return Err(Error::AccountBusy);
        }
        self.words.account_set(account, OfAccount::Max, limit);
        Ok(())
    }

    /// Promises another minimum to an account that has nothing in use, instead of the one that it had. Where it was larger,
    /// surplus pages that only it needed can leave then: [`crate::driver::shed`].
    ///
    /// # Errors
    /// [`Error::AccountBusy`] while it has promises, pages or accounts below it; [`Error::AccountMinimumAboveMaximum`];
    /// [`Error::AccountLimit`] where the limit of the account above does not allow it; [`Error::NoRoom`] where it cannot be
    /// promised; [`Error::AccountInvalid`] for the root account, and for one that is not open; [`Stop::Metadata`].
    ///
    /// ```
    /// use htlb_core::ledger::{AccountId, Ledger, Tables};
    /// use htlb_core::{Class, Error, HugeSize, NodeId, PageCount, Pfn, Reach, Stop};
    /// let tables = Tables { nodes: 1, kinds: 4, accounts: 2 };
    /// let mut ledger = Ledger::new(vec![0; tables.words()], tables)?;
    /// ledger.grow(Class::of(Pfn::new(0), HugeSize::MIB2, NodeId::ZERO), PageCount::new(3))?;
    /// let account = ledger.open_account(None, PageCount::ONE, Reach::ANY)?;
    /// ledger.set_minimum(account, PageCount::new(3), Reach::ANY)?;
    /// let refused = ledger.set_minimum(account, PageCount::new(4), Reach::ANY);
    /// assert_eq!(refused, Err(Stop::Fail(Error::NoRoom)));
    /// assert_eq!(ledger.unused_minima(), PageCount::new(3));
    /// # Ok::<(), Stop>(())
    /// ```
    pub fn set_minimum(
        &mut self,
        id: AccountId,
        min: PageCount,
        min_reach: Reach,
    ) -> Result<(), Stop> {
        let account = self.idle_account(id)?;
        let min = min.raw();
        if min > self.words.account(account, OfAccount::Max) {
            return Err(Error::AccountMinimumAboveMaximum.into());
        }
        let before = self.words.account(account, OfAccount::Min);
        let parent = self.parent(account);
        if let Some(above) = parent {
            self.within_limit(above, min.saturating_sub(before))?;
        }
        self.enough(min.saturating_sub(before))?;
        self.replace_minimum(account, before, min, min_reach)?;
        if let Some(above) = parent {
            self.words.account_sub(above, OfAccount::Below, before);
            self.words.account_add(above, OfAccount::Below, min);
        }
        Ok(())
    }

    /// Promises `min` pages to the account, which has none in use, in place of the `before` that it had.
    fn replace_minimum(
        &mut self,
        account: usize,
        before: u64,
        min: u64,
        min_reach: Reach,
    ) -> Result<(), Stop> {
        let new = match min {
            0 => None,
            _ => Some(self.kind_or_new(min_reach)?),
        };
        let old = (before > 0).then(|| self.minimum_kind(account));
        if let Some(old) = old {
            self.unassign(old, before);
        }
        if let Some(new) = new {
            let missing = self.assign(new, min);
            if missing > 0 {
                self.unassign(new, min.saturating_sub(missing));
                if let Some(old) = old {
                    self.restore(old, before);
                }
                return Err(Error::NoRoom.into());
            }
        }
        if let Some(old) = old {
            self.unguarantee(old, before);
            self.words.kind_sub(old, OfKind::Accounts, 1);
        }
        if let Some(new) = new {
            self.guarantee(new, min);
            self.words.kind_add(new, OfKind::Accounts, 1);
            self.words.account_set(account, OfAccount::Kind, new as u64);
        }
        self.words.account_set(account, OfAccount::Min, min);
        Ok(())
    }

    /// Closes an account and gives its minimum up. Surplus pages that only the minimum needed can leave then:
    /// [`crate::driver::shed`].
    ///
    /// Mirrors `mm/hugetlb.c: hugepage_put_subpool`.
    ///
    /// # Errors
    /// [`Error::AccountBusy`] while it has promises, pages or accounts below it; [`Error::AccountInvalid`] for the root
    /// account, and for one that is not open.
    #[doc(alias = "hugepage_put_subpool")]
    pub fn close_account(&mut self, id: AccountId) -> Result<(), Error> {
        let account = self.idle_account(id)?;
        let min = self.words.account(account, OfAccount::Min);
        if min > 0 {
            let kind = self.minimum_kind(account);
            self.unassign(kind, min);
            self.unguarantee(kind, min);
            self.words.kind_sub(kind, OfKind::Accounts, 1);
        }
        if let Some(above) = self.parent(account) {
            self.words.account_sub(above, OfAccount::Children, 1);
            self.words.account_sub(above, OfAccount::Below, min);
        }
        let next = u64::from(id.generation.wrapping_add(1));
        self.words.account_set(account, OfAccount::State, next);
        Ok(())
    }

    /// The index of an open account.
    #[inline]
    pub(super) fn account(&self, id: AccountId) -> Result<usize, Error> {
        let known = id.index < self.words.tables().accounts;
        if known && self.words.account(id.index(), OfAccount::State) == id.state() {
            Ok(id.index())
        } else {
            Err(Error::AccountInvalid)
        }
    }

    fn account_but_root(&self, id: AccountId) -> Result<usize, Error> {
        if id == AccountId::ROOT {
            return Err(Error::AccountInvalid);
        }
        self.account(id)
    }

    /// The index of an account, not the root account, that has neither use nor accounts below it.
    fn idle_account(&self, id: AccountId) -> Result<usize, Error> {
        let account = self.account_but_root(id)?;
        let has = |field| self.words.account(account, field) > 0;
        if has(OfAccount::Used) || has(OfAccount::Children) {
            return Err(Error::AccountBusy);
        }
        Ok(account)
    }

    /// Whether accounts may be opened below this one.
    pub(super) fn can_be_parent(&self, account: usize) -> bool {
        self.parent(account).is_none() && self.words.account(account, OfAccount::Min) == 0
    }
}
