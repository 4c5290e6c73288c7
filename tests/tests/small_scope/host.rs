// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The host of the tiny machine. Whatever may be refused counts as a call, and any call can be made to fail.

use htlb_core::ledger::AccountId;
use htlb_core::page_map::PageMap;
use htlb_core::pool::Run;
use htlb_core::{
    Attempt, Blank, ByteRange, Charge, Condition, Error, Frame, Host, NodeMask, PageCount,
    PageIndex, Reclaim, Rung, Stock, Stop, Supply, WaitFor,
};

use crate::machine::{Lock, Machine, Slots, Words};

/// The machine as one buffer sees it.
#[derive(Debug)]
pub(crate) struct View<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) buffer: usize,
}

impl View<'_> {
    fn refuse(&self, error: Error) -> Result<(), Error> {
        match self.machine.fails() {
            true => Err(error),
            false => Ok(()),
        }
    }
}

impl Host for View<'_> {
    type Words = Words;
    type Slots = Slots;
    type Run = Run;
    type Lock = Lock;

    fn stock(&self, _attempt: &Attempt) -> Option<&Lock> {
        Some(&self.machine.stock)
    }

    fn account(&self, _attempt: &Attempt) -> AccountId {
        match self.buffer {
            0 => self.machine.account,
            _ => AccountId::ROOT,
        }
    }

    fn words(&self, words: usize) -> Result<Words, Error> {
        self.refuse(Error::OutOfMetadata)?;
        Ok(Words::zeroed(words))
    }

    fn slots(&self, slots: usize) -> Result<Slots, Error> {
        self.refuse(Error::OutOfMetadata)?;
        let given = Slots::default();
        assert_eq!(given.as_ref().len(), slots, "a buffer of another size");
        Ok(given)
    }

    fn supply(
        &self,
        attempt: &Attempt,
        prefer: NodeMask,
        pages: PageCount,
    ) -> Result<PageCount, Error> {
        self.refuse(Error::OutOfPages)?;
        if attempt.rung != Rung::System {
            return Err(Error::OutOfPages);
        }
        for got in 0..pages.raw() {
            let brought = match self.machine.pick(attempt.reach, prefer) {
                Some(page) => self.machine.bring(page, Condition::Dirty, Supply::Surplus),
                None => Err(Error::OutOfPages),
            };
            match brought {
                Ok(()) => {}
                Err(error) if got == 0 => return Err(error),
                Err(_) => return Ok(PageCount::new(got)),
            }
        }
        Ok(pages)
    }

    fn page(&self, attempt: &Attempt, prefer: NodeMask) -> Result<(Frame, Condition), Error> {
        self.refuse(Error::OutOfPages)?;
        if attempt.rung != Rung::System {
            return Err(Error::OutOfPages);
        }
        let page = self.machine.pick(attempt.reach, prefer);
        let page = page.ok_or(Error::OutOfPages)?;
        Ok((self.machine.give(page), Condition::Dirty))
    }

    fn take_run(
        &self,
        stock: &mut Stock<Words>,
        charge: Charge,
        pages: PageCount,
        align: u64,
    ) -> Result<(Run, Condition), Stop> {
        let run = stock.take_run(charge, pages, align >> 12)?;
        let condition = run.condition();
        Ok((run, condition))
    }

    fn place(&self, _page: &Blank) -> Result<(), Error> {
        self.refuse(Error::Interrupted)
    }

    fn clear(&self, _page: &Blank, _from: u64) -> Result<(), Error> {
        self.refuse(Error::Poisoned)
    }

    fn is_interrupted(&self) -> bool {
        self.refuse(Error::Interrupted).is_err()
    }

    fn unmap(&self, _range: ByteRange) {}

    fn reclaim(&self, frame: Frame, _attempt: &Attempt, _charge: Charge) -> Reclaim {
        Reclaim::Free(frame)
    }

    fn free(&self, frame: Frame, _attempt: &Attempt) {
        self.machine.get_back(frame);
    }

    fn wait(
        &self,
        _map: &PageMap<Slots>,
        what: WaitFor,
        _holding: Option<PageIndex>,
    ) -> Result<(), Error> {
        panic!("one thread waits for itself: {what:?}");
    }

    fn wake(&self, _map: &PageMap<Slots>, what: WaitFor) {
        panic!("nobody waits for {what:?}");
    }
}
