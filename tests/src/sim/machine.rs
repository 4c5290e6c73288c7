// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pools, owners, magazines, limbo, resizing and demotion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use htlb_core::driver::{shed, with_stock};
use htlb_core::gate::Gate;
use htlb_core::ledger::{AccountId, Ledger, Tables};
use htlb_core::magazine::Magazine;
use htlb_core::pool::Pool;
use htlb_core::{
    AddressBits, Attempt, Class, Condition, Error, Exclusive, Frame, Gfp, HugeSize, NodeId,
    NodeMask, PageCount, Pfn, Reach, Rung, Sizes, Stock, Stop, Supply, Topology,
};

use super::buffer::Live;
use super::faults::{Call, Faults, Stalls};
use super::host::SimHost;
use super::kept::{InLimbo, MagazineKey};
use super::lock::StockLock;
use super::memory::{Memory, Where};
use super::wait::Queues;
use crate::conformance::MachineSpec;

/// Frames of each simulated node: 8 GiB.
const NODE_FRAMES: u64 = 8 << 18;

/// Who has buffers: one owner's data are no other owner's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Its number.
    pub number: u8,
    /// The account that pays for its pages of one size; the root account pays for others.
    pub account: Option<(HugeSize, AccountKey)>,
}

impl Owner {
    /// The owner that every machine has, whose account has no limit.
    pub const FIRST: Self = Self {
        number: 0,
        account: None,
    };
}

/// An account, ordered so that it can be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountKey(pub usize);

/// A machine.
#[derive(Debug)]
pub struct SimMachine {
    pub(super) memory: Mutex<Memory>,
    pub(super) stocks: Vec<StockLock>,
    pub(super) transparent: Option<HugeSize>,
    nodes: NodeMask,
    /// Refuses and fails on demand.
    pub faults: Faults,
    /// Lasts on demand.
    pub stalls: Stalls,
    /// Who sleeps.
    pub queues: Queues,
    pub(super) gate: Gate,
    pub(super) buffers: Mutex<Vec<Live>>,
    pub(super) limbo: Mutex<Vec<InLimbo>>,
    pub(super) held: Mutex<BTreeSet<u64>>,
    pub(super) poisoned: Mutex<BTreeSet<Pfn>>,
    pub(super) buried: Mutex<Vec<Frame>>,
    pub(super) magazines: Mutex<BTreeMap<MagazineKey, Magazine<Vec<u64>>>>,
    pub(super) magazine_pages: usize,
    pub(super) accounts: Mutex<Vec<(HugeSize, AccountId)>>,
    owners: AtomicU64,
    pub(super) unmapped: AtomicU64,
    /// Frames that a donor gave, while no buffer uses them.
    pub(super) donated: Mutex<Vec<Frame>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimMachine {
    /// A machine as described.
    ///
    /// # Panics
    /// If its pools do not fit its memory.
    #[must_use]
    pub fn new(spec: &MachineSpec<'_>) -> Self {
        let nodes = (0..spec.nodes).map(|number| {
            let first = u64::from(number) * NODE_FRAMES;
            (node(number), first..first + NODE_FRAMES)
        });
        let sizes = [HugeSize::GIB1, HugeSize::MIB2];
        let mut machine = Self {
            memory: Mutex::new(Memory::new(nodes.collect())),
            stocks: sizes
                .map(|size| StockLock::new(empty_stock(size, spec.nodes)))
                .into(),
            transparent: spec.transparent.then_some(HugeSize::MIB2),
            nodes: NodeMask::from_bits((1 << spec.nodes) - 1),
            faults: Faults::default(),
            stalls: Stalls::default(),
            queues: Queues::default(),
            gate: Gate::new(),
            buffers: Mutex::default(),
            limbo: Mutex::default(),
            held: Mutex::default(),
            poisoned: Mutex::default(),
            buried: Mutex::default(),
            magazines: Mutex::default(),
            magazine_pages: spec.magazine,
            accounts: Mutex::default(),
            owners: AtomicU64::new(1),
            unmapped: AtomicU64::new(0),
            donated: Mutex::default(),
        };
        for pool in spec.pools {
            let bits = AddressBits::new(pool.below).expect("a legal mask");
            let grown = machine.grow(pool.size, node(pool.node), pool.pages, bits);
            assert_eq!(grown, Ok(pool.pages), "the pool fits the node");
        }
        for (size, pages) in spec.overcommit {
            machine
                .stock_of(*size)
                .with(|stock| stock.ledger_mut().set_overcommit(PageCount::new(*pages)));
        }
        let memory = machine
            .memory
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for size in sizes {
            let given = spec.system.iter().find(|(given, _)| *given == size);
            memory.limit(size, given.map_or(0, |(_, pages)| *pages));
        }
        machine
    }

    /// What policy may know.
    #[must_use]
    pub fn topology(&self) -> Topology {
        Topology {
            nodes: self.nodes,
            local: NodeId::ZERO,
            sizes: Sizes::new(self.stocks.iter().map(StockLock::size)),
            transparent: self.transparent,
            dma_zone: AddressBits::new(24).expect("legal"),
        }
    }

    /// The stock of this size.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn stock_of(&self, size: HugeSize) -> &StockLock {
        self.stocks
            .iter()
            .find(|stock| stock.size() == size)
            .expect("a size with a pool")
    }

    /// A new owner, perhaps with an account of its own for pages of one size: at most `max` of them, at least `min`.
    ///
    /// # Errors
    /// Those of [`Ledger::open_account`].
    pub fn owner(&self, limits: Option<(HugeSize, Option<u64>, u64)>) -> Result<Owner, Error> {
        let account = match limits {
            None => None,
            Some((size, max, min)) => {
                let min = PageCount::new(min);
                let id = self.on_host(|host| {
                    with_stock(host, &self.attempt(size), |stock| {
                        stock
                            .ledger_mut()
                            .open_account(max.map(PageCount::new), min, Reach::ANY)
                    })
                })?;
                let mut accounts = lock(&self.accounts);
                accounts.push((size, id));
                Some((size, AccountKey(accounts.len() - 1)))
            }
        };
        let number = self.owners.fetch_add(1, Ordering::Relaxed);
        Ok(Owner {
            number: u8::try_from(number).expect("few owners"),
            account,
        })
    }

    /// Closes an owner's account.
    ///
    /// # Errors
    /// Those of [`Ledger::close_account`].
    pub fn close(&self, owner: Owner) -> Result<(), Error> {
        self.empty_magazines(Some(owner));
        match owner.account {
            None => Ok(()),
            Some((size, key)) => {
                let (_, id) = lock(&self.accounts)[key.0];
                self.stock_of(size)
                    .with(|stock| stock.ledger_mut().close_account(id))?;
                self.on_host(|host| shed(host, &self.attempt(size)));
                Ok(())
            }
        }
    }

    /// Forgets the accounts that are closed: what they were is no fact of the machine.
    pub fn forget_closed_accounts(&self) {
        let mut accounts = lock(&self.accounts);
        accounts.retain(|(size, id)| {
            self.stock_of(*size)
                .with(|stock| stock.ledger().usage(*id).is_ok())
        });
    }

    pub(super) fn account(&self, owner: Owner, size: HugeSize) -> AccountId {
        match owner.account {
            Some((of, key)) if of == size => lock(&self.accounts)[key.0].1,
            _ => AccountId::ROOT,
        }
    }

    pub(super) fn pool_for(&self, attempt: &Attempt) -> Option<&StockLock> {
        match attempt.rung {
            Rung::Pool | Rung::System => self
                .stocks
                .iter()
                .find(|stock| stock.size() == attempt.size),
            Rung::Transparent | Rung::Base => None,
        }
    }

    /// How often mappings were revoked.
    pub fn unmapped(&self) -> u64 {
        self.unmapped.load(Ordering::Relaxed)
    }

    /// Another program takes a base page.
    pub fn occupy(&self, pfn: Pfn) {
        lock(&self.memory).occupy(pfn);
    }

    /// From now on the system has so many pages of this size, and no more.
    pub fn limit(&self, size: HugeSize, pages: u64) {
        lock(&self.memory).limit(size, pages);
    }

    /// A donor hands over pages that it got from the system itself.
    ///
    /// # Panics
    /// If the system has none.
    pub fn donate(&self, size: HugeSize, pages: u64) {
        for _ in 0..pages {
            let at = Where {
                nodes: self.nodes,
                prefer: self.nodes,
                last_address: u64::MAX,
            };
            let (pfn, _) = lock(&self.memory)
                .allocate(size, at)
                .expect("a page to donate");
            lock(&self.donated).push(Frame::new(pfn, size).expect("aligned"));
        }
    }

    /// One page from the system, within the attempt's reach.
    pub(super) fn system_page(
        &self,
        attempt: &Attempt,
        prefer: NodeMask,
    ) -> Result<(Frame, Condition), Error> {
        if self.faults.hit(Call::Page) {
            return Err(Error::OutOfPages);
        }
        let (pfn, condition) = lock(&self.memory)
            .allocate(attempt.size, within(attempt.reach, prefer))
            .ok_or(Error::OutOfPages)?;
        Ok((Frame::new(pfn, attempt.size)?, condition))
    }

    /// Brings a page of the system into the attempt's pool.
    pub(super) fn bring(
        &self,
        attempt: &Attempt,
        prefer: NodeMask,
        supply: Supply,
    ) -> Result<(), Error> {
        let (frame, condition) = self.system_page(attempt, prefer)?;
        self.add(attempt, frame, condition, supply)
    }

    pub(super) fn add(
        &self,
        attempt: &Attempt,
        mut frame: Frame,
        condition: Condition,
        supply: Supply,
    ) -> Result<(), Error> {
        let stock = self.stock_of(attempt.size);
        let class = self.class_of(&frame);
        let error = loop {
            match stock.with(|stock| stock.add(frame, class, condition, supply)) {
                Ok(()) => return Ok(()),
                Err((back, Stop::Metadata { table, words })) => {
                    frame = back;
                    if self.faults.hit(Call::Words) {
                        break Error::OutOfMetadata;
                    }
                    let bigger = vec![0; words];
                    drop(stock.with(|stock| stock.adopt(table, bigger)));
                }
                Err((back, Stop::Fail(error))) => {
                    frame = back;
                    break error;
                }
                Err((_, Stop::Wait(what))) => panic!("a stock does not wait: {what:?}"),
            }
        };
        lock(&self.memory).free(frame.into_pfn(), attempt.size);
        Err(error)
    }

    pub(super) fn class_of(&self, frame: &Frame) -> Class {
        let on = lock(&self.memory).node_of(frame.pfn());
        Class::of(frame.pfn(), frame.size(), on)
    }

    /// An attempt for work on a pool that no request asked for.
    pub(super) fn attempt(&self, size: HugeSize) -> Attempt {
        Attempt {
            rung: Rung::Pool,
            size,
            reach: Reach::ANY,
            gfp: Gfp::HIGHUSER,
        }
    }

    /// Runs `f` inside the gate, on behalf of nobody in particular.
    pub(super) fn on_host<T>(&self, f: impl FnOnce(&SimHost<'_>) -> T) -> T {
        f(&SimHost::new(self, Owner::FIRST))
    }
}

/// The frames of a reach.
pub(super) fn within(reach: Reach, prefer: NodeMask) -> Where {
    let bits = AddressBits::new(u32::from(reach.level().bits())).unwrap_or(AddressBits::ALL);
    Where {
        nodes: reach.nodes(),
        prefer,
        last_address: bits.last_address(),
    }
}

/// Node number `number`.
///
/// # Panics
/// Above 63.
#[must_use]
pub fn node(number: u32) -> NodeId {
    NodeId::new(number).expect("a node below 64")
}

/// Tables so small that every test makes them grow.
fn empty_stock(size: HugeSize, nodes: u32) -> Stock<Vec<u64>> {
    let tables = Tables {
        nodes: u8::try_from(nodes).expect("few nodes"),
        kinds: 1,
        accounts: 1,
    };
    let ledger = Ledger::new(vec![0; tables.words()], tables).expect("legal tables");
    let pool = Pool::new(size, vec![0; Pool::<Vec<u64>>::words(1)]).expect("legal tables");
    Stock::new(ledger, pool)
}

/// Slots that the machine can look at while a buffer has them.
pub type Slots = Arc<[AtomicU64]>;
