// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Runs: physically contiguous free pages.
//!
//! A run is first *found*, which changes no fact, and then *taken*: between the two the caller asks the ledger
//! whether it may have that many pages of each class. A run may span chunks, classes and nodes.

use super::chunk::{Bin, PageBits, Planes, NONE};
use super::layout::CHUNK_PAGES;
use super::search::{spans, Accepted, Shape};
use super::tables::Tables;
use super::Pool;
use crate::error::Error;
use crate::frame::{Condition, Frame};
use crate::reach::Class;
use crate::units::{HugeSize, PageCount, Pfn};

/// Physically contiguous pages that were taken together, handed out frame by frame in ascending order.
///
/// What is not handed out is lost to the pool, like a dropped [`Frame`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the pages of a dropped run are leaked"]
#[doc(alias = "alloc_contig_pages")]
pub struct Run {
    next: Pfn,
    left: u64,
    size: HugeSize,
    condition: Condition,
}

impl Run {
    /// The first frame number of what is left.
    #[must_use]
    pub const fn first(&self) -> Pfn {
        self.next
    }

    /// The pages that are left.
    #[must_use]
    pub const fn pages(&self) -> PageCount {
        PageCount::new(self.left)
    }

    /// Clean where every page of the run was.
    #[must_use]
    pub const fn condition(&self) -> Condition {
        self.condition
    }
}

impl Iterator for Run {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        self.left = self.left.checked_sub(1)?;
        let frame = Frame::mint(self.next, self.size);
        // The run lies below 2^40, so one past its last page cannot wrap.
        self.next = Pfn::new(self.next.raw().wrapping_add(self.size.base_pages()));
        Some(frame)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let exact = usize::try_from(self.left).ok();
        (exact.unwrap_or(usize::MAX), exact)
    }
}

/// A run that was found and is still free. Dropping it changes nothing.
#[must_use = "a run that was found is not taken yet"]
#[derive(Debug)]
pub struct FoundRun<'a, M> {
    pool: &'a mut Pool<M>,
    start: u64,
    count: u64,
    condition: Condition,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> FoundRun<'_, M> {
    /// The first frame number.
    #[must_use]
    pub fn first(&self) -> Pfn {
        Pfn::new(self.start << self.pool.size.order())
    }

    /// Clean where every page of the run is.
    #[must_use]
    pub const fn condition(&self) -> Condition {
        self.condition
    }

    /// How many pages of each class the run has: each class once, in no particular order.
    pub fn classes(&self) -> impl Iterator<Item = (Class, PageCount)> + '_ {
        let pool = &*self.pool;
        pool.shelves_in_use()
            .filter_map(|shelf| match pool.tables.tally(shelf) {
                0 => None,
                pages => Some((pool.tables.class_on(shelf)?, PageCount::new(pages))),
            })
    }

    /// Takes every page of the run.
    pub fn take(self) -> Run {
        let first = self.first();
        for (region, span) in spans(self.start, self.count) {
            self.pool.take_span(region, span);
        }
        Run {
            next: first,
            left: self.count,
            size: self.pool.size,
            condition: self.condition,
        }
    }
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Pool<M> {
    /// Finds `count` contiguous free pages of classes that `accept` allows.
    ///
    /// The first frame number is a multiple of `align` base pages. Nothing is taken yet; see [`FoundRun::take`].
    /// The search visits every chunk that has free pages once, and, where no run is found, nothing changed.
    ///
    /// # Errors
    /// [`Error::NoContiguousRun`]; [`Error::ContiguityInvalid`] for no pages; [`Error::AlignmentInvalid`] where `align` is no
    /// power of two.
    ///
    /// ```
    /// use htlb_core::pool::Pool;
    /// use htlb_core::{Class, Condition, Error, Frame, HugeSize, NodeId, PageCount, Pfn};
    ///
    /// let size = HugeSize::MIB2;
    /// let mut pool = Pool::new(size, vec![0; Pool::<Vec<u64>>::words(8)])?;
    /// for page in 0..64 {
    ///     let pfn = Pfn::new(page * size.base_pages());
    ///     let class = Class::of(pfn, size, NodeId::ZERO);
    ///     pool.add(Frame::new(pfn, size)?, class, Condition::Dirty).unwrap();
    /// }
    /// // Pages 0..8 are below 16 MiB, 8..32 below 64 MiB.
    /// let found = pool.find_run(PageCount::new(30), 1, |_| true)?;
    /// assert_eq!(found.classes().map(|(_, pages)| pages.raw()).sum::<u64>(), 30);
    /// let run = found.take();
    /// assert_eq!(run.pages(), PageCount::new(30));
    /// for frame in run {
    ///     pool.put(frame, Condition::Dirty).unwrap();
    /// }
    /// # Ok::<(), Error>(())
    /// ```
    pub fn find_run(
        &mut self,
        count: PageCount,
        align: u64,
        mut accept: impl FnMut(Class) -> bool,
    ) -> Result<FoundRun<'_, M>, Error> {
        if count.is_zero() {
            return Err(Error::ContiguityInvalid);
        }
        if !align.is_power_of_two() {
            return Err(Error::AlignmentInvalid);
        }
        let shape = Shape {
            count: count.raw(),
            align: (align >> self.size.order()).max(1),
        };
        let mut accepted = Accepted::default();
        for shelf in self.shelves_in_use() {
            if self.tables.class_on(shelf).is_some_and(&mut accept) {
                accepted.insert(shelf);
            }
        }
        let start = self
            .search(shape, &accepted)
            .ok_or(Error::NoContiguousRun)?;
        let condition = self.tally_run(start, shape.count);
        Ok(FoundRun {
            pool: self,
            start,
            count: shape.count,
            condition,
        })
    }

    /// Takes a wholly free chunk: 512 pages of one class, aligned like a page of the next size. Dirty chunks first.
    pub fn take_chunk(&mut self, class: Class) -> Option<Run> {
        let shelf = self.tables.shelf_of(class)?;
        let chunk = Bin::WHOLE
            .into_iter()
            .map(|bin| self.tables.head(shelf, bin))
            .find(|chunk| *chunk != NONE)?;
        let header = self.tables.header(chunk);
        self.take_span(header.region, PageBits::span(0, CHUNK_PAGES));
        Some(Run {
            next: self.pfn(header.region, 0),
            left: CHUNK_PAGES.into(),
            size: self.size,
            condition: if header.clean == CHUNK_PAGES {
                Condition::Clean
            } else {
                Condition::Dirty
            },
        })
    }

    pub(super) fn shelves_in_use(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.shelves.begun()).filter(|shelf| self.tables.chunks_on(*shelf) != 0)
    }

    /// Notes on every shelf how many of its pages the run has; clean where all are.
    fn tally_run(&mut self, start: u64, count: u64) -> Condition {
        for shelf in 0..self.shelves.begun() {
            self.tables.set_tally(shelf, 0);
        }
        let mut clean = 0u64;
        for (region, span) in spans(start, count) {
            let mut probe = self.tables.layout.regions.probe(region);
            while let Some(chunk) = self
                .tables
                .next_match(self.tables.layout.regions, &mut probe)
            {
                let shelf = self.tables.header(chunk).shelf;
                let free = span
                    .and(self.tables.bits(chunk, |planes| planes.free))
                    .count();
                let zeroed = span.and(self.tables.bits(chunk, Planes::clean)).count();
                // Counts of pages below 2^40 cannot wrap.
                clean = clean.wrapping_add(zeroed.into());
                let tally = self.tables.tally(shelf).wrapping_add(free.into());
                self.tables.set_tally(shelf, tally);
            }
        }
        if clean == count {
            Condition::Clean
        } else {
            Condition::Dirty
        }
    }

    /// Takes every free page of a region that is in `span`.
    fn take_span(&mut self, region: u32, span: PageBits) {
        let regions = self.tables.layout.regions;
        let mut probe = regions.probe(region);
        while let Some(chunk) = self.tables.next_match(regions, &mut probe) {
            let old = self.tables.header(chunk);
            let mut new = old;
            for group in Tables::<M>::groups() {
                let planes = self.tables.planes(chunk, group);
                let bits = span.group(group) & planes.free;
                if bits == 0 {
                    continue;
                }
                new.free = new.free.wrapping_sub(bits.count_ones());
                new.clean = new.clean.wrapping_sub((bits & planes.clean()).count_ones());
                self.tables.set_planes(chunk, group, planes.took(bits));
            }
            if new != old {
                self.tables.settle(chunk, old, new);
            }
        }
    }
}
