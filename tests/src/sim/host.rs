// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The machine as one buffer sees it during one call.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use htlb_core::gate::Pass;
use htlb_core::host::Contents;
use htlb_core::ledger::AccountId;
use htlb_core::page_map::PageMap;
use htlb_core::pool::Run;
use htlb_core::{
    Attempt, Blank, ByteRange, Charge, Condition, Error, Frame, Host, NodeMask, PageCount,
    PageIndex, Reclaim, Rung, Stock, Stop, Supply, WaitFor, Waiting,
};

use super::faults::{Call, Point};
use super::kept::InLimbo;
use super::lock::{held, StockLock};
use super::machine::{lock, within, Owner, SimMachine, Slots};

thread_local! {
    /// The pages that this thread is filling: the address of the map, and the slot.
    static FILLING: RefCell<Vec<(usize, PageIndex)>> = const { RefCell::new(Vec::new()) };
}

/// Runs a producer for the page at `index` of `map`, so that the thread does not wait for itself.
pub fn filling<T>(map: usize, index: PageIndex, f: impl FnOnce() -> T) -> T {
    struct Done;
    impl Drop for Done {
        fn drop(&mut self) {
            FILLING.with_borrow_mut(Vec::pop);
        }
    }
    FILLING.with_borrow_mut(|pages| pages.push((map, index)));
    let _done = Done;
    f()
}

/// Whether this thread is inside a producer, and so inside the gate.
pub fn is_filling() -> bool {
    FILLING.with_borrow(|pages| !pages.is_empty())
}

/// One call's view of the machine; inside the gate from its making to its end.
#[derive(Debug)]
pub struct SimHost<'m> {
    /// The machine.
    pub machine: &'m SimMachine,
    owner: Owner,
    donated: bool,
    pass: RefCell<Option<Pass>>,
    pub(super) slots: RefCell<Option<Slots>>,
}

impl<'m> SimHost<'m> {
    /// Enters the gate.
    #[must_use]
    pub fn new(machine: &'m SimMachine, owner: Owner) -> Self {
        // Passes do not nest: a producer has its caller's.
        let pass = (!is_filling()).then(|| machine.enter());
        Self {
            machine,
            owner,
            donated: false,
            pass: RefCell::new(pass),
            slots: RefCell::new(None),
        }
    }

    /// The same, for a buffer of donated pages.
    #[must_use]
    pub fn of_donated(machine: &'m SimMachine, owner: Owner) -> Self {
        let mut host = Self::new(machine, owner);
        host.donated = true;
        host
    }

    fn leave(&self) {
        if let Some(pass) = self.pass.take() {
            self.machine.leave(pass);
        }
    }

    fn stall(&self, point: Point) {
        let machine = self.machine;
        machine.stalls.at(point, || machine.queues.sleeping());
    }

    /// A page that no stock counts is not kept: its owner's next buffer might be one of a stock, which would count it when it
    /// comes back.
    fn has_magazine(&self, attempt: &Attempt) -> bool {
        !self.donated && self.machine.pool_for(attempt).is_some()
    }

    fn nothing_held(&self, what: &str) {
        assert_eq!(held(), 0, "{what} under a stock's lock");
    }
}

impl Drop for SimHost<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Host for SimHost<'_> {
    type Words = Vec<u64>;
    type Slots = Slots;
    type Run = Run;
    type Lock = StockLock;

    fn stock(&self, attempt: &Attempt) -> Option<&StockLock> {
        if self.donated {
            None
        } else {
            self.machine.pool_for(attempt)
        }
    }

    fn account(&self, attempt: &Attempt) -> AccountId {
        self.machine.account(self.owner, attempt.size)
    }

    fn own(&self, attempt: &Attempt, _index: PageIndex) -> Option<(Frame, Contents)> {
        self.nothing_held("own");
        if !self.has_magazine(attempt) {
            return None;
        }
        let (frame, _) =
            self.machine
                .with_magazine(self.owner, attempt, htlb_core::magazine::Magazine::pop)?;
        Some((frame, Contents::OwnData))
    }

    fn set_aside(&self, frame: Frame, attempt: &Attempt, _index: PageIndex) -> Result<(), Frame> {
        // All that `own` gives is the owner's data.
        self.keep(frame, attempt)
    }

    fn keep(&self, frame: Frame, attempt: &Attempt) -> Result<(), Frame> {
        self.nothing_held("keep");
        if !self.has_magazine(attempt) {
            return Err(frame);
        }
        let class = self.machine.class_of(&frame);
        self.machine
            .with_magazine(self.owner, attempt, |magazine| magazine.push(frame, class))
    }

    fn words(&self, words: usize) -> Result<Vec<u64>, Error> {
        self.nothing_held("words");
        if self.machine.faults.hit(Call::Words) {
            return Err(Error::OutOfMetadata);
        }
        Ok(vec![0; words])
    }

    fn slots(&self, slots: usize) -> Result<Slots, Error> {
        self.nothing_held("slots");
        if self.machine.faults.hit(Call::Slots) {
            return Err(Error::OutOfMetadata);
        }
        let slots: Slots = (0..slots).map(|_| 0.into()).collect();
        self.slots.replace(Some(slots.clone()));
        Ok(slots)
    }

    fn supply(
        &self,
        attempt: &Attempt,
        prefer: NodeMask,
        pages: PageCount,
    ) -> Result<PageCount, Error> {
        self.nothing_held("supply");
        self.stall(Point::Supply);
        if self.machine.faults.hit(Call::Supply) {
            return Err(Error::OutOfPages);
        }
        self.machine.retry_limbo();
        let kept = self.machine.take_from_magazines(attempt, pages.raw());
        if kept > 0 {
            return Ok(PageCount::new(kept));
        }
        for got in 0..pages.raw() {
            match self.machine.bring(attempt, prefer, Supply::Surplus) {
                Ok(()) => {}
                Err(error) if got == 0 => return Err(error),
                Err(_) => return Ok(PageCount::new(got)),
            }
        }
        Ok(pages)
    }

    fn page(&self, attempt: &Attempt, prefer: NodeMask) -> Result<(Frame, Condition), Error> {
        self.nothing_held("page");
        if self.donated {
            let mut donated = lock(&self.machine.donated);
            let fitting = donated.iter().position(|f| f.size() == attempt.size);
            let frame = donated.remove(fitting.ok_or(Error::OutOfPages)?);
            return Ok((frame, Condition::Dirty));
        }
        self.machine.system_page(attempt, prefer)
    }

    fn take_run(
        &self,
        stock: &mut Stock<Vec<u64>>,
        charge: Charge,
        pages: PageCount,
        align: u64,
    ) -> Result<(Run, Condition), Stop> {
        assert_eq!(held(), 1, "a run is taken under its stock's lock");
        let run = stock.take_run(charge, pages, align >> 12)?;
        let condition = run.condition();
        Ok((run, condition))
    }

    fn supply_run(&self, attempt: &Attempt, pages: PageCount, align: u64) -> Result<(), Error> {
        self.nothing_held("supply_run");
        if self.machine.faults.hit(Call::SupplyRun) || attempt.rung != Rung::System {
            return Err(Error::NoContiguousRun);
        }
        let at = within(attempt.reach, attempt.reach.nodes());
        let (first, condition) = lock(&self.machine.memory)
            .allocate_run(attempt.size, pages.raw(), align >> 12, at)
            .ok_or(Error::NoContiguousRun)?;
        let mut refused = Ok(());
        for page in 0..pages.raw() {
            let pfn = htlb_core::Pfn::new(first.raw() + page * attempt.size.base_pages());
            let frame = Frame::new(pfn, attempt.size)?;
            // What the pool got stays surplus there, and the core lets it go.
            match refused {
                Ok(()) => {
                    refused = self.machine.add(attempt, frame, condition, Supply::Surplus);
                }
                Err(_) => lock(&self.machine.memory).free(frame.into_pfn(), attempt.size),
            }
        }
        refused
    }

    fn is_poisoned(&self, frame: &Frame) -> bool {
        self.nothing_held("is_poisoned");
        lock(&self.machine.poisoned).contains(&frame.pfn())
    }

    fn clear(&self, page: &Blank, from: u64) -> Result<(), Error> {
        self.nothing_held("clear");
        if self.machine.faults.hit(Call::Clear) {
            return Err(Error::Poisoned);
        }
        lock(&self.machine.memory).clear(page.pfn, from);
        Ok(())
    }

    fn is_interrupted(&self) -> bool {
        self.nothing_held("is_interrupted");
        self.machine.faults.hit(Call::Interrupt)
    }

    fn unmap(&self, _range: ByteRange) {
        self.nothing_held("unmap");
        self.stall(Point::Unmap);
        self.machine.unmapped.fetch_add(1, Ordering::Relaxed);
    }

    fn reclaim(&self, frame: Frame, attempt: &Attempt, charge: Charge) -> Reclaim {
        self.nothing_held("reclaim");
        if !self.machine.is_held(frame.pfn()) {
            return Reclaim::Free(frame);
        }
        lock(&self.machine.limbo).push(InLimbo {
            frame,
            attempt: *attempt,
            charge,
        });
        Reclaim::Limbo
    }

    fn free(&self, frame: Frame, _attempt: &Attempt) {
        self.nothing_held("free");
        if self.donated {
            lock(&self.machine.donated).push(frame);
        } else if lock(&self.machine.poisoned).contains(&frame.pfn()) {
            lock(&self.machine.buried).push(frame);
        } else {
            let size = frame.size();
            lock(&self.machine.memory).free(frame.into_pfn(), size);
        }
    }

    fn wait(
        &self,
        map: &PageMap<Slots>,
        what: WaitFor,
        holding: Option<PageIndex>,
    ) -> Result<(), Error> {
        self.nothing_held("wait");
        if self.machine.faults.hit(Call::Wait) {
            return Err(Error::Interrupted);
        }
        let address = std::ptr::from_ref(map) as usize;
        let filling = FILLING.with_borrow(|pages| {
            let own = pages.iter().filter(|(map, _)| *map == address);
            own.map(|(_, index)| *index).min()
        });
        let holding = match (holding, filling) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        // Whoever holds nothing waits outside. A producer stays: what it fills is not at rest.
        let outside = self.pass.borrow().is_some();
        self.leave();
        let outcome = self.machine.queues.sleep((address, what), || match what {
            WaitFor::Slot(index) => map.prepare_wait(index, holding),
            WaitFor::Seal if holding.is_some() => match map.prepare_wait_seal() {
                // A punch or a reservation may wait for the page that this thread fills.
                Waiting::Sleep => Err(Error::WouldDeadlock),
                Waiting::Retry => Ok(Waiting::Retry),
            },
            WaitFor::Seal => Ok(map.prepare_wait_seal()),
            WaitFor::Gate => Ok(Waiting::Retry),
        });
        if outside {
            self.pass.replace(Some(self.machine.enter()));
        }
        outcome
    }

    fn wake(&self, map: &PageMap<Slots>, what: WaitFor) {
        self.nothing_held("wake");
        let address = std::ptr::from_ref(map) as usize;
        self.machine.queues.wake((address, what));
    }
}
