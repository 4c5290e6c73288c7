// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! More pages for a buffer: what lies about in this process first, then the system's.

use std::sync::Arc;

use htlb_core::driver::with_stock;
use htlb_core::host::Contents;
use htlb_core::pool::Run;
use htlb_core::{
    Attempt, Charge, Contiguity, Error, Exclusive, Frame, Host, HugeSize, PageCount, Rung, Stop,
};

use super::{kin_of, BufferHost};
use crate::advice;
use crate::arena::{Arena, Growth, Kin};
use crate::pools::Wanted;
use crate::sys::window::Backing;

/// Base pages come in pieces of at least 2 MiB: each piece is a mapping, and a process may have only so many.
const PIECE: u64 = HugeSize::MIB2.bytes() >> HugeSize::BASE.shift();

impl BufferHost {
    /// Gets up to `pages` pages into the stock, in any number of places.
    pub(super) fn supply_some(
        &self,
        attempt: &Attempt,
        pages: PageCount,
    ) -> Result<PageCount, Error> {
        let arena = self.arena(attempt).ok_or(Error::NoRoom)?;
        if self.own.is_some() {
            return Err(Error::NoRoom);
        }
        let found = self.shared.gather(arena);
        if !found.is_zero() {
            return Ok(found);
        }
        let outcome = self.grow_some(arena, attempt, pages);
        if let (Err(error), true) = (&outcome, attempt.rung != Rung::Pool) {
            self.refuse(attempt, *error, pages);
        }
        outcome
    }

    /// What the system cannot give whole, it may give in part.
    fn grow_some(
        &self,
        arena: &Arc<Arena>,
        attempt: &Attempt,
        pages: PageCount,
    ) -> Result<PageCount, Error> {
        let mut ask = match arena.kin() {
            // How much the device can get from the system shows when it is asked.
            Kin::Hugetlb if self.device_serves(arena) => pages.raw(),
            Kin::Hugetlb => advice::most(self.shared.root(), attempt, pages).raw(),
            Kin::Transparent => pages.raw(),
            Kin::Base => pages.raw().max(PIECE),
        };
        ask = ask.min(arena.headroom().raw());
        let least = match arena.kin() {
            Kin::Hugetlb => 1,
            Kin::Transparent | Kin::Base => pages.raw(),
        };
        while ask > 0 {
            match self.grow(arena, attempt, PageCount::new(ask), |_| ()) {
                Ok(()) => return Ok(PageCount::new(ask)),
                // A cgroup, a node, somebody faster: the half may be there.
                Err(Error::OutOfPages) if ask > least => ask = (ask / 2).max(least),
                Err(error) => return Err(error),
            }
        }
        Err(Error::OutOfPages)
    }

    fn grow<T>(
        &self,
        arena: &Arc<Arena>,
        attempt: &Attempt,
        pages: PageCount,
        mut then: impl FnMut(&mut htlb_core::Stock<crate::arena::Words>) -> T,
    ) -> Result<T, Error> {
        let growth = Growth {
            pages,
            reach: attempt.reach,
            nodes: self.nodes,
            supply: self.shared.supply(),
            threads: self.threads,
            device: None,
        };
        let refused = match self.device_serves(arena) && pages <= arena.headroom() {
            true => match self.grow_from_device(arena, attempt, &growth, &mut then) {
                Ok(then) => return Ok(then),
                Err(error) => error,
            },
            false => Error::OutOfPages,
        };
        if self.shared.device().is_sole() {
            return Err(refused);
        }
        advice::check_memory(self.shared.root(), arena.kin(), attempt.size.len_of(pages)?)?;
        arena.grow(&growth, then).map_err(|error| match error {
            // A size that the device alone has: it is short of it, not the machine without it.
            Error::PageSizeUnsupported if self.device_serves(arena) => refused,
            error => error,
        })
    }

    fn device_serves(&self, arena: &Arena) -> bool {
        self.shared.device().serves(arena.kin(), arena.size())
    }

    /// As [`Arena::grow`], in a buffer of the device.
    fn grow_from_device<T>(
        &self,
        arena: &Arc<Arena>,
        attempt: &Attempt,
        growth: &Growth,
        then: impl FnMut(&mut htlb_core::Stock<crate::arena::Words>) -> T,
    ) -> Result<T, Error> {
        let wanted = Wanted {
            size: attempt.size,
            pages: growth.pages,
            reach: growth.reach,
            nodes: growth.nodes,
            contiguity: Contiguity::Pages,
        };
        let made = self.shared.device().make(&wanted);
        let (file, rung) = made.map_err(|(cause, why)| {
            self.refused_by_device(attempt, why);
            cause
        })?;
        let growth = Growth {
            device: Some(rung),
            ..*growth
        };
        arena
            .grow_in(&growth, Backing::Device(file), then)
            .inspect_err(|cause| {
                let why = format!("{} of its pages could not be mapped: {cause}", growth.pages);
                self.refused_by_device(attempt, why);
            })
    }

    /// Sets a run for the whole buffer aside, so that its pages follow each other in memory: one of the pool's, or for a
    /// single page what the owner kept, else, except on the pool's own rung, one of the system's.
    ///
    /// # Errors
    /// [`Error::NoRoom`] on the pool's own rung; why the system gave none.
    pub(crate) fn set_run_aside(
        &self,
        attempt: &Attempt,
        charge: Charge,
        pages: PageCount,
    ) -> Result<(), Error> {
        let arena = self.arena(attempt).ok_or(Error::NoRoom)?;
        let count = usize::try_from(pages.raw()).map_err(|_| Error::SizeTooLarge)?;
        if pages == PageCount::ONE {
            let kept = self
                .owner()
                .and_then(|owner| owner.pop(arena, attempt.reach));
            if let Some(frame) = kept {
                let first = frame.into_pfn();
                self.aside
                    .put(first, attempt.size, count, Contents::OwnData);
                return Ok(());
            }
        }
        let run = match self.run_of_pool(attempt, charge, pages) {
            Err(Error::NoContiguousRun | Error::NoRoom) if attempt.rung == Rung::Pool => {
                return Err(Error::NoRoom)
            }
            Err(Error::NoContiguousRun | Error::NoRoom) => {
                let run = self.run_of_system(arena, attempt, charge, pages);
                run.inspect_err(|error| self.refuse(attempt, *error, pages))?
            }
            outcome => outcome?,
        };
        let (first, contents) = (run.first(), Contents::from(run.condition()));
        // The numbers are kept there from now on.
        let count = run.map(Frame::into_pfn).count();
        self.aside.put(first, attempt.size, count, contents);
        Ok(())
    }

    /// A run of free pages that no promise needs.
    fn run_of_pool(
        &self,
        attempt: &Attempt,
        charge: Charge,
        pages: PageCount,
    ) -> Result<Run, Error> {
        with_stock(self, attempt, |stock| {
            stock.take_run(charge, pages, attempt.size.base_pages())
        })
    }

    fn run_of_system(
        &self,
        arena: &Arc<Arena>,
        attempt: &Attempt,
        charge: Charge,
        pages: PageCount,
    ) -> Result<Run, Error> {
        match self.grow_run(arena, attempt, charge, pages) {
            Err(Error::OutOfPages) => {}
            outcome => return outcome,
        }
        // What owners keep may make a run whole.
        if !self.shared.gather(arena).is_zero() {
            if let Ok(run) = self.run_of_pool(attempt, charge, pages) {
                return Ok(run);
            }
        }
        // Free pages that do not follow each other are of use to the system, which can give them anew.
        if arena.trim(pages).is_zero() {
            return Err(Error::OutOfPages);
        }
        self.grow_run(arena, attempt, charge, pages)
    }

    /// Gets pages from the system and takes a run before anybody else can have one of them.
    fn grow_run(
        &self,
        arena: &Arc<Arena>,
        attempt: &Attempt,
        charge: Charge,
        pages: PageCount,
    ) -> Result<Run, Error> {
        let align = attempt.size.base_pages();
        let taken = self.grow(arena, attempt, pages, |stock| {
            stock.take_run(charge, pages, align)
        })?;
        let outcome = match taken {
            Ok(run) => return Ok(run),
            Err(Stop::Fail(error)) => Err(error),
            // Larger tables first; meanwhile somebody may take a page, and then there is none after all.
            Err(Stop::Metadata { .. } | Stop::Wait(_)) => self.run_of_pool(attempt, charge, pages),
        };
        arena.shed();
        outcome
    }

    /// Whether so many pages could be had for holes now, as far as the system says.
    pub(crate) fn could_give(&self, attempt: &Attempt, pages: PageCount) -> bool {
        let Some(arena) = self.arena(attempt) else {
            return false;
        };
        let free = arena.stock().with(|stock| {
            let charge = Charge {
                reach: attempt.reach,
                account: self.account(attempt),
            };
            let missing = stock.shortage(charge, pages).unwrap_or(pages);
            pages.raw().saturating_sub(missing.raw())
        });
        let missing = PageCount::new(pages.raw().saturating_sub(free));
        let more = match arena.kin() {
            Kin::Hugetlb if self.device_serves(arena) => {
                let device = self.shared.device();
                let hugetlb = match device.is_sole() {
                    true => PageCount::ZERO,
                    false => advice::most(self.shared.root(), attempt, missing),
                };
                device.available(attempt.size).max(hugetlb)
            }
            Kin::Hugetlb => advice::most(self.shared.root(), attempt, missing),
            Kin::Transparent | Kin::Base => missing,
        };
        missing <= more.min(arena.headroom())
    }

    /// Gets what an unpromised range will need, at once and not page by page. What is not to be had now shows page by page.
    pub(crate) fn prepare(&self, attempt: &Attempt, pages: PageCount) {
        let free = self
            .stock(attempt)
            .map_or(0, |stock| stock.with(|stock| stock.counts().free.raw()));
        let missing = pages.raw().saturating_sub(free);
        let piece = match kin_of(attempt) {
            Kin::Hugetlb | Kin::Transparent => 1,
            Kin::Base => PIECE,
        };
        if missing > piece {
            if let Some(arena) = self.arena(attempt).filter(|_| self.own.is_none()) {
                let _ = self.grow_some(arena, attempt, PageCount::new(missing));
            }
        }
    }
}
