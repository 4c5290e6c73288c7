// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Promises made, split and merged, and what a shortage would be.

use htlb_core::ledger::{AccountId, Promise};
use htlb_core::{Error, PageCount, Reach};

use super::super::Nth;
use super::{Machine, MOST_CLAIMS};

impl Machine {
    pub(super) fn reserve(&mut self, reach: Reach, account: AccountId, pages: PageCount) {
        if self.world.promises.len() >= MOST_CLAIMS {
            return;
        }
        let n = pages.raw();
        let fits = || {
            self.world
                .market_with(account, reach, n)
                .with_demand(reach, n)
                .clears()
        };
        let expected = match self.world.refusal(account, reach, n) {
            Some(error) => Err(error),
            None if fits() => Ok(Promise::mint(reach, account, pages)),
            None => Err(Error::NoRoom),
        };
        let found = self.call(|ledger| ledger.reserve(reach, account, pages));
        if let Some(promise) = Self::agree(found, expected) {
            self.world.promises.push(promise);
        }
    }

    pub(super) fn shortage(&mut self, reach: Reach, account: AccountId, pages: PageCount) {
        let n = pages.raw();
        let expected = match self.world.refusal(account, reach, n) {
            Some(error) => Err(error),
            None => {
                let market = self.world.market_with(account, reach, n);
                let most = market.free.iter().sum::<u64>().min(n);
                let clears = |pages| market.with_demand(reach, pages).clears();
                // All that is free, or a number below it: what is granted is granted of any fewer too.
                let (mut granted, mut refused) = if clears(most) {
                    (most, most)
                } else {
                    (0, most)
                };
                while refused - granted > 1 {
                    let middle = granted + (refused - granted) / 2;
                    if clears(middle) {
                        granted = middle;
                    } else {
                        refused = middle;
                    }
                }
                Ok(PageCount::new(n - granted))
            }
        };
        let found = self.call(|ledger| ledger.shortage(reach, account, pages));
        Self::agree(found, expected);
    }

    pub(super) fn split(&mut self, nth: Nth, pages: PageCount) {
        if self.world.promises.len() >= MOST_CLAIMS {
            return;
        }
        if let Some(at) = nth.of(self.world.promises.len()) {
            if let Some(part) = self.world.promises[at].split_off(pages) {
                self.world.promises.push(part);
            }
        }
    }

    pub(super) fn merge(&mut self, a: Nth, b: Nth) {
        let Some(a) = a.of(self.world.promises.len()) else {
            return;
        };
        let a = self.world.promises.swap_remove(a);
        let Some(b) = b.of(self.world.promises.len()) else {
            return self.world.promises.push(a);
        };
        let b = self.world.promises.swap_remove(b);
        match a.merge(b) {
            Ok(whole) => self.world.promises.push(whole),
            Err((a, b)) => self.world.promises.extend([a, b]),
        }
    }
}
