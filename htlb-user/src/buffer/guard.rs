// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Ways to the bytes, each of which keeps the pages where they are while it lives.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use htlb_core::page_map::{PagePin, Seal};
use htlb_core::{ByteOffset, Error as Cause, Stop};

use super::{Access, Buffer, Page};
use crate::arena::address;
use crate::error::Error;
use crate::host::BufferHost;
use crate::sys::lease::Lease;

/// Bytes of a buffer, to read. Seals the buffer: nothing of it can be punched or truncated meanwhile.
#[derive(Debug)]
pub struct Slice<'b> {
    buffer: &'b Buffer,
    seal: Option<Seal>,
    lease: Arc<Lease>,
    from: usize,
    len: usize,
}

impl Deref for Slice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = self.lease.bytes().unwrap_or_default();
        bytes
            .get(self.from..self.from + self.len)
            .unwrap_or_default()
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        if let Some(seal) = self.seal.take() {
            self.buffer.core().map().unseal(seal);
        }
    }
}

/// Bytes of a buffer, to write; the buffer is borrowed exclusively.
#[derive(Debug)]
pub struct SliceMut<'b> {
    host: &'b BufferHost,
    /// `None` only while it is dropped; the only one of its `Arc`.
    lease: Option<Arc<Lease>>,
    from: usize,
    len: usize,
}

impl Deref for SliceMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let bytes = self
            .lease
            .as_ref()
            .and_then(|lease| lease.bytes())
            .unwrap_or_default();
        bytes
            .get(self.from..self.from + self.len)
            .unwrap_or_default()
    }
}

impl DerefMut for SliceMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let lease = self.lease.as_mut().and_then(Arc::get_mut);
        let bytes = lease.and_then(Lease::bytes_mut).unwrap_or_default();
        bytes
            .get_mut(self.from..self.from + self.len)
            .unwrap_or_default()
    }
}

impl Drop for SliceMut<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.host.give_back(lease);
        }
    }
}

/// A page that stays where it is until this is dropped.
#[derive(Debug)]
pub struct PinnedPage<'b> {
    buffer: &'b Buffer,
    pin: Option<PagePin>,
    page: Page,
}

impl PinnedPage<'_> {
    /// The page.
    #[must_use]
    pub const fn page(&self) -> Page {
        self.page
    }
}

impl Drop for PinnedPage<'_> {
    fn drop(&mut self) {
        if let Some(pin) = self.pin.take() {
            self.buffer.core().map().unpin(pin);
        }
    }
}

impl Buffer {
    /// The whole buffer, to read.
    ///
    /// # Errors
    /// As [`Buffer::slice`].
    pub fn as_slice(&self) -> Result<Slice<'_>, Error> {
        self.slice(0, self.len())
    }

    /// The bytes `offset..offset + len`, to read.
    ///
    /// # Errors
    /// [`Cause::NotPresent`] where a page has not been populated; [`Cause::NoContiguousRun`] where pages do not follow
    /// each other in memory ([`crate::buffer::Layout::Scattered`], or populated one by one): read such a buffer by [`Buffer::read_at`];
    /// [`Cause::Sealed`] where peers may write the memory at any time.
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
        let map = self.core().map();
        let seal = loop {
            match map.seal() {
                Ok(seal) => break seal,
                Err(Stop::Wait(what)) => self
                    .host()
                    .shared()
                    .waiters()
                    .wait(map, what, None)
                    .map_err(fail)?,
                Err(Stop::Fail(cause)) => return Err(fail(cause)),
                Err(Stop::Metadata { .. }) => return Err(fail(Cause::OutOfMetadata)),
            }
        };
        let found = self.straight(offset, len).and_then(|(at, arena)| {
            let (first, end) = (at & !(arena.size().bytes() as usize - 1), at + len as usize);
            let whole = (end - first).next_multiple_of(arena.size().bytes() as usize);
            let lease = self.host().hold(arena, first, whole)?;
            let from = at - lease.as_ptr().as_ptr().addr();
            Ok((lease, from))
        });
        match found {
            Ok((lease, from)) => Ok(Slice {
                buffer: self,
                seal: Some(seal),
                lease,
                from,
                len: len as usize,
            }),
            Err(cause) => {
                map.unseal(seal);
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
            return Err(
                fail(Cause::Sealed).advise("this memory is shared: write it where it was made")
            );
        }
        let (at, arena) = self.straight(0, len).map_err(fail)?;
        let whole = (len as usize).next_multiple_of(arena.size().bytes() as usize);
        let (lease, from) = self.host().hold_alone(arena, at, whole).map_err(fail)?;
        Ok(SliceMut {
            host: self.host(),
            lease: Some(lease),
            from,
            len: len as usize,
        })
    }

    /// Address and length of the whole buffer, for C and for devices. Reading or writing through it is up to the
    /// caller: the pages may be punched unless they are pinned.
    ///
    /// # Errors
    /// As [`Buffer::slice`].
    pub fn raw_parts(&self) -> Result<(*mut u8, usize), Error> {
        let len = self.len();
        let (at, arena) = self
            .straight(0, len)
            .map_err(|cause| self.error("give the address of the whole buffer".into(), cause))?;
        let lease = self
            .host()
            .hold(
                arena,
                at,
                (len as usize).next_multiple_of(arena.size().bytes() as usize),
            )
            .map_err(|cause| self.error("give the address of the whole buffer".into(), cause))?;
        let start = lease.as_ptr().as_ptr();
        Ok((start.wrapping_add(at - start.addr()), len as usize))
    }

    /// Copies bytes out; works for every layout.
    ///
    /// # Errors
    /// [`Cause::RangeBeyondEnd`], [`Cause::NotPresent`]; the bytes before the page that is missing have been copied.
    pub fn read_at(&self, offset: u64, to: &mut [u8]) -> Result<(), Error> {
        let asked = format!("read {} bytes at offset {offset}", to.len());
        self.each_page(offset, to.len(), |host, arena, at, from, part| {
            let lease = host.hold(arena, at, arena.size().bytes() as usize)?;
            let from = at - lease.as_ptr().as_ptr().addr() + from;
            let to = to.get_mut(part).ok_or(Cause::RangeBeyondEnd)?;
            lease.copy_to(ByteOffset::new(from as u64), to)
        })
        .map_err(|cause| self.error(asked, cause))
    }

    /// Copies bytes in; works for every layout.
    ///
    /// # Errors
    /// As [`Buffer::read_at`]; [`Cause::Sealed`] where the memory is not this process's to write.
    pub fn write_at(&mut self, offset: u64, from: &[u8]) -> Result<(), Error> {
        let asked = format!("write {} bytes at offset {offset}", from.len());
        if self.access == Access::InPlaceReadOnly {
            return Err(self.error(asked, Cause::Sealed));
        }
        self.each_page(offset, from.len(), |host, arena, at, to, part| {
            let (mut lease, start) = host.hold_alone(arena, at, arena.size().bytes() as usize)?;
            let from = from.get(part).ok_or(Cause::RangeBeyondEnd)?;
            let outcome = match Arc::get_mut(&mut lease) {
                Some(lease) => lease.copy_from(ByteOffset::new((start + to) as u64), from),
                None => Err(Cause::Pinned),
            };
            host.give_back(lease);
            outcome
        })
        .map_err(|cause| self.error(asked, cause))
    }

    /// Calls `f` for each page of a range with its address, where in it to begin, and which part of the range that is;
    /// each page is pinned meanwhile.
    fn each_page(
        &self,
        offset: u64,
        len: usize,
        mut f: impl FnMut(
            &BufferHost,
            &crate::arena::Arena,
            usize,
            usize,
            std::ops::Range<usize>,
        ) -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        let map = self.core().map();
        let end = offset.checked_add(len as u64).ok_or(Cause::RangeOverflow)?;
        if end > map.size().raw() {
            return Err(Cause::RangeBeyondEnd);
        }
        let mut done = 0;
        while done < len {
            let at = ByteOffset::new(offset + done as u64);
            let index = map.index_at(at)?;
            let pin = self.pin_index(index)?;
            let bytes = map.extents().bytes_of(index).ok_or(Cause::RangeBeyondEnd)?;
            let from = (at.raw() - bytes.start().raw()) as usize;
            let part = (bytes.len().raw() as usize - from).min(len - done);
            let outcome = self.arena_at(index).and_then(|arena| {
                f(
                    self.host(),
                    arena,
                    address(pin.pfn()),
                    from,
                    done..done + part,
                )
            });
            map.unpin(pin);
            outcome?;
            done += part;
        }
        Ok(())
    }

    fn pin_index(&self, index: htlb_core::PageIndex) -> Result<PagePin, Cause> {
        let map = self.core().map();
        loop {
            match map.pin(index) {
                Ok(pin) => return Ok(pin),
                Err(Stop::Wait(what)) => self.host().shared().waiters().wait(map, what, None)?,
                Err(Stop::Fail(cause)) => return Err(cause),
                Err(Stop::Metadata { .. }) => return Err(Cause::OutOfMetadata),
            }
        }
    }

    /// Keeps the page that holds the byte at `offset` where it is.
    ///
    /// # Errors
    /// [`Cause::NotPresent`], [`Cause::RangeBeyondEnd`], [`Cause::PinOverflow`].
    pub fn pin(&self, offset: u64) -> Result<PinnedPage<'_>, Error> {
        let fail = |cause| self.error(format!("pin the page at offset {offset}"), cause);
        let index = self
            .core()
            .map()
            .index_at(ByteOffset::new(offset))
            .map_err(fail)?;
        let pin = self.pin_index(index).map_err(fail)?;
        match self.page_at(offset) {
            Ok(page) => Ok(PinnedPage {
                buffer: self,
                pin: Some(pin),
                page,
            }),
            Err(error) => {
                self.core().map().unpin(pin);
                Err(error)
            }
        }
    }

    /// Forbids punch and truncate until the guard is dropped: for a device that uses the whole buffer.
    ///
    /// # Errors
    /// [`Cause::PinOverflow`].
    pub fn seal(&self) -> Result<Sealed<'_>, Error> {
        let fail = |cause| self.error("seal the buffer".into(), cause);
        let map = self.core().map();
        loop {
            match map.seal() {
                Ok(seal) => {
                    return Ok(Sealed {
                        buffer: self,
                        seal: Some(seal),
                    })
                }
                Err(Stop::Wait(what)) => self
                    .host()
                    .shared()
                    .waiters()
                    .wait(map, what, None)
                    .map_err(fail)?,
                Err(Stop::Fail(cause)) => return Err(fail(cause)),
                Err(Stop::Metadata { .. }) => return Err(fail(Cause::OutOfMetadata)),
            }
        }
    }
}

/// A buffer that cannot be punched or truncated until this is dropped.
#[derive(Debug)]
pub struct Sealed<'b> {
    buffer: &'b Buffer,
    seal: Option<Seal>,
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        if let Some(seal) = self.seal.take() {
            self.buffer.core().map().unseal(seal);
        }
    }
}
