// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A host whose locks and queues are loom's: the driver's loops run on it as on any other.

use htlb_core::driver::{self, Commitment, Content, Filled};
use htlb_core::ledger::{AccountId, Ledger, Tables};
use htlb_core::page_map::PageMap;
use htlb_core::pool::{Pool, Run};
use htlb_core::stock::Held;
use htlb_core::sync::{AtomicU64, Ordering};
use htlb_core::{
    policy, AddressBits, Attempt, Blank, Buffer, ByteLen, ByteOffset, ByteRange, Charge, Class,
    Condition, Error, Exclusive, Frame, Host, HugeSize, NodeId, NodeMask, PageCount, PageIndex,
    Pfn, Reclaim, Request, Rung, Sizes, Stock, Stop, Supply, Topology, WaitFor, Waiting,
};
use loom::sync::{Condvar, Mutex};

const PAGE: HugeSize = HugeSize::MIB2;
const TABLES: Tables = Tables {
    nodes: 1,
    kinds: 2,
    accounts: 1,
};

/// What a page holds: something of its last owner, zeroes, or what a producer wrote.
const OLD: u64 = 1;
pub(crate) const ZEROES: u64 = 2;
pub(crate) const WRITTEN: u64 = 3;

pub(crate) type Memory = Buffer<Vec<AtomicU64>>;

/// The lock of the stock.
pub(crate) struct Lock(Mutex<Stock<Vec<u64>>>);

impl Exclusive<Stock<Vec<u64>>> for Lock {
    fn with<R>(&self, f: impl FnOnce(&mut Stock<Vec<u64>>) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }
}

pub(crate) struct Machine {
    stock: Lock,
    /// Pages that the system has, and may give as surplus.
    system: Mutex<Vec<Frame>>,
    contents: Vec<AtomicU64>,
    queue: (Mutex<()>, Condvar),
}

impl Machine {
    /// A pool of so many pages, and a system that has so many more.
    pub(crate) fn new(pool: u64, system: u64) -> Self {
        let ledger = Ledger::new(vec![0; TABLES.words()], TABLES).unwrap();
        let memory = vec![0; Pool::<Vec<u64>>::words(1)];
        let mut stock = Stock::new(ledger, Pool::new(PAGE, memory).unwrap());
        stock.ledger_mut().set_overcommit(PageCount::new(system));
        let machine = Self {
            stock: Lock(Mutex::new(stock)),
            system: Mutex::new((pool..pool + system).map(frame).collect()),
            contents: (0..pool + system).map(|_| AtomicU64::new(OLD)).collect(),
            queue: (Mutex::new(()), Condvar::new()),
        };
        for page in 0..pool {
            machine.add(frame(page), Supply::Persistent).unwrap();
        }
        machine
    }

    fn add(&self, frame: Frame, supply: Supply) -> Result<(), (Frame, Stop)> {
        let class = class();
        self.stock
            .with(|stock| stock.add(frame, class, Condition::Dirty, supply))
    }

    /// Another page for the pool: what an administrator asks for. None where the system has none.
    pub(crate) fn grow(&self) -> bool {
        let frame = self.system.lock().unwrap().pop();
        frame.is_some_and(|frame| self.add(frame, Supply::Persistent).is_ok())
    }

    /// One page less for the pool, if no promise needs it.
    pub(crate) fn shrink(&self) -> Result<(), Stop> {
        let frame = self.stock.with(|stock| stock.shrink(class()))?;
        self.system.lock().unwrap().push(frame);
        Ok(())
    }

    pub(crate) fn buffer(&self, pages: u64, commitment: Commitment) -> Memory {
        let size = bytes(pages);
        let request = Request::builder(size).page_size(PAGE).strict();
        let placement = policy::resolve(&request.build().unwrap(), &topology()).unwrap();
        let placement = placement.only(
            placement
                .attempts()
                .find(|attempt| attempt.rung == Rung::Pool)
                .unwrap(),
        );
        driver::create(self, &placement, commitment, size, &mut Content::Zeroes).unwrap()
    }

    /// Populates one page with zeroes, and says what came of it; the contents are looked at.
    pub(crate) fn populate(&self, buffer: &Memory, page: u64) -> String {
        self.populate_with(buffer, page, &mut Content::Zeroes)
    }

    pub(crate) fn populate_with(
        &self,
        buffer: &Memory,
        page: u64,
        content: &mut Content<'_>,
    ) -> String {
        match driver::populate_page(self, buffer, PageIndex::new(page), content, None) {
            Ok((located, filled)) => {
                let content = self.contents[number(located.pfn)].load(Ordering::Relaxed);
                // Punched and reused since, where the model punches: but that is marked, too.
                assert!(
                    content == ZEROES || content == WRITTEN || filled == Filled::Already,
                    "a page with something of its last owner: {content}"
                );
                format!("{filled:?}")
            }
            Err(error) => format!("{error:?}"),
        }
    }

    pub(crate) fn reserve(&self, buffer: &Memory, first: u64, end: u64) -> String {
        let range = range(first, end);
        match driver::reserve(self, buffer, range) {
            Ok(pages) => format!("promised {pages}"),
            Err(error) => format!("{error:?}"),
        }
    }

    pub(crate) fn punch(&self, buffer: &Memory) -> String {
        let whole = ByteRange::at(ByteOffset::ZERO, buffer.map().size()).unwrap();
        match driver::punch(self, buffer, whole) {
            Ok(gone) => format!("punched {} and {}", gone.pages, gone.promises),
            Err(error) => format!("{error:?}"),
        }
    }

    pub(crate) fn release(&self, mut buffer: Memory) {
        driver::release(self, &mut buffer).unwrap();
    }

    /// Writes, as a producer does.
    pub(crate) fn write(&self, page: &Blank) {
        self.contents[number(page.pfn)].store(WRITTEN, Ordering::Relaxed);
    }

    /// The books against the buffers, at rest; and what they say.
    pub(crate) fn settled(&self, buffers: &[&Memory]) -> String {
        self.stock.with(|stock| {
            let mut held = Held::default();
            for buffer in buffers {
                let one = stock.held_by(buffer, |_| true);
                held.promises += one.promises;
                held.pages += one.pages;
            }
            assert_eq!(stock.audit(held), Ok(()), "{:?}", stock.counts());
            let counts = stock.counts();
            format!(
                "{} pages, {} free, {} reserved, {} surplus",
                counts.nr, counts.free, counts.reserved, counts.surplus
            )
        })
    }

    /// Releases everything: the pool and the system have what they had.
    pub(crate) fn end(&self, buffers: Vec<Memory>, pool: usize, system: usize) {
        for buffer in buffers {
            self.release(buffer);
        }
        let expected = format!("{pool} pages, {pool} free, 0 reserved, 0 surplus");
        assert_eq!(self.settled(&[]), expected);
        assert_eq!(self.system.lock().unwrap().len(), system);
    }
}

impl Host for Machine {
    type Words = Vec<u64>;
    type Slots = Vec<AtomicU64>;
    type Run = Run;
    type Lock = Lock;

    fn stock(&self, attempt: &Attempt) -> Option<&Lock> {
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

    fn supply(&self, _: &Attempt, _: NodeMask, pages: PageCount) -> Result<PageCount, Error> {
        let mut came = 0;
        while came < pages.raw() {
            let Some(frame) = self.system.lock().unwrap().pop() else {
                break;
            };
            if let Err((frame, stop)) = self.add(frame, Supply::Surplus) {
                assert!(
                    matches!(stop, Stop::Fail(Error::OvercommitLimit)),
                    "{stop:?}"
                );
                self.system.lock().unwrap().push(frame);
                break;
            }
            came += 1;
        }
        Ok(PageCount::new(came))
    }

    fn page(&self, _: &Attempt, _: NodeMask) -> Result<(Frame, Condition), Error> {
        Err(Error::OutOfPages)
    }

    fn take_run(
        &self,
        _: &mut Stock<Vec<u64>>,
        _: Charge,
        _: PageCount,
        _: u64,
    ) -> Result<(Run, Condition), Stop> {
        Err(Error::NoContiguousRun.into())
    }

    fn clear(&self, page: &Blank, _: u64) -> Result<(), Error> {
        self.contents[number(page.pfn)].store(ZEROES, Ordering::Relaxed);
        Ok(())
    }

    fn unmap(&self, _: ByteRange) {}

    fn reclaim(&self, frame: Frame, _: &Attempt, _: Charge) -> Reclaim {
        self.contents[number(frame.pfn())].store(OLD, Ordering::Relaxed);
        Reclaim::Free(frame)
    }

    fn free(&self, frame: Frame, _: &Attempt) {
        self.system.lock().unwrap().push(frame);
    }

    fn wait(
        &self,
        map: &PageMap<Vec<AtomicU64>>,
        what: WaitFor,
        holding: Option<PageIndex>,
    ) -> Result<(), Error> {
        let (lock, queue) = &self.queue;
        let held = lock.lock().unwrap();
        let waiting = match what {
            WaitFor::Slot(index) => map.prepare_wait(index, holding)?,
            _ => map.prepare_wait_seal(),
        };
        if waiting == Waiting::Sleep {
            drop(queue.wait(held).unwrap());
        }
        Ok(())
    }

    fn wake(&self, _: &PageMap<Vec<AtomicU64>>, _: WaitFor) {
        let (lock, queue) = &self.queue;
        drop(lock.lock().unwrap());
        queue.notify_all();
    }
}

fn topology() -> Topology {
    Topology {
        nodes: NodeId::ZERO.mask(),
        local: NodeId::ZERO,
        sizes: Sizes::new([PAGE]),
        transparent: None,
        dma_zone: AddressBits::new(24).unwrap(),
    }
}

fn class() -> Class {
    Class::of(Pfn::ZERO, PAGE, NodeId::ZERO)
}

fn frame(number: u64) -> Frame {
    Frame::new(Pfn::new(number << PAGE.order()), PAGE).unwrap()
}

fn number(pfn: Pfn) -> usize {
    (pfn.raw() >> PAGE.order()) as usize
}

fn bytes(pages: u64) -> ByteLen {
    ByteLen::new(pages * PAGE.bytes())
}

fn range(first: u64, end: u64) -> ByteRange {
    let offset = |page| ByteOffset::new(page * PAGE.bytes());
    ByteRange::new(offset(first), offset(end)).unwrap()
}
