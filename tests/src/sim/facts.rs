// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! All that an `Err` must leave as it was, and the audit of a machine at rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use htlb_core::gate::Pass;
use htlb_core::ledger::{AccountId, Counts, Usage};
use htlb_core::stock::Held;
use htlb_core::{
    Class, Error, Exclusive, HugeSize, PageCount, Part, Pfn, Rung, Stop, WaitFor, Waiting,
};

use super::buffer::Live;
use super::host::is_filling;
use super::machine::{lock, SimMachine};
use super::memory::{Block, Writer};

/// What a buffer is: its size, its slots word by word, and the contents of its pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferFacts {
    size: u64,
    sealed: bool,
    slots: Vec<u64>,
    contents: BTreeMap<u64, Block>,
}

/// What a stock is, apart from how its witness is arranged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockFacts {
    totals: Counts,
    overcommit: u64,
    minima: u64,
    /// Pages, free pages and surplus pages of each class.
    classes: BTreeMap<Class, [u64; 3]>,
    accounts: Vec<Option<Usage>>,
    free: BTreeSet<Pfn>,
}

/// Every fact of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    stocks: BTreeMap<HugeSize, StockFacts>,
    buffers: Vec<BufferFacts>,
    /// Our pages, wherever they are.
    pages: BTreeMap<Pfn, HugeSize>,
    kept: BTreeMap<Pfn, Block>,
    limbo: BTreeSet<Pfn>,
    donated: BTreeSet<Pfn>,
}

impl SimMachine {
    /// Enters the gate.
    pub(super) fn enter(&self) -> Pass {
        loop {
            match self.gate.enter() {
                Ok(pass) => return pass,
                Err(Stop::Wait(_)) => self.sleep_at_gate(|| self.gate.prepare_wait()),
                Err(stop) => panic!("the gate says {stop:?}"),
            }
        }
    }

    /// Leaves it.
    pub(super) fn leave(&self, pass: Pass) {
        if self.gate.leave(pass).target().is_some() {
            self.queues.wake((0, WaitFor::Gate));
        }
    }

    fn sleep_at_gate(&self, look: impl Fn() -> Waiting) {
        let slept: Result<(), Error> = self.queues.sleep((0, WaitFor::Gate), || Ok(look()));
        debug_assert_eq!(slept, Ok(()));
    }

    /// Runs `f` while nothing is under way.
    ///
    /// # Panics
    /// Inside a producer, which would wait for itself.
    pub fn quiesce<T>(&self, f: impl FnOnce() -> T) -> T {
        assert!(!is_filling(), "a producer waits for itself");
        let closing = loop {
            match self.gate.close() {
                Ok(closing) => break closing,
                Err(_) => self.sleep_at_gate(|| self.gate.prepare_wait()),
            }
        };
        while !self.gate.is_drained(&closing) {
            self.sleep_at_gate(|| self.gate.prepare_wait_drained(&closing));
        }
        let seen = f();
        if self.gate.reopen(closing).target().is_some() {
            self.queues.wake((0, WaitFor::Gate));
        }
        seen
    }

    /// Every fact, at rest.
    pub fn facts(&self) -> Facts {
        self.quiesce(|| {
            let memory = lock(&self.memory);
            let pages: BTreeMap<_, _> = memory.ours().map(|(pfn, b)| (pfn, b.size)).collect();
            let buffers = lock(&self.buffers);
            Facts {
                stocks: self
                    .stocks
                    .iter()
                    .map(|stock| (stock.size(), self.stock_facts(stock.size(), &pages)))
                    .collect(),
                buffers: buffers
                    .iter()
                    .map(|live| BufferFacts {
                        size: live.buffer.map().size().raw(),
                        sealed: live.buffer.map().is_sealed(),
                        slots: live
                            .slots
                            .iter()
                            .map(|s| s.load(Ordering::SeqCst))
                            .collect(),
                        contents: live
                            .buffer
                            .map()
                            .frames()
                            .map(|(_, pfn, _)| (pfn.raw(), memory.block(pfn).clone()))
                            .collect(),
                    })
                    .collect(),
                kept: lock(&self.magazines)
                    .values()
                    .flat_map(|magazine| magazine.iter().map(|(pfn, _)| pfn).collect::<Vec<_>>())
                    .map(|pfn| (pfn, memory.block(pfn).clone()))
                    .collect(),
                limbo: lock(&self.limbo).iter().map(|e| e.frame.pfn()).collect(),
                donated: lock(&self.donated).iter().map(|f| f.pfn()).collect(),
                pages,
            }
        })
    }

    fn stock_facts(&self, size: HugeSize, pages: &BTreeMap<Pfn, HugeSize>) -> StockFacts {
        let accounts = lock(&self.accounts);
        self.stock_of(size).with(|stock| {
            let ledger = stock.ledger();
            let opened = accounts.iter().filter(|(of, _)| *of == size);
            StockFacts {
                totals: stock.counts(),
                overcommit: ledger.overcommit().raw(),
                minima: ledger.unused_minima().raw(),
                classes: (0..Class::COUNT)
                    .filter_map(Class::from_index)
                    .map(|class| (class, ledger.class(class)))
                    .filter(|(_, counts)| !counts.nr.is_zero())
                    .map(|(class, c)| (class, [c.nr.raw(), c.free.raw(), c.surplus.raw()]))
                    .collect(),
                accounts: std::iter::once(AccountId::ROOT)
                    .chain(opened.map(|(_, id)| *id))
                    .map(|id| ledger.usage(id).ok())
                    .collect(),
                free: pages
                    .iter()
                    .filter(|(pfn, of)| **of == size && stock.pool().condition(**pfn).is_some())
                    .map(|(pfn, _)| *pfn)
                    .collect(),
            }
        })
    }

    /// Our pages, wherever they are.
    pub fn pages(&self) -> usize {
        lock(&self.memory).ours().count()
    }

    /// Every invariant that a machine at rest must satisfy, I1 to I9, and that nobody sees another's data.
    ///
    /// # Errors
    /// What is broken.
    pub fn audit(&self) -> Result<(), String> {
        self.quiesce(|| {
            let buffers = lock(&self.buffers);
            self.audit_counts(&buffers)?;
            self.audit_places(&buffers)?;
            self.audit_contents(&buffers)
        })
    }

    /// I1 to I6: each stock against what was had of it.
    fn audit_counts(&self, buffers: &[Live]) -> Result<(), String> {
        for lock_of in &self.stocks {
            let size = lock_of.size();
            let serves = |part: &Part| {
                part.attempt.size == size && matches!(part.attempt.rung, Rung::Pool | Rung::System)
            };
            lock_of.with(|stock| {
                let mut held = Held::default();
                for live in buffers.iter().filter(|live| !live.donated) {
                    let of_buffer = stock.held_by(&live.buffer, serves);
                    held.promises += of_buffer.promises;
                    held.pages += of_buffer.pages;
                }
                let known = |pfn: &Pfn| stock.pool().knows(*pfn).is_some();
                for (key, magazine) in &*lock(&self.magazines) {
                    if key.1 == size {
                        held.pages += magazine.iter().filter(|(pfn, _)| known(pfn)).count() as u64;
                    }
                }
                let limbo = lock(&self.limbo);
                let own = limbo.iter().map(|entry| entry.frame.pfn()).filter(known);
                held.pages += own.count() as u64;
                let found = stock.audit(held);
                found.map_err(|broken| {
                    format!(
                        "{size}: {broken:?}, held {held:?}, counted {:?}",
                        stock.counts()
                    )
                })
            })?;
        }
        Ok(())
    }

    /// I9: every page that the system gave us is in exactly one place, and nothing else is in any.
    fn audit_places(&self, buffers: &[Live]) -> Result<(), String> {
        let memory = lock(&self.memory);
        let mut places: BTreeMap<Pfn, Vec<(&str, HugeSize)>> = BTreeMap::new();
        let mut at = |pfn, size, place| places.entry(pfn).or_default().push((place, size));
        for live in buffers {
            for (_, pfn, size) in live.buffer.map().frames() {
                at(pfn, size, "a slot");
            }
        }
        for magazine in lock(&self.magazines).values() {
            for (pfn, _) in magazine.iter() {
                at(pfn, magazine.size(), "a magazine");
            }
        }
        for entry in &*lock(&self.limbo) {
            at(entry.frame.pfn(), entry.frame.size(), "limbo");
        }
        for frame in &*lock(&self.donated) {
            at(frame.pfn(), frame.size(), "the donor");
        }
        for frame in &*lock(&self.buried) {
            at(frame.pfn(), frame.size(), "the graveyard");
        }
        for stock in &self.stocks {
            stock.with(|stock| {
                for (pfn, _) in memory.ours() {
                    if stock.pool().condition(pfn).is_some() {
                        at(pfn, stock.size(), "a pool");
                    }
                }
            });
        }
        for (pfn, block) in memory.ours() {
            match places.remove(&pfn).as_deref() {
                Some([(_, size)]) if *size == block.size => {}
                other => return Err(format!("I9: page {pfn} of {} is in {other:?}", block.size)),
            }
        }
        match places.first_key_value() {
            None => Ok(()),
            Some((pfn, places)) => Err(format!("I9: {pfn} is nobody's, and in {places:?}")),
        }
    }

    /// Every byte of a present page is zero, or was written by the owner. A clean free page is zero.
    fn audit_contents(&self, buffers: &[Live]) -> Result<(), String> {
        let memory = lock(&self.memory);
        for live in buffers {
            for (index, pfn, _) in live.buffer.map().frames() {
                let own = [Writer::Nobody, Writer::Owner(live.owner.number)];
                let writers = memory.block(pfn).writers();
                if let Some(other) = writers.iter().find(|writer| !own.contains(writer)) {
                    let owner = live.owner.number;
                    return Err(format!("owner {owner} sees {other:?} at page {index}"));
                }
            }
        }
        for stock in &self.stocks {
            let broken = stock.with(|stock| {
                memory.ours().find(|(pfn, block)| {
                    stock.pool().condition(*pfn) == Some(htlb_core::Condition::Clean)
                        && !block.is_zero()
                })
            });
            if let Some((pfn, _)) = broken {
                return Err(format!("page {pfn} counts as clean, and is not"));
            }
        }
        Ok(())
    }
}

impl Facts {
    /// Whether an owner has kept pages for itself.
    #[must_use]
    pub fn keeps_pages(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Whether every buffer is as it was, whatever has become of pages that none of them has.
    #[must_use]
    pub fn same_buffers(&self, other: &Self) -> bool {
        self.buffers == other.buffers
    }

    /// The same without the names of the pages that are free in a pool. Surplus pages of a class are as many, not these or
    /// those: where some came and went, others may have stayed.
    #[must_use]
    pub fn without_names(mut self) -> Self {
        for stock in self.stocks.values_mut() {
            for pfn in std::mem::take(&mut stock.free) {
                self.pages.remove(&pfn);
            }
        }
        self
    }

    /// Whether all is as it was `before`, apart from free surplus pages: such as nobody needs leave whenever somebody looks, and
    /// one of another class may stand for one that was there.
    ///
    /// # Errors
    /// Both.
    pub fn only_lost_surplus(self, before: Self) -> Result<(), String> {
        let (now, left) = self.without_free_surplus();
        let (before, there_were) = before.without_free_surplus();
        let more = left
            .iter()
            .any(|(size, pages)| there_were.get(size) < Some(pages));
        if now == before && !more {
            return Ok(());
        }
        Err(format!(
            "{now:?} and free surplus {left:?}; before: {before:?} and {there_were:?}"
        ))
    }

    fn without_free_surplus(mut self) -> (Self, BTreeMap<HugeSize, u64>) {
        let mut all = BTreeMap::new();
        for (size, stock) in &mut self.stocks {
            let mut spare = 0;
            for [nr, free, surplus] in stock.classes.values_mut() {
                let both = (*free).min(*surplus);
                for count in [nr, free, surplus] {
                    *count -= both;
                }
                spare += both;
            }
            stock.classes.retain(|_, [nr, _, _]| *nr > 0);
            let totals = &mut stock.totals;
            for count in [&mut totals.nr, &mut totals.free, &mut totals.surplus] {
                *count = PageCount::new(count.raw() - spare);
            }
            all.insert(*size, spare);
        }
        (self, all)
    }
}
