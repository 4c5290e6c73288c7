// SPDX-License-Identifier: GPL-2.0-only
//! Memory for the core's tables and slots.

use core::sync::atomic::AtomicU64;

use htlb_core::Error as Reason;
use kernel::prelude::*;

/// Words for a table.
pub(crate) struct Words(KVVec<u64>);

/// A page map's slots.
pub(crate) struct Slots(KVVec<AtomicU64>);

impl Words {
    /// So many words, all zero.
    pub(crate) fn zeroed(words: usize) -> Result<Self, Reason> {
        let memory = KVVec::from_elem(0, words, GFP_KERNEL);
        memory.map(Self).map_err(|_| Reason::OutOfMetadata)
    }
}

impl AsRef<[u64]> for Words {
    fn as_ref(&self) -> &[u64] {
        &self.0
    }
}

impl AsMut<[u64]> for Words {
    fn as_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

impl Slots {
    /// So many slots, all holes. Charged to the caller's memory cgroup: a buffer's table is as large as it likes.
    pub(crate) fn holes(slots: usize) -> Result<Self, Reason> {
        let flags = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
        let mut memory = KVVec::with_capacity(slots, flags).map_err(|_| Reason::OutOfMetadata)?;
        for _ in 0..slots {
            if memory.push_within_capacity(AtomicU64::new(0)).is_err() {
                return Err(Reason::OutOfMetadata);
            }
        }
        Ok(Self(memory))
    }
}

impl AsRef<[AtomicU64]> for Slots {
    fn as_ref(&self) -> &[AtomicU64] {
        &self.0
    }
}
