// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The host's memory, read and written as chunks, planes and shelves.
//!
//! Every access is checked against the length of the memory. A place past its end reads as zero and takes no
//! write: it cannot come up, because [`Layout`] computes every place from an index below its own limits, but a
//! host whose memory shrinks under us gets wrong counts, which `check()` finds, and never a fault.

use super::chunk::{Header, PageBits, Planes};
use super::layout::{Layout, CHUNK_PAGES};

/// The upper half of a word.
pub(super) const fn high(word: u64) -> u32 {
    // CAST: the shift leaves 32 bits.
    #[allow(clippy::cast_possible_truncation)]
    let half = (word >> 32) as u32;
    half
}

/// The lower half of a word.
pub(super) const fn low(word: u64) -> u32 {
    // CAST: the mask leaves 32 bits.
    #[allow(clippy::cast_possible_truncation)]
    let half = (word & 0xffff_ffff) as u32;
    half
}

/// Two halves as one word.
pub(super) const fn pack(high: u32, low: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

/// The host's memory and where each table lies in it.
#[derive(Debug)]
pub(super) struct Tables<M> {
    memory: M,
    /// Where each table lies.
    pub(super) layout: Layout,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Tables<M> {
    /// Tables in `memory`, which `layout` fits, with both directories empty.
    pub(super) fn new(memory: M, layout: Layout) -> Self {
        let mut tables = Self { memory, layout };
        tables.clear(layout.regions);
        tables.clear(layout.classes);
        tables
    }

    /// The memory, for its host.
    pub(super) fn into_memory(self) -> M {
        self.memory
    }

    #[inline]
    pub(super) fn load(&self, at: usize) -> u64 {
        self.memory.as_ref().get(at).copied().unwrap_or(0)
    }

    #[inline]
    pub(super) fn store(&mut self, at: usize, word: u64) {
        if let Some(place) = self.memory.as_mut().get_mut(at) {
            *place = word;
        }
    }

    #[inline]
    pub(super) fn header(&self, chunk: u32) -> Header {
        let at = self.layout.header(chunk);
        Header::unpack([
            self.load(at),
            self.load(at.wrapping_add(1)),
            self.load(at.wrapping_add(2)),
        ])
    }

    #[inline]
    pub(super) fn set_header(&mut self, chunk: u32, header: Header) {
        let at = self.layout.header(chunk);
        let [place, links, counts] = header.pack();
        self.store(at, place);
        self.store(at.wrapping_add(1), links);
        self.store(at.wrapping_add(2), counts);
    }

    /// The states of `page` of a chunk and of its 63 neighbours.
    #[inline]
    pub(super) fn planes(&self, chunk: u32, page: u32) -> Planes {
        let at = self.layout.planes(chunk, page);
        Planes {
            free: self.load(at),
            tag: self.load(at.wrapping_add(1)),
        }
    }

    #[inline]
    pub(super) fn set_planes(&mut self, chunk: u32, page: u32, planes: Planes) {
        let at = self.layout.planes(chunk, page);
        self.store(at, planes.free);
        self.store(at.wrapping_add(1), planes.tag);
    }

    /// The first page of each group of 64 that shares a pair of plane words.
    pub(super) fn groups() -> impl Iterator<Item = u32> {
        (0..CHUNK_PAGES).step_by(64)
    }

    /// The pages of a chunk whose state `of` picks.
    pub(super) fn bits(&self, chunk: u32, of: impl Fn(Planes) -> u64) -> PageBits {
        let mut bits = PageBits::NONE;
        for group in Self::groups() {
            bits.set_group(group, of(self.planes(chunk, group)));
        }
        bits
    }

    /// The lowest page of a chunk whose state `of` picks.
    #[inline]
    pub(super) fn first(&self, chunk: u32, of: impl Fn(Planes) -> u64) -> Option<u32> {
        Self::groups().find_map(|group| {
            let picked = of(self.planes(chunk, group));
            (picked != 0).then(|| group | picked.trailing_zeros())
        })
    }

    /// Copies the first `chunks` chunks and the first `shelves` shelves, and every directory entry, of `old`.
    pub(super) fn copy_from<N>(&mut self, old: &Tables<N>, chunks: u32, shelves: u32)
    where
        N: AsRef<[u64]> + AsMut<[u64]>,
    {
        let (to, from) = (self.layout, old.layout);
        for shelf in 0..shelves {
            self.copy_words(
                to.shelf(shelf),
                to.shelf(shelf.wrapping_add(1)),
                old,
                from.shelf(shelf),
            );
        }
        for chunk in 0..chunks {
            self.set_header(chunk, old.header(chunk));
            for group in Self::groups() {
                self.set_planes(chunk, group, old.planes(chunk, group));
            }
        }
        self.refile(to.regions, old, from.regions);
        self.refile(to.classes, old, from.classes);
    }

    fn copy_words<N>(&mut self, start: usize, end: usize, old: &Tables<N>, from: usize)
    where
        N: AsRef<[u64]> + AsMut<[u64]>,
    {
        for (to, from) in (start..end).zip(from..) {
            self.store(to, old.load(from));
        }
    }
}
