// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a pool must answer, from one map of pages.
//!
//! [`run`] feeds one list of operations to a [`Pool`](htlb_core::pool::Pool) and to a [`Naive`](naive::Naive), and compares
//! every answer and, after every step, every count.

use arbitrary::Arbitrary;
use htlb_core::{Class, HugeSize, Pfn};

pub mod naive;
mod pair;

use naive::{class, CHUNK};
use pair::Pair;

/// Regions with neighbours, without, and the last one that a frame number can name.
fn regions(size: HugeSize) -> [u64; 5] {
    let last = (Pfn::MAX.raw() >> size.order()) / CHUNK;
    [0, 1, 2, 1 << 20, last]
}

fn classes() -> [Class; 4] {
    [class(0, 0), class(0, 11), class(7, 5), class(63, 11)]
}

/// A page to begin with.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Start(pub u8, pub u16);

impl Start {
    fn region(self) -> usize {
        usize::from(self.0 % 5)
    }

    /// So that `len` pages fit behind it.
    fn start(self, len: u64) -> u64 {
        u64::from(self.1) % (CHUNK + 1 - len)
    }
}

/// A number of pages to add: mostly a few, sometimes a chunk or nearly one.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Length(pub u16);

impl Length {
    fn pages(self) -> u64 {
        let n = u64::from(self.0 / 8);
        match self.0 % 8 {
            7 => CHUNK,
            6 => 500 + n % 12,
            _ => 1 + n % 39,
        }
    }
}

/// The length of a run: mostly short, sometimes around a chunk or two.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Count(pub u16);

impl Count {
    fn pages(self) -> u64 {
        let n = u64::from(self.0 / 8);
        match self.0 % 8 {
            7 => 1000 + n % 100,
            6 => 500 + n % 30,
            _ => 1 + n % 23,
        }
    }
}

/// One of the classes.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Of(pub u8);

impl Of {
    fn class(self) -> Class {
        classes()[usize::from(self.0 % 4)]
    }
}

/// How often: up to a hundred times.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Times(pub u8);

impl Times {
    fn times(self) -> u8 {
        self.0 % 100
    }
}

/// How often: up to some hundred times.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Many(pub u16);

/// One call of the pool, or the same call several times; a flag says whether pages are clean.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs)] // Each is the method of its name, with its arguments.
pub enum Op {
    Add(Start, Length, Of, bool),
    Take(Of, bool, Times),
    Put(u16, bool, Times),
    Remove(u16, Many),
    /// A run of so many pages, the power of two of its alignment, and a bit for each class that will do.
    Run(Count, u8, u8),
    Chunk(Of),
    Adopt(u8),
}

/// Runs every operation on a pool of pages of `size` and on the model, with `check()` and a comparison of all counts after each,
/// then gives everything back and expects an empty pool.
///
/// # Panics
/// Where the pool answers something else than the model.
pub fn run(size: HugeSize, ops: &[Op]) {
    let mut pair = Pair::new(size);
    for &op in ops {
        pair.apply(op);
    }
    pair.drain();
}
