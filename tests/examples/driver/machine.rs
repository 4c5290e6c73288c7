// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A made-up machine for the driver: 2 MiB pages of memory at physical addresses, and no page tables.
//!
//! In a kernel this is the module's business, and the driver sees only buffers.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use htlb_core::driver::{self, Commitment, Content};
use htlb_core::ledger::{AccountId, Counts, Ledger, Tables};
use htlb_core::page_map::PageMap;
use htlb_core::pool::{Pool, Run};
use htlb_core::{
    policy, AddressBits, Attempt, Blank, Buffer, ByteRange, Charge, Class, Condition, Error, Frame,
    Host, HugeSize, NodeId, NodeMask, PageCount, PageIndex, Pfn, Reclaim, Request, Sizes, Stock,
    Stop, Supply, Topology, WaitFor,
};

/// The only page size.
pub(crate) const PAGE: HugeSize = HugeSize::MIB2;
const GIB: u64 = 1 << 30;

/// Four free pages below 4 GiB, and four above, with somebody's old data in them.
pub(crate) struct Machine {
    memory: BTreeMap<u64, Mutex<Vec<u8>>>,
    stock: Mutex<Stock<Vec<u64>>>,
}

impl Machine {
    /// Eight pages, full of what somebody left there.
    pub(crate) fn boot() -> Result<Self, Stop> {
        let tables = Tables {
            nodes: 1,
            kinds: 4,
            accounts: 1,
        };
        let ledger = Ledger::new(vec![0; tables.words()], tables)?;
        let pool = Pool::new(PAGE, vec![0; Pool::<Vec<u64>>::words(2)])?;
        let (mut stock, mut memory) = (Stock::new(ledger, pool), BTreeMap::new());
        for address in [GIB, 8 * GIB] {
            for page in 0..4 {
                let pfn = Pfn::new((address >> HugeSize::BASE.shift()) + page * PAGE.base_pages());
                let class = Class::of(pfn, PAGE, NodeId::ZERO);
                let frame = Frame::new(pfn, PAGE)?;
                stock
                    .add(frame, class, Condition::Dirty, Supply::Persistent)
                    .map_err(|(_, stop)| stop)?;
                memory.insert(pfn.raw(), Mutex::new(vec![0xAA; PAGE.bytes() as usize]));
            }
        }
        let stock = Mutex::new(stock);
        Ok(Self { memory, stock })
    }

    /// What the processor and the bus see.
    pub(crate) fn with_page<T>(
        &self,
        pfn: Pfn,
        f: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, Error> {
        let page = self.memory.get(&pfn.raw()).ok_or(Error::FrameInvalid)?;
        Ok(f(&mut page.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// A buffer whose pages are all promised.
    pub(crate) fn buffer(&self, request: &Request) -> Result<Buffer<Vec<AtomicU64>>, Error> {
        let topology = Topology {
            nodes: NodeId::ZERO.mask(),
            local: NodeId::ZERO,
            sizes: Sizes::new([PAGE]),
            transparent: None,
            dma_zone: AddressBits::new(24)?,
        };
        let placement = policy::resolve(request, &topology)?;
        let promised = Commitment::Promised;
        driver::create(
            self,
            &placement,
            promised,
            request.size(),
            &mut Content::Zeroes,
        )
    }

    /// How many pages there are for whom, if the books are in order.
    pub(crate) fn counts(&self) -> Option<Counts> {
        let stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        stock.check().is_ok().then(|| stock.counts())
    }
}

impl Host for Machine {
    type Words = Vec<u64>;
    type Slots = Vec<AtomicU64>;
    type Run = Run;
    type Lock = Mutex<Stock<Vec<u64>>>;

    fn stock(&self, attempt: &Attempt) -> Option<&Self::Lock> {
        (attempt.size == PAGE).then_some(&self.stock)
    }
    fn account(&self, _: &Attempt) -> AccountId {
        AccountId::ROOT
    }
    fn words(&self, words: usize) -> Result<Vec<u64>, Error> {
        Ok(vec![0; words])
    }
    fn slots(&self, slots: usize) -> Result<Vec<AtomicU64>, Error> {
        Ok((0..slots).map(|_| AtomicU64::new(0)).collect())
    }
    fn supply(&self, _: &Attempt, _: NodeMask, _: PageCount) -> Result<PageCount, Error> {
        Ok(PageCount::ZERO)
    }
    fn page(&self, _: &Attempt, _: NodeMask) -> Result<(Frame, Condition), Error> {
        Err(Error::OutOfPages)
    }
    fn take_run(
        &self,
        stock: &mut Stock<Vec<u64>>,
        charge: Charge,
        pages: PageCount,
        align: u64,
    ) -> Result<(Run, Condition), Stop> {
        let run = stock.take_run(charge, pages, align >> HugeSize::BASE.shift())?;
        Ok((run, Condition::Dirty))
    }
    fn clear(&self, page: &Blank, from: u64) -> Result<(), Error> {
        self.with_page(page.pfn, |bytes| bytes[from as usize..].fill(0))
    }
    fn unmap(&self, _: ByteRange) {}
    fn reclaim(&self, frame: Frame, _: &Attempt, _: Charge) -> Reclaim {
        Reclaim::Free(frame)
    }
    fn free(&self, frame: Frame, _: &Attempt) {
        let _ = frame.into_pfn();
    }
    /// One thread never has to wait.
    fn wait(
        &self,
        _: &PageMap<Vec<AtomicU64>>,
        _: WaitFor,
        _: Option<PageIndex>,
    ) -> Result<(), Error> {
        Err(Error::WouldDeadlock)
    }
    fn wake(&self, _: &PageMap<Vec<AtomicU64>>, _: WaitFor) {}
}
