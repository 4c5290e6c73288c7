// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Accounts opened, limited and closed.

use htlb_core::ledger::AccountId;
use htlb_core::{Error, PageCount, Reach};

use super::super::world::Account;
use super::Machine;

impl Machine {
    pub(super) fn open(
        &mut self,
        parent: AccountId,
        max: PageCount,
        min: PageCount,
        min_reach: Reach,
    ) {
        if self.world.accounts.len() >= 8 {
            return;
        }
        let max = limit(max);
        let expected = match self.world.account(parent) {
            _ if max.is_some_and(|max| min > max) => Err(Error::AccountMinimumAboveMaximum),
            None => Err(Error::AccountInvalid),
            Some(above) if above.parent != AccountId::ROOT || above.min > 0 => {
                Err(Error::AccountParentInvalid)
            }
            Some(above) if !self.world.allows(above, min.raw()) => Err(Error::AccountLimit),
            Some(_) => self.expect_minimum(None, min, min_reach),
        };
        let mut id = None;
        let found = self.call(|ledger| {
            id = Some(ledger.open_account_under(parent, max, min, min_reach)?);
            Ok(())
        });
        if Self::agree(found, expected).is_some() {
            let id = id.unwrap();
            assert!(self.world.account(id).is_none() && !self.world.closed.contains(&id));
            self.world.accounts.push(Account {
                id,
                max: finite(max),
                min: min.raw(),
                min_reach,
                parent,
            });
        }
    }

    fn expect_minimum(
        &mut self,
        id: Option<AccountId>,
        min: PageCount,
        reach: Reach,
    ) -> Result<(), Error> {
        if self.world.clears_with_minimum(id, min.raw(), reach) {
            Ok(())
        } else {
            Err(Error::NoRoom)
        }
    }

    pub(super) fn set_limit(&mut self, id: AccountId, max: PageCount) {
        let max = limit(max);
        let below = |pages: u64| max.is_some_and(|max| max.raw() < pages);
        let expected = match self.world.account(id) {
            None => Err(Error::AccountInvalid),
            Some(_) if id == AccountId::ROOT => Err(Error::AccountInvalid),
            Some(account) if below(account.min) => Err(Error::AccountMinimumAboveMaximum),
            Some(_) if below(self.world.charged(id)) => Err(Error::AccountBusy),
            Some(_) => Ok(()),
        };
        assert_eq!(self.ledger.set_limit(id, max), expected);
        if expected.is_ok() {
            self.world.account_mut(id).max = finite(max);
        }
    }

    pub(super) fn set_minimum(&mut self, id: AccountId, min: PageCount, min_reach: Reach) {
        let expected = match self.idle(id) {
            Err(error) => Err(error),
            Ok(now) if now.max.is_some_and(|max| min.raw() > max) => {
                Err(Error::AccountMinimumAboveMaximum)
            }
            Ok(now) => {
                let above = self.world.account(now.parent).unwrap();
                if self.world.allows(above, min.raw().saturating_sub(now.min)) {
                    self.expect_minimum(Some(id), min, min_reach)
                } else {
                    Err(Error::AccountLimit)
                }
            }
        };
        let found = self.call(|ledger| ledger.set_minimum(id, min, min_reach));
        if Self::agree(found, expected).is_some() {
            let account = self.world.account_mut(id);
            account.min = min.raw();
            account.min_reach = min_reach;
        }
    }

    /// An account that has nothing in use and none below it.
    fn idle(&self, id: AccountId) -> Result<Account, Error> {
        match self.world.account(id) {
            Some(_) if id == AccountId::ROOT => Err(Error::AccountInvalid),
            Some(account) => {
                if self.world.used(id) > 0 || self.world.children(id).next().is_some() {
                    Err(Error::AccountBusy)
                } else {
                    Ok(*account)
                }
            }
            None => Err(Error::AccountInvalid),
        }
    }

    pub(super) fn close(&mut self, id: AccountId) {
        let expected = self.idle(id).map(drop);
        assert_eq!(self.ledger.close_account(id), expected);
        if expected.is_ok() {
            self.world.accounts.retain(|account| account.id != id);
            // An empty promise of a closed account is worth nothing.
            self.world
                .promises
                .retain(|promise| promise.account() != id);
            self.world.closed.push(id);
        }
    }
}

/// Zero stands for no limit.
fn limit(max: PageCount) -> Option<PageCount> {
    (!max.is_zero()).then_some(max)
}

/// `u64::MAX` as a limit is none.
fn finite(max: Option<PageCount>) -> Option<u64> {
    max.map(PageCount::raw).filter(|&max| max != u64::MAX)
}
