// SPDX-License-Identifier: GPL-2.0-only
//! Pages from the system: for a promise that is short, for one buffer alone, and for the pools.

use htlb_core::{
    Attempt, Charge, Class, Error as Reason, Exclusive, Frame, Gfp, HugeSize, NodeId, NodeMask, PageCount,
    Reclaim, Supply,
};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::accounts::Payer;
use crate::ffi::page::{self, Page};
use crate::ffi::system;
use crate::machine::{Machine, StockLock};

/// A mask of so many bits or fewer is narrow: the zones below it are small, and shared with everybody else.
const NARROW: u8 = 32;

/// The classes of these nodes.
fn classes(nodes: NodeMask) -> impl Iterator<Item = Class> {
    (0..Class::COUNT).filter_map(Class::from_index).filter(move |class| nodes.contains(class.node))
}

/// One page for an attempt: within its reach, on a preferred node if there is one there.
pub(crate) fn fetch(attempt: &Attempt, prefer: NodeMask) -> Result<Frame, Reason> {
    let allowed = attempt.reach.nodes().and(system::memory_nodes());
    let first = prefer.and(allowed);
    let mut refusal = Reason::OutOfPages;
    let rest = NodeMask::from_bits(allowed.bits() & !first.bits());
    for node in [first, rest].iter().flat_map(|mask| mask.iter()) {
        match fetch_on(attempt, node) {
            Ok(frame) => return Ok(frame),
            Err(reason) => refusal = reason,
        }
    }
    Err(refusal)
}

/// One page on this node.
fn fetch_on(attempt: &Attempt, node: NodeId) -> Result<Frame, Reason> {
    match fetch_any(attempt, node) {
        // A cgroup cannot be charged for a page at a chosen place.
        Err(Reason::OutOfPages | Reason::OutOfReach)
            if is_narrow(attempt) && !attempt.gfp.contains(Gfp::ACCOUNT) =>
        {
            crate::range::one(attempt.gfp, attempt.size, node, attempt.reach.level().bits())
        }
        answer => answer,
    }
}

/// Whether pages for this attempt are so scarce that they are worth looking for one by one.
fn is_narrow(attempt: &Attempt) -> bool {
    attempt.size != HugeSize::BASE && attempt.reach.level().bits() <= NARROW
}

/// One page on this node, wherever the allocator has one.
fn fetch_any(attempt: &Attempt, node: NodeId) -> Result<Frame, Reason> {
    let frame = page::allocate(attempt.gfp, attempt.size, node).ok_or(Reason::OutOfPages)?;
    let page = Page::owned(frame.pfn(), frame.size()).ok_or(Reason::FrameInvalid)?;
    // A zone is coarser than a mask, and the allocator may have answered from elsewhere.
    if attempt.reach.covers(Class::of(frame.pfn(), frame.size(), page.node())) {
        Ok(frame)
    } else {
        page::free(frame);
        Err(Reason::OutOfReach)
    }
}

impl Machine {
    /// Up to `pages` pages for an attempt's stock, as surplus; says how many came.
    pub(crate) fn supply(&self, attempt: &Attempt, prefer: NodeMask, pages: PageCount) -> Result<PageCount, Reason> {
        let back = self.limbo().retry(self);
        if !back.is_zero() {
            // Perhaps they are what is missing: the caller looks, and asks again.
            return Ok(back);
        }
        self.expect(attempt, pages)?;
        let mut came = 0u64;
        while came < pages.raw() {
            match self.supply_one(attempt, prefer) {
                Ok(()) => came = came.saturating_add(1),
                Err(Reason::Interrupted) => return Err(Reason::Interrupted),
                Err(_) if came > 0 => break,
                Err(reason) => return Err(reason),
            }
        }
        Ok(PageCount::new(came))
    }

    /// `pages` contiguous pages for an attempt's stock, as surplus, the first aligned to `align` bytes.
    pub(crate) fn supply_run(&self, attempt: &Attempt, pages: PageCount, align: u64) -> Result<(), Reason> {
        self.expect(attempt, pages)?;
        let mut refusal = Reason::NoContiguousRun;
        for node in attempt.reach.nodes().and(system::memory_nodes()).iter() {
            match crate::range::run(attempt, node, pages, align) {
                Ok(run) => {
                    // All of them leave limbo's room and the system's books in order, also where one is refused.
                    return run.into_iter().fold(Ok(()), |so_far, frame| match so_far {
                        Ok(()) => self.take_in(frame, Supply::Surplus),
                        Err(reason) => {
                            page::free(frame);
                            Err(reason)
                        }
                    });
                }
                Err(Reason::Interrupted) => return Err(Reason::Interrupted),
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }

    /// Adds up to `pages` pages below 2^`bits` to the pool; says how many came.
    pub(crate) fn add_low(&self, size: HugeSize, bits: u8, pages: PageCount) -> Result<PageCount, Reason> {
        let mut came = 0u64;
        for node in system::memory_nodes().iter() {
            while came < pages.raw() {
                match crate::range::one(crate::params::POOL_GFP, size, node, bits) {
                    Ok(frame) => self.take_in(frame, Supply::Persistent)?,
                    Err(Reason::Interrupted) => return Err(Reason::Interrupted),
                    Err(_) => break,
                }
                came = came.saturating_add(1);
            }
        }
        Ok(PageCount::new(came))
    }

    /// Gives surplus pages back that no promise needs any more.
    pub(crate) fn shed(&self, size: HugeSize) {
        let Some(lock) = self.stock(size) else { return };
        while let Some(frame) = lock.with(|stock| stock.drop_surplus()) {
            self.let_go(frame);
        }
    }

    /// Refuses what cannot be had, before the first page of it is fetched: gigabytes would be, and be given back again,
    /// and everybody else's memory would be reclaimed for them.
    fn expect(&self, attempt: &Attempt, pages: PageCount) -> Result<(), Reason> {
        if self.spare(attempt)? < pages {
            return Err(Reason::OvercommitLimit);
        }
        if attempt.size.bytes().saturating_mul(pages.raw()) > system::available_memory() {
            return Err(Reason::OutOfPages);
        }
        Ok(())
    }

    /// How many surplus pages may still come for this attempt.
    fn spare(&self, attempt: &Attempt) -> Result<PageCount, Reason> {
        let lock = self.stock_of(attempt).ok_or(Reason::PageSizeUnsupported)?;
        let spare = lock.with(|stock| stock.ledger().overcommit().raw().saturating_sub(stock.counts().surplus.raw()));
        Ok(PageCount::new(spare))
    }

    fn supply_one(&self, attempt: &Attempt, prefer: NodeMask) -> Result<(), Reason> {
        if system::fatal_signal() {
            return Err(Reason::Interrupted);
        }
        // Asked again for every page, so that none is fetched only to be given back.
        if self.spare(attempt)?.is_zero() {
            return Err(Reason::OvercommitLimit);
        }
        let frame = fetch(attempt, prefer)?;
        self.take_in(frame, Supply::Surplus)
    }

    /// Puts a new page into its stock, with room in limbo for it.
    fn take_in(&self, frame: Frame, supply: Supply) -> Result<(), Reason> {
        if let Err(reason) = self.limbo().pledge() {
            page::free(frame);
            return Err(reason);
        }
        self.add(frame, supply).map_err(|(frame, reason)| {
            self.let_go(frame);
            reason
        })
    }

    /// Makes the pool on these nodes so many persistent pages large, as far as that is possible; says how many it has then. Pages
    /// in use beyond that become surplus, and leave when they come back. Fails only where nothing has changed.
    pub(crate) fn resize(&self, size: HugeSize, nodes: NodeMask, target: PageCount) -> Result<PageCount, Reason> {
        let lock = self.stock(size).ok_or(Reason::PageSizeUnsupported)?;
        self.limbo().retry(self);
        let persistent = || {
            lock.with(|stock| {
                nodes.iter().fold(0u64, |sum, node| {
                    let counts = stock.ledger().node(node);
                    sum.saturating_add(counts.nr.raw().saturating_sub(counts.surplus.raw()))
                })
            })
        };
        let before = persistent();
        self.absorb(lock, nodes, target.raw().saturating_sub(before));
        // One page from each node in turn, until none has any.
        let mut came = true;
        let mut refusal = None;
        while came && refusal.is_none() && persistent() < target.raw() {
            came = false;
            for node in nodes.iter() {
                if system::fatal_signal() {
                    refusal = Some(Reason::Interrupted);
                }
                if refusal.is_some() || persistent() >= target.raw() {
                    break;
                }
                if let Some(frame) = page::allocate(crate::params::POOL_GFP, size, node) {
                    refusal = self.take_in(frame, Supply::Persistent).err();
                    came = refusal.is_none();
                }
            }
        }
        if let Some(reason) = refusal.filter(|_| persistent() == before) {
            return Err(reason);
        }
        let excess = persistent().saturating_sub(target.raw());
        self.shrink(size, nodes, PageCount::new(excess));
        self.retire(lock, nodes, persistent().saturating_sub(target.raw()));
        Ok(PageCount::new(persistent()))
    }

    /// Makes up to `pages` surplus pages on these nodes persistent.
    fn absorb(&self, lock: &StockLock, nodes: NodeMask, pages: u64) {
        let mut left = pages;
        for class in classes(nodes) {
            let absorbed = lock.with(|stock| stock.ledger_mut().absorb(class, PageCount::new(left)));
            left = left.saturating_sub(absorbed.raw());
        }
    }

    /// Makes up to `pages` persistent pages in use on these nodes surplus; free ones, which promises need, stay persistent.
    fn retire(&self, lock: &StockLock, nodes: NodeMask, pages: u64) {
        let mut left = pages;
        for class in classes(nodes) {
            left = left.saturating_sub(lock.with(|stock| {
                let counts = stock.ledger().class(class);
                let used = counts.nr.raw().saturating_sub(counts.free.raw());
                let retired = used.saturating_sub(counts.surplus.raw()).min(left);
                let done = stock.ledger_mut().retire(class, PageCount::new(retired));
                done.map_or(0, |()| retired)
            }));
        }
    }

    /// A page whose memory went bad leaves for good, and is never used again.
    pub(crate) fn bury(
        &self,
        lock: &StockLock,
        frame: Frame,
        attempt: &Attempt,
        charge: Charge,
        payer: &Arc<Payer>,
    ) -> Reclaim {
        match lock.with(|stock| stock.retire(&frame, charge)) {
            Ok(()) => self.let_go(frame),
            // A minimum needs it: it stays charged until that has another.
            Err(_) => self.limbo().send(frame, attempt, charge, payer),
        }
        Reclaim::Limbo
    }
}
