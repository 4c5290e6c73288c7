// SPDX-License-Identifier: GPL-2.0-only
//! What all buffers share: a stock for each page size, the gate, the list of buffers, and limbo.
//!
//! Lock order: the gate, then claims on slots, then a buffer's `invalidate_lock` and folio locks, then
//! the list of buffers, then limbo, then the stocks, 1 GiB before 2 MiB. No memory is allocated under the last three, so that
//! a shrinker may take them.

use core::sync::atomic::{AtomicU64, Ordering};

use htlb_core::gate::{Gate, Pass};
use htlb_core::ledger::{Ledger, Tables};
use htlb_core::pool::Pool;
use htlb_core::{
    AddressBits, Attempt, Class, Condition, Error as Reason, Exclusive, Frame, Gfp, HugeSize, Level, NodeMask,
    PageCount, Rung, Sizes, Stock, Stop, Supply, Topology,
};
use kernel::prelude::*;
use kernel::rbtree::{RBTree, RBTreeNodeReservation};
use kernel::sync::{new_mutex, Arc, Mutex};

use crate::accounts::Users;
use crate::buffer::DmaBuffer;
use crate::ffi::page::Page;
use crate::ffi::system;
use crate::import::Donated;
use crate::ffi::wait::{self, Killed, Signals};
use crate::limbo::Limbo;
use crate::memory::Words;

/// The page sizes that have a stock, largest first.
pub(crate) const SIZES: [HugeSize; 2] = [HugeSize::GIB1, HugeSize::MIB2];

/// Room in the first tables; more comes when it is needed.
const FIRST_CHUNKS: u32 = 16;
const FIRST_KINDS: u16 = 8;
const FIRST_ACCOUNTS: u16 = 16;

/// A stock and its lock.
#[pin_data]
pub(crate) struct StockLock {
    #[pin]
    stock: Mutex<Stock<Words>>,
}

impl StockLock {
    /// Runs `f` unless somebody else has the stock: for those who must not wait.
    pub(crate) fn try_with<R>(&self, f: impl FnOnce(&mut Stock<Words>) -> R) -> Option<R> {
        self.stock.try_lock().map(|mut stock| f(&mut stock))
    }
}

impl Exclusive<Stock<Words>> for StockLock {
    fn with<R>(&self, f: impl FnOnce(&mut Stock<Words>) -> R) -> R {
        f(&mut self.stock.lock())
    }
}

/// Room for one buffer in the list of them.
pub(crate) type Place = RBTreeNodeReservation<u64, Arc<DmaBuffer>>;

/// Everything that is not one buffer's.
#[pin_data(PinnedDrop)]
pub(crate) struct Machine {
    #[pin]
    gib1: StockLock,
    #[pin]
    mib2: StockLock,
    gate: Gate,
    #[pin]
    buffers: Mutex<RBTree<u64, Arc<DmaBuffer>>>,
    next_buffer: AtomicU64,
    #[pin]
    limbo: Limbo,
    #[pin]
    users: Users,
    donated: Donated,
}

fn stock(size: HugeSize, nodes: u32) -> Result<Stock<Words>, Reason> {
    // CAST: at most 64 nodes.
    let tables = Tables { nodes: nodes as _, kinds: FIRST_KINDS as _, accounts: FIRST_ACCOUNTS as _ };
    let ledger = Ledger::new(Words::zeroed(tables.words())?, tables)?;
    Ok(Stock::new(ledger, Pool::new(size, Words::zeroed(Pool::<Words>::words(FIRST_CHUNKS))?)?))
}

impl Machine {
    /// A machine with empty pools.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let nodes = system::memory_nodes().iter().last().map_or(1, |node| u32::from(node.raw()) + 1);
        let gib1 = stock(HugeSize::GIB1, nodes).map_err(crate::error::errno)?;
        let mib2 = stock(HugeSize::MIB2, nodes).map_err(crate::error::errno)?;
        // Two places, so that lockdep knows the two locks apart.
        let gib1 = pin_init!(StockLock { stock <- new_mutex!(gib1, "htlb::gib1") });
        let mib2 = pin_init!(StockLock { stock <- new_mutex!(mib2, "htlb::mib2") });
        let machine = Arc::pin_init(
            try_pin_init!(Self {
                gib1 <- gib1,
                mib2 <- mib2,
                gate: Gate::new(),
                buffers <- new_mutex!(RBTree::new(), "htlb::buffers"),
                next_buffer: AtomicU64::new(1),
                limbo <- Limbo::new(),
                users <- Users::new(),
                donated: Donated::new(),
            }),
            GFP_KERNEL,
        )?;
        Ok(machine)
    }

    /// What policy needs to know of this machine.
    pub(crate) fn topology(&self) -> Topology {
        Topology {
            nodes: system::memory_nodes(),
            local: system::local_node(),
            sizes: Sizes::new(SIZES),
            transparent: None,
            dma_zone: AddressBits::new(24).unwrap_or(AddressBits::ALL),
        }
    }

    /// The stock of a page size.
    pub(crate) fn stock(&self, size: HugeSize) -> Option<&StockLock> {
        match size {
            HugeSize::GIB1 => Some(&self.gib1),
            HugeSize::MIB2 => Some(&self.mib2),
            _ => None,
        }
    }

    /// The stock that serves an attempt. Pages that are charged to a memory cgroup never enter one.
    pub(crate) fn stock_of(&self, attempt: &Attempt) -> Option<&StockLock> {
        if attempt.gfp.contains(Gfp::ACCOUNT) || attempt.rung == Rung::Base {
            return None;
        }
        self.stock(attempt.size)
    }

    /// Pages that left their slots but that somebody still holds.
    pub(crate) fn limbo(&self) -> &Limbo {
        &self.limbo
    }

    /// How many pages imports hold.
    pub(crate) fn donated(&self) -> &Donated {
        &self.donated
    }

    /// Who has opened the device.
    pub(crate) fn users(&self) -> &Users {
        &self.users
    }

    /// Keeps the books open for as long as the pass lives; waits while they are being looked at.
    pub(crate) fn enter(&self, signals: Signals) -> Result<Pass, Reason> {
        loop {
            match self.gate.enter() {
                Ok(pass) => return Ok(pass),
                Err(Stop::Wait(_)) => self.until_open(signals)?,
                Err(Stop::Fail(reason)) => return Err(reason),
                Err(Stop::Metadata { .. }) => return Err(Reason::OutOfMetadata),
            }
        }
    }

    /// A pass if the gate is open: for those who must not wait.
    pub(crate) fn try_enter(&self) -> Option<Pass> {
        self.gate.enter().ok()
    }

    /// The key by which one waits for the gate, and what is asked on the queue.
    pub(crate) fn gate_key(&self) -> usize {
        core::ptr::from_ref(&self.gate).addr()
    }

    /// Whether nobody need wait for the gate any more.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.prepare_wait() == htlb_core::Waiting::Retry
    }

    fn until_open(&self, signals: Signals) -> Result<(), Reason> {
        wait::until(self.gate_key(), signals, || self.is_open()).map_err(|Killed| Reason::Interrupted)
    }

    /// Gives a pass back.
    pub(crate) fn leave(&self, pass: Pass) {
        if self.gate.leave(pass).target().is_some() {
            wait::wake(self.gate_key());
        }
    }

    /// Runs `f` while nobody changes a slot or a count.
    pub(crate) fn at_rest<T>(&self, f: impl FnOnce() -> T) -> Result<T, Reason> {
        let closing = loop {
            match self.gate.close() {
                Ok(closing) => break closing,
                Err(Stop::Wait(_)) => self.until_open(Signals::Fatal)?,
                Err(_) => return Err(Reason::Closed),
            }
        };
        let drained = wait::until(self.gate_key(), Signals::Fatal, || {
            self.gate.prepare_wait_drained(&closing) == htlb_core::Waiting::Retry
        });
        let value = drained.map(|()| f());
        if self.gate.reopen(closing).target().is_some() {
            wait::wake(self.gate_key());
        }
        value.map_err(|Killed| Reason::Interrupted)
    }

    /// Notes a buffer, for those who look at all of them; returns its number. Inside the pass in which it got its
    /// promises, or the books would show promises of nobody's.
    pub(crate) fn note(&self, place: Place, buffer: &Arc<DmaBuffer>) -> u64 {
        let id = self.next_buffer.fetch_add(1, Ordering::Relaxed);
        self.buffers.lock().insert(place.into_node(id, buffer.clone()));
        id
    }

    /// Forgets a buffer, inside the pass in which it gives everything back.
    pub(crate) fn forget(&self, id: u64) {
        let gone = self.buffers.lock().remove_node(&id);
        // Freed with no lock held.
        drop(gone);
    }

    /// Calls `f` with every buffer.
    pub(crate) fn each_buffer(&self, mut f: impl FnMut(&DmaBuffer)) {
        for (_, buffer) in self.buffers.lock().iter() {
            f(buffer);
        }
    }

    /// Puts a page that came from the system into a stock; gives it back where that is refused.
    pub(crate) fn add(&self, frame: Frame, supply: Supply) -> Result<(), (Frame, Reason)> {
        let size = frame.size();
        let Some(lock) = self.stock(size) else { return Err((frame, Reason::PageSizeUnsupported)) };
        let Some(page) = Page::owned(frame.pfn(), size) else { return Err((frame, Reason::FrameInvalid)) };
        let class = Class::of(frame.pfn(), size, page.node());
        let mut frame = frame;
        loop {
            match lock.with(|stock| stock.add(frame, class, Condition::Dirty, supply)) {
                Ok(()) => return Ok(()),
                Err((back, Stop::Metadata { table, words })) => {
                    frame = back;
                    match Words::zeroed(words) {
                        Ok(bigger) => drop(lock.with(|stock| stock.adopt(table, bigger))),
                        Err(reason) => return Err((frame, reason)),
                    }
                }
                Err((back, Stop::Fail(reason))) => return Err((back, reason)),
                Err((back, Stop::Wait(_))) => return Err((back, Reason::Closed)),
            }
        }
    }

    /// Takes free pages that no promise needs out of a stock, on these nodes, down to `keep` pages there; says how many went.
    pub(crate) fn shrink(&self, size: HugeSize, nodes: NodeMask, most: PageCount) -> PageCount {
        let mut gone = 0u64;
        let Some(lock) = self.stock(size) else { return PageCount::ZERO };
        // The highest addresses first: the lower a page, the more masks reach it.
        let levels = (0..Level::COUNT).rev().filter_map(Level::from_index);
        for class in levels.flat_map(|level| nodes.iter().map(move |node| Class { node, level })) {
            while gone < most.raw() {
                let Ok(frame) = lock.with(|stock| stock.shrink(class)) else { break };
                self.let_go(frame);
                gone = gone.saturating_add(1);
            }
        }
        PageCount::new(gone)
    }
}

#[pinned_drop]
impl PinnedDrop for Machine {
    fn drop(self: Pin<&mut Self>) {
        // No buffer is left, so no promise is either: everything is free.
        for size in SIZES {
            self.shrink(size, NodeMask::ALL, PageCount::new(u64::MAX));
        }
    }
}
