// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What all clones of [`Pools`](super::Pools) and all their buffers share.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use htlb_core::gate::{Gate, Pass};
use htlb_core::{
    ByteLen, Charge, Condition, Error, Frame, HugeSize, NodeMask, PageCount, Pfn, Returned, Sizes,
    Supply, Topology,
};

use super::{Retention, Source};
use crate::arena::{Arena, Kin};
use crate::buffer::Live;
use crate::locks::locked;
use crate::owner::Shelf;
use crate::sys::fork::Birthplace;
use crate::system::Root;
use crate::waiters::Waiters;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) root: Root,
    pub(super) device: Source,
    pub(super) birthplace: Birthplace,
    pub(super) topology: Topology,
    pub(super) arenas: Vec<Arc<Arena>>,
    pub(super) retention: Retention,
    pub(super) threads: usize,
    pub(super) gate: Gate,
    pub(super) waiters: Waiters,
    /// Every buffer, for inspections.
    pub(super) live: Mutex<Registry>,
    /// What owners keep, until they end.
    pub(super) shelves: Mutex<Vec<Arc<Shelf>>>,
    /// Pages that left their slot while somebody could still reach their bytes.
    pub(super) limbo: Mutex<Vec<Limbo>>,
}

#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) all: Vec<Option<Weak<Live>>>,
    free: Vec<usize>,
    /// Buffers that were dropped while a pin or seal on them was leaked: their pages stay, for ever.
    pub(super) kept: Vec<Arc<Live>>,
}

#[derive(Debug)]
pub(super) struct Limbo {
    pub(super) arena: Arc<Arena>,
    pub(super) pfn: Pfn,
    pub(super) charge: Charge,
}

thread_local! {
    /// How deep this thread is inside, by the address of what it is inside of: a producer may call the buffer that it fills.
    static DEPTHS: RefCell<Vec<(usize, u32)>> = const { RefCell::new(Vec::new()) };
}

/// The right of a thread to change slots and stocks.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    shared: &'a Shared,
    pass: Option<Pass>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        let place = self.shared.place();
        DEPTHS.with_borrow_mut(|depths| {
            if let Some(at) = depths.iter().position(|(of, _)| *of == place) {
                match depths.get_mut(at) {
                    Some((_, depth)) if *depth > 1 => *depth -= 1,
                    _ => drop(depths.swap_remove(at)),
                }
            }
        });
        if let Some(pass) = self.pass.take() {
            // Whoever waits for the gate looks again by itself.
            let _ = self.shared.gate.leave(pass);
        }
    }
}

impl Shared {
    pub(crate) const fn root(&self) -> &Root {
        &self.root
    }

    /// The device, as far as it is used.
    pub(crate) const fn device(&self) -> &Source {
        &self.device
    }

    pub(crate) const fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(crate) const fn nodes(&self) -> NodeMask {
        self.topology.nodes
    }

    pub(crate) const fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) const fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Whether new pages stay when they are free again.
    pub(crate) const fn supply(&self) -> Supply {
        match self.retention {
            Retention::Keep => Supply::Persistent,
            Retention::Return => Supply::Surplus,
        }
    }

    pub(crate) fn arena(&self, kin: Kin, size: HugeSize) -> Option<&Arc<Arena>> {
        self.arenas
            .iter()
            .find(|arena| arena.kin() == kin && arena.size() == size)
    }

    /// The arena that holds a page: the buffer's own, or one of the pools'.
    pub(crate) fn arena_of<'a>(
        &'a self,
        pfn: Pfn,
        size: HugeSize,
        own: Option<&'a Arc<Arena>>,
    ) -> Option<&'a Arc<Arena>> {
        own.into_iter()
            .chain(&self.arenas)
            .find(|arena| arena.size() == size && arena.holds(pfn))
    }

    /// The topology, as if the machine had pages of `size`: for memory that is there already.
    pub(crate) fn topology_with(&self, size: HugeSize) -> Topology {
        let mut topology = self.topology;
        topology.sizes = Sizes::new(topology.sizes.iter().chain([size]));
        topology
    }

    /// Whether owners may keep pages of the arena: it is one of the pools, whose pages stay.
    pub(crate) fn keeps(&self, arena: &Arc<Arena>) -> bool {
        self.keeps_pages() && self.arenas.iter().any(|own| Arc::ptr_eq(own, arena))
    }

    /// Whether this process made the pools; a forked child did not, and has none of their memory.
    pub(crate) fn is_mine(&self) -> bool {
        self.birthplace.is_here()
    }

    /// Lets the calling thread in; waits while an inspection is under way.
    ///
    /// # Errors
    /// [`Error::NotPresent`] in a forked child: nothing must be touched there, not even a lock.
    pub(crate) fn enter(&self) -> Result<Inside<'_>, Error> {
        if !self.is_mine() {
            return Err(Error::NotPresent);
        }
        let mut inside = self.enter_as_worker();
        let mut rounds = 0_u32;
        while inside.pass.is_none() && self.depth() == 1 {
            match self.gate.enter() {
                Ok(pass) => inside.pass = Some(pass),
                Err(_) => back_off(&mut rounds),
            }
        }
        Ok(inside)
    }

    /// Marks a worker of a thread that is inside, or the inspector.
    pub(crate) fn enter_as_worker(&self) -> Inside<'_> {
        let place = self.place();
        DEPTHS.with_borrow_mut(
            |depths| match depths.iter_mut().find(|(of, _)| *of == place) {
                Some((_, depth)) => *depth = depth.saturating_add(1),
                None => depths.push((place, 1)),
            },
        );
        Inside {
            shared: self,
            pass: None,
        }
    }

    /// How deep the calling thread is inside.
    pub(super) fn depth(&self) -> u32 {
        let place = self.place();
        DEPTHS.with_borrow(|depths| {
            let found = depths.iter().find(|(of, _)| *of == place);
            found.map_or(0, |(_, depth)| *depth)
        })
    }

    /// Whether what is free again stays.
    pub(crate) fn keeps_pages(&self) -> bool {
        self.retention == Retention::Keep
    }

    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Does what the stock said of a page that came back.
    pub(crate) fn settle(&self, arena: &Arena, returned: Returned) {
        if let Returned::Leaves(frame) = returned {
            arena.free(frame);
        }
    }

    pub(crate) fn limbo(&self, arena: &Arc<Arena>, frame: Frame, charge: Charge) {
        locked(&self.limbo).push(Limbo {
            arena: Arc::clone(arena),
            pfn: frame.into_pfn(),
            charge,
        });
    }

    /// Puts pages whose last holder let go back into the stock of `arena`, or of all; says how many.
    fn sweep_limbo(&self, only: Option<&Arc<Arena>>) -> u64 {
        let mut back = Vec::new();
        locked(&self.limbo).retain(|page| {
            let size = page.arena.size();
            // A lease says that nobody else has one.
            let ready = only.is_none_or(|only| Arc::ptr_eq(only, &page.arena))
                && page
                    .arena
                    .lease(page.pfn, ByteLen::new(size.bytes()))
                    .is_ok();
            if ready {
                back.push((Arc::clone(&page.arena), page.pfn, page.charge));
            }
            !ready
        });
        let count = back.len() as u64;
        for (arena, pfn, charge) in back {
            if let Ok(frame) = Frame::new(pfn, arena.size()) {
                let returned = locked(arena.stock()).put(frame, charge, Condition::Dirty);
                self.settle(&arena, returned);
            }
        }
        count
    }

    /// Puts pages that lie about back into the stock of `arena`: what owners keep, and what was in limbo. Says how many.
    pub(crate) fn gather(&self, arena: &Arc<Arena>) -> PageCount {
        let kept = self.empty_shelves(Some(arena));
        PageCount::new(kept.saturating_add(self.sweep_limbo(Some(arena))))
    }

    /// As [`Shared::gather`], of all arenas.
    pub(super) fn gather_all(&self) {
        self.empty_shelves(None);
        self.sweep_limbo(None);
    }

    fn empty_shelves(&self, only: Option<&Arc<Arena>>) -> u64 {
        let shelves = locked(&self.shelves).clone();
        shelves.iter().map(|shelf| shelf.empty(only)).sum()
    }

    pub(crate) fn register(&self, live: &Arc<Live>) -> usize {
        let mut registry = locked(&self.live);
        let weak = Some(Arc::downgrade(live));
        if let Some(place) = registry.free.pop() {
            if let Some(entry) = registry.all.get_mut(place) {
                *entry = weak;
            }
            return place;
        }
        registry.all.push(weak);
        registry.all.len() - 1
    }

    pub(crate) fn unregister(&self, place: usize) {
        let mut registry = locked(&self.live);
        if let Some(entry) = registry.all.get_mut(place) {
            *entry = None;
            registry.free.push(place);
        }
    }

    /// Keeps a buffer whose pages cannot be given back, so that the books still know of it.
    pub(crate) fn keep(&self, live: &Arc<Live>) {
        locked(&self.live).kept.push(Arc::clone(live));
    }

    pub(crate) fn register_shelf(&self, shelf: &Arc<Shelf>) {
        locked(&self.shelves).push(Arc::clone(shelf));
    }

    pub(crate) fn unregister_shelf(&self, shelf: &Arc<Shelf>) {
        locked(&self.shelves).retain(|other| !Arc::ptr_eq(other, shelf));
    }
}

/// Yields first, sleeps later.
pub(crate) fn back_off(rounds: &mut u32) {
    *rounds = rounds.saturating_add(1);
    if *rounds < 64 {
        std::thread::yield_now();
    } else {
        std::thread::sleep(Duration::from_micros(50));
    }
}
