// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Accounts: who is charged, up to which limit, with which guaranteed minimum.
//!
//! An account is Linux's `hugepage_subpool` with a reach. Its minimum is promised like anything else, to
//! the kind of the minimum's reach. Only what lies within that reach counts against the minimum: then each unit
//! that comes back is a page, or an assigned one, that the minimum can have again, and giving back cannot fail.
//! So the *unused minimum* is `min - min(inside, min)`, where `inside` is the use within the reach.

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
        let limit = max.map_or(u64::MAX, PageCount::raw);
        let min = min.raw();
        if min > limit {
            return Err(Error::AccountMinimumAboveMaximum.into());
        }
        self.enough(min)?;
        let index = (0..self.words.tables().accounts)
            .find(|&index| self.words.account(usize::from(index), OfAccount::State) & OPEN == 0)
            .ok_or_else(|| self.need())?;
        let account = usize::from(index);
        if min > 0 {
            let kind = self.kind_or_new(min_reach)?;
            let missing = self.assign(kind, min);
            if missing > 0 {
                self.unassign(kind, min.saturating_sub(missing));
                return Err(Error::NoRoom.into());
            }
            self.words.kind_add(kind, OfKind::Accounts, 1);
            self.words
                .account_set(account, OfAccount::Kind, kind as u64);
            self.guarantee(kind, min);
        }
        // CAST: only the low half holds the generation, and the account is not open.
        #[allow(clippy::cast_possible_truncation)]
        let generation = self.words.account(account, OfAccount::State) as u32;
        let id = AccountId { index, generation };
        self.words
            .account_set(account, OfAccount::State, id.state());
        self.words.account_set(account, OfAccount::Max, limit);
        self.words.account_set(account, OfAccount::Min, min);
        self.words.account_set(account, OfAccount::Used, 0);
        self.words.account_set(account, OfAccount::Inside, 0);
        Ok(id)
    }

    /// Closes an account and gives its minimum up.
    ///
    /// Mirrors `mm/hugetlb.c: hugepage_put_subpool`.
    ///
    /// # Errors
    /// [`Error::AccountBusy`] while it has promises or pages; [`Error::AccountInvalid`] for the root account, and for one
    /// that is not open.
    #[doc(alias = "hugepage_put_subpool")]
    pub fn close_account(&mut self, id: AccountId) -> Result<(), Error> {
        let account = self.account(id)?;
        if id == AccountId::ROOT {
            return Err(Error::AccountInvalid);
        }
        if self.words.account(account, OfAccount::Used) > 0 {
            return Err(Error::AccountBusy);
        }
        let min = self.words.account(account, OfAccount::Min);
        if min > 0 {
            let kind = self.minimum_kind(account);
            self.unassign(kind, min);
            self.unguarantee(kind, min);
            self.words.kind_sub(kind, OfKind::Accounts, 1);
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

    pub(super) fn minimum_kind(&self, account: usize) -> usize {
        usize::try_from(self.words.account(account, OfAccount::Kind)).unwrap_or(usize::MAX)
    }

    /// The kind of the account's minimum, if use of `reach` counts against it.
    #[inline]
    pub(super) fn minimum(&self, account: usize, reach: Reach) -> Option<usize> {
        if self.words.account(account, OfAccount::Min) == 0 {
            return None;
        }
        let kind = self.minimum_kind(account);
        let nodes = self.words.kind(kind, OfKind::Nodes);
        let level = self.words.kind(kind, OfKind::Level);
        let within = reach.nodes().bits() & !nodes == 0 && reach.level().index() as u64 <= level;
        within.then_some(kind)
    }

    /// What the account's minimum still promises.
    #[inline]
    pub(super) fn unused_minimum(&self, account: usize) -> u64 {
        let min = self.words.account(account, OfAccount::Min);
        min.saturating_sub(self.words.account(account, OfAccount::Inside))
    }

    /// Whether the account's limit allows `n` pages more.
    #[inline]
    pub(super) fn within_limit(&self, account: usize, n: u64) -> Result<(), Error> {
        let max = self.words.account(account, OfAccount::Max);
        let used = self.words.account(account, OfAccount::Used);
        if max != u64::MAX && n > max.saturating_sub(used) {
            return Err(Error::AccountLimit);
        }
        Ok(())
    }

    /// Charges `n` pages, the part that the minimum had promised being no longer promised to it. The witness is the
    /// caller's to adapt.
    #[inline]
    pub(super) fn charge(&mut self, account: usize, minimum: Option<usize>, n: u64) {
        self.words.account_add(account, OfAccount::Used, n);
        if let Some(kind) = minimum {
            let before = self.unused_minimum(account);
            self.words.account_add(account, OfAccount::Inside, n);
            self.unguarantee(kind, before.saturating_sub(self.unused_minimum(account)));
        }
    }

    /// Whether `n` pages can have been charged with [`Self::charge`].
    #[inline]
    pub(super) fn has_charged(&self, account: usize, minimum: Option<usize>, n: u64) -> bool {
        self.words.account(account, OfAccount::Used) >= n
            && (minimum.is_none() || self.words.account(account, OfAccount::Inside) >= n)
    }

    /// Gives `n` charged pages back and returns how many of them the minimum promises again. The witness is the
    /// caller's to adapt.
    #[inline]
    pub(super) fn uncharge(&mut self, account: usize, minimum: Option<usize>, n: u64) -> u64 {
        self.words.account_sub(account, OfAccount::Used, n);
        let Some(kind) = minimum else {
            return 0;
        };
        let regained = self.regains(account, n);
        self.words.account_sub(account, OfAccount::Inside, n);
        self.guarantee(kind, regained);
        regained
    }

    /// How much of the minimum would be unused again after `n` pages within its reach came back.
    #[inline]
    pub(super) fn regains(&self, account: usize, n: u64) -> u64 {
        let min = self.words.account(account, OfAccount::Min);
        let inside = self.words.account(account, OfAccount::Inside);
        let after = min.saturating_sub(inside.saturating_sub(n));
        after.saturating_sub(self.unused_minimum(account))
    }

    fn guarantee(&mut self, kind: usize, n: u64) {
        self.words.kind_add(kind, OfKind::Guaranteed, n);
        self.totals.minima = self.totals.minima.saturating_add(n);
        self.totals.reserved = self.totals.reserved.saturating_add(n);
    }

    fn unguarantee(&mut self, kind: usize, n: u64) {
        self.words.kind_sub(kind, OfKind::Guaranteed, n);
        self.totals.minima = self.totals.minima.saturating_sub(n);
        self.totals.reserved = self.totals.reserved.saturating_sub(n);
    }
}
