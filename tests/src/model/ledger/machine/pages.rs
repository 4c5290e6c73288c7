// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages taken, by a promise or without, and pages given back.

use htlb_core::ledger::{AccountId, Promise, Put};
use htlb_core::{Class, Error, NodeMask, PageCount, Reach};

use super::super::world::{classes, place, InUse, World};
use super::super::Nth;
use super::{Machine, MOST_CLAIMS};

impl Machine {
    /// Whether `class` may be chosen by somebody who prefers `prefer`, `possible` being what can be had at all.
    fn assert_choice(class: Class, reach: Reach, prefer: NodeMask, possible: &[Class]) {
        assert!(reach.covers(class), "{class:?} is out of reach");
        assert!(possible.contains(&class), "{class:?} breaks a promise");
        if possible.iter().any(|c| prefer.contains(c.node)) {
            assert!(
                prefer.contains(class.node),
                "{class:?} is not where {prefer} asks for"
            );
        }
    }

    pub(super) fn take_promised(&mut self, nth: Nth, prefer: NodeMask) {
        let Some(at) = nth.of(self.world.promises.len()) else {
            return;
        };
        if self.world.in_use.len() >= MOST_CLAIMS {
            return;
        }
        let Some(one) = self.world.promises[at].split_off(PageCount::ONE) else {
            let empty = self.world.promises.swap_remove(at);
            assert_eq!(empty.pages(), PageCount::ZERO);
            let back = self.ledger.take_promised(empty, prefer).unwrap_err();
            return self.world.promises.push(back);
        };
        let (reach, account) = (one.reach(), one.account());
        // The page in use takes the promise's place in the account, so minima stay as they are.
        let market = self.world.market_with(account, reach, 1);
        let possible: Vec<_> = classes()
            .filter(|c| reach.covers(*c) && market.without(*c, 1).is_some_and(|m| m.clears()))
            .collect();
        let class = self.ledger.take_promised(one, prefer).unwrap();
        Self::assert_choice(class, reach, prefer, &possible);
        self.world.in_use.push(InUse {
            class,
            reach,
            account,
        });
    }

    pub(super) fn put_promised(&mut self, nth: Nth) {
        let Some(at) = nth.of(self.world.in_use.len()) else {
            return;
        };
        let page = self.world.in_use.swap_remove(at);
        let promise = self
            .ledger
            .put_promised(page.class, page.reach, page.account);
        assert_eq!(
            promise,
            Promise::mint(page.reach, page.account, PageCount::ONE)
        );
        self.world.promises.push(promise);
    }

    pub(super) fn take_free(&mut self, reach: Reach, account: AccountId, prefer: NodeMask) {
        if self.world.in_use.len() >= MOST_CLAIMS {
            return;
        }
        let refusal = self.world.refusal(account, reach, 1);
        let market = self.world.market_with(account, reach, 1);
        let possible: Vec<_> = classes()
            .filter(|c| reach.covers(*c) && market.without(*c, 1).is_some_and(|m| m.clears()))
            .collect();
        match self.call(|ledger| ledger.take_free(reach, account, prefer)) {
            Ok(class) => {
                assert_eq!(refusal, None);
                Self::assert_choice(class, reach, prefer, &possible);
                self.world.in_use.push(InUse {
                    class,
                    reach,
                    account,
                });
            }
            Err(Error::NoRoom) => {
                assert_eq!(refusal, None);
                assert_eq!(possible, []);
            }
            Err(Error::OutOfMetadata) => {}
            Err(error) => assert_eq!(Some(error), refusal),
        }
    }

    pub(super) fn take_exact(
        &mut self,
        class: Class,
        reach: Reach,
        account: AccountId,
        pages: PageCount,
    ) {
        let n = pages.raw();
        if self.world.in_use.len() as u128 + u128::from(n) > MOST_CLAIMS as u128 && n < 1000 {
            return;
        }
        let fits = || {
            let market = self.world.market_with(account, reach, n);
            market.without(class, n).is_some_and(|m| m.clears())
        };
        let expected = if place(class).is_none() {
            Err(Error::NodeInvalid)
        } else if !reach.covers(class) {
            Err(Error::OutOfReach)
        } else if let Some(error) = self.world.refusal(account, reach, n) {
            Err(error)
        } else if fits() {
            // A run that the model could not write down is not taken.
            if n > MOST_CLAIMS as u64 {
                return;
            }
            Ok(())
        } else {
            Err(Error::NoRoom)
        };
        let found = self.call(|ledger| ledger.take_exact(class, reach, account, pages));
        if Self::agree(found, expected).is_some() {
            let page = InUse {
                class,
                reach,
                account,
            };
            self.world.in_use.extend((0..n).map(|_| page));
        }
    }

    pub(super) fn put(&mut self, nth: Nth) {
        let Some(at) = nth.of(self.world.in_use.len()) else {
            return;
        };
        let unused = |world: &World, id| world.unused(world.account(id).unwrap());
        let page = self.world.in_use[at];
        let before = unused(&self.world, page.account);
        self.world.in_use.swap_remove(at);
        let regained = unused(&self.world, page.account) > before;
        let pages = &mut self.world.pages[place(page.class).unwrap()];
        let expected = if !regained && pages.surplus > 0 {
            pages.nr -= 1;
            pages.surplus -= 1;
            Put::Surplus
        } else {
            Put::Kept
        };
        let found = self.ledger.put(page.class, page.reach, page.account);
        assert_eq!(found, expected);
    }

    pub(super) fn remove(&mut self, nth: Nth) {
        let Some(at) = nth.of(self.world.in_use.len()) else {
            return;
        };
        let page = self.world.in_use.swap_remove(at);
        let pages = &mut self.world.pages[place(page.class).unwrap()];
        let before = *pages;
        pages.nr -= 1;
        pages.surplus = pages.surplus.saturating_sub(1);
        let expected = if self.world.market().clears() {
            Ok(())
        } else {
            Err(Error::NoRoom)
        };
        let found = self.ledger.remove(page.class, page.reach, page.account);
        assert_eq!(found, expected);
        if found.is_err() {
            self.world.pages[place(page.class).unwrap()] = before;
            self.world.in_use.push(page);
        }
    }

    pub(super) fn exchange(&mut self, nth: Nth, prefer: NodeMask) {
        let Some(at) = nth.of(self.world.in_use.len()) else {
            return;
        };
        let bad = self.world.in_use.swap_remove(at);
        let (reach, account) = (bad.reach, bad.account);
        let pages = &mut self.world.pages[place(bad.class).unwrap()];
        let before = *pages;
        pages.nr -= 1;
        pages.surplus = pages.surplus.saturating_sub(1);
        // The other page takes its place in the account, so minima stay as they are.
        let market = self.world.market_with(account, reach, 1);
        let possible: Vec<_> = classes()
            .filter(|c| reach.covers(*c) && market.without(*c, 1).is_some_and(|m| m.clears()))
            .collect();
        match self.ledger.exchange(bad.class, reach, account, prefer) {
            Ok(class) => {
                Self::assert_choice(class, reach, prefer, &possible);
                self.world.in_use.push(InUse { class, ..bad });
            }
            Err(error) => {
                assert_eq!((error, possible), (Error::NoRoom, vec![]));
                self.world.pages[place(bad.class).unwrap()] = before;
                self.world.in_use.push(bad);
            }
        }
    }
}
