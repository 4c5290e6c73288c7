// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The invariants, tested.

use core::fmt;

use super::tables::{OfAccount, OfClass, OfKind, OPEN};
use super::{AccountId, Ledger};
use crate::reach::{Class, Level};

/// The invariant that does not hold, and where.
///
/// Numbered as in the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// I1: more free pages than pages.
    FreeAboveNr(Class),
    /// I2: the assigned pages and the slack of a class are not its free pages.
    WitnessInexact(Class),
    /// I2: pages are assigned to a promise that cannot use them.
    WitnessOutOfReach(Class),
    /// I2: a kind, by its row, has not as many pages assigned as are promised to it.
    PromiseUncovered(usize),
    /// I2: the nodes noted as having slack, or assigned pages, are not those that have some.
    NodesInexact(Class),
    /// I3: more surplus pages than pages.
    SurplusAboveNr(Class),
    /// I4: the totals are not the sums.
    TotalsInexact,
    /// I5: an account, by its index, uses more than its maximum.
    AccountAboveMaximum(usize),
    /// I5: an account, by its index, is not charged for what the accounts below it have, or cannot have any.
    ChildrenInexact(usize),
    /// I5: the unused minima of some accounts are not what is promised to their kind.
    MinimumUncovered(usize),
    /// Promises and pages in use are not what the accounts are charged.
    ChargeInexact,
    /// The pages in use are not those that were taken.
    UseInexact,
    /// Something came back that was never given: this many times.
    Stray(u64),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |f: &mut fmt::Formatter<'_>, what: &str, class: Class| {
            write!(
                f,
                "{what}: node {}, {} bits",
                class.node,
                class.level.bits()
            )
        };
        match *self {
            Self::FreeAboveNr(class) => at(f, "more free pages than pages", class),
            Self::WitnessInexact(class) => {
                at(f, "assigned pages and slack are not the free pages", class)
            }
            Self::WitnessOutOfReach(class) => at(f, "pages assigned outside the reach", class),
            Self::NodesInexact(class) => at(f, "the summary of the class is wrong", class),
            Self::SurplusAboveNr(class) => at(f, "more surplus pages than pages", class),
            Self::PromiseUncovered(kind) => {
                write!(f, "promises of kind {kind} are not covered exactly")
            }
            Self::TotalsInexact => f.write_str("the totals are not the sums"),
            Self::AccountAboveMaximum(account) => {
                write!(f, "account {account} is above its maximum")
            }
            Self::ChildrenInexact(account) => {
                write!(f, "account {account} is not charged for those below it")
            }
            Self::MinimumUncovered(kind) => {
                write!(f, "minima of kind {kind} are not covered exactly")
            }
            Self::ChargeInexact => {
                f.write_str("the accounts are not charged for what is promised and in use")
            }
            Self::UseInexact => f.write_str("the pages in use are not those that were taken"),
            Self::Stray(times) => write!(
                f,
                "{times} promises or pages came back that were never given"
            ),
        }
    }
}

impl core::error::Error for Violation {}

/// A sum that notices its own overflow.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sum(Option<u64>);

impl Sum {
    const ZERO: Self = Self(Some(0));

    fn add(&mut self, n: u64) {
        self.0 = self.0.and_then(|sum| sum.checked_add(n));
    }

    fn is(self, n: u64) -> bool {
        self.0 == Some(n)
    }
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// Tests every invariant that the ledger can know; takes time in proportion to classes times kinds.
    ///
    /// # Errors
    /// The first [`Violation`] found.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_classes()?;
        self.check_kinds()?;
        self.check_accounts()?;
        match self.strays {
            0 => Ok(()),
            times => Err(Violation::Stray(times)),
        }
    }

    fn check_classes(&self) -> Result<(), Violation> {
        let (mut nr, mut free, mut surplus) = (Sum::ZERO, Sum::ZERO, Sum::ZERO);
        for class in self.words.classes() {
            let count = |field| self.words.class(class, field);
            if count(OfClass::Free) > count(OfClass::Nr) {
                return Err(Violation::FreeAboveNr(class));
            }
            if count(OfClass::Surplus) > count(OfClass::Nr) {
                return Err(Violation::SurplusAboveNr(class));
            }
            nr.add(count(OfClass::Nr));
            free.add(count(OfClass::Free));
            surplus.add(count(OfClass::Surplus));
            let noted = self.words.slack_nodes(class.level).contains(class.node);
            if noted != (count(OfClass::Slack) > 0) {
                return Err(Violation::NodesInexact(class));
            }
            let mut split = Sum::ZERO;
            split.add(count(OfClass::Slack));
            for kind in 0..self.kinds {
                split.add(self.words.assigned(kind, class));
            }
            if !split.is(count(OfClass::Free)) {
                return Err(Violation::WitnessInexact(class));
            }
        }
        let totals = self.totals;
        if nr.is(totals.nr) && free.is(totals.free) && surplus.is(totals.surplus) {
            Ok(())
        } else {
            Err(Violation::TotalsInexact)
        }
    }

    fn check_kinds(&self) -> Result<(), Violation> {
        let (mut promised, mut minima, mut held) = (Sum::ZERO, Sum::ZERO, Sum::ZERO);
        for kind in 0..self.kinds {
            let mut assigned = Sum::ZERO;
            for class in self.words.classes() {
                let n = self.words.assigned(kind, class);
                assigned.add(n);
                let noted = self
                    .words
                    .assigned_nodes(kind, class.level)
                    .contains(class.node);
                if noted != (n > 0) {
                    return Err(Violation::NodesInexact(class));
                }
                if n > 0 && !self.kind_covers(kind, class) {
                    return Err(Violation::WitnessOutOfReach(class));
                }
            }
            let mut want = Sum::ZERO;
            want.add(self.words.kind(kind, OfKind::Promised));
            want.add(self.words.kind(kind, OfKind::Guaranteed));
            if assigned.0.is_none() || assigned != want {
                return Err(Violation::PromiseUncovered(kind));
            }
            promised.add(self.words.kind(kind, OfKind::Promised));
            minima.add(self.words.kind(kind, OfKind::Guaranteed));
            held.add(self.words.kind(kind, OfKind::Held));
        }
        let totals = self.totals;
        if totals.nr.checked_sub(totals.free) != held.0 {
            return Err(Violation::UseInexact);
        }
        promised.add(totals.minima);
        if minima.is(totals.minima) && promised.is(totals.reserved) {
            Ok(())
        } else {
            Err(Violation::TotalsInexact)
        }
    }

    fn check_accounts(&self) -> Result<(), Violation> {
        let mut charged = Sum::ZERO;
        for account in self.open_accounts() {
            let used = self.words.account(account, OfAccount::Used);
            charged.add(used);
            self.check_children(account)?;
            if self.charged(account) > self.words.account(account, OfAccount::Max) {
                return Err(Violation::AccountAboveMaximum(account));
            }
            if self.words.account(account, OfAccount::Inside) > used {
                return Err(Violation::ChargeInexact);
            }
        }
        for kind in 0..self.kinds {
            let (mut minima, mut accounts) = (Sum::ZERO, Sum::ZERO);
            for account in self.open_accounts() {
                let has_minimum = self.words.account(account, OfAccount::Min) > 0;
                if has_minimum && self.minimum_kind(account) == kind {
                    minima.add(self.unused_minimum(account));
                    accounts.add(1);
                }
            }
            if !minima.is(self.words.kind(kind, OfKind::Guaranteed))
                || !accounts.is(self.words.kind(kind, OfKind::Accounts))
            {
                return Err(Violation::MinimumUncovered(kind));
            }
        }
        // Whatever is charged is either promised, minima aside, or in use.
        let mut claims = Sum::ZERO;
        for kind in 0..self.kinds {
            claims.add(self.words.kind(kind, OfKind::Promised));
            claims.add(self.words.kind(kind, OfKind::Held));
        }
        if charged.0.is_some() && charged == claims {
            Ok(())
        } else {
            Err(Violation::ChargeInexact)
        }
    }

    /// The root account is nobody's parent: an account below it is one below none.
    fn check_children(&self, account: usize) -> Result<(), Violation> {
        let (mut children, mut below) = (Sum::ZERO, Sum::ZERO);
        if account != AccountId::ROOT.index() {
            for child in self.open_accounts() {
                if self.parent(child) == Some(account) {
                    children.add(1);
                    below.add(self.words.account(child, OfAccount::Used));
                    below.add(self.unused_minimum(child));
                }
            }
        }
        let is_exact = children.is(self.words.account(account, OfAccount::Children))
            && below.is(self.words.account(account, OfAccount::Below))
            && (children.is(0) || self.can_be_parent(account));
        if is_exact {
            Ok(())
        } else {
            Err(Violation::ChildrenInexact(account))
        }
    }

    fn open_accounts(&self) -> impl Iterator<Item = usize> + '_ {
        (0..usize::from(self.words.tables().accounts))
            .filter(|&account| self.words.account(account, OfAccount::State) & OPEN != 0)
    }

    fn kind_covers(&self, kind: usize, class: Class) -> bool {
        let level = usize::try_from(self.words.kind(kind, OfKind::Level)).unwrap_or(Level::COUNT);
        let node = class.node.mask().bits();
        self.words.kind(kind, OfKind::Nodes) & node != 0 && class.level.index() <= level
    }
}
