// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Taking locks, whatever a panic left behind: no lock here is held while anything can panic half-way through a change.
//!
//! Under `--cfg tsan` by trying again and again. The thread sanitizer sees what is inlined into this crate, which is one
//! try, and not the wait inside std, which it was not built into: what comes after such a wait would look like a race.

use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(not(tsan))]
    return whole(mutex.lock());
    #[cfg(tsan)]
    trying(|| mutex.try_lock())
}

pub(crate) fn reading<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    #[cfg(not(tsan))]
    return whole(lock.read());
    #[cfg(tsan)]
    trying(|| lock.try_read())
}

pub(crate) fn writing<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    #[cfg(not(tsan))]
    return whole(lock.write());
    #[cfg(tsan)]
    trying(|| lock.try_write())
}

#[cfg(not(tsan))]
fn whole<G>(taken: std::sync::LockResult<G>) -> G {
    taken.unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(tsan)]
fn trying<G>(mut attempt: impl FnMut() -> std::sync::TryLockResult<G>) -> G {
    use std::sync::TryLockError;

    loop {
        match attempt() {
            Ok(held) => return held,
            Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
}
