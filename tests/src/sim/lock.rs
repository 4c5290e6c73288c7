// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A stock's lock that knows the lock order, and that nothing slow may happen under it.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use htlb_core::{Exclusive, HugeSize, Stock};

thread_local! {
    /// The sizes whose locks this thread holds, in the order in which it took them.
    static HELD: RefCell<Vec<HugeSize>> = const { RefCell::new(Vec::new()) };
}

/// How many stock locks this thread holds.
pub fn held() -> usize {
    HELD.with_borrow(Vec::len)
}

/// The lock around one page size's stock.
#[derive(Debug)]
pub struct StockLock {
    size: HugeSize,
    stock: Mutex<Stock<Vec<u64>>>,
}

impl StockLock {
    /// Around this stock.
    #[must_use]
    pub fn new(stock: Stock<Vec<u64>>) -> Self {
        Self {
            size: stock.size(),
            stock: Mutex::new(stock),
        }
    }

    /// The page size.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.size
    }
}

struct Released;

impl Drop for Released {
    fn drop(&mut self) {
        HELD.with_borrow_mut(Vec::pop);
    }
}

impl Exclusive<Stock<Vec<u64>>> for StockLock {
    fn with<R>(&self, f: impl FnOnce(&mut Stock<Vec<u64>>) -> R) -> R {
        HELD.with_borrow_mut(|held| {
            // ORDER: the larger size first.
            assert!(
                held.last().is_none_or(|last| *last > self.size),
                "{} taken while {held:?} are held",
                self.size
            );
            held.push(self.size);
        });
        let _released = Released;
        f(&mut self.stock.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
