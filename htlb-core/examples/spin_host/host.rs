// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A monitor's memory for its guests: no std, no allocator, no operating system's locks.
//!
//! The stretch of memory that was set aside at boot is cut into 2 MiB pages. Tables and slots are arrays, so their
//! sizes are fixed, and a guest that would need larger ones is refused like one for which no page is left.

use core::sync::atomic::AtomicU64;

use htlb_core::driver::{self, Commitment, Content};
use htlb_core::ledger::{AccountId, Ledger, Tables};
use htlb_core::page_map::PageMap;
use htlb_core::pool::{Pool, Run};
use htlb_core::{
    policy, AddressBits, Attempt, Blank, Buffer, ByteLen, ByteRange, Charge, Class, Condition,
    Error, Frame, Host, HugeSize, NodeId, NodeMask, PageCount, PageIndex, Pfn, Reclaim, Request,
    Sizes, Stock, Stop, Supply, Topology, WaitFor,
};
use spin::mutex::SpinMutex;

/// The pages that guests get.
const PAGE: HugeSize = HugeSize::MIB2;
/// The most pages of one guest: 128 MiB.
const GUEST_PAGES: usize = 64;
/// Room for a ledger of one node with four different reaches.
const LEDGER: Tables = Tables {
    nodes: 1,
    kinds: 4,
    accounts: 1,
};
/// Words for each table: enough for that ledger, and for a pool with pages in four places of 1 GiB each.
const WORDS: usize = 256;

/// The memory of one guest, or of one of its devices.
pub(crate) type Memory = Buffer<Slots>;

/// A guest's slots, in place.
#[derive(Debug)]
pub(crate) struct Slots {
    cells: [AtomicU64; GUEST_PAGES],
    used: usize,
}

impl AsRef<[AtomicU64]> for Slots {
    fn as_ref(&self) -> &[AtomicU64] {
        self.cells.get(..self.used).unwrap_or(&[])
    }
}

/// The machine's memory for guests.
pub(crate) struct Monitor {
    stock: SpinMutex<Stock<[u64; WORDS]>>,
    topology: Topology,
}

impl Monitor {
    /// Takes over `pages` pages from `first` on, which nobody else uses.
    ///
    /// # Errors
    /// [`Error::FrameUnaligned`], or [`Error::OutOfMetadata`] where the pages lie in more places than the tables have.
    pub(crate) fn new(first: Pfn, pages: u64) -> Result<Self, Error> {
        let ledger = Ledger::new([0; WORDS], LEDGER)?;
        let mut stock = Stock::new(ledger, Pool::new(PAGE, [0; WORDS])?);
        for page in 0..pages {
            let pfn = first
                .checked_add(page << PAGE.order())
                .ok_or(Error::FrameUnaligned)?;
            let class = Class::of(pfn, PAGE, NodeId::ZERO);
            let frame = Frame::new(pfn, PAGE)?;
            stock
                .add(frame, class, Condition::Dirty, Supply::Persistent)
                .map_err(|(_, stop)| match stop {
                    Stop::Fail(error) => error,
                    _ => Error::OutOfMetadata,
                })?;
        }
        Ok(Self {
            stock: SpinMutex::new(stock),
            topology: Topology {
                nodes: NodeId::ZERO.mask(),
                local: NodeId::ZERO,
                sizes: Sizes::new([PAGE]),
                transparent: None,
                dma_zone: AddressBits::new(24)?,
            },
        })
    }

    /// Memory for a guest whose devices drive `mask`, all of it promised, none of it touched yet.
    ///
    /// # Errors
    /// [`Error::NoRoom`] where promises that were given before need the pages; [`Error::OutOfMetadata`] for more than
    /// 128 MiB.
    pub(crate) fn admit(&self, size: ByteLen, mask: AddressBits) -> Result<Memory, Error> {
        let request = Request::builder(size).page_size(PAGE).strict();
        let placement = policy::resolve(&request.dma_mask(mask).build()?, &self.topology)?;
        let promised = Commitment::Promised;
        driver::create(self, &placement, promised, size, &mut Content::Zeroes)
    }

    /// The pages that neither a guest nor a promise has.
    pub(crate) fn spare(&self) -> PageCount {
        let counts = self.stock.lock().counts();
        let spare = counts.free.checked_sub(counts.reserved.raw());
        spare.unwrap_or(PageCount::ZERO)
    }

    /// Whether the books are in order.
    pub(crate) fn is_sound(&self) -> bool {
        self.stock.lock().check().is_ok()
    }
}

impl Host for Monitor {
    type Words = [u64; WORDS];
    type Slots = Slots;
    type Run = Run;
    type Lock = SpinMutex<Stock<[u64; WORDS]>>;

    fn stock(&self, attempt: &Attempt) -> Option<&Self::Lock> {
        (attempt.size == PAGE).then_some(&self.stock)
    }

    fn account(&self, _: &Attempt) -> AccountId {
        AccountId::ROOT
    }

    /// There is no more than there was at the start.
    fn words(&self, _: usize) -> Result<Self::Words, Error> {
        Err(Error::OutOfMetadata)
    }

    fn slots(&self, slots: usize) -> Result<Slots, Error> {
        if slots > GUEST_PAGES {
            return Err(Error::OutOfMetadata);
        }
        Ok(Slots {
            cells: [const { AtomicU64::new(0) }; GUEST_PAGES],
            used: slots,
        })
    }

    /// Below a monitor there is no system that has more pages.
    fn supply(&self, _: &Attempt, _: NodeMask, _: PageCount) -> Result<PageCount, Error> {
        Ok(PageCount::ZERO)
    }

    fn page(&self, _: &Attempt, _: NodeMask) -> Result<(Frame, Condition), Error> {
        Err(Error::OutOfPages)
    }

    fn take_run(
        &self,
        stock: &mut Stock<Self::Words>,
        charge: Charge,
        pages: PageCount,
        align: u64,
    ) -> Result<(Run, Condition), Stop> {
        let run = stock.take_run(charge, pages, align >> HugeSize::BASE.shift())?;
        Ok((run, Condition::Dirty))
    }

    /// Where a monitor writes zeroes through its own mapping of the page. This one has no memory behind its frames.
    fn clear(&self, _: &Blank, _: u64) -> Result<(), Error> {
        Ok(())
    }

    /// Where a monitor takes the range out of the second-level page tables and flushes the TLBs.
    fn unmap(&self, _: ByteRange) {}

    /// A guest has no means to hold a page that is out of its page tables.
    fn reclaim(&self, frame: Frame, _: &Attempt, _: Charge) -> Reclaim {
        Reclaim::Free(frame)
    }

    /// Never called: every page is the pool's, and none is surplus.
    fn free(&self, frame: Frame, _: &Attempt) {
        let _ = frame.into_pfn();
    }

    /// Spins: whoever has the slot runs on another processor, and works for microseconds.
    fn wait(
        &self,
        map: &PageMap<Slots>,
        what: WaitFor,
        holding: Option<PageIndex>,
    ) -> Result<(), Error> {
        if let WaitFor::Slot(index) = what {
            // Only for its error: one that waits for itself would spin for ever.
            let _ = map.prepare_wait(index, holding)?;
        }
        core::hint::spin_loop();
        Ok(())
    }

    /// Those who spin look for themselves.
    fn wake(&self, _: &PageMap<Slots>, _: WaitFor) {}
}
