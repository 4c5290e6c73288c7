// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where each table lies in the host's memory.
//!
//! One stretch of 64-bit words holds everything: the shelves, the planes of all chunks, their headers, then the
//! two directories. What is touched most comes first, so that memory aligned to a cache line gives each shelf
//! one line and each chunk's planes two.

use super::directory::Directory;
use crate::reach::Class;

/// Pages per chunk: as many entries as one page table has.
pub(super) const CHUNK_PAGES: u32 = 512;

/// `log2` of [`CHUNK_PAGES`].
pub(super) const CHUNK_SHIFT: u32 = 9;

/// More chunks than 2^40 base pages can have regions, and few enough for a directory entry.
const MAX_CHUNKS: u32 = 1 << 31;

/// Words per shelf.
const SHELF_WORDS: usize = 8;

/// Words per chunk's planes: two bits for each of 512 pages.
const PLANE_WORDS: usize = 16;

/// Words per chunk's header.
const HEADER_WORDS: usize = 3;

/// The tables for a number of chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Chunk records.
    pub(super) chunks: u32,
    /// Shelves: a class in use has at least one chunk, so no more are needed than chunks.
    pub(super) shelves: u32,
    /// Region to chunks.
    pub(super) regions: Directory,
    /// Class to shelf.
    pub(super) classes: Directory,
    planes_at: usize,
    headers_at: usize,
    words: usize,
}

impl Layout {
    /// The tables for `chunks` chunks, at least one, or `None` where they exceed the address space.
    pub(super) fn new(chunks: u32) -> Option<Self> {
        let chunks = chunks.max(1);
        if chunks > MAX_CHUNKS {
            return None;
        }
        // CAST: at most 768.
        #[allow(clippy::cast_possible_truncation)]
        let shelves = chunks.min(Class::COUNT as u32);
        let planes_at = (shelves as usize).checked_mul(SHELF_WORDS)?;
        let headers_at = planes_at.checked_add((chunks as usize).checked_mul(PLANE_WORDS)?)?;
        let regions_at = headers_at.checked_add((chunks as usize).checked_mul(HEADER_WORDS)?)?;
        let regions = Directory::new(regions_at, chunks)?;
        let classes = Directory::new(regions.end()?, shelves)?;
        Some(Self {
            chunks,
            shelves,
            regions,
            classes,
            planes_at,
            headers_at,
            words: classes.end()?,
        })
    }

    /// The largest tables that `words` words can hold.
    pub(super) fn fitting(words: usize) -> Option<Self> {
        let fits = |chunks| Self::new(chunks).filter(|layout| layout.words <= words);
        let mut best = fits(1)?;
        // The tables grow with every chunk, so halving the step finds the largest number that fits.
        let mut step = MAX_CHUNKS;
        while step > 0 {
            if let Some(layout) = best.chunks.checked_add(step).and_then(fits) {
                best = layout;
            }
            step >>= 1;
        }
        Some(best)
    }

    /// The length of all tables in words.
    pub(super) const fn words(&self) -> usize {
        self.words
    }

    /// The place of a shelf's first word.
    pub(super) const fn shelf(&self, shelf: u32) -> usize {
        (shelf as usize).wrapping_mul(SHELF_WORDS)
    }

    /// The place of the pair of plane words that holds `page` of a chunk.
    pub(super) const fn planes(&self, chunk: u32, page: u32) -> usize {
        self.planes_at
            .wrapping_add((chunk as usize).wrapping_mul(PLANE_WORDS))
            .wrapping_add((page as usize >> 6) << 1)
    }

    /// The place of a chunk's header.
    pub(super) const fn header(&self, chunk: u32) -> usize {
        self.headers_at
            .wrapping_add((chunk as usize).wrapping_mul(HEADER_WORDS))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use super::*;

    #[test]
    fn fitting_inverts_words() {
        for chunks in [1, 2, 3, 4, 5, 511, 512, 767, 768, 769, 16_384, 1 << 20] {
            let words = Layout::new(chunks).unwrap().words();
            assert_eq!(Layout::fitting(words).unwrap().chunks, chunks);
            let below = Layout::fitting(words - 1).map_or(0, |layout| layout.chunks);
            assert_eq!(below, chunks - 1);
        }
    }

    #[test]
    fn nothing_fits_nowhere() {
        assert!(Layout::fitting(0).is_none());
        assert!(Layout::new(u32::MAX).is_none());
    }

    #[test]
    fn sixteen_tebibytes_stay_below_half_a_byte_per_page() {
        let chunks = 16_384u32;
        let bytes = Layout::new(chunks).unwrap().words() * 8;
        assert!(
            bytes * 2 < chunks as usize * CHUNK_PAGES as usize,
            "{bytes}"
        );
    }
}
