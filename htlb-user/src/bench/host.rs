// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A machine with nothing in it: frames are numbers, clearing and unmapping cost nothing.
//!
//! What is left of the driver loops' time is the core's own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use htlb_core::driver::{self, Commitment, Content};
use htlb_core::ledger::{AccountId, Ledger, Tables};
use htlb_core::page_map::PageMap;
use htlb_core::pool::{Pool, Run};
use htlb_core::{
    policy, Attempt, Blank, Buffer, ByteLen, ByteRange, Charge, Class, Condition, Error, Frame,
    Host, HugeSize, NodeId, NodeMask, PageCount, PageIndex, Pfn, Placement, Reclaim, Request,
    Sizes, Stock, Stop, Supply, Topology, WaitFor,
};

/// The only page size of these machines.
pub const PAGE: HugeSize = HugeSize::MIB2;

/// Metadata that is handed out and not yet returned.
#[derive(Clone, Debug, Default)]
struct Meter(Arc<AtomicUsize>);

/// Memory for tables or slots, weighed as long as it lives.
#[derive(Debug)]
pub struct Weighed<T> {
    memory: Vec<T>,
    meter: Meter,
}

impl<T> Weighed<T> {
    fn new(memory: Vec<T>, meter: &Meter) -> Self {
        meter
            .0
            .fetch_add(std::mem::size_of_val(&memory[..]), Ordering::Relaxed);
        Self {
            memory,
            meter: meter.clone(),
        }
    }
}

impl<T> Drop for Weighed<T> {
    fn drop(&mut self) {
        self.meter
            .0
            .fetch_sub(std::mem::size_of_val(&self.memory[..]), Ordering::Relaxed);
    }
}

impl<T> AsRef<[T]> for Weighed<T> {
    fn as_ref(&self) -> &[T] {
        &self.memory
    }
}

impl<T> AsMut<[T]> for Weighed<T> {
    fn as_mut(&mut self) -> &mut [T] {
        &mut self.memory
    }
}

/// A simulated machine whose pages have no memory behind them.
#[derive(Debug)]
pub struct Quiet {
    stock: Mutex<Stock<Weighed<u64>>>,
    topology: Topology,
    meter: Meter,
}

impl Quiet {
    /// A machine of `pages` pages of 2 MiB, in equal parts on `nodes` nodes, all of them free in one pool.
    ///
    /// # Errors
    /// [`Error::NodeInvalid`] for no node or more than 64; [`Error::FrameUnaligned`] for more than 4 PiB.
    pub fn new(nodes: u8, pages: u64) -> Result<Self, Error> {
        let meter = Meter::default();
        let tables = Tables {
            nodes,
            kinds: 4,
            accounts: 2,
        };
        let words = |words| Weighed::new(vec![0; words], &meter);
        let ledger = Ledger::new(words(tables.words()), tables)?;
        let pool = Pool::new(PAGE, words(Pool::<Vec<u64>>::words(1)))?;
        let online = u64::MAX >> 64u32.saturating_sub(nodes.into());
        let quiet = Self {
            stock: Mutex::new(Stock::new(ledger, pool)),
            topology: Topology {
                nodes: NodeMask::from_bits(online),
                local: NodeId::ZERO,
                sizes: Sizes::new([PAGE]),
                transparent: None,
                dma_zone: htlb_core::AddressBits::new(24)?,
            },
            meter,
        };
        let per_node = pages.div_ceil(nodes.into()).max(1);
        for page in 0..pages {
            let node = NodeId::new(u32::try_from(page / per_node).unwrap_or(u32::MAX))?;
            let pfn = Pfn::new(page << PAGE.order());
            quiet.add(pfn, Class::of(pfn, PAGE, node))?;
        }
        Ok(quiet)
    }

    fn add(&self, pfn: Pfn, class: Class) -> Result<(), Error> {
        let mut frame = Frame::new(pfn, PAGE)?;
        loop {
            let outcome = self
                .locked()
                .add(frame, class, Condition::Dirty, Supply::Persistent);
            match outcome {
                Ok(()) => return Ok(()),
                Err((back, Stop::Metadata { table, words })) => {
                    let bigger = self.words(words)?;
                    drop(self.locked().adopt(table, bigger));
                    frame = back;
                }
                Err((_, Stop::Fail(error))) => return Err(error),
                Err((_, Stop::Wait(_))) => return Err(Error::Closed),
            }
        }
    }

    /// The pages, for measurements below the driver loops.
    pub fn locked(&self) -> std::sync::MutexGuard<'_, Stock<Weighed<u64>>> {
        self.stock
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The bytes of tables and slots that live now.
    #[must_use]
    pub fn metadata(&self) -> usize {
        self.meter.0.load(Ordering::Relaxed)
    }

    /// A buffer of `pages` pages.
    ///
    /// # Errors
    /// As [`driver::create`].
    pub fn buffer(
        &self,
        pages: u64,
        commitment: Commitment,
    ) -> Result<Buffer<Weighed<AtomicU64>>, Error> {
        let size = PAGE.len_of(PageCount::new(pages))?;
        let placement = self.placement(size)?;
        driver::create(self, &placement, commitment, size, &mut Content::Zeroes)
    }

    fn placement(&self, size: ByteLen) -> Result<Placement, Error> {
        let request = Request::builder(size).page_size(PAGE).strict().build()?;
        policy::resolve(&request, &self.topology)
    }
}

impl Host for Quiet {
    type Words = Weighed<u64>;
    type Slots = Weighed<AtomicU64>;
    type Run = Run;
    type Lock = Mutex<Stock<Weighed<u64>>>;

    fn stock(&self, attempt: &Attempt) -> Option<&Self::Lock> {
        (attempt.size == PAGE).then_some(&self.stock)
    }

    fn account(&self, _: &Attempt) -> AccountId {
        AccountId::ROOT
    }

    fn words(&self, words: usize) -> Result<Self::Words, Error> {
        Ok(Weighed::new(vec![0; words], &self.meter))
    }

    fn slots(&self, slots: usize) -> Result<Self::Slots, Error> {
        let slots = std::iter::repeat_with(AtomicU64::default).take(slots);
        Ok(Weighed::new(slots.collect(), &self.meter))
    }

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
        let align = align >> HugeSize::BASE.shift();
        Ok((stock.take_run(charge, pages, align)?, Condition::Dirty))
    }

    fn clear(&self, _: &Blank, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn unmap(&self, _: ByteRange) {}

    fn reclaim(&self, frame: Frame, _: &Attempt, _: Charge) -> Reclaim {
        Reclaim::Free(frame)
    }

    fn free(&self, frame: Frame, _: &Attempt) {
        let _: Pfn = frame.into_pfn();
    }

    /// Nobody else is here, so a wait would never end.
    fn wait(
        &self,
        _: &PageMap<Self::Slots>,
        _: WaitFor,
        _: Option<PageIndex>,
    ) -> Result<(), Error> {
        Err(Error::WouldDeadlock)
    }

    fn wake(&self, _: &PageMap<Self::Slots>, _: WaitFor) {}
}
