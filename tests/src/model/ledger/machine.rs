// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A ledger beside the claims that it should describe: each call made, and its answer foretold.

use htlb_core::ledger::{AccountId, Counts, Ledger, Promise, Put, Tables, Usage};
use htlb_core::{Class, Error, NodeMask, PageCount, Reach, Stop};

use super::world::{classes, place, Account, InUse, World};
use super::{Amount, Nth, Op, NODES};

/// Each promise, and each page in use, is one value: more would only slow the model down.
const MOST_CLAIMS: usize = 64;

/// A ledger beside the world that it should describe.
#[derive(Debug)]
pub(super) struct Machine {
    ledger: Ledger<Vec<u64>>,
    world: World,
    tables_fail: bool,
}

impl Machine {
    pub(super) fn new() -> Self {
        // As small as can be, so that tables run out at every point.
        let tables = Tables {
            nodes: NODES,
            kinds: 0,
            accounts: 1,
        };
        Self {
            ledger: Ledger::new(vec![u64::MAX; tables.words()], tables).unwrap(),
            world: World::new(),
            tables_fail: false,
        }
    }

    /// Calls until the tables suffice, or the host has no memory for them.
    fn call<R>(
        &mut self,
        mut call: impl FnMut(&mut Ledger<Vec<u64>>) -> Result<R, Stop>,
    ) -> Result<R, Error> {
        loop {
            match call(&mut self.ledger) {
                Ok(done) => return Ok(done),
                Err(Stop::Fail(error)) => return Err(error),
                Err(Stop::Wait(what)) => panic!("a ledger never waits, not for {what:?}"),
                Err(Stop::Metadata { words, .. }) => {
                    self.compare();
                    let tables = self.ledger.tables();
                    assert!(
                        self.world.kinds() >= usize::from(tables.kinds)
                            || self.world.accounts.len() >= usize::from(tables.accounts),
                        "{tables:?} are not full"
                    );
                    if std::mem::take(&mut self.tables_fail) {
                        return Err(Error::OutOfMetadata);
                    }
                    assert!(words > tables.words());
                    let old = self.ledger.adopt(vec![0x5555; words]).unwrap();
                    assert_eq!(old.len(), tables.words(), "the old tables come back");
                    self.compare();
                }
            }
        }
    }

    /// Every count of the ledger is what the claims add up to, and all of them can be met.
    pub(super) fn compare(&self) {
        assert_eq!(self.ledger.check(), Ok(()));
        let market = self.world.market();
        assert!(market.clears(), "promises that cannot be kept: {market:?}");
        let count = PageCount::new;
        for (at, class) in classes().enumerate() {
            let found = self.ledger.class(class);
            let expected = Counts {
                nr: count(self.world.pages[at].nr),
                free: count(market.free[at]),
                surplus: count(self.world.pages[at].surplus),
                // Where promises lie is the ledger's own business.
                reserved: found.reserved,
            };
            assert_eq!(found, expected, "{class:?}");
        }
        let minima: u64 = self
            .world
            .accounts
            .iter()
            .map(|a| self.world.unused(a))
            .sum();
        let expected = Counts {
            nr: count(self.world.total()),
            free: count(market.free.iter().sum()),
            surplus: count(self.world.surplus()),
            reserved: count(market.demands.iter().map(|(_, pages)| pages).sum()),
        };
        assert_eq!(self.ledger.totals(), expected);
        assert_eq!(self.ledger.unused_minima(), count(minima));
        assert_eq!(self.ledger.overcommit(), count(self.world.overcommit));
        let slack = expected.free.raw() - expected.reserved.raw();
        let growth = self.world.overcommit.saturating_sub(self.world.surplus());
        assert_eq!(self.ledger.available(), count(slack.saturating_add(growth)));
        for account in &self.world.accounts {
            let expected = Usage {
                used: count(self.world.charged(account.id)),
                below: count(self.world.below(account.id)),
                max: account.max.map(count),
                min: count(account.min),
                unused_minimum: count(self.world.unused(account)),
            };
            assert_eq!(self.ledger.usage(account.id), Ok(expected));
        }
        for &id in &self.world.closed {
            assert_eq!(self.ledger.usage(id), Err(Error::AccountInvalid));
        }
    }

    /// `expected`, unless the tables were full and the host had no memory for larger ones.
    fn agree<R: PartialEq + std::fmt::Debug>(
        found: Result<R, Error>,
        expected: Result<R, Error>,
    ) -> Option<R> {
        if found != Err(Error::OutOfMetadata) {
            assert_eq!(found, expected);
        }
        found.ok()
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Grow(class, pages) => self.grow(class.class(), pages.pages()),
            Op::GrowSurplus(class, pages) => self.grow_surplus(class.class(), pages.pages()),
            Op::Shrink(class, pages) => self.shrink(class.class(), pages.pages()),
            Op::SetOvercommit(pages) => {
                self.ledger.set_overcommit(pages.pages());
                self.world.overcommit = pages.pages().raw();
            }
            Op::Retire(class, pages) => self.retire(class.class(), pages.pages()),
            Op::Absorb(class, pages) => self.absorb(class.class(), pages.pages()),
            Op::DropSurplus => {
                self.drop_surplus();
            }
            Op::Reserve(reach, account, pages) => {
                self.reserve(reach.reach(), self.world.pick(account), pages.pages());
            }
            Op::Shortage(reach, account, pages) => {
                self.shortage(reach.reach(), self.world.pick(account), pages.pages());
            }
            Op::Release(nth) => {
                if let Some(at) = nth.of(self.world.promises.len()) {
                    self.ledger.release(self.world.promises.swap_remove(at));
                }
            }
            Op::Split(nth, pages) => self.split(nth, pages.pages()),
            Op::Merge(a, b) => self.merge(a, b),
            Op::TakePromised(nth, prefer) => self.take_promised(nth, prefer.nodes()),
            Op::PutPromised(nth) => self.put_promised(nth),
            Op::TakeFree(reach, account, prefer) => {
                self.take_free(reach.reach(), self.world.pick(account), prefer.nodes());
            }
            Op::TakeExact(class, reach, account, pages) => {
                let account = self.world.pick(account);
                self.take_exact(class.class(), reach.reach(), account, pages.pages());
            }
            Op::Put(nth) => self.put(nth),
            Op::Remove(nth) => self.remove(nth),
            Op::OpenAccount(max, min, reach) => {
                self.open(AccountId::ROOT, max.pages(), min.pages(), reach.reach());
            }
            Op::OpenAccountUnder(parent, max, min, reach) => {
                let parent = self.world.pick(parent);
                self.open(parent, max.pages(), min.pages(), reach.reach());
            }
            Op::SetLimit(nth, max) => self.set_limit(self.world.pick(nth), max.pages()),
            Op::SetMinimum(nth, min, reach) => {
                self.set_minimum(self.world.pick(nth), min.pages(), reach.reach());
            }
            Op::CloseAccount(nth) => self.close(self.world.pick(nth)),
            Op::FailTables => self.tables_fail = true,
            Op::AdoptAnyway(less) => self.adopt_anyway(less),
        }
    }

    // ---- supply ------------------------------------------------------------------------------------

    fn growth_refusal(&self, class: Class, pages: PageCount) -> Option<Error> {
        if place(class).is_none() {
            Some(Error::NodeInvalid)
        } else if self.world.total().checked_add(pages.raw()).is_none() {
            Some(Error::CounterOverflow)
        } else {
            None
        }
    }

    fn grow(&mut self, class: Class, pages: PageCount) {
        let expected = self.growth_refusal(class, pages).map_or(Ok(()), Err);
        let found = self.call(|ledger| ledger.grow(class, pages));
        if Self::agree(found, expected).is_some() {
            self.world.pages[place(class).unwrap()].nr += pages.raw();
        }
    }

    fn grow_surplus(&mut self, class: Class, pages: PageCount) {
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

    fn shrink(&mut self, class: Class, pages: PageCount) {
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

    fn retire(&mut self, class: Class, pages: PageCount) {
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

    fn absorb(&mut self, class: Class, pages: PageCount) {
        let found = self.ledger.absorb(class, pages).raw();
        match place(class) {
            Some(at) => {
                assert_eq!(found, pages.raw().min(self.world.pages[at].surplus));
                self.world.pages[at].surplus -= found;
            }
            None => assert_eq!(found, 0),
        }
    }

    fn drop_surplus(&mut self) -> bool {
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

    // ---- promises ----------------------------------------------------------------------------------

    fn reserve(&mut self, reach: Reach, account: AccountId, pages: PageCount) {
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

    fn shortage(&mut self, reach: Reach, account: AccountId, pages: PageCount) {
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

    fn split(&mut self, nth: Nth, pages: PageCount) {
        if self.world.promises.len() >= MOST_CLAIMS {
            return;
        }
        if let Some(at) = nth.of(self.world.promises.len()) {
            if let Some(part) = self.world.promises[at].split_off(pages) {
                self.world.promises.push(part);
            }
        }
    }

    fn merge(&mut self, a: Nth, b: Nth) {
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

    // ---- pages -------------------------------------------------------------------------------------

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

    fn take_promised(&mut self, nth: Nth, prefer: NodeMask) {
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

    fn put_promised(&mut self, nth: Nth) {
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

    fn take_free(&mut self, reach: Reach, account: AccountId, prefer: NodeMask) {
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

    fn take_exact(&mut self, class: Class, reach: Reach, account: AccountId, pages: PageCount) {
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

    fn put(&mut self, nth: Nth) {
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

    fn remove(&mut self, nth: Nth) {
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

    // ---- accounts ----------------------------------------------------------------------------------

    fn open(&mut self, parent: AccountId, max: PageCount, min: PageCount, min_reach: Reach) {
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

    fn set_limit(&mut self, id: AccountId, max: PageCount) {
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

    fn set_minimum(&mut self, id: AccountId, min: PageCount, min_reach: Reach) {
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

    fn close(&mut self, id: AccountId) {
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

    // ---- tables ------------------------------------------------------------------------------------

    fn adopt_anyway(&mut self, less: Amount) {
        let before = self.ledger.tables();
        let len = before.words() - less.pages().raw().min(100) as usize;
        match self.ledger.adopt(vec![1; len]) {
            Ok(unused) => assert_eq!((unused.len(), len), (before.words(), before.words())),
            Err((short, error)) => {
                assert_eq!((short.len(), error), (len, Error::OutOfMetadata));
                assert!(len < before.words());
            }
        }
        assert_eq!(self.ledger.tables(), before);
    }

    /// Gives everything back; every count must be as it was at the start.
    pub(super) fn drain(mut self) {
        while !self.world.in_use.is_empty() {
            self.put(Nth(0));
        }
        for promise in self.world.promises.drain(..) {
            self.ledger.release(promise);
        }
        self.compare();
        // Children were opened after their parents.
        let opened = self.world.accounts.iter().map(|a| a.id);
        for id in opened.rev().collect::<Vec<_>>() {
            if id != AccountId::ROOT {
                self.close(id);
            }
        }
        assert_eq!(self.world.accounts.len(), 1);
        // Absurd numbers are absorbed rather than dropped one by one.
        for class in classes() {
            let many = self.ledger.class(class).surplus.raw().saturating_sub(8);
            self.absorb(class, PageCount::new(many));
        }
        while self.drop_surplus() {}
        self.compare();
        for class in classes() {
            let all = self.ledger.class(class).nr;
            self.shrink(class, all);
        }
        self.compare();
        assert_eq!(self.ledger.totals(), Counts::default());
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
