// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where threads sleep until a claim ends: a small table of queues, shared by all buffers.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
#[cfg(not(tsan))]
use std::sync::PoisonError;
use std::sync::{Condvar, Mutex, MutexGuard};

use htlb_core::page_map::PageMap;
use htlb_core::{Error, PageIndex, WaitFor, Waiting};

use crate::arena::Slots;
use crate::locks::locked;

const QUEUES: usize = 64;

/// The queues. What falls into one queue by accident wakes too early, looks again, and sleeps on.
#[derive(Debug)]
pub(crate) struct Waiters {
    queues: [(Mutex<()>, Condvar); QUEUES],
}

impl Waiters {
    pub(crate) fn new() -> Self {
        Self {
            queues: std::array::from_fn(|_| (Mutex::new(()), Condvar::new())),
        }
    }

    /// Sleeps until `what` of `map` may have changed.
    pub(crate) fn wait(
        &self,
        map: &PageMap<Slots>,
        what: WaitFor,
        holding: Option<PageIndex>,
    ) -> Result<(), Error> {
        let (lock, queue) = self.queue(map, what);
        let held = locked(lock);
        // The last look is under the queue's lock, which a waker takes too: no wake-up falls between look and sleep.
        let waiting = match what {
            WaitFor::Slot(index) => map.prepare_wait(index, holding)?,
            WaitFor::Seal => map.prepare_wait_seal(),
            WaitFor::Gate => Waiting::Retry,
        };
        if waiting == Waiting::Sleep {
            sleep(queue, held);
        }
        Ok(())
    }

    /// Wakes everybody who may wait for `what` of `map`.
    pub(crate) fn wake(&self, map: &PageMap<Slots>, what: WaitFor) {
        let (lock, queue) = self.queue(map, what);
        drop(locked(lock));
        queue.notify_all();
    }

    fn queue(&self, map: &PageMap<Slots>, what: WaitFor) -> &(Mutex<()>, Condvar) {
        let hash = BuildHasherDefault::<DefaultHasher>::default()
            .hash_one((std::ptr::from_ref(map).addr(), what));
        // CAST: the remainder is below QUEUES.
        &self.queues[(hash % QUEUES as u64) as usize]
    }
}

#[cfg(not(tsan))]
fn sleep(queue: &Condvar, held: MutexGuard<'_, ()>) {
    drop(queue.wait(held).unwrap_or_else(PoisonError::into_inner));
}

/// Returns early, which is allowed: the wait inside std is not seen by the thread sanitizer.
#[cfg(tsan)]
fn sleep(_queue: &Condvar, held: MutexGuard<'_, ()>) {
    drop(held);
    std::thread::yield_now();
}
