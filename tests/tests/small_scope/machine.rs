// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A machine that fits in a few kilobytes: two nodes, two address levels, and one page of each class.
//!
//! Nothing of it lies outside it, so a copy of its bytes is a copy of the machine ([`Machine::copy`]): that is how a state is
//! left in many directions.

use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU64;

use htlb_core::driver::with_stock;
use htlb_core::ledger::{AccountId, Ledger, Tables};
use htlb_core::pool::Pool;
use htlb_core::{
    policy, AddressBits, Attempt, Buffer, ByteLen, Class, Condition, Exclusive, Frame, HugeSize,
    NodeId, NodeMask, NodePolicy, PageCount, Pfn, Placement, Reach, Request, Sizes, Stock, Supply,
    Topology,
};

use crate::host::View;

/// The page size.
pub(crate) const SIZE: HugeSize = HugeSize::MIB2;
/// Its bytes.
pub(crate) const PAGE: u64 = SIZE.bytes();
/// Pages of the machine.
pub(crate) const PAGES: usize = 4;
/// Buffers.
pub(crate) const BUFFERS: usize = 2;
/// Pages of a buffer at most; it is made with one less.
pub(crate) const BUFFER_PAGES: usize = 3;
/// The limit that the account has at first.
pub(crate) const MAX: u64 = 3;

/// Enough for tables of four kinds and eight accounts, and for four chunks.
const WORDS: usize = 640;

/// Memory for tables.
#[derive(Debug)]
pub(crate) struct Words([u64; WORDS]);

impl Words {
    /// Zeroes, where `words` fit.
    pub(crate) fn zeroed(words: usize) -> Self {
        assert!(words <= WORDS, "{words} words of tables");
        Self([0; WORDS])
    }
}

impl AsRef<[u64]> for Words {
    fn as_ref(&self) -> &[u64] {
        &self.0
    }
}

impl AsMut<[u64]> for Words {
    fn as_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

/// Memory for slots.
#[derive(Debug, Default)]
pub(crate) struct Slots([AtomicU64; BUFFER_PAGES]);

impl AsRef<[AtomicU64]> for Slots {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}

/// The lock of a machine that has one thread.
#[derive(Debug)]
pub(crate) struct Lock(RefCell<Stock<Words>>);

impl Exclusive<Stock<Words>> for Lock {
    fn with<R>(&self, f: impl FnOnce(&mut Stock<Words>) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) stock: Lock,
    pub(crate) buffers: [Option<Buffer<Slots>>; BUFFERS],
    /// Pages that the system has, one bit each.
    pub(crate) system: Cell<u8>,
    /// Pays for the pages of the first buffer.
    pub(crate) account: AccountId,
    /// Calls of the host in this operation, and which of them fails.
    pub(crate) calls: Cell<u8>,
    pub(crate) failing: Cell<Option<u8>>,
}

/// What a buffer asks for: the first one pages of node 0, the second pages below 4 GiB. One page is both.
pub(crate) fn placement(buffer: usize) -> Placement {
    let request = Request::builder(ByteLen::new((BUFFER_PAGES as u64 - 1) * PAGE))
        .page_size(SIZE)
        .strict();
    let request = match buffer {
        0 => request.nodes(NodePolicy::Bind(NodeId::ZERO.mask())),
        _ => request.dma_mask(AddressBits::new(32).expect("a legal mask")),
    };
    let topology = Topology {
        nodes: NodeMask::from_bits(0b11),
        local: NodeId::ZERO,
        sizes: Sizes::new([SIZE]),
        transparent: None,
        dma_zone: AddressBits::new(24).expect("a legal mask"),
    };
    let request = request.build().expect("a legal request");
    policy::resolve(&request, &topology).expect("a machine with such pages")
}

/// The frame of a page: page 0 and 1 lie on node 0, below and above 4 GiB; 2 and 3 on node 1.
pub(crate) fn pfn(page: usize) -> Pfn {
    Pfn::new([3 << 18, 16 << 18, 2 << 18, 17 << 18][page])
}

/// The page of a frame.
pub(crate) fn page_of(frame: Pfn) -> usize {
    let page = (0..PAGES).find(|page| pfn(*page) == frame);
    page.expect("a page of this machine")
}

/// The class of a page: no two have the same.
pub(crate) fn class(page: usize) -> Class {
    let node = NodeId::new(u32::from(page >= 2)).expect("a node");
    Class::of(pfn(page), SIZE, node)
}

impl Machine {
    /// Two pages in the pool, the clean low one of node 0 and the low one of node 1, and tables that must grow.
    pub(crate) fn new() -> Self {
        let tables = Tables {
            nodes: 2,
            kinds: 1,
            accounts: 2,
        };
        let ledger = Ledger::new(Words::zeroed(tables.words()), tables).expect("legal tables");
        let words = Pool::<Words>::words(PAGES as u32);
        let pool = Pool::new(SIZE, Words::zeroed(words)).expect("legal tables");
        let mut machine = Self {
            stock: Lock(RefCell::new(Stock::new(ledger, pool))),
            buffers: [None, None],
            system: Cell::new((1 << PAGES) - 1),
            account: AccountId::ROOT,
            calls: Cell::new(0),
            failing: Cell::new(None),
        };
        let opened = machine.stock.with(|stock| {
            let max = Some(PageCount::new(MAX));
            stock
                .ledger_mut()
                .open_account(max, PageCount::ZERO, Reach::ANY)
        });
        machine.account = opened.expect("place for one account");
        for page in [0, 2] {
            machine
                .bring(page, Condition::Clean, Supply::Persistent)
                .expect("it is free");
        }
        machine
    }

    /// The same machine once more.
    pub(crate) fn copy(&self) -> Self {
        const { assert!(!std::mem::needs_drop::<Machine>()) };
        // SAFETY: the pointer comes from a reference, so it is aligned and valid for reads, and what it points to is a valid
        // `Machine`. Nothing of a `Machine` is a pointer or reference to memory, and dropping one does nothing (asserted
        // above), so no resource has two owners. All of its types are safe code's, which cannot be harmed by a
        // value that occurs twice. `Machine` is not `Sync`, so nobody writes the cells and atomics meanwhile.
        unsafe { std::ptr::read(self) }
    }

    /// The host as a buffer sees it.
    pub(crate) fn view(&self, buffer: usize) -> View<'_> {
        View {
            machine: self,
            buffer,
        }
    }

    /// Whether the next call of the host fails.
    pub(crate) fn fails(&self) -> bool {
        let call = self.calls.get();
        self.calls.set(call + 1);
        self.failing.get() == Some(call)
    }

    /// A page of the system's within a reach, on the preferred nodes if possible.
    pub(crate) fn pick(&self, reach: Reach, prefer: NodeMask) -> Option<usize> {
        let there = |page: &usize| self.system.get() & 1 << page != 0 && reach.covers(class(*page));
        let near = |page: &usize| there(page) && prefer.contains(class(*page).node);
        (0..PAGES).find(near).or_else(|| (0..PAGES).find(there))
    }

    /// The system gives a page away.
    pub(crate) fn give(&self, page: usize) -> Frame {
        self.system.set(self.system.get() & !(1 << page));
        Frame::new(pfn(page), SIZE).expect("aligned")
    }

    /// The system gets a page back.
    pub(crate) fn get_back(&self, frame: Frame) {
        let bit = 1 << page_of(frame.into_pfn());
        assert_eq!(self.system.get() & bit, 0, "a page came back twice");
        self.system.set(self.system.get() | bit);
    }

    /// Brings a page of the system into the pool.
    pub(crate) fn bring(
        &self,
        page: usize,
        condition: Condition,
        supply: Supply,
    ) -> Result<(), htlb_core::Error> {
        let mut frame = Some(self.give(page));
        let added = with_stock(&self.view(0), &attempt(), |stock| {
            let given = frame.take().expect("it came back");
            stock
                .add(given, class(page), condition, supply)
                .map_err(|(back, stop)| {
                    frame = Some(back);
                    stop
                })
        });
        if let Some(frame) = frame {
            self.get_back(frame);
        }
        added
    }
}

/// The attempt of work that no request asked for.
pub(crate) fn attempt() -> Attempt {
    let mut any = *placement(0).attempts().next().expect("a rung");
    any.reach = Reach::ANY;
    any
}
