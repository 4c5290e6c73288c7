// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A chunk: the pages of one class in one region.
//!
//! A *region* is 512 pages aligned to 512 pages, what one page table of the next level maps: 1 GiB of 2 MiB
//! pages. A region that spans nodes or address levels has one chunk per class. Two bit planes hold each
//! page's state, so that "clean but not free" and "free but not known" cannot be written down:
//!
//! | free | tag | the page is |
//! |------|-----|-------------|
//! | 0 | 0 | not in this chunk |
//! | 0 | 1 | taken |
//! | 1 | 0 | free and dirty |
//! | 1 | 1 | free and clean |

use super::layout::CHUNK_PAGES;
use super::tables::{high, low, pack};
use crate::frame::Condition;

/// No chunk: the end of a list.
pub(super) const NONE: u32 = u32::MAX;

/// The states of 64 pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Planes {
    /// The free plane.
    pub(super) free: u64,
    /// The tag plane.
    pub(super) tag: u64,
}

impl Planes {
    /// The free pages that hold only zeroes.
    pub(super) const fn clean(self) -> u64 {
        self.free & self.tag
    }

    /// The free pages that may hold anything.
    pub(super) const fn dirty(self) -> u64 {
        self.free & !self.tag
    }

    /// The pages that somebody holds.
    pub(super) const fn taken(self) -> u64 {
        !self.free & self.tag
    }

    /// The pages of this chunk.
    pub(super) const fn known(self) -> u64 {
        self.free | self.tag
    }

    /// The pages of `bits` become free.
    pub(super) const fn freed(self, bits: u64, condition: Condition) -> Self {
        Self {
            free: self.free | bits,
            tag: match condition {
                Condition::Clean => self.tag | bits,
                Condition::Dirty => self.tag & !bits,
            },
        }
    }

    /// The pages of `bits` are taken.
    pub(super) const fn took(self, bits: u64) -> Self {
        Self {
            free: self.free & !bits,
            tag: self.tag | bits,
        }
    }

    /// The pages of `bits` leave the chunk.
    pub(super) const fn without(self, bits: u64) -> Self {
        Self {
            free: self.free & !bits,
            tag: self.tag & !bits,
        }
    }
}

/// The bit of `page` in its group of 64.
pub(super) const fn bit(page: u32) -> u64 {
    1 << (page & 63)
}

/// The lists that a chunk with free pages can be on: one per fullness and purity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bin {
    /// Partly free, all of it dirty.
    PartDirty,
    /// Partly free, some dirty and some clean.
    PartMixed,
    /// Partly free, all of it clean.
    PartClean,
    /// All 512 pages free and dirty.
    WholeDirty,
    /// All 512 pages free, some dirty and some clean.
    WholeMixed,
    /// All 512 pages free and clean.
    WholeClean,
}

impl Bin {
    /// Every bin, partly free ones first.
    pub(super) const ALL: [Self; 6] = [
        Self::PartDirty,
        Self::PartMixed,
        Self::PartClean,
        Self::WholeDirty,
        Self::WholeMixed,
        Self::WholeClean,
    ];

    /// The bins of wholly free chunks.
    pub(super) const WHOLE: [Self; 3] = [Self::WholeDirty, Self::WholeMixed, Self::WholeClean];

    /// The bins of partly free chunks.
    pub(super) const PART: [Self; 3] = [Self::PartDirty, Self::PartMixed, Self::PartClean];

    /// In which order a page is looked for: a whole chunk is broken only when no other is left, whatever the
    /// condition, because a clear costs microseconds and a chunk may take days to come together again.
    pub(super) const fn order(prefer: Condition) -> [Self; 6] {
        match prefer {
            Condition::Dirty => Self::ALL,
            Condition::Clean => [
                Self::PartClean,
                Self::PartMixed,
                Self::PartDirty,
                Self::WholeClean,
                Self::WholeMixed,
                Self::WholeDirty,
            ],
        }
    }
}

/// What a chunk is and where it hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The region: first frame number divided by 512 pages.
    pub(super) region: u32,
    /// The shelf of its class.
    pub(super) shelf: u32,
    /// Pages in the chunk; zero in a recycled record.
    pub(super) known: u32,
    /// Free pages.
    pub(super) free: u32,
    /// Free pages that are clean.
    pub(super) clean: u32,
    /// The chunk before it in its list.
    pub(super) prev: u32,
    /// The chunk after it in its list, or in the list of recycled records.
    pub(super) next: u32,
}

impl Header {
    /// A chunk without pages.
    pub(super) const fn new(region: u32, shelf: u32) -> Self {
        Self {
            region,
            shelf,
            known: 0,
            free: 0,
            clean: 0,
            prev: NONE,
            next: NONE,
        }
    }

    /// Three words: place, links, counts.
    pub(super) const fn pack(self) -> [u64; 3] {
        [
            // A shelf number is below 768 and a count at most 512: 16 bits each.
            pack(self.region, (self.shelf << 16) | self.known),
            pack(self.prev, self.next),
            pack(self.free, self.clean),
        ]
    }

    /// The inverse of [`Header::pack`].
    pub(super) const fn unpack([place, links, counts]: [u64; 3]) -> Self {
        Self {
            region: high(place),
            shelf: low(place) >> 16,
            known: low(place) & 0xffff,
            free: high(counts),
            clean: low(counts),
            prev: high(links),
            next: low(links),
        }
    }

    /// The list that it belongs on, if it has free pages.
    #[inline]
    pub(super) const fn bin(self) -> Option<Bin> {
        if self.free == 0 {
            return None;
        }
        let whole = self.free == CHUNK_PAGES;
        Some(match (whole, self.clean) {
            (false, 0) => Bin::PartDirty,
            (true, 0) => Bin::WholeDirty,
            (false, clean) if clean == self.free => Bin::PartClean,
            (true, clean) if clean == self.free => Bin::WholeClean,
            (false, _) => Bin::PartMixed,
            (true, _) => Bin::WholeMixed,
        })
    }
}

/// A set of pages of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PageBits([u64; 8]);

impl PageBits {
    /// No page.
    pub(super) const NONE: Self = Self([0; 8]);

    /// The group of 64 that holds `page`.
    pub(super) fn group(&self, page: u32) -> u64 {
        self.0.get((page >> 6) as usize).copied().unwrap_or(0)
    }

    /// Replaces the group of 64 that holds `page`.
    pub(super) fn set_group(&mut self, page: u32, bits: u64) {
        if let Some(word) = self.0.get_mut((page >> 6) as usize) {
            *word = bits;
        }
    }

    /// Adds the pages of `other`.
    pub(super) fn add(&mut self, other: Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// The pages that are in both.
    pub(super) fn and(mut self, other: Self) -> Self {
        for (word, mask) in self.0.iter_mut().zip(other.0) {
            *word &= mask;
        }
        self
    }

    /// Whether both have a page in common.
    pub(super) fn meets(&self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    /// The number of pages.
    pub(super) fn count(&self) -> u32 {
        self.0
            .iter()
            .fold(0, |sum, word| sum.wrapping_add(word.count_ones()))
    }

    /// The pages from `start` up to, not including, `end`.
    pub(super) fn span(start: u32, end: u32) -> Self {
        let below = |limit: u32, group: u32| match limit.saturating_sub(group) {
            0 => 0,
            count @ 1..=63 => bit(count).wrapping_sub(1),
            _ => u64::MAX,
        };
        let mut bits = Self::NONE;
        for (word, group) in bits.0.iter_mut().zip((0..CHUNK_PAGES).step_by(64)) {
            *word = below(end, group) & !below(start, group);
        }
        bits
    }

    /// The first page at or after `from` that is in the set, or else 512.
    pub(super) fn next_in(&self, from: u32) -> u32 {
        self.next(from, 0)
    }

    /// The first page at or after `from` that is not in the set, or else 512.
    pub(super) fn next_out(&self, from: u32) -> u32 {
        self.next(from, u64::MAX)
    }

    fn next(&self, from: u32, flip: u64) -> u32 {
        let mut page = from;
        while page < CHUNK_PAGES {
            let rest = (self.group(page) ^ flip) >> (page & 63);
            if rest != 0 {
                return page.wrapping_add(rest.trailing_zeros());
            }
            page = (page | 63).wrapping_add(1);
        }
        CHUNK_PAGES
    }

    /// The first page of the unbroken stretch that ends the region; 512 where its last page is not in the set.
    pub(super) fn tail(&self) -> u32 {
        let mut start = CHUNK_PAGES;
        for word in self.0.iter().rev() {
            start = start.wrapping_sub(word.leading_ones());
            if *word != u64::MAX {
                break;
            }
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_packing_loses_nothing() {
        let header = Header {
            region: (1 << 31) - 1,
            shelf: 767,
            known: 512,
            free: 512,
            clean: 511,
            prev: NONE,
            next: (1 << 31) - 1,
        };
        assert_eq!(Header::unpack(header.pack()), header);
    }

    #[test]
    fn bins_tell_fullness_and_purity() {
        let bin = |free, clean| {
            Header {
                free,
                clean,
                ..Header::new(0, 0)
            }
            .bin()
        };
        assert_eq!(bin(0, 0), None);
        assert_eq!(bin(1, 0), Some(Bin::PartDirty));
        assert_eq!(bin(511, 511), Some(Bin::PartClean));
        assert_eq!(bin(511, 510), Some(Bin::PartMixed));
        assert_eq!(bin(512, 0), Some(Bin::WholeDirty));
        assert_eq!(bin(512, 1), Some(Bin::WholeMixed));
        assert_eq!(bin(512, 512), Some(Bin::WholeClean));
    }

    #[test]
    fn spans_equal_their_definition() {
        for start in [0, 1, 63, 64, 65, 127, 128, 300, 511, 512] {
            for end in [0, 1, 63, 64, 65, 127, 128, 300, 511, 512] {
                let span = PageBits::span(start, end);
                for page in 0..CHUNK_PAGES {
                    let within = span.group(page) & bit(page) != 0;
                    assert_eq!(within, start <= page && page < end, "{start}..{end} {page}");
                }
                assert_eq!(span.count(), end.saturating_sub(start));
                if start < end {
                    assert_eq!((span.next_in(0), span.next_out(start)), (start, end));
                    assert_eq!(span.tail(), if end == 512 { start } else { 512 });
                }
            }
        }
    }

    #[test]
    fn a_page_has_one_state() {
        let none = Planes { free: 0, tag: 0 };
        for (planes, want) in [
            (none, (0, 0, 0, 0)),
            (none.took(1), (0, 0, 1, 1)),
            (none.freed(1, Condition::Dirty), (0, 1, 0, 1)),
            (none.freed(1, Condition::Clean), (1, 0, 0, 1)),
            (none.took(1).freed(1, Condition::Dirty), (0, 1, 0, 1)),
            (
                none.freed(1, Condition::Clean).took(1).without(1),
                (0, 0, 0, 0),
            ),
        ] {
            let got = (
                planes.clean(),
                planes.dirty(),
                planes.taken(),
                planes.known(),
            );
            assert_eq!(got, want);
        }
    }
}
