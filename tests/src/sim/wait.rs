// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Wait queues, hashed by what is waited for.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use htlb_core::{Error, WaitFor, Waiting};

/// So long that only a lost wake-up lasts it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whose slot, seal or gate: the address of the map, or 0 for the machine's gate.
pub type Key = (usize, WaitFor);

/// A small table of queues; keys that share one wake each other for nothing.
#[derive(Debug, Default)]
pub struct Queues {
    queues: [(Mutex<()>, Condvar); 8],
    sleeping: AtomicU64,
    slept: AtomicU64,
}

impl Queues {
    /// Sleeps until `look` says that there is nothing to wait for.
    ///
    /// # Errors
    /// Those of `look`.
    ///
    /// # Panics
    /// After half a minute: the wake-up was lost.
    pub fn sleep(
        &self,
        key: Key,
        mut look: impl FnMut() -> Result<Waiting, Error>,
    ) -> Result<(), Error> {
        let (lock, woken) = self.queue(key);
        // The last look is taken on the queue: whoever ends what is waited for wakes under the same lock.
        let mut queue = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while look()? == Waiting::Sleep {
            self.slept.fetch_add(1, Ordering::SeqCst);
            self.sleeping.fetch_add(1, Ordering::SeqCst);
            let (back, slept) = woken
                .wait_timeout(queue, PATIENCE)
                .unwrap_or_else(PoisonError::into_inner);
            self.sleeping.fetch_sub(1, Ordering::SeqCst);
            queue = back;
            assert!(!slept.timed_out(), "a wake-up of {key:?} was lost");
        }
        Ok(())
    }

    /// Wakes whoever sleeps for this.
    pub fn wake(&self, key: Key) {
        let (lock, woken) = self.queue(key);
        let _queue = lock.lock().unwrap_or_else(PoisonError::into_inner);
        woken.notify_all();
    }

    /// How many threads sleep now.
    pub fn sleeping(&self) -> u64 {
        self.sleeping.load(Ordering::SeqCst)
    }

    /// How often a thread went to sleep.
    pub fn slept(&self) -> u64 {
        self.slept.load(Ordering::SeqCst)
    }

    fn queue(&self, key: Key) -> &(Mutex<()>, Condvar) {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let at = usize::try_from(hasher.finish() % self.queues.len() as u64).unwrap_or(0);
        &self.queues[at]
    }
}
