// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a pool means, in the plainest terms: one map from page number to class and state.

use std::collections::BTreeMap;

use htlb_core::pool::Counts;
use htlb_core::{Class, Condition, Level, NodeId, PageCount};

/// Pages of a chunk.
pub const CHUNK: u64 = 512;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Somebody has it.
    Taken,
    /// The pool has it.
    Free(Condition),
}

/// Level number `level` of node `node`.
///
/// # Panics
/// Where there is no such class.
#[must_use]
pub fn class(node: u32, level: usize) -> Class {
    Class {
        node: NodeId::new(node).unwrap(),
        level: Level::from_index(level).unwrap(),
    }
}

/// A pool. Pages are numbered in units of the pool's page size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naive {
    /// Each page that the pool knows.
    pub pages: BTreeMap<u64, (Class, State)>,
}

impl Naive {
    /// How many pages there are, of one class or of all.
    #[must_use]
    pub fn counts(&self, of: Option<Class>) -> Counts {
        let count = |wanted: fn(State) -> bool| {
            let pages = self
                .pages
                .values()
                .filter(|(class, state)| of.is_none_or(|only| only == *class) && wanted(*state));
            PageCount::new(pages.count() as u64)
        };
        Counts {
            known: count(|_| true),
            free: count(|state| state != State::Taken),
            clean: count(|state| state == State::Free(Condition::Clean)),
        }
    }

    /// Whether `count` pages from `start` are free and of accepted classes.
    #[must_use]
    pub fn is_run(&self, start: u64, count: u64, accept: &dyn Fn(Class) -> bool) -> bool {
        let free = self
            .pages
            .range(start..start + count)
            .filter(|(_, (class, state))| accept(*class) && *state != State::Taken);
        free.count() as u64 == count
    }

    /// Whether any run exists, by trying every aligned page.
    #[must_use]
    pub fn has_run(&self, count: u64, align: u64, accept: &dyn Fn(Class) -> bool) -> bool {
        let mut length = 0;
        let mut last = None;
        let mut starts = BTreeMap::new();
        // Stretches first, so that the trial of every page is affordable.
        for (page, (class, state)) in &self.pages {
            let free = accept(*class) && *state != State::Taken;
            let follows = last.is_some_and(|before: u64| before + 1 == *page);
            length = match (free, follows) {
                (false, _) => 0,
                (true, true) => length + 1,
                (true, false) => 1,
            };
            last = free.then_some(*page);
            if free {
                starts.insert(page + 1 - length, length);
            }
        }
        starts.into_iter().any(|(start, length)| {
            (start..start + length).any(|page| page % align == 0 && page + count <= start + length)
        })
    }
}
