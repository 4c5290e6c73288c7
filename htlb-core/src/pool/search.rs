// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where a run of contiguous free pages is.
//!
//! The search goes over chunks, not pages. Every stretch of free pages begins in exactly one region, and its first
//! aligned place needs the fewest pages after it, so each stretch is walked once and the whole search is linear in the
//! number of chunks. Short runs are looked for in partly free chunks first.

use super::chunk::{Bin, PageBits};
use super::layout::{CHUNK_PAGES, CHUNK_SHIFT};
use super::Pool;
use crate::reach::Class;

/// What a run must be.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// In pages, at least one.
    pub(super) count: u64,
    /// In pages, a power of two.
    pub(super) align: u64,
}

impl Shape {
    /// The first aligned place in `start..end` where the whole run fits.
    fn fit(self, start: u64, end: u64) -> Option<u64> {
        let place = start.checked_next_multiple_of(self.align)?;
        (place.checked_add(self.count)? <= end).then_some(place)
    }
}

/// Shelves whose class the caller accepts, one bit each.
#[derive(Default)]
pub(super) struct Accepted([u64; Class::COUNT.div_ceil(64)]);

impl Accepted {
    pub(super) fn insert(&mut self, shelf: u32) {
        if let Some(word) = self.0.get_mut((shelf >> 6) as usize) {
            *word |= 1 << (shelf & 63);
        }
    }

    fn has(&self, shelf: u32) -> bool {
        let word = self.0.get((shelf >> 6) as usize).copied().unwrap_or(0);
        word & (1 << (shelf & 63)) != 0
    }
}

/// The first page of a region, counted over all memory in pages of the pool's size.
const fn first_page(region: u32) -> u64 {
    (region as u64) << CHUNK_SHIFT
}

/// The regions that `count` pages from `start` touch, and which of their pages.
pub(super) fn spans(start: u64, count: u64) -> impl Iterator<Item = (u32, PageBits)> {
    let end = start.saturating_add(count);
    let within = |page: u64, region: u32| {
        let pages = page
            .saturating_sub(first_page(region))
            .min(CHUNK_PAGES.into());
        // CAST: at most 512.
        #[allow(clippy::cast_possible_truncation)]
        let pages = pages as u32;
        pages
    };
    // CAST: a page number has at most 40 bits, so a region at most 31.
    #[allow(clippy::cast_possible_truncation)]
    let mut region = (start >> CHUNK_SHIFT) as u32;
    core::iter::from_fn(move || {
        if first_page(region) >= end {
            return None;
        }
        let here = (
            region,
            PageBits::span(within(start, region), within(end, region)),
        );
        region = region.wrapping_add(1);
        Some(here)
    })
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Pool<M> {
    /// The first page, counted over all memory, of a run of accepted classes.
    pub(super) fn search(&self, shape: Shape, accepted: &Accepted) -> Option<u64> {
        let inside = |region| self.run_inside(region, shape, accepted);
        if shape.count < CHUNK_PAGES.into() {
            if let Some(start) = self.first_in(&Bin::PART, accepted, inside) {
                return Some(start);
            }
        }
        self.first_in(&Bin::ALL, accepted, |region| {
            inside(region).or_else(|| self.run_from(region, shape, accepted))
        })
    }

    /// What `look` finds first in the regions of accepted classes that these lists hold.
    fn first_in(
        &self,
        bins: &[Bin],
        accepted: &Accepted,
        look: impl Fn(u32) -> Option<u64>,
    ) -> Option<u64> {
        for shelf in self.shelves_in_use() {
            if !accepted.has(shelf) {
                continue;
            }
            for bin in bins {
                for (_, header) in self.tables.list(shelf, *bin) {
                    if let Some(start) = look(header.region) {
                        return Some(start);
                    }
                }
            }
        }
        None
    }

    /// The free pages of a region that are of accepted classes.
    fn free_in(&self, region: u32, accepted: &Accepted) -> PageBits {
        let mut bits = PageBits::NONE;
        for chunk in self.chunks_in(region) {
            if accepted.has(self.tables.header(chunk).shelf) {
                bits.add(self.tables.bits(chunk, |planes| planes.free));
            }
        }
        bits
    }

    /// A run within one region.
    fn run_inside(&self, region: u32, shape: Shape, accepted: &Accepted) -> Option<u64> {
        if shape.count > CHUNK_PAGES.into() {
            return None;
        }
        let bits = self.free_in(region, accepted);
        let base = first_page(region);
        let mut end = 0;
        loop {
            let start = bits.next_in(end);
            if start == CHUNK_PAGES {
                return None;
            }
            end = bits.next_out(start);
            // `base` is a multiple of 512, and start and end are at most 512.
            let found = shape.fit(
                base.wrapping_add(start.into()),
                base.wrapping_add(end.into()),
            );
            if found.is_some() {
                return found;
            }
        }
    }

    /// A run in the stretch that begins in this region and goes on into the next one.
    fn run_from(&self, region: u32, shape: Shape, accepted: &Accepted) -> Option<u64> {
        let tail = self.free_in(region, accepted).tail();
        if tail == CHUNK_PAGES {
            return None;
        }
        // A stretch that comes from the region before is walked from where it begins.
        let before = region
            .checked_sub(1)
            .map(|before| self.free_in(before, accepted).tail());
        if tail == 0 && before.is_some_and(|tail| tail != CHUNK_PAGES) {
            return None;
        }
        let start = first_page(region).wrapping_add(tail.into());
        let mut next = region;
        loop {
            next = next.checked_add(1)?;
            let more = self.free_in(next, accepted).next_out(0);
            let found = shape.fit(start, first_page(next).wrapping_add(more.into()));
            if found.is_some() || more != CHUNK_PAGES {
                return found;
            }
        }
    }
}
