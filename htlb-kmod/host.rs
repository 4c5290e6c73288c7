// SPDX-License-Identifier: GPL-2.0-only
//! The kernel as the core sees it, from one buffer, for one call.

use core::cell::Cell;

use htlb_core::gate::Pass;
use htlb_core::host::Contents;
use htlb_core::ledger::AccountId;
use htlb_core::page_map::PageMap;
use htlb_core::pool::Run;
use htlb_core::{
    Attempt, Blank, ByteRange, Charge, Condition, Error as Reason, Frame, Gfp, Host, HugeSize, NodeMask, PageCount,
    PageIndex, Reclaim, Stock, Stop, WaitFor, Waiting,
};

use crate::backing::Backing;
use crate::ffi::fault::{Ended, Fault};
use crate::ffi::file::Copies;
use crate::ffi::page::{self, Page};
use crate::ffi::system;
use crate::ffi::wait::{self, Killed, Signals};
use crate::machine::StockLock;
use crate::memory::{Slots, Words};

/// How long a held page is looked at before it goes to limbo: other processors let go of references within microseconds.
const LOOKS: usize = 3;

/// How a call may wait.
#[derive(Clone, Copy)]
pub(crate) enum Patience<'a> {
    /// Until it is over, or a fatal signal comes.
    Killable,
    /// Until it is over: for what cannot fail.
    Endless,
    /// As the page fault allows.
    Fault(&'a Fault<'a>),
}

/// The host of one buffer for one call, inside the gate.
pub(crate) struct KernelHost<'a> {
    backing: &'a Backing,
    /// Nothing while nobody can have the buffer mapped: before it has a file, and after that is gone.
    map: Option<&'a PageMap<Slots>>,
    patience: Patience<'a>,
    copies: Copies,
    pass: Cell<Option<Pass>>,
}

impl<'a> KernelHost<'a> {
    /// Enters the gate.
    pub(crate) fn enter(
        backing: &'a Backing,
        map: Option<&'a PageMap<Slots>>,
        patience: Patience<'a>,
        copies: Copies,
    ) -> Result<Self, Reason> {
        let host = Self { backing, map, patience, copies, pass: Cell::new(None) };
        host.reenter()?;
        if let Patience::Killable = patience {
            // Their last holders may have let go since somebody looked.
            let machine = backing.machine();
            machine.limbo().retry(machine);
        }
        Ok(host)
    }

    /// Inside the gate already, by this pass, for a buffer that nobody can wait for.
    pub(crate) fn within(backing: &'a Backing, pass: Pass) -> Self {
        Self { backing, map: None, patience: Patience::Endless, copies: Copies::Go, pass: Cell::new(Some(pass)) }
    }

    /// Ends the call, but stays inside the gate.
    pub(crate) fn into_pass(self) -> Option<Pass> {
        self.pass.take()
    }

    fn reenter(&self) -> Result<(), Reason> {
        let machine = self.backing.machine();
        loop {
            if let Some(pass) = machine.try_enter() {
                self.pass.set(Some(pass));
                return Ok(());
            }
            self.sleep(machine.gate_key(), || machine.is_open())?;
        }
    }

    fn leave(&self) {
        if let Some(pass) = self.pass.take() {
            self.backing.machine().leave(pass);
        }
    }

    fn sleep(&self, key: usize, over: impl FnMut() -> bool) -> Result<(), Reason> {
        match self.patience {
            Patience::Killable => wait::until(key, Signals::Fatal, over).map_err(|Killed| Reason::Interrupted),
            Patience::Endless => wait::until(key, Signals::Ignored, over).map_err(|Killed| Reason::Interrupted),
            Patience::Fault(fault) => fault.wait(key, over).map_err(|ended| match ended {
                Ended::Killed => Reason::Interrupted,
                Ended::Retry => Reason::Closed,
            }),
        }
    }

    fn key(map: &PageMap<Slots>, what: WaitFor) -> usize {
        let base = core::ptr::from_ref(map).addr();
        match what {
            // Keys of two maps may be the same; whoever wakes too early looks again.
            WaitFor::Slot(index) => base.wrapping_add(1).wrapping_add(index.raw() as usize),
            WaitFor::Seal | WaitFor::Gate => base,
        }
    }
}

impl Drop for KernelHost<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Host for KernelHost<'_> {
    type Words = Words;
    type Slots = Slots;
    type Run = Run;
    type Lock = StockLock;

    fn stock(&self, attempt: &Attempt) -> Option<&StockLock> {
        self.backing.machine().stock_of(attempt)
    }

    fn account(&self, attempt: &Attempt) -> AccountId {
        self.backing.account(attempt.size)
    }

    fn own(&self, _: &Attempt, index: PageIndex) -> Option<(Frame, Contents)> {
        let frame = self.backing.donation()?.frame(index)?;
        Some((frame, Contents::OwnData))
    }

    fn words(&self, words: usize) -> Result<Words, Reason> {
        Words::zeroed(words)
    }

    fn slots(&self, slots: usize) -> Result<Slots, Reason> {
        Slots::holes(slots)
    }

    fn supply(&self, attempt: &Attempt, prefer: NodeMask, pages: PageCount) -> Result<PageCount, Reason> {
        self.backing.machine().supply(attempt, prefer, pages)
    }

    fn page(&self, attempt: &Attempt, prefer: NodeMask) -> Result<(Frame, Condition), Reason> {
        if self.stock(attempt).is_some() || self.backing.donation().is_some() {
            // Pages that have a stock come through it, so that they are counted.
            return Err(Reason::OutOfPages);
        }
        if system::fatal_signal() {
            return Err(Reason::Interrupted);
        }
        // No account limits these pages, so the caller's memory cgroup does. A fault may need somebody killed; other callers are told.
        let mut gfp = attempt.gfp | Gfp::ACCOUNT;
        if !matches!(self.patience, Patience::Fault(_)) && !gfp.contains(Gfp::NORETRY) {
            gfp |= Gfp::RETRY_MAYFAIL;
        }
        crate::supply::fetch(&Attempt { gfp, ..*attempt }, prefer).map(|frame| (frame, Condition::Dirty))
    }

    fn take_run(
        &self,
        stock: &mut Stock<Words>,
        charge: Charge,
        pages: PageCount,
        align: u64,
    ) -> Result<(Run, Condition), Stop> {
        let run = stock.take_run(charge, pages, align >> HugeSize::BASE.shift())?;
        let condition = run.condition();
        Ok((run, condition))
    }

    fn supply_run(&self, attempt: &Attempt, pages: PageCount, align: u64) -> Result<(), Reason> {
        self.backing.machine().supply_run(attempt, pages, align)
    }

    fn is_poisoned(&self, frame: &Frame) -> bool {
        Page::owned(frame.pfn(), frame.size()).is_some_and(Page::is_poisoned)
    }

    fn place(&self, page: &Blank) -> Result<(), Reason> {
        if self.is_interrupted() {
            return Err(Reason::Interrupted);
        }
        let page_of_ours = self.backing.page(page.offset, page.pfn, page.size).ok_or(Reason::FrameInvalid)?;
        if self.backing.donation().is_none() {
            page_of_ours.place(page.offset);
        }
        Ok(())
    }

    fn clear(&self, page: &Blank, from: u64) -> Result<(), Reason> {
        let page = self.backing.page(page.offset, page.pfn, page.size).ok_or(Reason::FrameInvalid)?;
        if page.clear(from) {
            Ok(())
        } else {
            Err(Reason::Interrupted)
        }
    }

    fn is_interrupted(&self) -> bool {
        matches!(self.patience, Patience::Killable) && system::fatal_signal()
    }

    fn unmap(&self, range: ByteRange) {
        let (Some(mappings), Some(map)) = (self.backing.mappings(), self.map) else { return };
        if self.copies == Copies::Go {
            mappings.resize(map.size());
        }
        mappings.revoke(range, self.copies, || {
            if self.backing.donation().is_some() {
                // Mapped as frames: no fault is under way while we revoke.
                return;
            }
            if let Ok(slots) = map.extents().covering(range, map.extents().capacity()) {
                for (_, pfn, size) in map.frames_of(slots) {
                    if let Some(page) = Page::owned(pfn, size) {
                        page.drain();
                    }
                }
            }
        });
    }

    fn reclaim(&self, frame: Frame, attempt: &Attempt, charge: Charge) -> Reclaim {
        let Some(lock) = self.stock(attempt) else {
            // The system has it again when its last holder lets go.
            return Reclaim::Free(frame);
        };
        let Some(page) = Page::owned(frame.pfn(), frame.size()) else { return Reclaim::Free(frame) };
        for _ in 0..LOOKS {
            if page.is_exclusive() {
                return if page.is_poisoned() {
                    self.backing.machine().bury(lock, frame, attempt, charge, self.backing.payer())
                } else {
                    Reclaim::Free(frame)
                };
            }
            core::hint::spin_loop();
        }
        self.backing.machine().limbo().send(frame, attempt, charge, self.backing.payer());
        Reclaim::Limbo
    }

    fn free(&self, frame: Frame, attempt: &Attempt) {
        if self.backing.donation().is_some() {
            // The pin keeps it until the buffer is gone.
            let _ = frame.into_pfn();
        } else if self.stock(attempt).is_some() {
            self.backing.machine().let_go(frame);
        } else {
            page::free(frame);
        }
    }

    fn wait(&self, map: &PageMap<Slots>, what: WaitFor, holding: Option<PageIndex>) -> Result<(), Reason> {
        self.leave();
        let mut verdict = Ok(());
        let slept = self.sleep(Self::key(map, what), || {
            let look = match what {
                WaitFor::Slot(index) => map.prepare_wait(index, holding),
                WaitFor::Seal | WaitFor::Gate => Ok(map.prepare_wait_seal()),
            };
            match look {
                Ok(Waiting::Sleep) => false,
                Ok(Waiting::Retry) => true,
                Err(reason) => {
                    verdict = Err(reason);
                    true
                }
            }
        });
        slept.and(verdict)?;
        self.reenter()
    }

    fn wake(&self, map: &PageMap<Slots>, what: WaitFor) {
        wait::wake(Self::key(map, what));
    }
}
