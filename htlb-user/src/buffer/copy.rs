// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Bytes in and out of a buffer of any layout, page by page.

use std::ops::Range;

use htlb_core::{ByteOffset, Error as Cause};

use super::Buffer;
use crate::arena::{address, Arena};
use crate::error::Error;

/// A part of a page, and which part of the caller's bytes belongs there.
struct Piece<'a> {
    arena: &'a Arena,
    /// The address of the page.
    page: usize,
    /// Where in the page to begin.
    from: usize,
    /// Which of the caller's bytes.
    bytes: Range<usize>,
}

impl Buffer {
    /// Copies bytes out; works for every layout.
    ///
    /// ```
    /// use htlb_user::buffer::Layout;
    /// let pools = htlb_user::Pools::new()?;
    /// let mut buffer = pools.buffer(3 * 4096).base_pages().layout(Layout::Scattered).create()?;
    /// buffer.write_at(4090, b"across two pages")?;
    /// let mut bytes = [0; 6];
    /// buffer.read_at(4094, &mut bytes)?;
    /// assert_eq!(&bytes, b"ss two");
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Cause::RangeBeyondEnd`], with nothing copied; [`Cause::NotPresent`]: the bytes before the page that is missing have
    /// been copied.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        let len = to.len();
        self.each_page(offset, len, |piece| {
            let leases = self.host().leases();
            let held = leases.hold(piece.arena, piece.page, page_len(piece.arena))?;
            let outcome = match to.get_mut(piece.bytes) {
                Some(to) => held.copy_to(piece.from, to),
                None => Err(Cause::RangeBeyondEnd),
            };
            drop(held);
            leases.forget(piece.page, page_len(piece.arena));
            outcome
        })
        .map_err(|cause| self.error(format!("read {len} bytes at offset {offset}"), cause))
    }

    /// Copies bytes in; works for every layout.
    ///
    /// # Errors
    /// As [`Buffer::read_at`]; [`Cause::Sealed`] where the memory is not this process's to write.
    pub fn write_at(&mut self, offset: u64, from: &[u8]) -> Result<(), Error> {
        self.write_shared(offset, from).map_err(|cause| {
            self.error(
                format!("write {} bytes at offset {offset}", from.len()),
                cause,
            )
        })
    }

    /// As [`Buffer::write_at`], for a caller that knows of no slice.
    pub(super) fn write_shared(&self, offset: u64, from: &[u8]) -> Result<(), Cause> {
        self.writable()?;
        self.each_page(offset, from.len(), |piece| {
            let leases = self.host().leases();
            let mut held = leases.hold_alone(piece.arena, piece.page, page_len(piece.arena))?;
            let outcome = match from.get(piece.bytes) {
                Some(from) => held.copy_from(piece.from, from),
                None => Err(Cause::RangeBeyondEnd),
            };
            leases.give_back(held);
            leases.forget(piece.page, page_len(piece.arena));
            outcome
        })
    }

    /// Calls `f` for each page of a range, which is pinned meanwhile.
    fn each_page(
        &self,
        offset: u64,
        len: usize,
        mut f: impl FnMut(Piece<'_>) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        self.here()?;
        let map = self.core().map();
        // CAST: usize is at most 64 bits wide on Linux.
        let end = offset.checked_add(len as u64).ok_or(Cause::RangeOverflow)?;
        if end > map.size().raw() {
            return Err(Cause::RangeBeyondEnd);
        }
        let mut done = 0;
        while done < len {
            let at = ByteOffset::new(offset + done as u64);
            let index = map.index_at(at)?;
            let bytes = map.extents().bytes_of(index).ok_or(Cause::RangeBeyondEnd)?;
            let arena = self.arena_at(index)?;
            let pin = self.pin_index(index)?;
            // CAST: both are at most the length of a page that is mapped.
            let from = (at.raw() - bytes.start().raw()) as usize;
            let part = (page_len(arena) - from).min(len - done);
            let outcome = f(Piece {
                arena,
                page: address(pin.pfn()),
                from,
                bytes: done..done + part,
            });
            map.unpin(pin);
            outcome?;
            done += part;
        }
        Ok(())
    }
}

/// The length of a page that is mapped.
fn page_len(arena: &Arena) -> usize {
    // CAST: it is mapped, so its length is a usize.
    arena.size().bytes() as usize
}
