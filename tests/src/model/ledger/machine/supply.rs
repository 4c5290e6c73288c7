// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that come and go: growth, surplus, retirement.

use htlb_core::{Class, Error, PageCount};

use super::super::world::{classes, place};
use super::Machine;

impl Machine {
    fn growth_refusal(&self, class: Class, pages: PageCount) -> Option<Error> {
        if place(class).is_none() {
            Some(Error::NodeInvalid)
        } else if self.world.total().checked_add(pages.raw()).is_none() {
            Some(Error::CounterOverflow)
        } else {
            None
        }
    }

    pub(super) fn grow(&mut self, class: Class, pages: PageCount) {
        let expected = self.growth_refusal(class, pages).map_or(Ok(()), Err);
        let found = self.call(|ledger| ledger.grow(class, pages));
        if Self::agree(found, expected).is_some() {
            self.world.pages[place(class).unwrap()].nr += pages.raw();
        }
    }

    pub(super) fn grow_surplus(&mut self, class: Class, pages: PageCount) {
        let beyond = u128::from(self.world.surplus()) + u128::from(pages.raw())
            > u128::from(self.world.overcommit.max(self.world.surplus()));
        let expected = match self.growth_refusal(class, pages) {
            Some(error) => Err(error),
            None if beyond => Err(Error::OvercommitLimit),
            None => Ok(()),
        };
        let found = self.call(|ledger| ledger.grow_surplus(class, pages));
        if Self::agree(found, expected).is_some() {
            let at = place(class).unwrap();
            self.world.pages[at].nr += pages.raw();
            self.world.pages[at].surplus += pages.raw();
        }
    }

    pub(super) fn shrink(&mut self, class: Class, pages: PageCount) {
        let n = pages.raw();
        let expected = match place(class).map(|at| self.world.pages[at]) {
            None => Err(Error::NodeInvalid),
            Some(now) if n > now.nr - now.surplus => Err(Error::NoRoom),
            Some(_) => match self.world.market().without(class, n) {
                Some(market) if market.clears() => Ok(()),
                _ => Err(Error::NoRoom),
            },
        };
        let found = self.call(|ledger| ledger.shrink(class, pages));
        if Self::agree(found, expected).is_some() {
            self.world.pages[place(class).unwrap()].nr -= n;
        }
    }

    pub(super) fn retire(&mut self, class: Class, pages: PageCount) {
        let expected = match place(class).map(|at| self.world.pages[at]) {
            None => Err(Error::NodeInvalid),
            Some(now) if pages.raw() > now.nr - now.surplus => Err(Error::NoRoom),
            Some(_) => Ok(()),
        };
        let found = self.call(|ledger| ledger.retire(class, pages));
        if Self::agree(found, expected).is_some() {
            self.world.pages[place(class).unwrap()].surplus += pages.raw();
        }
    }

    pub(super) fn absorb(&mut self, class: Class, pages: PageCount) {
        let found = self.ledger.absorb(class, pages).raw();
        match place(class) {
            Some(at) => {
                assert_eq!(found, pages.raw().min(self.world.pages[at].surplus));
                self.world.pages[at].surplus -= found;
            }
            None => assert_eq!(found, 0),
        }
    }

    pub(super) fn drop_surplus(&mut self) -> bool {
        let market = self.world.market();
        let may_leave = |class: Class| {
            self.world.pages[place(class).unwrap()].surplus > 0
                && market.without(class, 1).is_some_and(|m| m.clears())
        };
        match self.ledger.drop_surplus() {
            Some(class) => {
                assert!(may_leave(class), "{class:?} cannot spare a page");
                let pages = &mut self.world.pages[place(class).unwrap()];
                pages.nr -= 1;
                pages.surplus -= 1;
                true
            }
            None => {
                assert_eq!(classes().find(|class| may_leave(*class)), None);
                false
            }
        }
    }
}
