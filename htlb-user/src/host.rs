// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! User space as the core sees it, from one buffer.
//!
//! [`leases`] are the rights to the bytes of its pages, [`aside`] the run that a straight buffer was given at once,
//! [`supply`] the way to more pages.

pub(crate) mod leases;

mod aside;
mod supply;

use std::sync::{Arc, Mutex, Weak};

use htlb_core::host::Contents;
use htlb_core::ledger::AccountId;
use htlb_core::page_map::PageMap;
use htlb_core::pool::Run;
use htlb_core::{
    Attempt, Blank, ByteLen, ByteRange, Charge, Condition, Error, Frame, Host, HugeSize, NodeMask,
    NodePolicy, PageCount, PageIndex, Reclaim, Rung, Stock, Stop, WaitFor,
};

use crate::advice;
use crate::arena::{address, words, Arena, Kin, Slots, Words};
use crate::filling;
use crate::locks::locked;
use crate::owner::Shelf;
use crate::pools::Shared;
use crate::receipt::{Giver, Refusal};
use crate::sys::clear::Caches;
use crate::sys::zeroed;
use aside::Aside;
use leases::{Grip, Leases};

/// The host of one buffer.
#[derive(Debug)]
pub(crate) struct BufferHost {
    shared: Arc<Shared>,
    /// The buffer's own pages, where it does not use the pools'.
    own: Option<Arc<Arena>>,
    /// Weak, since what the owner keeps are buffers too.
    owner: Option<Weak<Shelf>>,
    nodes: NodePolicy,
    threads: usize,
    leases: Leases,
    aside: Aside,
    refusals: Mutex<Vec<Refusal>>,
}

impl BufferHost {
    pub(crate) fn new(
        shared: Arc<Shared>,
        own: Option<Arc<Arena>>,
        owner: Option<&Arc<Shelf>>,
        nodes: NodePolicy,
        threads: usize,
    ) -> Self {
        Self {
            shared,
            own,
            owner: owner.map(Arc::downgrade),
            nodes,
            threads,
            leases: Leases::default(),
            aside: Aside::default(),
            refusals: Mutex::default(),
        }
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) const fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) const fn own_arena(&self) -> Option<&Arc<Arena>> {
        self.own.as_ref()
    }

    pub(crate) const fn leases(&self) -> &Leases {
        &self.leases
    }

    pub(crate) const fn aside(&self) -> &Aside {
        &self.aside
    }

    pub(crate) fn arena(&self, attempt: &Attempt) -> Option<&Arc<Arena>> {
        match &self.own {
            Some(own) => {
                (own.kin() == kin_of(attempt) && own.size() == attempt.size).then_some(own)
            }
            None => self.shared.arena(kin_of(attempt), attempt.size),
        }
    }

    /// Has no owner from now on.
    pub(crate) fn disown(&mut self) {
        self.owner = None;
    }

    /// Who keeps its pages, while that is.
    fn owner(&self) -> Option<Arc<Shelf>> {
        self.owner.as_ref().and_then(Weak::upgrade)
    }

    /// Why rungs fell short, so far.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        locked(&self.refusals).clone()
    }

    /// Notes why a rung fell short; what was noted of it before is out of date.
    pub(crate) fn note(&self, refusal: Refusal) {
        let mut refusals = locked(&self.refusals);
        let key = |of: &Refusal| (of.giver, of.rung, of.size);
        refusals.retain(|old| key(old) != key(&refusal));
        refusals.push(refusal);
    }

    pub(crate) fn refuse(&self, attempt: &Attempt, error: Error, pages: PageCount) {
        if self.shared.device().is_sole() {
            // What the device said has been noted; nobody else was asked.
            return;
        }
        let more = self.arena(attempt).map(|arena| arena.headroom());
        let why = match more.filter(|more| *more < pages && error == Error::OutOfPages) {
            Some(more) => format!(
                "these pools may have {more} more such pages by their own limit, and {pages} were wanted"
            ),
            None => advice::why_short(self.shared.root(), attempt, error, pages),
        };
        self.note(Refusal {
            giver: Giver::Kernel,
            rung: attempt.rung,
            size: attempt.size,
            why,
        });
    }

    /// Notes what the device said.
    pub(crate) fn refused_by_device(&self, attempt: &Attempt, why: String) {
        self.note(Refusal {
            giver: Giver::Device,
            rung: Rung::System,
            size: attempt.size,
            why,
        });
    }

    /// Puts what is still set aside back.
    pub(crate) fn put_aside_back(&self, attempt: &Attempt, charge: Charge) {
        for (frame, condition) in self.aside.empty() {
            // INVARIANT: it was taken from the arena of this attempt.
            if let Some(arena) = self.arena(attempt) {
                let returned = locked(arena.stock()).put(frame, charge, condition);
                self.shared.settle(arena, returned);
            }
        }
    }
}

/// The kind of pages that a rung gives.
pub(crate) const fn kin_of(attempt: &Attempt) -> Kin {
    match attempt.rung {
        Rung::Pool | Rung::System => Kin::Hugetlb,
        Rung::Transparent => Kin::Transparent,
        Rung::Base => Kin::Base,
    }
}

impl Host for BufferHost {
    type Words = Words;
    type Slots = Slots;
    type Run = Run;
    type Lock = Mutex<Stock<Words>>;

    fn stock(&self, attempt: &Attempt) -> Option<&Self::Lock> {
        self.arena(attempt).map(|arena| arena.stock())
    }

    fn account(&self, _attempt: &Attempt) -> AccountId {
        AccountId::ROOT
    }

    fn own(&self, attempt: &Attempt, index: PageIndex) -> Option<(Frame, Contents)> {
        if let Some(page) = self.aside.take(index) {
            return Some(page);
        }
        let arena = self.arena(attempt)?;
        let frame = self.owner()?.pop(arena, attempt.reach)?;
        Some((frame, Contents::OwnData))
    }

    fn set_aside(&self, frame: Frame, attempt: &Attempt, index: PageIndex) -> Result<(), Frame> {
        self.aside
            .take_back(frame, index)
            .or_else(|frame| self.keep(frame, attempt))
    }

    fn keep(&self, frame: Frame, attempt: &Attempt) -> Result<(), Frame> {
        match (self.owner(), self.arena(attempt)) {
            (Some(owner), Some(arena)) => owner.push(arena, attempt.reach, frame),
            _ => Err(frame),
        }
    }

    fn words(&self, len: usize) -> Result<Words, Error> {
        words(len)
    }

    fn slots(&self, slots: usize) -> Result<Slots, Error> {
        zeroed::atomics(slots).ok_or(Error::OutOfMetadata)
    }

    fn supply(
        &self,
        attempt: &Attempt,
        _prefer: NodeMask,
        pages: PageCount,
    ) -> Result<PageCount, Error> {
        self.supply_some(attempt, pages)
    }

    fn page(&self, _attempt: &Attempt, _prefer: NodeMask) -> Result<(Frame, Condition), Error> {
        // Every page here belongs to an arena.
        Err(Error::OutOfPages)
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

    fn clear(&self, page: &Blank, from: u64) -> Result<(), Error> {
        let arena = self
            .shared
            .arena_of(page.pfn, page.size, self.own.as_ref())
            .ok_or(Error::FrameInvalid)?;
        let mut lease = arena.lease(page.pfn, ByteLen::new(page.size.bytes()))?;
        let from = usize::try_from(from).map_err(|_| Error::RangeOverflow)?;
        lease.zero_from(from, caches_for(page.size.bytes(), self.threads));
        Ok(())
    }

    fn unmap(&self, _range: ByteRange) {
        // Nothing of a buffer is mapped apart from its window; slices seal the buffer, so none lives here.
    }

    fn reclaim(&self, frame: Frame, attempt: &Attempt, charge: Charge) -> Reclaim {
        let Some(arena) = self.arena(attempt) else {
            return Reclaim::Free(frame);
        };
        // CAST: a page that is mapped.
        let len = frame.size().bytes() as usize;
        match self.leases.let_go(arena, address(frame.pfn()), len) {
            Grip::Free => Reclaim::Free(frame),
            Grip::Held => {
                self.shared.limbo(arena, frame, charge);
                Reclaim::Limbo
            }
        }
    }

    fn free(&self, frame: Frame, attempt: &Attempt) {
        if let Some(arena) = self.arena(attempt) {
            arena.free(frame);
        }
    }

    fn wait(
        &self,
        map: &PageMap<Slots>,
        what: WaitFor,
        holding: Option<PageIndex>,
    ) -> Result<(), Error> {
        // A producer that comes back here holds what it fills, whatever the loop in between knows.
        let holding = holding.into_iter().chain(filling::lowest(map)).min();
        self.shared.waiters().wait(map, what, holding)
    }

    fn wake(&self, map: &PageMap<Slots>, what: WaitFor) {
        self.shared.waiters().wake(map, what);
    }
}

/// A single page is used at once and had best stay in the caches; many are not.
const fn caches_for(len: u64, threads: usize) -> Caches {
    if threads <= 1 && len <= HugeSize::MIB2.bytes() {
        Caches::Use
    } else {
        Caches::Bypass
    }
}
