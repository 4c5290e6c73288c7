// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What an owner keeps between two buffers, so that its own data needs no clearing for it.
//!
//! A buffer that is dropped as it was made is kept whole, its pages in their slots and charged as before: having it again
//! touches neither ledger nor pool. Pages of other buffers are kept one by one, in magazines. Either leaves dirty for everyone.

use std::sync::{Arc, Mutex};

use htlb_core::ledger::AccountId;
use htlb_core::magazine::Magazine;
use htlb_core::{ByteLen, Charge, Class, Condition, Frame, Level, NodeId, Reach, Request};

use crate::arena::{words, Arena, Words};
use crate::buffer::{self, Leftovers, Live};
use crate::locks::locked;
use crate::pools::{Pools, Shared};

/// How much an owner keeps at most, unless it says otherwise.
const KEPT: u64 = 64 << 20;

/// One tenant of a process: buffers that share it may see each other's old data, and nobody else's.
///
/// What it keeps is a convenience: whoever is short of pages gets them, cleared. Dropping the last clone, and the last buffer
/// of it, gives everything back.
///
/// ```
/// use htlb_user::{Owner, Pools};
/// let pools = Pools::new()?;
/// let owner = Owner::new(&pools);
/// let mut first = pools.buffer(8192).base_pages().owner(&owner).create()?;
/// first.as_mut_slice()?[0] = 7;
/// drop(first); // its pages stay with the owner
/// let again = pools.buffer(8192).base_pages().owner(&owner).create()?;
/// assert_eq!(again.as_slice()?[0], 7);
/// let other = pools.buffer(8192).base_pages().create()?;
/// assert_eq!(other.as_slice()?[0], 0);
/// # Ok::<(), htlb_user::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Owner {
    tenancy: Arc<Tenancy>,
}

impl Owner {
    /// A new owner, with nothing kept; it will keep at most 64 MiB.
    #[must_use]
    pub fn new(pools: &Pools) -> Self {
        Self::keeping(pools, KEPT)
    }

    /// A new owner that keeps at most `bytes` bytes, in whole pages.
    #[must_use]
    pub fn keeping(pools: &Pools, bytes: u64) -> Self {
        let shelf = Arc::new(Shelf {
            shared: Arc::clone(pools.shared()),
            most: ByteLen::new(bytes),
            kept: Mutex::default(),
        });
        pools.shared().register_shelf(&shelf);
        Self {
            tenancy: Arc::new(Tenancy { shelf }),
        }
    }

    pub(crate) const fn tenancy(&self) -> &Arc<Tenancy> {
        &self.tenancy
    }
}

/// What makes an owner be: the last one of its clones and buffers gives back what it kept.
///
/// The shelf itself is known to inspections until then, so that no page is ever nowhere.
#[derive(Debug)]
pub(crate) struct Tenancy {
    shelf: Arc<Shelf>,
}

impl Tenancy {
    pub(crate) const fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }
}

impl Drop for Tenancy {
    fn drop(&mut self) {
        // A forked child has none of these pages, and what it would lock may be locked for ever.
        let shared = Arc::clone(&self.shelf.shared);
        if let Ok(_inside) = shared.enter() {
            self.shelf.empty(None);
            shared.unregister_shelf(&self.shelf);
        };
    }
}

/// What makes a kept buffer the answer to a new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) request: Request,
    pub(crate) room: ByteLen,
    pub(crate) threads: usize,
}

/// What one owner keeps.
#[derive(Debug)]
pub(crate) struct Shelf {
    shared: Arc<Shared>,
    most: ByteLen,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    buffers: Vec<Whole>,
    /// One for each kind of page and reach: a page goes back under the reach that it was taken for.
    magazines: Vec<Pages>,
    /// All of it together.
    bytes: u64,
}

/// A buffer that nobody uses, and where the pools know of it.
#[derive(Debug)]
struct Whole {
    key: Key,
    live: Arc<Live>,
    place: usize,
}

#[derive(Debug)]
struct Pages {
    arena: Arc<Arena>,
    reach: Reach,
    magazine: Magazine<Words>,
}

impl Pages {
    fn is(&self, arena: &Arc<Arena>, reach: Reach) -> bool {
        Arc::ptr_eq(&self.arena, arena) && self.reach == reach
    }
}

impl Shelf {
    /// Whether what is kept here can be used in these pools.
    pub(crate) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        Arc::ptr_eq(&self.shared, shared)
    }

    /// The buffer of these choices that was kept last.
    pub(crate) fn pop_whole(&self, key: &Key) -> Option<(Arc<Live>, usize)> {
        let mut kept = locked(&self.kept);
        let at = kept.buffers.iter().rposition(|whole| whole.key == *key)?;
        let whole = kept.buffers.remove(at);
        kept.bytes = kept.bytes.saturating_sub(key.room.raw());
        Some((whole.live, whole.place))
    }

    /// Keeps a buffer that is as it was made.
    ///
    /// # Errors
    /// It, where that would be too much.
    pub(crate) fn push_whole(
        &self,
        key: Key,
        live: Arc<Live>,
        place: usize,
    ) -> Result<(), Arc<Live>> {
        let mut kept = locked(&self.kept);
        let bytes = kept.bytes.saturating_add(key.room.raw());
        if bytes > self.most.raw() {
            return Err(live);
        }
        kept.bytes = bytes;
        kept.buffers.push(Whole { key, live, place });
        Ok(())
    }

    /// The page that was kept last of those taken for this reach.
    pub(crate) fn pop(&self, arena: &Arc<Arena>, reach: Reach) -> Option<Frame> {
        let mut kept = locked(&self.kept);
        let pages = kept.magazines.iter_mut();
        let (frame, _) = pages
            .into_iter()
            .find(|pages| pages.is(arena, reach))?
            .magazine
            .pop()?;
        kept.bytes = kept.bytes.saturating_sub(frame.size().bytes());
        Some(frame)
    }

    /// Keeps a page, still charged.
    ///
    /// # Errors
    /// The frame, where that would be too much, or the pages of this kind are not to stay.
    pub(crate) fn push(&self, arena: &Arc<Arena>, reach: Reach, frame: Frame) -> Result<(), Frame> {
        let mut kept = locked(&self.kept);
        let bytes = kept.bytes.saturating_add(frame.size().bytes());
        if bytes > self.most.raw() || !self.shared.keeps(arena) {
            return Err(frame);
        }
        if !kept.magazines.iter().any(|pages| pages.is(arena, reach)) {
            let room = arena.size().whole_pages_in(self.most).raw();
            let memory = usize::try_from(room).ok().and_then(|room| words(room).ok());
            let Some(memory) = memory else {
                return Err(frame);
            };
            kept.magazines.push(Pages {
                arena: Arc::clone(arena),
                reach,
                magazine: Magazine::new(arena.size(), memory),
            });
        }
        let class = Class {
            node: NodeId::ZERO,
            level: Level::WIDEST,
        };
        let mut magazines = kept.magazines.iter_mut();
        match magazines.find(|pages| pages.is(arena, reach)) {
            // The magazine's own class is not used here: the pool knows the page's when it comes back.
            Some(pages) => pages.magazine.push(frame, class)?,
            None => return Err(frame),
        }
        kept.bytes = bytes;
        Ok(())
    }

    /// How many pages of `arena` are kept one by one.
    pub(crate) fn pages_of(&self, arena: &Arc<Arena>) -> u64 {
        let kept = locked(&self.kept);
        let of_arena = kept
            .magazines
            .iter()
            .filter(|pages| Arc::ptr_eq(&pages.arena, arena));
        of_arena.map(|pages| pages.magazine.len() as u64).sum()
    }

    /// Gives back everything of `arena`, or of all: for a shortage, and at the end. The caller is inside the gate. Says how many
    /// pages and buffers that were.
    pub(crate) fn empty(&self, only: Option<&Arc<Arena>>) -> u64 {
        let mut frames = Vec::new();
        let mut buffers = Vec::new();
        {
            let mut kept = locked(&self.kept);
            let Kept {
                buffers: whole,
                magazines,
                bytes,
            } = &mut *kept;
            for Pages {
                arena,
                reach,
                magazine,
            } in magazines
            {
                if only.is_none_or(|only| Arc::ptr_eq(only, arena)) {
                    let charge = Charge {
                        reach: *reach,
                        account: AccountId::ROOT,
                    };
                    for (frame, _) in magazine.drain() {
                        *bytes = bytes.saturating_sub(frame.size().bytes());
                        frames.push((Arc::clone(arena), charge, frame));
                    }
                }
            }
            for one in std::mem::take(whole) {
                if only.is_none_or(|only| one.live.uses(only)) {
                    *bytes = bytes.saturating_sub(one.key.room.raw());
                    buffers.push(one);
                } else {
                    whole.push(one);
                }
            }
        }
        // ORDER: no stock's lock is ever taken inside that of what is kept.
        let count = frames.len().saturating_add(buffers.len());
        for (arena, charge, frame) in frames {
            let returned = locked(arena.stock()).put(frame, charge, Condition::Dirty);
            self.shared.settle(&arena, returned);
        }
        for mut one in buffers {
            let to = Leftovers::ToPools;
            buffer::release(&self.shared, &mut one.live, one.place, to);
        }
        count as u64
    }
}
