// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Records in use and records to use again, for chunks and for shelves.

use super::chunk::{Header, Planes, NONE};
use super::layout::Layout;
use super::shelf::class_key;
use super::tables::Tables;
use super::Pool;
use crate::error::Error;
use crate::reach::Class;
use crate::step::Stop;

/// Which records of a table are in use: those below `begun` that are not in the recycled list.
///
/// Records are begun in ascending order, so a larger table needs no preparation, and one that is given back is
/// used first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Records {
    begun: u32,
    used: u32,
    recycled: u32,
}

impl Records {
    /// No record was ever used.
    pub(super) const EMPTY: Self = Self {
        begun: 0,
        used: 0,
        recycled: NONE,
    };

    /// Every record in use is below this.
    pub(super) const fn begun(&self) -> u32 {
        self.begun
    }

    /// The number of records in use.
    pub(super) const fn used(&self) -> u32 {
        self.used
    }

    /// The first recycled record.
    pub(super) const fn recycled(&self) -> u32 {
        self.recycled
    }

    /// Puts a record to use; `after` finds the successor in the recycled list.
    fn open(&mut self, after: impl FnOnce(u32) -> u32) -> u32 {
        self.used = self.used.wrapping_add(1);
        if self.recycled == NONE {
            let record = self.begun;
            self.begun = self.begun.wrapping_add(1);
            record
        } else {
            let record = self.recycled;
            self.recycled = after(record);
            record
        }
    }

    /// Recycles a record, and says which one comes after it in the list.
    fn close(&mut self, record: u32) -> u32 {
        self.used = self.used.wrapping_sub(1);
        core::mem::replace(&mut self.recycled, record)
    }
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Pool<M> {
    /// Makes sure that `chunks` more chunks can be opened.
    pub(super) fn need(&self, chunks: u32) -> Result<(), Stop> {
        let wanted = self.chunks.used().saturating_add(chunks);
        let have = self.tables.layout.chunks;
        if wanted <= have {
            return Ok(());
        }
        // Doubling keeps the cost of moving the tables constant per page.
        let layout =
            Layout::new(wanted.max(have.saturating_mul(2))).or_else(|| Layout::new(wanted));
        Err(
            layout.map_or(Error::OutOfMetadata.into(), |layout| Stop::Metadata {
                table: crate::step::Table::Pool,
                words: layout.words(),
            }),
        )
    }

    /// Begins a chunk without pages; [`Pool::need`] made sure that there is a record.
    ///
    /// A class in use has a chunk, and there are as many shelves as chunks or as classes, so there is a shelf too.
    pub(super) fn open_chunk(&mut self, region: u32, class: Class) -> u32 {
        let tables = &mut self.tables;
        let shelf = match tables.shelf_of(class) {
            Some(shelf) => shelf,
            None => {
                let shelf = self
                    .shelves
                    .open(|shelf| tables.recycled_shelf_after(shelf));
                tables.open_shelf(shelf, class);
                tables.file(tables.layout.classes, class_key(class), shelf);
                shelf
            }
        };
        let chunk = self.chunks.open(|chunk| tables.header(chunk).next);
        tables.set_header(chunk, Header::new(region, shelf));
        for group in Tables::<M>::groups() {
            tables.set_planes(chunk, group, Planes { free: 0, tag: 0 });
        }
        tables.file(tables.layout.regions, region, chunk);
        tables.set_chunks_on(shelf, tables.chunks_on(shelf).wrapping_add(1));
        chunk
    }

    /// Recycles the record of a chunk that has no page left, and the shelf if that was its last chunk.
    pub(super) fn close_chunk(&mut self, chunk: u32) {
        let tables = &mut self.tables;
        let Header { region, shelf, .. } = tables.header(chunk);
        tables.unfile(tables.layout.regions, region, chunk);
        tables.set_header(
            chunk,
            Header {
                next: self.chunks.close(chunk),
                ..Header::new(0, 0)
            },
        );
        let left = tables.chunks_on(shelf).wrapping_sub(1);
        tables.set_chunks_on(shelf, left);
        if left == 0 {
            if let Some(class) = tables.class_on(shelf) {
                tables.unfile(tables.layout.classes, class_key(class), shelf);
            }
            let next = self.shelves.close(shelf);
            tables.recycle_shelf(shelf, next);
        }
    }
}
