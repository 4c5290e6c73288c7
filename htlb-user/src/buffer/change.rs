// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Promising, punching and resizing.

use htlb_core::driver::{self, Punched};
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error as Cause, PageIndex, Pfn};

use super::{Access, Buffer};
use crate::arena::address;
use crate::error::Error;

impl Buffer {
    /// Promises every page of `offset..offset + len` that is not there yet; says how many bytes that was.
    ///
    /// A page that is set aside for the buffer, as in what a straight one has beyond its size, needs no promise.
    ///
    /// # Errors
    /// [`Cause::NoRoom`] and [`Cause::OutOfPages`], with nothing promised; ranges that are not whole pages of the buffer.
    pub fn reserve(&self, offset: u64, len: u64) -> Result<u64, Error> {
        let fail = |cause| self.error(format!("reserve {len} bytes at offset {offset}"), cause);
        let _inside = self.host().shared().enter().map_err(fail)?;
        let range = ByteRange::at(ByteOffset::new(offset), ByteLen::new(len)).map_err(fail)?;
        self.promise(range).map_err(fail)
    }

    fn promise(&self, range: ByteRange) -> Result<u64, Cause> {
        let map = self.core().map();
        let mut parts = self.core().parts();
        if let (Some(only), None) = (parts.next(), parts.next()) {
            if self.host().aside().left() == 0 {
                let pages = driver::reserve(self.host(), self.core(), range)?;
                return Ok(pages.raw() * only.attempt.size.bytes());
            }
        }
        let pages = map.pages(range)?;
        let promises = || -> u64 {
            let census = map.census_of(pages);
            let bytes = census
                .iter()
                .map(|(size, census)| size.bytes() * census.promises().raw());
            bytes.sum()
        };
        let before = promises();
        if self.host().aside().left() == 0 {
            driver::reserve(self.host(), self.core(), range)?;
        } else {
            for index in pages.iter() {
                if !self.host().aside().has(index) {
                    let page = map.extents().bytes_of(index).ok_or(Cause::RangeBeyondEnd)?;
                    let end = page.end().min(range.end());
                    let page = ByteRange::new(page.start(), end)?;
                    driver::reserve(self.host(), self.core(), page)?;
                }
            }
        }
        Ok(promises().saturating_sub(before))
    }

    /// Gives the pages and promises of `offset..offset + len` back; says what that was. No system call.
    ///
    /// # Errors
    /// [`Cause::Pinned`] and [`Cause::Sealed`], with nothing given back; ranges that are not whole pages of the buffer.
    pub fn punch(&self, offset: u64, len: u64) -> Result<Punched, Error> {
        let fail = |cause| self.error(format!("punch {len} bytes at offset {offset}"), cause);
        let _inside = self.host().shared().enter().map_err(fail)?;
        self.writable().map_err(fail)?;
        let range = ByteRange::at(ByteOffset::new(offset), ByteLen::new(len)).map_err(fail)?;
        driver::punch(self.host(), self.core(), range).map_err(fail)
    }

    /// What only reads must not make holes: they would come back as zeroes, for peers too.
    pub(super) fn writable(&self) -> Result<(), Cause> {
        match self.access {
            Access::InPlace | Access::Copies => Ok(()),
            Access::InPlaceReadOnly => Err(Cause::Sealed),
        }
    }

    /// Makes the buffer `size` bytes long; says what was given back. Shrinking gives back the pages that lie wholly beyond and
    /// zeroes the rest of the one that the new end cuts; growing promises nothing.
    ///
    /// # Errors
    /// [`Cause::BeyondCapacity`]; shrinking as [`Buffer::punch`].
    pub fn truncate(&mut self, size: u64) -> Result<Punched, Error> {
        let punched = self
            .resize(size)
            .map_err(|cause| self.error(format!("resize to {size} bytes"), cause))?;
        self.asked = ByteLen::new(size);
        Ok(punched)
    }

    /// As [`Buffer::truncate`], for a caller that knows of no slice.
    pub(super) fn resize(&self, size: u64) -> Result<Punched, Cause> {
        let _inside = self.host().shared().enter()?;
        let old = self.len();
        if size < old {
            self.writable()?;
        }
        let punched = driver::truncate(self.host(), self.core(), ByteLen::new(size))?;
        if size < old && size > 0 {
            let last = ByteOffset::new(size - 1);
            let map = self.core().map();
            // Where no page is, or one that has just gone, there is nothing to zero.
            if let (Ok(page), Ok(index)) = (map.page_at(last), map.index_at(last)) {
                self.zero_tail(index, page.pfn, page.offset_in_page.raw() + 1)?;
            }
        }
        Ok(punched)
    }

    /// Zeroes a page from `used` bytes on.
    fn zero_tail(&self, index: PageIndex, pfn: Pfn, used: u64) -> Result<(), Cause> {
        let arena = self.arena_at(index)?;
        // CAST: both are at most the length of a page that is mapped.
        let (used, len) = (used as usize, arena.size().bytes() as usize);
        let leases = self.host().leases();
        let mut held = leases.hold_alone(arena, address(pfn), len)?;
        let outcome = held.zero_from(used);
        leases.give_back(held);
        outcome
    }
}
