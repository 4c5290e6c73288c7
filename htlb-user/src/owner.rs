// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers that an owner keeps between two uses, so that its own data needs no clearing for it.
//!
//! What is kept is the whole buffer, its pages in their slots and charged as before: taking it out again touches neither
//! ledger nor pool. A page that leaves the shelf is dirty for everyone.

use std::sync::{Arc, Mutex};

use htlb_core::{ByteLen, Request};

use crate::buffer::{self, Layout, Live};
use crate::host::locked;
use crate::pools::{Pools, Shared};

/// How much an owner keeps unless it says otherwise: 64 MiB.
const KEPT: u64 = 64 << 20;

/// One tenant of a process: its buffers may hold what its earlier buffers left, and nobody else's data.
///
/// Only a buffer of the same choices and size is used again. Dropping the last clone gives everything back, and so does a
/// shortage anywhere in the pools.
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
    shelf: Arc<Shelf>,
}

impl Owner {
    /// A new owner that keeps up to 64 MiB.
    #[must_use]
    pub fn new(pools: &Pools) -> Self {
        Self::keeping(pools, KEPT)
    }

    /// A new owner that keeps up to `bytes` bytes.
    #[must_use]
    pub fn keeping(pools: &Pools, bytes: u64) -> Self {
        let shelf = Arc::new(Shelf {
            shared: Arc::clone(pools.shared()),
            limit: ByteLen::new(bytes),
            spent: Mutex::default(),
        });
        pools.shared().register_shelf(&shelf);
        Self { shelf }
    }

    pub(crate) const fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }
}

/// What makes a kept buffer fit a new request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) request: Request,
    pub(crate) capacity: u64,
    pub(crate) layout: Layout,
}

/// A buffer that is not in use.
#[derive(Debug)]
struct Spent {
    key: Key,
    live: Arc<Live>,
    place: usize,
}

/// The buffers that one owner keeps.
#[derive(Debug)]
pub(crate) struct Shelf {
    shared: Arc<Shared>,
    limit: ByteLen,
    spent: Mutex<Vec<Spent>>,
}

impl Shelf {
    /// The buffer of these choices that was kept last.
    pub(crate) fn pop(&self, key: &Key) -> Option<(Arc<Live>, usize)> {
        let mut spent = locked(&self.spent);
        let at = spent.iter().rposition(|kept| kept.key == *key)?;
        let kept = spent.remove(at);
        Some((kept.live, kept.place))
    }

    /// Keeps a buffer; gives it back where that would be too much.
    pub(crate) fn push(&self, key: Key, live: Arc<Live>, place: usize) -> Result<(), Arc<Live>> {
        let mut spent = locked(&self.spent);
        let kept: u64 = spent.iter().map(|kept| kept.key.capacity).sum();
        if kept.saturating_add(key.capacity) > self.limit.raw() {
            return Err(live);
        }
        spent.push(Spent { key, live, place });
        Ok(())
    }

    /// Gives everything back to the pools: for a shortage, and at the end. The caller is inside the gate. Says how many
    /// buffers that were.
    pub(crate) fn empty(&self) -> usize {
        let spent = std::mem::take(&mut *locked(&self.spent));
        let count = spent.len();
        for kept in spent {
            buffer::release(&self.shared, kept.live, kept.place);
        }
        count
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        if !self.shared.is_mine() {
            std::mem::take(&mut *locked(&self.spent))
                .into_iter()
                .for_each(std::mem::forget);
            return;
        }
        let shared = Arc::clone(&self.shared);
        let _inside = shared.enter();
        self.empty();
    }
}
