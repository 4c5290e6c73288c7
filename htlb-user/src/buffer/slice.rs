// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The bytes of a buffer that is straight in memory.

use std::ops::{Deref, DerefMut};

use htlb_core::page_map::Seal;
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error as Cause, PageIndex, Pfn};

use super::{Access, Buffer};
use crate::arena::{address, Arena};
use crate::error::Error;
use crate::host::leases::{Held, HeldAlone};
use crate::host::BufferHost;

/// Bytes of a buffer, to read. Seals the buffer: nothing of it can be punched or truncated meanwhile.
#[derive(Debug)]
pub struct Slice<'b> {
    buffer: &'b Buffer,
    seal: Option<Seal>,
    /// `None` for no bytes.
    held: Option<Held>,
}

impl Deref for Slice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.held.as_ref().and_then(Held::bytes).unwrap_or_default()
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        // The bytes first: whoever waits for the seal finds them let go.
        self.held = None;
        if let Some(seal) = self.seal.take() {
            self.buffer.core().map().unseal(seal);
        }
    }
}

/// Bytes of a buffer, to write; the buffer is borrowed exclusively.
#[derive(Debug)]
pub struct SliceMut<'b> {
    host: &'b BufferHost,
    /// `None` for no bytes, and while it is dropped.
    held: Option<HeldAlone>,
}

impl Deref for SliceMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.held
            .as_ref()
            .and_then(HeldAlone::bytes)
            .unwrap_or_default()
    }
}

impl DerefMut for SliceMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.held
            .as_mut()
            .and_then(HeldAlone::bytes_mut)
            .unwrap_or_default()
    }
}

impl Drop for SliceMut<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.host.leases().give_back(held);
        }
    }
}

/// Bytes that follow each other in memory, and the whole pages that they lie in.
struct Straight<'b> {
    arena: &'b Arena,
    /// The address of the first page.
    first: usize,
    /// The length of all pages.
    whole: usize,
    /// Where in the first page the bytes begin.
    from: usize,
    len: usize,
}

impl Buffer {
    /// The whole buffer, to read.
    ///
    /// # Errors
    /// As [`Buffer::slice`].
    pub fn as_slice(&self) -> Result<Slice<'_>, Error> {
        self.slice(0, self.len())
    }

    /// The bytes `offset..offset + len`, to read. Looks at every page of them.
    ///
    /// # Errors
    /// [`Cause::NotPresent`] where a page has not been populated; [`Cause::NoContiguousRun`] where pages do not follow
    /// each other in memory ([`crate::buffer::Layout::Scattered`], or populated one by one): read such a buffer by [`Buffer::read_at`];
    /// [`Cause::Sealed`] where peers may write the memory at any time; [`Cause::PinOverflow`].
    pub fn slice(&self, offset: u64, len: u64) -> Result<Slice<'_>, Error> {
        let fail = |cause| {
            self.error(
                format!("read {len} bytes at offset {offset} in place"),
                cause,
            )
        };
        if self.access == Access::Copies {
            return Err(fail(Cause::Sealed).advise(
                "peers may write this memory: copy with read_at, or attach it as trusted",
            ));
        }
        let seal = self.seal_map().map_err(fail)?;
        let held = self.straight(offset, len).and_then(|straight| {
            let Some(straight) = straight else {
                return Ok(None);
            };
            let leases = self.host().leases();
            let mut held = leases.hold(straight.arena, straight.first, straight.whole)?;
            held.narrow(straight.from, straight.len);
            Ok(Some(held))
        });
        match held {
            Ok(held) => Ok(Slice {
                buffer: self,
                seal: Some(seal),
                held,
            }),
            Err(cause) => {
                self.core().map().unseal(seal);
                Err(fail(cause))
            }
        }
    }

    /// The whole buffer, to write.
    ///
    /// # Errors
    /// As [`Buffer::slice`].
    pub fn as_mut_slice(&mut self) -> Result<SliceMut<'_>, Error> {
        let len = self.len();
        let fail = |cause| self.error(format!("write {len} bytes in place"), cause);
        if self.access != Access::InPlace {
            return Err(fail(Cause::Sealed));
        }
        let Some(straight) = self.straight(0, len).map_err(fail)? else {
            return Ok(SliceMut {
                host: self.host(),
                held: None,
            });
        };
        let leases = self.host().leases();
        let held = leases.hold_alone(straight.arena, straight.first, straight.whole);
        let mut held = held.map_err(fail)?;
        held.narrow(straight.from, straight.len);
        Ok(SliceMut {
            host: self.host(),
            held: Some(held),
        })
    }

    /// Address and length of the whole buffer, for C and for devices. Reading or writing through it is up to the
    /// caller: the pages may be punched unless they are pinned or the buffer is sealed, and are gone with the buffer.
    ///
    /// # Errors
    /// [`Cause::NotPresent`] and [`Cause::NoContiguousRun`] as [`Buffer::slice`].
    pub fn raw_parts(&self) -> Result<(*mut u8, usize), Error> {
        let fail = |cause| self.error("give the address of the whole buffer".into(), cause);
        let Some(straight) = self.straight(0, self.len()).map_err(fail)? else {
            return Ok((std::ptr::dangling_mut(), 0));
        };
        let leases = self.host().leases();
        let held = leases.hold(straight.arena, straight.first, straight.whole);
        let start = held.map_err(fail)?.address();
        Ok((start.wrapping_add(straight.from), straight.len))
    }

    /// Where the bytes are, if their pages are all present and follow each other in memory; `None` for no bytes.
    fn straight(&self, start: u64, len: u64) -> Result<Option<Straight<'_>>, Cause> {
        self.here()?;
        let map = self.core().map();
        if len == 0 {
            return match start <= map.size().raw() {
                true => Ok(None),
                false => Err(Cause::RangeBeyondEnd),
            };
        }
        let range = ByteRange::at(ByteOffset::new(start), ByteLen::new(len))?;
        let first_index = map.index_at(range.start())?;
        let last_index = map.index_at(ByteOffset::new(range.end().raw() - 1))?;
        let first = map.page_at(range.start())?;
        let arena = self.arena_at(first_index)?;
        let mut next = Pfn::new(first.pfn.raw() + first.size.base_pages());
        for index in (first_index.raw() + 1..=last_index.raw()).map(PageIndex::new) {
            let bytes = map.extents().bytes_of(index).ok_or(Cause::RangeBeyondEnd)?;
            let page = map.page_at(bytes.start())?;
            // Pages of two kinds never follow each other: windows end with a gap.
            if page.pfn != next {
                return Err(Cause::NoContiguousRun);
            }
            next = Pfn::new(page.pfn.raw() + page.size.base_pages());
        }
        // CAST: addresses and lengths of memory that is mapped.
        Ok(Some(Straight {
            arena,
            first: address(first.pfn),
            whole: address(next) - address(first.pfn),
            from: first.offset_in_page.raw() as usize,
            len: len as usize,
        }))
    }
}
