// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that an owner keeps between two buffers, so that its own data needs no clearing for it.

use std::sync::{Arc, Mutex};

use htlb_core::ledger::AccountId;
use htlb_core::magazine::Magazine;
use htlb_core::{Charge, Class, Condition, Frame, Level, NodeId, Reach};

use crate::arena::{words, Arena, Words};
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
    /// A new owner, with nothing kept.
    #[must_use]
    pub fn new(pools: &Pools) -> Self {
        let shelf = Arc::new(Shelf {
            shared: Arc::clone(pools.shared()),
            magazines: Mutex::default(),
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

/// The magazines of one owner.
#[derive(Debug)]
pub(crate) struct Shelf {
    shared: Arc<Shared>,
    /// One for each kind of page and reach: a page goes back under the reach that it was taken for.
    magazines: Mutex<Vec<Kept>>,
}

impl Shelf {
    /// The page that was kept last of those taken for this reach.
    pub(crate) fn pop(&self, arena: &Arc<Arena>, reach: Reach) -> Option<Frame> {
        let mut magazines = locked(&self.magazines);
        let kept = magazines.iter_mut().find(|kept| kept.is(arena, reach))?;
        kept.magazine.pop().map(|(frame, _)| frame)
    }

    /// Whether a page taken for this reach is kept.
    pub(crate) fn has(&self, arena: &Arc<Arena>, reach: Reach) -> bool {
        locked(&self.magazines)
            .iter()
            .any(|kept| kept.is(arena, reach) && !kept.magazine.is_empty())
    }

    /// Keeps a page, still charged.
    pub(crate) fn push(&self, arena: &Arc<Arena>, reach: Reach, frame: Frame) -> Result<(), Frame> {
        if !self.shared.owns(arena) {
            return Err(frame);
        }
        let mut magazines = locked(&self.magazines);
        if !magazines.iter().any(|kept| kept.is(arena, reach)) {
            let magazine = Magazine::new(arena.size(), words(KEPT));
            magazines.push(Kept {
                arena: Arc::clone(arena),
                reach,
                magazine,
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

    /// Gives everything back: for a shortage, and at the end.
    pub(crate) fn empty(&self) -> u64 {
        let mut magazines = locked(&self.magazines);
        let mut count = 0;
        for Kept {
            arena,
            reach,
            magazine,
        } in magazines.iter_mut()
        {
            let charge = Charge {
                reach: *reach,
                account: AccountId::ROOT,
            };
            for (frame, _) in magazine.drain() {
                let returned = locked(arena.stock()).put(frame, charge, Condition::Dirty);
                self.shared.settle(arena, returned);
                count += 1;
            }
        }
        count
    }
}

impl Kept {
    fn is(&self, arena: &Arc<Arena>, reach: Reach) -> bool {
        Arc::ptr_eq(&self.arena, arena) && self.reach == reach
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.empty();
    }
}
