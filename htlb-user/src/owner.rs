// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What an owner keeps between two buffers, so that its own data needs no clearing for it.
//!
//! The last buffers are kept whole, their pages in their slots: one of the same choices is taken again without a look at
//! ledger, pool or page map. Behind them, single pages are kept for buffers of any length.

use std::sync::{Arc, Mutex};

use htlb_core::ledger::AccountId;
use htlb_core::magazine::Magazine;
use htlb_core::{ByteLen, Charge, Class, Condition, Frame, Level, NodeId, Pfn, Reach, Request};

use crate::arena::{words, Arena, Words};
use crate::buffer::{self, Live};
use crate::host::locked;
use crate::pools::{Pools, Shared};

/// How many pages of each kind an owner keeps at most.
const KEPT: usize = 64;

/// One tenant of a process: buffers that share it may see each other's old data, and nobody else's.
///
/// Dropping the last clone gives its pages back, dirty for everyone.
///
/// ```
/// use htlb_user::{Pools, Owner};
/// let pools = Pools::new()?;
/// let owner = Owner::new(&pools);
/// let first = pools.buffer(8192).base_pages().owner(&owner).create()?;
/// drop(first); // its pages stay with the owner
/// let again = pools.buffer(8192).base_pages().owner(&owner).create()?;
/// assert_eq!(again.len(), 8192);
/// # Ok::<(), htlb_user::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Owner {
    shelf: Arc<Shelf>,
}

impl Owner {
    /// A new owner, with nothing kept; it will keep at most 64 pages of each kind.
    #[must_use]
    pub fn new(pools: &Pools) -> Self {
        Self::keeping(pools, KEPT)
    }

    /// A new owner that keeps at most `pages` pages of each kind.
    ///
    /// What it keeps is a convenience: whoever is short of pages gets them, cleared.
    #[must_use]
    pub fn keeping(pools: &Pools, pages: usize) -> Self {
        let shelf = Arc::new(Shelf {
            shared: Arc::clone(pools.shared()),
            most: pages,
            magazines: Mutex::default(),
            spent: Mutex::default(),
        });
        pools.shared().register_shelf(&shelf);
        Self { shelf }
    }

    pub(crate) const fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }
}

#[derive(Debug)]
struct Kept {
    arena: Arc<Arena>,
    reach: Reach,
    magazine: Magazine<Words>,
}

/// What makes a kept buffer fit a new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) request: Request,
    pub(crate) room: ByteLen,
}

/// A whole buffer that is not in use.
#[derive(Debug)]
struct Spent {
    key: Key,
    live: Arc<Live>,
    place: usize,
}

/// What one owner keeps.
#[derive(Debug)]
pub(crate) struct Shelf {
    shared: Arc<Shared>,
    /// How many pages each magazine holds at most.
    most: usize,
    /// One for each kind of page and reach: a page goes back under the reach that it was taken for.
    magazines: Mutex<Vec<Kept>>,
    /// Buffers of at most `most` pages together.
    spent: Mutex<Vec<Spent>>,
}

impl Shelf {
    /// The buffer of these choices that was kept last, and where the pools know of it.
    pub(crate) fn pop_whole(&self, key: &Key) -> Option<(Arc<Live>, usize)> {
        let mut spent = locked(&self.spent);
        let at = spent.iter().rposition(|kept| kept.key == *key)?;
        let kept = spent.remove(at);
        Some((kept.live, kept.place))
    }

    /// Keeps a whole buffer, if there is room for as many pages.
    pub(crate) fn push_whole(&self, key: Key, live: &Arc<Live>, place: usize) -> Whole {
        let mut spent = locked(&self.spent);
        let kept: u64 = spent.iter().map(|kept| kept.live.pages()).sum();
        // CAST: a number of pages to keep that fits a table.
        if kept.saturating_add(live.pages()) > self.most as u64 {
            return Whole::Refused;
        }
        spent.push(Spent {
            key,
            live: Arc::clone(live),
            place,
        });
        Whole::Kept
    }

    /// The page that was kept last of those taken for this reach.
    pub(crate) fn pop(&self, arena: &Arc<Arena>, reach: Reach) -> Option<Frame> {
        let mut magazines = locked(&self.magazines);
        let kept = magazines.iter_mut().find(|kept| kept.is(arena, reach))?;
        kept.magazine.pop().map(|(frame, _)| frame)
    }

    /// Takes `count` pages that follow each other in memory, of those taken for this reach; the first one's number.
    pub(crate) fn pop_run(&self, arena: &Arc<Arena>, reach: Reach, count: usize) -> Option<Pfn> {
        let mut magazines = locked(&self.magazines);
        let kept = magazines.iter_mut().find(|kept| kept.is(arena, reach))?;
        if count == 1 {
            return kept.magazine.pop().map(|(frame, _)| frame.into_pfn());
        }
        if count == 0 || kept.magazine.len() < count {
            return None;
        }
        let mut pages: Vec<Pfn> = kept.magazine.iter().map(|(pfn, _)| pfn).collect();
        pages.sort_unstable();
        let step = arena.size().base_pages();
        let follow = |run: &&[Pfn]| {
            run.windows(2)
                .all(|two| matches!(two, [a, b] if b.raw() - a.raw() == step))
        };
        let run = pages.windows(count).find(follow)?;
        let (first, last) = (run.first().copied()?, run.last().copied()?);
        let all: Vec<_> = kept.magazine.drain().collect();
        for (frame, class) in all.into_iter().rev() {
            if (first..=last).contains(&frame.pfn()) {
                // The run is known by its first number from now on.
                let _ = frame.into_pfn();
            } else {
                // INVARIANT: there are fewer than a moment ago, so there is room.
                let refused = kept.magazine.push(frame, class);
                debug_assert_eq!(refused, Ok(()));
            }
        }
        Some(first)
    }

    /// Keeps a page, still charged.
    pub(crate) fn push(&self, arena: &Arc<Arena>, reach: Reach, frame: Frame) -> Result<(), Frame> {
        if !self.shared.keeps(arena) {
            return Err(frame);
        }
        let mut magazines = locked(&self.magazines);
        if !magazines.iter().any(|kept| kept.is(arena, reach)) {
            let Ok(memory) = words(self.most) else {
                return Err(frame);
            };
            magazines.push(Kept {
                arena: Arc::clone(arena),
                reach,
                magazine: Magazine::new(arena.size(), memory),
            });
        }
        let class = Class {
            node: NodeId::ZERO,
            level: Level::WIDEST,
        };
        match magazines.iter_mut().find(|kept| kept.is(arena, reach)) {
            // The magazine's own class is not used here: the pool knows the page's when it comes back.
            Some(kept) => kept.magazine.push(frame, class),
            None => Err(frame),
        }
    }

    /// How many pages of `arena` are kept.
    pub(crate) fn kept(&self, arena: &Arc<Arena>) -> u64 {
        let magazines = locked(&self.magazines);
        let of_arena = magazines
            .iter()
            .filter(|kept| Arc::ptr_eq(&kept.arena, arena));
        of_arena.map(|kept| kept.magazine.len() as u64).sum()
    }

    /// Gives back everything of `arena`, or of all: for a shortage, and at the end. Says how many pages that was.
    pub(crate) fn empty(&self, only: Option<&Arc<Arena>>) -> u64 {
        let spent = {
            let mut all = locked(&self.spent);
            let (gone, stay) = std::mem::take(&mut *all)
                .into_iter()
                .partition(|kept: &Spent| only.is_none_or(|only| kept.live.uses(only)));
            *all = stay;
            let gone: Vec<Spent> = gone;
            gone
        };
        let mut buffers = 0;
        for Spent { live, place, .. } in spent {
            buffers += live.pages();
            // Its pages pass by the magazines: they are wanted elsewhere.
            buffer::release(&self.shared, live, place);
        }
        let mut taken = Vec::new();
        for kept in locked(&self.magazines).iter_mut() {
            if only.is_none_or(|only| Arc::ptr_eq(only, &kept.arena)) {
                let charge = Charge {
                    reach: kept.reach,
                    account: AccountId::ROOT,
                };
                let arena = &kept.arena;
                let pages = kept.magazine.drain();
                taken.extend(pages.map(|(frame, _)| (Arc::clone(arena), charge, frame)));
            }
        }
        // ORDER: a stock's lock is never taken inside that of the magazines.
        let count = buffers + taken.len() as u64;
        for (arena, charge, frame) in taken {
            let returned = locked(arena.stock()).put(frame, charge, Condition::Dirty);
            self.shared.settle(&arena, returned);
        }
        count
    }
}

/// What became of a buffer that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// It is on the shelf.
    Kept,
    /// There is no room for it.
    Refused,
}

impl Kept {
    fn is(&self, arena: &Arc<Arena>, reach: Reach) -> bool {
        Arc::ptr_eq(&self.arena, arena) && self.reach == reach
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        // A forked child has none of these pages, and what it would lock may be locked for ever.
        let shared = Arc::clone(&self.shared);
        if let Ok(_inside) = shared.enter() {
            self.empty(None);
        };
    }
}
