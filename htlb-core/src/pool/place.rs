// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! From a frame number to the bits that say what its page is, and back.

use super::chunk::{bit, Header};
use super::layout::{CHUNK_PAGES, CHUNK_SHIFT};
use super::Pool;
use crate::frame::{Condition, Frame};
use crate::reach::Class;
use crate::units::Pfn;

/// Where a page's bits are.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The chunk.
    pub(super) chunk: u32,
    /// The page's number in its region.
    pub(super) page: u32,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Pool<M> {
    /// The region of a page, and its number there.
    pub(super) const fn split(&self, pfn: Pfn) -> (u32, u32) {
        let page = pfn.raw() >> self.size.order();
        // CAST: a frame number has 40 bits, so the region has at most 31; the mask leaves 9.
        #[allow(clippy::cast_possible_truncation)]
        let split = (
            (page >> CHUNK_SHIFT) as u32,
            (page & (CHUNK_PAGES as u64).wrapping_sub(1)) as u32,
        );
        split
    }

    /// The inverse of [`Pool::split`].
    pub(super) const fn pfn(&self, region: u32, page: u32) -> Pfn {
        Pfn::new((((region as u64) << CHUNK_SHIFT) | page as u64) << self.size.order())
    }

    /// The chunks of a region.
    pub(super) fn chunks_in(&self, region: u32) -> impl Iterator<Item = u32> + '_ {
        let regions = self.tables.layout.regions;
        let mut probe = regions.probe(region);
        core::iter::from_fn(move || self.tables.next_match(regions, &mut probe))
    }

    pub(super) fn chunk_of(&self, region: u32, class: Class) -> Option<u32> {
        let shelf = self.tables.shelf_of(class)?;
        self.chunks_in(region)
            .find(|chunk| self.tables.header(*chunk).shelf == shelf)
    }

    #[inline]
    pub(super) fn locate(&self, pfn: Pfn) -> Option<Place> {
        if Frame::new(pfn, self.size).is_err() {
            return None;
        }
        let (region, page) = self.split(pfn);
        self.chunks_in(region)
            .find(|chunk| self.tables.planes(*chunk, page).known() & bit(page) != 0)
            .map(|chunk| Place { chunk, page })
    }

    #[inline]
    pub(super) fn locate_taken(&self, frame: &Frame) -> Option<(Place, Class)> {
        if frame.size() != self.size {
            return None;
        }
        let place = self.locate(frame.pfn())?;
        if self.tables.planes(place.chunk, place.page).taken() & bit(place.page) == 0 {
            return None;
        }
        let class = self
            .tables
            .class_on(self.tables.header(place.chunk).shelf)?;
        Some((place, class))
    }

    #[inline]
    pub(super) fn free_page(
        &mut self,
        Place { chunk, page }: Place,
        condition: Condition,
        old: Header,
        mut new: Header,
    ) {
        new.free = new.free.wrapping_add(1);
        if condition == Condition::Clean {
            new.clean = new.clean.wrapping_add(1);
        }
        let planes = self.tables.planes(chunk, page).freed(bit(page), condition);
        self.tables.set_planes(chunk, page, planes);
        self.tables.settle(chunk, old, new);
    }
}
