// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pool's invariants, compared with every bit of its tables.

use core::fmt;

use super::chunk::{Bin, PageBits, Planes, NONE};
use super::Pool;
use crate::units::PageCount;

/// What [`Pool::check`] found wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// A chunk's counts differ from its planes.
    ChunkCounts,
    /// A class's counts differ from the sum over its chunks.
    ShelfCounts,
    /// A list is circular, or a backward link does not match.
    ListBroken,
    /// A chunk is on the wrong list, or has free pages and is on none.
    ListMisplaced,
    /// A chunk or a class is not where its directory says.
    Directory,
    /// One page is in two chunks.
    PageTwice,
    /// A record is neither in use nor recycled, or both.
    RecordLost,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ChunkCounts => "a chunk's counts differ from its planes",
            Self::ShelfCounts => "a class's counts differ from the sum over its chunks",
            Self::ListBroken => "a list of chunks is broken",
            Self::ListMisplaced => "a chunk is on the wrong list",
            Self::Directory => "a directory does not lead to a chunk or class",
            Self::PageTwice => "a page is in two chunks",
            Self::RecordLost => "a record is neither in use nor recycled",
        })
    }
}

impl core::error::Error for Violation {}

fn holds(condition: bool, otherwise: Violation) -> Result<(), Violation> {
    if condition {
        Ok(())
    } else {
        Err(otherwise)
    }
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Pool<M> {
    /// Compares every derived fact with what it derives from. For tests, and on demand in a running system.
    ///
    /// # Errors
    /// The first [`Violation`]. The time is linear in the tables, times the number of classes.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_records()?;
        self.check_chunks()?;
        self.check_shelves()
    }

    fn chunks_in_use(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.chunks.begun()).filter(|chunk| self.tables.header(*chunk).known != 0)
    }

    fn check_records(&self) -> Result<(), Violation> {
        let chunks = (
            &self.chunks,
            self.chunks_in_use().count(),
            self.tables.layout.chunks,
        );
        let shelves = (
            &self.shelves,
            self.shelves_in_use().count(),
            self.tables.layout.shelves,
        );
        for (records, in_use, limit) in [chunks, shelves] {
            holds(records.begun() <= limit, Violation::RecordLost)?;
            holds(
                u32::try_from(in_use) == Ok(records.used()),
                Violation::RecordLost,
            )?;
        }
        let chunk_after = |chunk: &u32| Some(self.tables.header(*chunk).next);
        let shelf_after = |shelf: &u32| Some(self.tables.recycled_shelf_after(*shelf));
        let chunk_unused = |chunk: &u32| self.tables.header(*chunk).known == 0;
        let shelf_unused = |shelf: &u32| self.tables.chunks_on(*shelf) == 0;
        let chunks = self.recycled(&self.chunks, chunk_after, chunk_unused);
        let shelves = self.recycled(&self.shelves, shelf_after, shelf_unused);
        holds(chunks && shelves, Violation::RecordLost)?;
        let filed = self.tables.filed(self.tables.layout.regions);
        holds(filed == self.chunks.used() as usize, Violation::Directory)?;
        let filed = self.tables.filed(self.tables.layout.classes);
        holds(filed == self.shelves.used() as usize, Violation::Directory)
    }

    /// Whether the recycled list has every record that is not in use, once.
    fn recycled(
        &self,
        records: &super::Records,
        after: impl Fn(&u32) -> Option<u32>,
        unused: impl Fn(&u32) -> bool,
    ) -> bool {
        let expected = records.begun().wrapping_sub(records.used());
        let first = (records.recycled() != NONE).then_some(records.recycled());
        let mut length = 0u32;
        for record in
            core::iter::successors(first, |record| after(record).filter(|next| *next != NONE))
        {
            if length >= expected || record >= records.begun() || !unused(&record) {
                return false;
            }
            length = length.wrapping_add(1);
        }
        length == expected
    }

    fn check_chunks(&self) -> Result<(), Violation> {
        for chunk in self.chunks_in_use() {
            let header = self.tables.header(chunk);
            let known = self.tables.bits(chunk, Planes::known);
            let counts = (
                known.count(),
                self.tables.bits(chunk, |planes| planes.free).count(),
                self.tables.bits(chunk, Planes::clean).count(),
            );
            let claimed = (header.known, header.free, header.clean);
            holds(counts == claimed, Violation::ChunkCounts)?;
            let mut found = 0u32;
            let mut others = PageBits::NONE;
            for other in self.chunks_in(header.region) {
                if other == chunk {
                    found = found.wrapping_add(1);
                    continue;
                }
                holds(
                    self.tables.header(other).shelf != header.shelf,
                    Violation::Directory,
                )?;
                others.add(self.tables.bits(other, Planes::known));
            }
            holds(found == 1, Violation::Directory)?;
            holds(!known.meets(others), Violation::PageTwice)?;
        }
        Ok(())
    }

    fn check_shelves(&self) -> Result<(), Violation> {
        let mut listed = 0usize;
        for shelf in self.shelves_in_use() {
            let class = self.tables.class_on(shelf).ok_or(Violation::Directory)?;
            holds(
                self.tables.shelf_of(class) == Some(shelf),
                Violation::Directory,
            )?;
            let (mut chunks, mut known, mut free, mut clean) = (0u32, 0u64, 0u64, 0u64);
            for chunk in self.chunks_in_use() {
                let header = self.tables.header(chunk);
                if header.shelf == shelf {
                    chunks = chunks.wrapping_add(1);
                    known = known.wrapping_add(header.known.into());
                    free = free.wrapping_add(header.free.into());
                    clean = clean.wrapping_add(header.clean.into());
                }
            }
            holds(
                chunks == self.tables.chunks_on(shelf),
                Violation::ShelfCounts,
            )?;
            let sums = super::Counts {
                known: PageCount::new(known),
                free: PageCount::new(free),
                clean: PageCount::new(clean),
            };
            holds(sums == self.tables.counts_on(shelf), Violation::ShelfCounts)?;
            for bin in Bin::ALL {
                let mut before = NONE;
                for (chunk, header) in self.tables.list(shelf, bin) {
                    holds(header.prev == before, Violation::ListBroken)?;
                    let belongs = header.shelf == shelf && header.bin() == Some(bin);
                    holds(belongs, Violation::ListMisplaced)?;
                    before = chunk;
                    listed = listed.saturating_add(1);
                }
                let end = (before != NONE).then(|| self.tables.header(before).next);
                holds(end.is_none_or(|next| next == NONE), Violation::ListBroken)?;
            }
        }
        // Each list's links agree in both directions, so no chunk is on it twice: equal numbers mean equal sets.
        let free = self
            .chunks_in_use()
            .filter(|chunk| self.tables.header(*chunk).free != 0);
        holds(free.count() == listed, Violation::ListMisplaced)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::frame::{Condition, Frame};
    use crate::reach::Class;
    use crate::units::{HugeSize, Pfn};

    /// Six chunks of two classes, all of them on lists, of every kind but a wholly free one.
    fn pool() -> Pool<Vec<u64>> {
        let memory = vec![0; Pool::<Vec<u64>>::words(6)];
        let mut pool = Pool::new(HugeSize::BASE, memory).unwrap();
        for (region, index) in (0..6u64).zip([0, 700].into_iter().cycle()) {
            let class = Class::from_index(index).unwrap();
            for page in 0..5 {
                let frame = Frame::new(Pfn::new(region * 512 + page), HugeSize::BASE).unwrap();
                let condition = match (region, page) {
                    (0 | 3, _) | (1, 1..=3) => Condition::Clean,
                    _ => Condition::Dirty,
                };
                pool.add(frame, class, condition).unwrap();
            }
            assert!(pool.take(class, Condition::Dirty).is_some());
        }
        pool
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut pool = pool();
        assert_eq!(pool.check(), Ok(()));
        assert_eq!((pool.chunks.used(), pool.shelves.used()), (6, 2));
        let layout = pool.tables.layout;
        let unused_shelves = layout.shelf(2)..layout.planes(0, 0);
        for at in (0..layout.words()).filter(|at| !unused_shelves.contains(at)) {
            // The last word of a shelf is the scratch space of the search for runs.
            if at < layout.shelf(2) && at % 8 == 7 {
                continue;
            }
            for bit in 0..64 {
                let word = pool.tables.load(at);
                pool.tables.store(at, word ^ (1 << bit));
                assert!(pool.check().is_err(), "bit {bit} of word {at}");
                pool.tables.store(at, word);
            }
        }
        assert_eq!(pool.check(), Ok(()));
    }

    #[test]
    fn a_recycled_record_that_leads_to_one_in_use_is_found() {
        let mut pool = pool();
        let pages: Vec<Pfn> = (0..5).map(|page| Pfn::new(5 * 512 + page)).collect();
        let class = pool.knows(pages.first().copied().unwrap()).unwrap();
        while pool.take(class, Condition::Dirty).is_some() {}
        for pfn in pages {
            let frame = Frame::new(pfn, HugeSize::BASE).unwrap();
            assert_eq!(pool.remove(&frame), Ok(class));
        }
        assert_eq!((pool.check(), pool.chunks.recycled()), (Ok(()), 5));
        let mut header = pool.tables.header(5);
        header.next = 2;
        pool.tables.set_header(5, header);
        assert_eq!(pool.check(), Err(Violation::RecordLost));
    }
}
