// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pages of a process: what it has of each kind, and the way to more.

use std::cell::Cell;
use std::sync::{Arc, Mutex, Weak};

use htlb_core::gate::{Gate, Pass};
use htlb_core::ledger::Counts;
use htlb_core::stock::{Held, Violation};
use htlb_core::{
    AddressBits, Charge, Condition, Frame, HugeSize, NodeId, NodeMask, PageCount, Pfn, Returned,
    Sizes, Stop, Supply, Topology,
};

use crate::arena::{Arena, Kin};
use crate::buffer::{BufferBuilder, Live};
use crate::error::Error;
use crate::host::locked;
use crate::owner::Shelf;
use crate::sys::fork::Generation;
use crate::system::{self, Root};
use crate::waiters::Waiters;

/// The huge-page pools of a process.
///
/// Cheap to clone; all clones are the same pools. Pages that buffers gave up stay here, populated, until
/// [`Pools::trim`] or the last clone and buffer are gone. A forked child inherits none of it.
///
/// ```
/// use htlb_user::Pools;
/// let pools = Pools::new()?;
/// let mut buffer = pools.buffer(3 << 20).create()?;
/// buffer.as_mut_slice()?[..5].copy_from_slice(b"hello");
/// assert_eq!(&buffer.as_slice()?[..5], b"hello");
/// println!("{}", buffer.receipt());
/// # Ok::<(), htlb_user::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pools {
    shared: Arc<Shared>,
}

/// What to do with pages that are free again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// They stay, populated, for the next buffer.
    #[default]
    Keep,
    /// They go back to the system at once.
    Return,
}

/// Choices for [`Pools`].
#[derive(Clone, Debug)]
pub struct PoolsBuilder {
    retention: Retention,
    threads: Option<usize>,
    root: Root,
}

impl PoolsBuilder {
    /// What to do with pages that are free again; they stay unless said otherwise.
    #[must_use]
    pub const fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Threads that populate; as many as CPUs are allowed unless said otherwise.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Reads `/sys` and `/proc` below another folder.
    #[must_use]
    pub fn system_root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// The pools, without a page yet.
    ///
    /// # Errors
    /// What `/sys` says that cannot be understood; that there is none is not an error.
    pub fn build(self) -> Result<Pools, Error> {
        let machine = system::topology::read(&self.root)
            .map_err(|error| Error::system("learn the topology", &error))?;
        let sizes = system::pools::sizes(&self.root)
            .map_err(|error| Error::system("learn the page sizes", &error))?;
        let thp = system::thp::read(&self.root).ok().flatten();
        let transparent =
            thp.filter(|thp| thp.anonymous(HugeSize::MIB2) != system::thp::When::Never);
        let disabled = crate::sys::process::thp_disabled().unwrap_or(false);
        let nodes = machine.usable();
        let topology = Topology {
            nodes: if nodes.is_empty() {
                NodeMask::from_bits(1)
            } else {
                nodes
            },
            local: nodes.first().unwrap_or(NodeId::ZERO),
            sizes: Sizes::new(sizes),
            transparent: transparent.filter(|_| !disabled).map(|_| HugeSize::MIB2),
            dma_zone: AddressBits::new(24).unwrap_or(AddressBits::ALL),
        };
        let highest = topology.nodes.iter().last().map_or(0, NodeId::raw) + 1;
        let mut arenas = Vec::new();
        for size in topology.sizes.iter() {
            arenas.push((Kin::Hugetlb, size));
        }
        arenas.push((Kin::Transparent, HugeSize::MIB2));
        arenas.push((Kin::Base, HugeSize::BASE));
        let arenas = arenas
            .into_iter()
            .map(|(kin, size)| Arena::new(kin, size, highest).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::new("make the pools", error))?;
        if self.retention == Retention::Return {
            for arena in &arenas {
                locked(arena.stock())
                    .ledger_mut()
                    .set_overcommit(PageCount::new(u64::MAX >> 16));
            }
        }
        let threads = self.threads.unwrap_or_else(|| {
            crate::sys::numa::allowed_cpus()
                .map_or(1, |cpus| cpus.len())
                .max(1)
        });
        Ok(Pools {
            shared: Arc::new(Shared {
                root: self.root,
                maker: Generation::current(),
                topology,
                highest,
                arenas,
                retention: self.retention,
                threads: threads.max(1),
                gate: Gate::new(),
                waiters: Waiters::new(),
                live: Mutex::default(),
                shelves: Mutex::default(),
                limbo: Mutex::default(),
            }),
        })
    }
}

/// The state of one pool of a process, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolState {
    /// Where its pages come from.
    pub rung: htlb_core::Rung,
    /// Their size.
    pub size: HugeSize,
    /// Pages, free ones, promises and surplus.
    pub counts: Counts,
}

impl Pools {
    /// Pools as this machine allows: every huge-page size, transparent huge pages, base pages.
    ///
    /// # Errors
    /// As [`PoolsBuilder::build`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Choices first.
    #[must_use]
    pub fn builder() -> PoolsBuilder {
        PoolsBuilder {
            retention: Retention::Keep,
            threads: None,
            root: Root::host(),
        }
    }

    /// A buffer of `bytes` bytes: choices first, then [`BufferBuilder::create`].
    #[must_use]
    pub fn buffer(&self, bytes: u64) -> BufferBuilder {
        BufferBuilder::new(Arc::clone(&self.shared), bytes)
    }

    /// What policy knows of this machine.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.shared.topology
    }

    /// Every pool of this process, largest pages first.
    #[must_use]
    pub fn state(&self) -> Vec<PoolState> {
        let state = |arena: &Arc<Arena>| PoolState {
            rung: match arena.kin() {
                Kin::Hugetlb => htlb_core::Rung::Pool,
                Kin::Transparent => htlb_core::Rung::Transparent,
                Kin::Base => htlb_core::Rung::Base,
            },
            size: arena.size(),
            counts: locked(arena.stock()).counts(),
        };
        self.shared.arenas.iter().map(state).collect()
    }

    /// Gives every free page that no promise needs back to the system, those that owners keep included; says how many
    /// bytes that was.
    pub fn trim(&self) -> u64 {
        let _inside = self.shared.enter();
        self.shared.empty_shelves();
        self.shared.sweep_limbo();
        let all = PageCount::new(u64::MAX);
        self.shared
            .arenas
            .iter()
            .map(|arena| arena.trim(all).raw() * arena.size().bytes())
            .sum()
    }

    /// Compares every count with what buffers really hold, while nothing moves.
    ///
    /// # Errors
    /// The first rule of the core's that is broken, which is a bug of this library.
    pub fn check(&self) -> Result<(), Violation> {
        self.shared.check()
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// What all clones of [`Pools`] and all buffers share.
#[derive(Debug)]
pub(crate) struct Shared {
    root: Root,
    /// The process that made it.
    maker: Generation,
    topology: Topology,
    highest: u8,
    arenas: Vec<Arc<Arena>>,
    retention: Retention,
    threads: usize,
    gate: Gate,
    waiters: Waiters,
    /// Every buffer, for [`Pools::check`].
    live: Mutex<Registry>,
    shelves: Mutex<Vec<Weak<Shelf>>>,
    /// Pages that left their slot while somebody could still read them.
    limbo: Mutex<Vec<Limbo>>,
}

#[derive(Debug, Default)]
struct Registry {
    all: Vec<Option<Weak<Live>>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Limbo {
    arena: Arc<Arena>,
    pfn: Pfn,
    charge: Charge,
}

thread_local! {
    /// How deep this thread is inside: a producer may call the buffer that it fills.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// The right of a thread to change slots and stocks.
pub(crate) struct Inside<'a> {
    shared: &'a Shared,
    pass: Option<Pass>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
        if let Some(pass) = self.pass.take() {
            // Whoever waits for the gate looks again by itself.
            let _ = self.shared.gate.leave(pass);
        }
    }
}

impl Shared {
    pub(crate) const fn root(&self) -> &Root {
        &self.root
    }

    pub(crate) const fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) const fn nodes(&self) -> u8 {
        self.highest
    }

    pub(crate) const fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) const fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Whether new pages stay when they are free again.
    pub(crate) const fn supply(&self) -> Supply {
        match self.retention {
            Retention::Keep => Supply::Persistent,
            Retention::Return => Supply::Surplus,
        }
    }

    pub(crate) fn arena(&self, kin: Kin, size: HugeSize) -> Option<&Arc<Arena>> {
        self.arenas
            .iter()
            .find(|arena| arena.kin() == kin && arena.size() == size)
    }

    /// The arena that holds a page: the buffer's own, or one of the pools'.
    pub(crate) fn arena_of<'a>(
        &'a self,
        pfn: Pfn,
        own: Option<&'a Arc<Arena>>,
    ) -> Option<&'a Arc<Arena>> {
        own.into_iter()
            .chain(&self.arenas)
            .find(|arena| arena.holds(pfn))
    }

    /// The topology, as if the machine had pages of `size`: for memory that is there already.
    pub(crate) fn topology_with(&self, size: HugeSize) -> Topology {
        let mut topology = self.topology;
        topology.sizes = Sizes::new(topology.sizes.iter().chain([size]));
        topology
    }

    /// Whether this process made the pools; a forked child did not.
    pub(crate) fn is_mine(&self) -> bool {
        self.maker == Generation::current()
    }

    /// Lets the calling thread in; waits while an inspection is under way.
    pub(crate) fn enter(&self) -> Inside<'_> {
        let outermost = DEPTH.with(|depth| depth.replace(depth.get() + 1) == 0);
        let mut pass = None;
        while outermost && pass.is_none() {
            match self.gate.enter() {
                Ok(entered) => pass = Some(entered),
                Err(_) => std::thread::yield_now(),
            }
        }
        Inside { shared: self, pass }
    }

    /// Marks a worker of a thread that is inside.
    pub(crate) fn enter_as_worker(&self) -> Inside<'_> {
        DEPTH.with(|depth| depth.set(depth.get() + 1));
        Inside {
            shared: self,
            pass: None,
        }
    }

    /// Does what the stock said of a page that came back.
    pub(crate) fn settle(&self, arena: &Arena, returned: Returned) {
        if let Returned::Leaves(frame) = returned {
            arena.free(frame);
        }
    }

    pub(crate) fn limbo(&self, arena: &Arc<Arena>, frame: Frame, charge: Charge) {
        let pfn = frame.into_pfn();
        locked(&self.limbo).push(Limbo {
            arena: Arc::clone(arena),
            pfn,
            charge,
        });
    }

    fn sweep_limbo(&self) {
        locked(&self.limbo).retain(|page| {
            let size = page.arena.size();
            // A lease says that nobody else has one.
            if page
                .arena
                .lease(page.pfn, htlb_core::ByteLen::new(size.bytes()))
                .is_err()
            {
                return true;
            }
            if let Ok(frame) = Frame::new(page.pfn, size) {
                let returned = locked(page.arena.stock()).put(frame, page.charge, Condition::Dirty);
                self.settle(&page.arena, returned);
            }
            false
        });
    }

    pub(crate) fn register(&self, live: &Arc<Live>) -> usize {
        let mut registry = locked(&self.live);
        let weak = Some(Arc::downgrade(live));
        if let Some(place) = registry.free.pop() {
            if let Some(entry) = registry.all.get_mut(place) {
                *entry = weak;
            }
            return place;
        }
        registry.all.push(weak);
        registry.all.len() - 1
    }

    pub(crate) fn unregister(&self, place: usize) {
        let mut registry = locked(&self.live);
        if let Some(entry) = registry.all.get_mut(place) {
            *entry = None;
            registry.free.push(place);
        }
    }

    pub(crate) fn register_shelf(&self, shelf: &Arc<Shelf>) {
        let mut shelves = locked(&self.shelves);
        shelves.retain(|shelf| shelf.strong_count() > 0);
        shelves.push(Arc::downgrade(shelf));
    }

    /// Takes back what owners keep.
    pub(crate) fn empty_shelves(&self) -> usize {
        let shelves: Vec<_> = locked(&self.shelves)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        shelves.iter().map(|shelf| shelf.empty()).sum()
    }

    fn check(&self) -> Result<(), Violation> {
        let closing = loop {
            match self.gate.close() {
                Ok(closing) => break closing,
                // Another inspection, or one that this thread is inside of.
                Err(Stop::Wait(_) | Stop::Metadata { .. } | Stop::Fail(_)) => {
                    std::thread::yield_now()
                }
            }
        };
        while !self.gate.is_drained(&closing) {
            std::thread::yield_now();
        }
        let outcome = self.audit();
        let _ = self.gate.reopen(closing);
        outcome
    }

    fn audit(&self) -> Result<(), Violation> {
        let live: Vec<Arc<Live>> = locked(&self.live)
            .all
            .iter()
            .flatten()
            .filter_map(Weak::upgrade)
            .collect();
        for arena in &self.arenas {
            let stock = locked(arena.stock());
            let mut held = Held::default();
            for buffer in &live {
                let own = buffer.held(arena, &stock);
                held.promises += own.promises;
                held.pages += own.pages;
            }
            held.pages += locked(&self.limbo)
                .iter()
                .filter(|page| Arc::ptr_eq(&page.arena, arena))
                .count() as u64;
            stock.audit(held)?;
        }
        live.iter().try_for_each(|buffer| buffer.check_own())
    }
}
