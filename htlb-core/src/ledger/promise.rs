// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A granted reservation, as a value.

use static_assertions::assert_not_impl_any;

use super::AccountId;
use crate::reach::Reach;
use crate::units::PageCount;

/// The right to take some pages of a reach, for an account.
///
/// Neither `Clone` nor `Copy`: made by [`Ledger::reserve`](super::Ledger::reserve), ended by
/// [`Ledger::take_promised`](super::Ledger::take_promised) or [`Ledger::release`](super::Ledger::release). A dropped one keeps its pages promised for ever,
/// which is a leak and nothing worse.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped promise keeps its pages from everybody"]
#[doc(alias = "resv_huge_pages")]
pub struct Promise {
    reach: Reach,
    account: AccountId,
    pages: PageCount,
}

assert_not_impl_any!(Promise: Clone, Copy);

impl Promise {
    /// Makes a promise out of nothing: for a place that stored promises in another form and now empties itself, as a page-map
    /// slot in the state Promised does.
    ///
    /// A ledger that did not give these pages refuses the promise where it can tell, and its
    /// [`check`](super::Ledger::check) reports it.
    pub const fn mint(reach: Reach, account: AccountId, pages: PageCount) -> Self {
        Self {
            reach,
            account,
            pages,
        }
    }

    /// Which pages will do.
    #[must_use]
    pub const fn reach(&self) -> Reach {
        self.reach
    }

    /// Who is charged.
    #[must_use]
    pub const fn account(&self) -> AccountId {
        self.account
    }

    /// How many pages.
    #[must_use]
    pub const fn pages(&self) -> PageCount {
        self.pages
    }

    /// Takes `pages` out of this promise, into one of their own; `None` where it has fewer.
    ///
    /// ```
    /// use htlb_core::ledger::{AccountId, Promise};
    /// use htlb_core::{PageCount, Reach};
    /// let mut all = Promise::mint(Reach::ANY, AccountId::ROOT, PageCount::new(5));
    /// let some = all.split_off(PageCount::new(2)).expect("it has five");
    /// assert_eq!((all.pages().raw(), some.pages().raw()), (3, 2));
    /// assert_eq!(all.split_off(PageCount::new(4)), None);
    /// assert_eq!(all.merge(some).map(|whole| whole.pages().raw()), Ok(5));
    /// ```
    pub fn split_off(&mut self, pages: PageCount) -> Option<Self> {
        self.pages = self.pages.checked_sub(pages.raw())?;
        Some(Self { pages, ..*self })
    }

    /// Joins two promises of the same reach and account.
    ///
    /// # Errors
    /// Both back, unchanged, where they differ in either or their sum overflows.
    pub fn merge(self, other: Self) -> Result<Self, (Self, Self)> {
        if self.reach != other.reach || self.account != other.account {
            return Err((self, other));
        }
        match self.pages.checked_add(other.pages.raw()) {
            Some(pages) => Ok(Self { pages, ..self }),
            None => Err((self, other)),
        }
    }
}
