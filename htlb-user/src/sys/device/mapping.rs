// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Parts of files in memory, at addresses that huge pages can have.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use super::{answered, raw};
use crate::sys::address_space::{pointer, reserve_aligned, Probe};
use crate::sys::base_page_bytes;

/// What a program may do with mapped bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing: the addresses only.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
}

/// Who sees what is written through a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Everybody who has the memory: `MAP_SHARED`.
    Shared,
    /// This mapping alone: `MAP_PRIVATE`.
    Private,
}

/// When the entries of the page table come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// With the first touch of each page.
    Lazy,
    /// At once: `MAP_POPULATE`. What cannot be had is left to the touch.
    Ahead,
}

/// How to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// What may be done with the bytes.
    pub protection: Protection,
    /// Who sees what is written.
    pub sharing: Sharing,
    /// When the entries of the page table come.
    pub faults: Faults,
}

impl How {
    /// To read and write, shared.
    pub const SHARED: Self = Self {
        protection: Protection::ReadWrite,
        sharing: Sharing::Shared,
        faults: Faults::Lazy,
    };
    /// To read.
    pub const READ: Self = Self {
        protection: Protection::Read,
        ..Self::SHARED
    };
    /// To read and write a copy.
    pub const PRIVATE: Self = Self {
        sharing: Sharing::Private,
        ..Self::SHARED
    };

    /// The same, with every page-table entry there when the call returns.
    #[must_use]
    pub const fn ahead(mut self) -> Self {
        self.faults = Faults::Ahead;
        self
    }
}

/// A part of a file, mapped; unmapped by `Drop`.
///
/// Devices, other mappings and other processes may write there at any time, so it lends no slices: bytes are copied.
///
/// # Invariants
/// `base` is a mapping of `len` bytes that belongs to this value, with `protection`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
    protection: Protection,
}

// SAFETY: the mapping belongs to the process, and this value is its only owner.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference only copies bytes out, as others who map the memory do at the same time.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` of a file, at an address that differs from the offset by a multiple of `alignment`,
    /// a power of two: so the pages of the file can be huge in the page table.
    ///
    /// # Errors
    /// What `mmap` answers; `EINVAL` for an alignment that is none, `EOVERFLOW` for what is no offset.
    pub fn new(
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        how: How,
        alignment: usize,
    ) -> io::Result<Self> {
        let refused = |errno| Err(io::Error::from_raw_os_error(errno));
        let alignment = alignment.max(base_page_bytes());
        let Ok(at) = libc::off_t::try_from(offset) else {
            return refused(libc::EOVERFLOW);
        };
        if !alignment.is_power_of_two() || len == 0 {
            return refused(libc::EINVAL);
        }
        // CAST: what remains is below the alignment, a usize.
        let beyond = (offset & (alignment as u64 - 1)) as usize;
        let room = len
            .checked_next_multiple_of(base_page_bytes())
            .and_then(|len| Some((len, len.checked_add(beyond)?)));
        let Some((len, room)) = room else {
            return refused(libc::ENOMEM);
        };
        if beyond % base_page_bytes() != 0 {
            return refused(libc::EINVAL);
        }
        let reserved = reserve_aligned(room, alignment).map_err(raw)?;
        let unmapped = Probe(reserved, room);
        // SAFETY: `beyond` is below `room`, the length of what was just mapped.
        let place = unsafe { reserved.add(beyond) };
        let protection = match how.protection {
            Protection::None => libc::PROT_NONE,
            Protection::Read => libc::PROT_READ,
            Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let sharing = match how.sharing {
            Sharing::Shared => libc::MAP_SHARED,
            Sharing::Private => libc::MAP_PRIVATE,
        };
        let faults = match how.faults {
            Faults::Lazy => 0,
            Faults::Ahead => libc::MAP_POPULATE,
        };
        let flags = libc::MAP_FIXED | sharing | faults;
        // SAFETY: what MAP_FIXED replaces is the last `len` bytes of the `room` that was just mapped, which nobody else knows of.
        let got = unsafe {
            libc::mmap(
                place.as_ptr().cast(),
                len,
                protection,
                flags,
                fd.as_raw_fd(),
                at,
            )
        };
        let base = pointer(got).map_err(raw)?;
        std::mem::forget(unmapped);
        if beyond > 0 {
            // SAFETY: the first `beyond` bytes of the reservation, in whole base pages: nobody else knows of them, and the
            // new mapping begins behind them.
            unsafe { libc::munmap(reserved.as_ptr().cast(), beyond) };
        }
        // INVARIANT: mmap put `len` bytes there, with this protection, and the address goes to this value alone.
        Ok(Self {
            base,
            len,
            protection: how.protection,
        })
    }

    /// The first byte. What is done through it is not checked, and ends with this value.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// The address of the first byte.
    #[must_use]
    pub fn address(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// The length in bytes: whole base pages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty mapping is refused.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes out. Where no page is to be had the touch is a signal (`SIGBUS`): see [`Mapping::populate`].
    ///
    /// # Errors
    /// `ERANGE` past the end, `EACCES` where the mapping is not to be read.
    pub fn read_at(&self, offset: usize, to: &mut [u8]) -> io::Result<()> {
        let from = self.place(offset, to.len())?;
        if self.protection == Protection::None {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        // SAFETY: `place` checked that `to.len()` bytes from there lie in the mapping, which is readable; the kernel initialised them.
        // `to` is an exclusive borrow, and the mapping lends none, so they do not overlap. Others may write meanwhile: what is read then
        // is old, new or a mixture, as bytes always are.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies bytes in. Where no page is to be had the touch is a signal (`SIGBUS`): see [`Mapping::populate`].
    ///
    /// # Errors
    /// `ERANGE` past the end, `EACCES` where the mapping is not to be written.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> io::Result<()> {
        let to = self.place(offset, from.len())?;
        if self.protection != Protection::ReadWrite {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        // SAFETY: as in `read_at`, the other way; the mapping is writable.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        Ok(())
    }

    /// The byte at `offset`.
    ///
    /// # Errors
    /// As [`Mapping::read_at`].
    pub fn byte(&self, offset: usize) -> io::Result<u8> {
        let mut byte = [0];
        self.read_at(offset, &mut byte)?;
        Ok(byte[0])
    }

    /// Puts every page of a range into the page table, to be written where the mapping can be, so that a shortage is an error
    /// and not a signal.
    ///
    /// # Errors
    /// `EFAULT` where no page is to be had; `ERANGE` past the end; `EINVAL` for no whole base pages, and before Linux 5.14.
    #[doc(alias = "MADV_POPULATE_WRITE")]
    pub fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
        let advice = match self.protection {
            Protection::ReadWrite => libc::MADV_POPULATE_WRITE,
            Protection::Read | Protection::None => libc::MADV_POPULATE_READ,
        };
        let start = self.place(offset, len)?;
        loop {
            // SAFETY: `place` checked that the range lies in the mapping; populating changes no byte.
            match answered(unsafe { libc::madvise(start.as_ptr().cast(), len, advice) }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done.map(drop),
            }
        }
    }

    fn place(&self, offset: usize, len: usize) -> io::Result<NonNull<u8>> {
        match offset.checked_add(len) {
            // SAFETY: at most one past the last byte of the mapping.
            Some(end) if end <= self.len => Ok(unsafe { self.base.add(offset) }),
            _ => Err(io::Error::from_raw_os_error(libc::ERANGE)),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave to this value, which nobody can use any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
