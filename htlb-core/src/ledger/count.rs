// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a ledger tells about itself.

use super::tables::{OfAccount, OfClass};
use super::{AccountId, Ledger};
use crate::error::Error;
use crate::reach::{Class, Level, NodeId};
use crate::units::PageCount;

/// The state of a set of pages, under Linux's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages, free or in use.
    #[doc(alias = "nr_huge_pages")]
    pub nr: PageCount,
    /// Pages in nobody's use.
    #[doc(alias = "free_huge_pages")]
    pub free: PageCount,
    /// Free pages that promises need. For a class or a node: as the witness has it now, which it may re-arrange.
    #[doc(alias = "resv_huge_pages")]
    pub reserved: PageCount,
    /// Pages above the persistent ones.
    #[doc(alias = "surplus_huge_pages")]
    pub surplus: PageCount,
}

/// The state of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Pages promised or in use, those of the accounts below included: what counts against the limit.
    #[doc(alias = "used_hpages")]
    pub used: PageCount,
    /// The part of it that the accounts below have: their use, and what is unused of their minima.
    pub below: PageCount,
    /// The most that it may use; `None` for no limit.
    pub max: Option<PageCount>,
    /// What is guaranteed to it.
    pub min: PageCount,
    /// The part of the minimum that is promised to it and not used now.
    #[doc(alias = "rsv_hpages")]
    pub unused_minimum: PageCount,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// The counts of the whole ledger.
    #[must_use]
    pub fn totals(&self) -> Counts {
        Counts {
            nr: PageCount::new(self.totals.nr),
            free: PageCount::new(self.totals.free),
            reserved: PageCount::new(self.totals.reserved),
            surplus: PageCount::new(self.totals.surplus),
        }
    }

    /// The counts of one class; all zero for a node beyond the tables.
    #[must_use]
    pub fn class(&self, class: Class) -> Counts {
        let mut sums = Counts::default();
        self.add_class(&mut sums, class);
        sums
    }

    /// The counts of one node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Counts {
        let mut sums = Counts::default();
        for level in (0..Level::COUNT).filter_map(Level::from_index) {
            self.add_class(&mut sums, Class { node, level });
        }
        sums
    }

    /// How many surplus pages there may be.
    #[must_use]
    pub fn overcommit(&self) -> PageCount {
        PageCount::new(self.overcommit)
    }

    /// How many more pages could be promised or taken by somebody who can use every one: the free ones that no promise
    /// needs, and those that overcommit still allows.
    #[must_use]
    pub fn available(&self) -> PageCount {
        let slack = self.totals.free.saturating_sub(self.totals.reserved);
        let growth = self.overcommit.saturating_sub(self.totals.surplus);
        PageCount::new(slack.saturating_add(growth))
    }

    /// The part of [`Counts::reserved`] that account minima hold; the rest is promised to callers.
    #[must_use]
    pub fn unused_minima(&self) -> PageCount {
        PageCount::new(self.totals.minima)
    }

    /// The state of an account.
    ///
    /// # Errors
    /// [`Error::AccountInvalid`].
    pub fn usage(&self, id: AccountId) -> Result<Usage, Error> {
        let account = self.account(id)?;
        let max = self.words.account(account, OfAccount::Max);
        Ok(Usage {
            used: PageCount::new(self.charged(account)),
            below: PageCount::new(self.words.account(account, OfAccount::Below)),
            max: (max != u64::MAX).then_some(PageCount::new(max)),
            min: PageCount::new(self.words.account(account, OfAccount::Min)),
            unused_minimum: PageCount::new(self.unused_minimum(account)),
        })
    }

    fn add_class(&self, sums: &mut Counts, class: Class) {
        if !self.words.knows(class) {
            return;
        }
        let add = |to: &mut PageCount, n: u64| {
            *to = PageCount::new(to.raw().saturating_add(n));
        };
        let free = self.words.class(class, OfClass::Free);
        add(&mut sums.nr, self.words.class(class, OfClass::Nr));
        add(&mut sums.free, free);
        add(&mut sums.reserved, free.saturating_sub(self.slack(class)));
        add(&mut sums.surplus, self.words.class(class, OfClass::Surplus));
    }
}
