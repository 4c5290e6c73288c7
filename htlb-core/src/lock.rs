// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Mutual exclusion, as a closure.
//!
//! Kernel locks are pinned, initialised in place and carry a lockdep class, so the core cannot make one; it is
//! only ever handed one. Lock order: a buffer's own lock, then the lock of one page size's stock; where two
//! sizes meet (demotion), the larger size first. Nothing here is held while a page is allocated, cleared, copied or filled.

/// A value that one caller at a time may change.
pub trait Exclusive<T: ?Sized> {
    /// Runs `f` with exclusive access. Not re-entrant.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;
}

impl<T: ?Sized, L: Exclusive<T> + ?Sized> Exclusive<T> for &L {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        (**self).with(f)
    }
}

/// For hosts that have neither the kernel's locks nor std's: bare-metal monitors and unikernels.
#[cfg(feature = "spin")]
impl<T: ?Sized> Exclusive<T> for spin::mutex::SpinMutex<T> {
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.lock())
    }
}

#[cfg(feature = "userspace")]
mod std_side {
    extern crate std;

    use std::sync::{Mutex, MutexGuard, PoisonError};

    impl<T: ?Sized> super::Exclusive<T> for Mutex<T> {
        /// A panic inside an earlier closure does not poison: the core's operations change nothing before the
        /// last point at which they can fail, so what a panic left is consistent.
        fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
            f(&mut locked(self))
        }
    }

    #[cfg(not(tsan))]
    fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread sanitizer sees what is inlined here, which is one try, and not the wait inside std, which it was not
    /// built into: what comes after such a wait would look like a race.
    #[cfg(tsan)]
    fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        use std::sync::TryLockError;

        loop {
            match mutex.try_lock() {
                Ok(held) => return held,
                Err(TryLockError::Poisoned(poisoned)) => return PoisonError::into_inner(poisoned),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
    }
}
