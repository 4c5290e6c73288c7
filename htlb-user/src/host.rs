// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! User space as the core sees it, from one buffer.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use htlb_core::host::Contents;
use htlb_core::ledger::AccountId;
use htlb_core::page_map::PageMap;
use htlb_core::pool::Run;
use htlb_core::{
    Attempt, Blank, ByteLen, ByteRange, Charge, Condition, Error, Frame, Host, HugeSize, NodeMask,
    PageCount, PageIndex, Pfn, Reclaim, Rung, Stock, Stop, WaitFor,
};

use crate::advice;
use crate::arena::{address, words, Arena, Binding, Growth, Kin, Slots, Words};
use crate::pools::Shared;
use crate::receipt::Refusal;
use crate::sys::clear::Caches;
use crate::sys::lease::Lease;

/// A run of frames that was taken for a buffer and waits for its slots.
#[derive(Debug)]
struct Aside {
    first: Pfn,
    /// What each frame holds, until its slot has it.
    pages: Box<[Option<Contents>]>,
    left: u64,
}

/// The host of one buffer.
#[derive(Debug)]
pub(crate) struct BufferHost {
    shared: Arc<Shared>,
    /// The buffer's own pages, where it does not use the pools'.
    own: Option<Arc<Arena>>,
    binding: Binding,
    threads: usize,
    /// The rights to the bytes of its pages, by address.
    leases: Mutex<BTreeMap<usize, Arc<Lease>>>,
    aside: Mutex<Option<Aside>>,
    refusals: Mutex<Vec<Refusal>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BufferHost {
    pub(crate) fn new(
        shared: Arc<Shared>,
        own: Option<Arc<Arena>>,
        binding: Binding,
        threads: usize,
    ) -> Self {
        Self {
            shared,
            own,
            binding,
            threads,
            leases: Mutex::default(),
            aside: Mutex::default(),
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

    pub(crate) fn arena(&self, attempt: &Attempt) -> Option<&Arc<Arena>> {
        match &self.own {
            Some(own) => {
                (own.kin() == kin_of(attempt) && own.size() == attempt.size).then_some(own)
            }
            None => self.shared.arena(kin_of(attempt), attempt.size),
        }
    }

    /// Why rungs fell short, so far.
    pub(crate) fn refusals(&self) -> Vec<Refusal> {
        locked(&self.refusals).clone()
    }

    pub(crate) fn repeat(&self, refusal: Refusal) {
        locked(&self.refusals).push(refusal);
    }

    pub(crate) fn refuse(&self, attempt: &Attempt, error: Error, pages: PageCount) {
        let why = advice::why_short(self.shared.root(), attempt, error, pages);
        locked(&self.refusals).push(Refusal {
            rung: attempt.rung,
            size: attempt.size,
            why,
        });
    }

    /// Asks the system for pages in one piece, of the attempt's kind.
    pub(crate) fn grow(
        &self,
        attempt: &Attempt,
        prefer: NodeMask,
        pages: PageCount,
    ) -> Result<(), Error> {
        let arena = self.arena(attempt).ok_or(Error::NoRoom)?;
        if self.own.is_some() {
            return Err(Error::NoRoom);
        }
        arena.grow(&Growth {
            pages,
            reach: attempt.reach,
            binding: self.binding,
            prefer: prefer.and(attempt.reach.nodes()),
            supply: self.shared.supply(),
            threads: self.threads,
        })
    }

    /// Takes a run for the whole buffer and sets it aside, so that its pages follow each other in memory.
    pub(crate) fn take_aside(
        &self,
        attempt: &Attempt,
        charge: Charge,
        pages: PageCount,
    ) -> Result<(), Error> {
        let arena = self.arena(attempt).ok_or(Error::NoRoom)?;
        let mut taken = {
            let stock = arena.stock();
            let mut stock = locked(stock);
            loop {
                match stock.take_run(charge, pages, attempt.size.bytes() >> 12) {
                    Ok(run) => break run,
                    Err(Stop::Metadata { table, words: len }) => {
                        drop(stock.adopt(table, words(len)))
                    }
                    Err(Stop::Fail(error)) => return Err(error),
                    Err(Stop::Wait(_)) => return Err(Error::Closed),
                }
            }
        };
        let contents = Contents::from(taken.condition());
        let first = taken.first();
        let count = taken.by_ref().map(Frame::into_pfn).count();
        *locked(&self.aside) = Some(Aside {
            first,
            pages: vec![Some(contents); count].into_boxed_slice(),
            left: count as u64,
        });
        Ok(())
    }

    /// Puts what is still set aside back.
    pub(crate) fn put_aside_back(&self, attempt: &Attempt, charge: Charge) {
        let Some(aside) = locked(&self.aside).take() else {
            return;
        };
        let Some(arena) = self.arena(attempt) else {
            return;
        };
        for (index, contents) in (0u64..).zip(aside.pages) {
            let Some(contents) = contents else { continue };
            let condition = if contents == Contents::Zeroes {
                Condition::Clean
            } else {
                Condition::Dirty
            };
            if let Ok(frame) = frame_at(aside.first, index, attempt.size) {
                let returned = locked(arena.stock()).put(frame, charge, condition);
                self.shared.settle(arena, returned);
            }
        }
    }

    /// How many pages are set aside.
    pub(crate) fn pages_aside(&self) -> u64 {
        locked(&self.aside).as_ref().map_or(0, |aside| aside.left)
    }

    /// The right to `len` bytes from `at`, for as long as somebody holds it; one lease for all of them.
    pub(crate) fn hold(&self, arena: &Arena, at: usize, len: usize) -> Result<Arc<Lease>, Error> {
        let mut leases = locked(&self.leases);
        if let Some((base, lease)) = leases.range(..=at).next_back() {
            if base + bytes(lease) >= at + len {
                return Ok(Arc::clone(lease));
            }
        }
        // Put together what is there already: a slice that somebody still reads keeps its part.
        let parts: Vec<usize> = leases
            .range(..at + len)
            .filter(|(base, lease)| *base + bytes(lease) > at)
            .map(|(base, _)| *base)
            .collect();
        if parts.iter().any(|base| {
            leases
                .get(base)
                .is_some_and(|lease| Arc::strong_count(lease) > 1)
        }) {
            return Err(Error::Pinned);
        }
        let first = parts.first().map_or(at, |base| (*base).min(at));
        let end = parts
            .last()
            .and_then(|base| leases.get(base).map(|lease| base + bytes(lease)))
            .map_or(at + len, |end| end.max(at + len));
        for base in parts {
            leases.remove(&base);
        }
        let lease = arena.lease(
            Pfn::new((first >> 12) as u64),
            ByteLen::new((end - first) as u64),
        )?;
        let lease = Arc::new(lease);
        leases.insert(first, Arc::clone(&lease));
        Ok(lease)
    }

    /// As [`BufferHost::hold`], exclusively: the lease itself, to be given back by [`BufferHost::give_back`], and where the
    /// wanted bytes begin in it.
    pub(crate) fn hold_alone(
        &self,
        arena: &Arena,
        at: usize,
        len: usize,
    ) -> Result<(Arc<Lease>, usize), Error> {
        for _ in 0..2 {
            let mut leases = locked(&self.leases);
            if let Some(mut found) = leases
                .range_mut(..=at)
                .next_back()
                .map(|(base, _)| *base)
                .and_then(|base| {
                    let lease = leases.remove(&base)?;
                    Some((lease, base))
                })
            {
                let (lease, base) = (&mut found.0, found.1);
                if base + bytes(lease) >= at + len && Arc::get_mut(lease).is_some() {
                    return Ok((found.0, at - base));
                }
                let shared = base + bytes(lease) >= at + len;
                leases.insert(base, found.0);
                if shared {
                    return Err(Error::Pinned);
                }
            }
            drop(leases);
            drop(self.hold(arena, at, len)?);
        }
        Err(Error::FrameInvalid)
    }

    pub(crate) fn give_back(&self, lease: Arc<Lease>) {
        locked(&self.leases).insert(lease.as_ptr().as_ptr().addr(), lease);
    }

    /// Gives up the right to the bytes of a page; false where somebody still reads them.
    fn let_go(&self, at: usize, len: usize) -> bool {
        let mut leases = locked(&self.leases);
        let Some((base, lease)) = leases
            .range(..at + len)
            .next_back()
            .map(|(base, lease)| (*base, lease))
        else {
            return true;
        };
        let end = base + bytes(lease);
        if end <= at {
            return true;
        }
        if Arc::strong_count(lease) > 1 {
            return false;
        }
        let Some(Ok(lease)) = leases.remove(&base).map(Arc::try_unwrap) else {
            return false;
        };
        let mut rest = Some(lease);
        if end > at + len {
            if let Some(tail) = rest
                .as_mut()
                .and_then(|l| l.split_off(ByteLen::new((at + len - base) as u64)).ok())
            {
                leases.insert(at + len, Arc::new(tail));
            }
        }
        if base < at {
            let page = rest
                .as_mut()
                .and_then(|l| l.split_off(ByteLen::new((at - base) as u64)).ok());
            drop(page);
            if let Some(head) = rest.take() {
                leases.insert(base, Arc::new(head));
            }
        }
        true
    }
}

/// The length of a lease in bytes.
fn bytes(lease: &Lease) -> usize {
    lease.len().raw() as usize
}

fn frame_at(first: Pfn, index: u64, size: HugeSize) -> Result<Frame, Error> {
    Frame::new(Pfn::new(first.raw() + index * size.base_pages()), size)
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
        if let Some(aside) = locked(&self.aside).as_mut() {
            let place = usize::try_from(index.raw())
                .ok()
                .and_then(|index| aside.pages.get_mut(index));
            if let Some(contents) = place.and_then(Option::take) {
                aside.left -= 1;
                return frame_at(aside.first, index.raw(), attempt.size)
                    .ok()
                    .map(|frame| (frame, contents));
            }
        }
        None
    }

    fn set_aside(&self, frame: Frame, _attempt: &Attempt, index: PageIndex) -> Result<(), Frame> {
        let mut aside = locked(&self.aside);
        let Some(aside) = aside.as_mut() else {
            return Err(frame);
        };
        let own = frame_at(aside.first, index.raw(), frame.size()).is_ok_and(|own| own == frame);
        match usize::try_from(index.raw())
            .ok()
            .and_then(|index| aside.pages.get_mut(index))
        {
            Some(place) if own => {
                *place = Some(Contents::Anything);
                aside.left += 1;
                // The number is kept here now; the page is set aside again.
                let _ = frame.into_pfn();
                Ok(())
            }
            _ => Err(frame),
        }
    }

    fn words(&self, len: usize) -> Result<Words, Error> {
        Ok(words(len))
    }

    fn slots(&self, slots: usize) -> Result<Slots, Error> {
        Ok((0..slots).map(|_| AtomicU64::new(0)).collect())
    }

    fn supply(
        &self,
        attempt: &Attempt,
        prefer: NodeMask,
        pages: PageCount,
    ) -> Result<PageCount, Error> {
        let most = match kin_of(attempt) {
            // What the system cannot give whole, it may give in part.
            Kin::Hugetlb => advice::most(self.shared.root(), attempt, pages),
            Kin::Transparent | Kin::Base => pages,
        };
        let outcome = if most.is_zero() {
            Err(Error::OutOfPages)
        } else {
            self.grow(attempt, prefer, most)
        };
        if let Err(error) = outcome {
            if attempt.rung != Rung::Pool {
                self.refuse(attempt, error, pages);
            }
            return Err(error);
        }
        Ok(most)
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
        let run = stock.take_run(charge, pages, align >> 12)?;
        let condition = run.condition();
        Ok((run, condition))
    }

    fn clear(&self, page: &Blank, from: u64) -> Result<(), Error> {
        let attempt_arena = self
            .shared
            .arena_of(page.pfn, self.own.as_ref())
            .ok_or(Error::FrameInvalid)?;
        let mut lease = attempt_arena.lease(page.pfn, ByteLen::new(page.size.bytes()))?;
        let from = usize::try_from(from).map_err(|_| Error::RangeOverflow)?;
        lease.zero_from(from, caches_for(page.size.bytes(), self.threads));
        Ok(())
    }

    fn unmap(&self, _range: ByteRange) {
        // Nothing of a buffer is mapped apart from its window; slices seal the buffer, so none lives here.
    }

    fn reclaim(&self, frame: Frame, attempt: &Attempt, charge: Charge) -> Reclaim {
        let at = address(frame.pfn());
        let len = frame.size().bytes() as usize;
        if self.let_go(at, len) {
            return Reclaim::Free(frame);
        }
        if let Some(arena) = self.arena(attempt) {
            self.shared.limbo(arena, frame, charge);
        }
        Reclaim::Limbo
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
