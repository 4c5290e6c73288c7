// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A ledger beside the claims that it should describe: each call made, and its answer foretold.

mod accounts;
mod pages;
mod promises;
mod supply;

use htlb_core::ledger::{AccountId, Counts, Ledger, Tables, Usage};
use htlb_core::{Error, PageCount, Stop};

use super::world::{classes, World};
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
            Op::Exchange(nth, prefer) => self.exchange(nth, prefer.nodes()),
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
