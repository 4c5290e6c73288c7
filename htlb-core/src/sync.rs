// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The atomics of this crate, in one place so that a model checker can stand in for them.
//!
//! Under `--cfg loom` they are loom's, which run every interleaving that the memory orders allow.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
pub use model::{AtomicU64, Loads, Ordering};

#[cfg(loom)]
mod model {
    extern crate std;

    pub use loom::sync::atomic::Ordering;
    use std::cell::Cell;

    /// What a load is to loom.
    ///
    /// loom 0.7 remembers one access to a word for each kind. A thread that loads and then changes a word hides by its own load
    /// that another thread has loaded it before, and then the order in which that one comes second is not tried. So each model
    /// runs twice: with loads as they are, for the values that a memory order lets be old; and with loads that exchange a
    /// word for itself, which nothing hides, for the orders in which things happen.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Loads {
        MayBeOld,
        Exchange,
    }

    std::thread_local! {
        // loom runs the threads of a model on the one that began it.
        static LOADS: Cell<Loads> = const { Cell::new(Loads::MayBeOld) };
    }

    impl Loads {
        /// From now on, for the models of this thread.
        pub fn choose(self) {
            LOADS.set(self);
        }
    }

    #[derive(Debug)]
    pub struct AtomicU64(loom::sync::atomic::AtomicU64);

    impl AtomicU64 {
        pub fn new(value: u64) -> Self {
            Self(loom::sync::atomic::AtomicU64::new(value))
        }

        pub fn load(&self, order: Ordering) -> u64 {
            match LOADS.get() {
                Loads::MayBeOld => self.0.load(order),
                Loads::Exchange => self.0.fetch_or(0, order),
            }
        }
    }

    /// Everything but a load is loom's.
    impl core::ops::Deref for AtomicU64 {
        type Target = loom::sync::atomic::AtomicU64;

        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }
}
