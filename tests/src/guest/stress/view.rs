// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A mapping that can be cut, moved and touched while other threads map and unmap beside it: where one is taken out of the
//! middle, two are left, so that no addresses are unmapped twice.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::super::area::done;

/// Bytes of a base page, and of a huge one.
pub(super) const BASE: usize = 4096;
pub(super) const HUGE: usize = 2 << 20;

/// Mapped addresses of one thread.
#[derive(Debug)]
pub(super) struct View {
    start: usize,
    len: usize,
    /// Where it begins in its buffer.
    offset: u64,
    /// What its buffer is stamped with.
    pub(super) stamp: u64,
}

fn at(address: usize) -> *mut libc::c_void {
    ptr::with_exposed_provenance_mut(address)
}

fn mapped(got: *mut libc::c_void) -> io::Result<usize> {
    match got {
        libc::MAP_FAILED => Err(io::Error::last_os_error()),
        start => Ok(start.expose_provenance()),
    }
}

impl View {
    /// Maps bytes of a buffer, wherever the kernel likes.
    pub(super) fn map(
        of: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        protection: i32,
        flags: i32,
        stamp: u64,
    ) -> io::Result<Self> {
        let from = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: new addresses: nothing in `flags` asks for given ones.
        let got = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                protection,
                flags,
                of.as_raw_fd(),
                from,
            )
        };
        Ok(Self {
            start: mapped(got)?,
            len: len.next_multiple_of(BASE),
            offset,
            stamp,
        })
    }

    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What a base page of it has at its beginning, unless it is zero.
    pub(super) fn number(&self, page: usize) -> u64 {
        super::super::area::number(self.stamp, self.offset + page as u64)
    }

    /// Takes a range out, and says what lies behind it.
    pub(super) fn cut(&mut self, range: Range<usize>) -> io::Result<Option<Self>> {
        assert!(range.start < range.end && range.end <= self.len);
        // SAFETY: a part of this mapping, which nobody else unmaps; other threads touch it by calls that answer with an error.
        done(unsafe { libc::munmap(at(self.start + range.start), range.len()) })?;
        let behind = (range.end < self.len).then(|| Self {
            start: self.start + range.end,
            len: self.len - range.end,
            offset: self.offset + range.end as u64,
            stamp: self.stamp,
        });
        self.len = range.start;
        Ok(behind)
    }

    /// Makes it shorter by `mremap`.
    pub(super) fn shrink(&mut self, len: usize) -> io::Result<()> {
        assert!(0 < len && len <= self.len);
        // SAFETY: as in `cut`.
        mapped(unsafe { libc::mremap(at(self.start), self.len, len, 0) })?;
        self.len = len;
        Ok(())
    }

    /// Asks for more than the mapping has, which the kernel refuses.
    pub(super) fn grow(&self) -> io::Result<()> {
        // SAFETY: as in `cut`; where the answer is an address after all, `self` has not moved, and the test fails.
        mapped(unsafe { libc::mremap(at(self.start), self.len, self.len + HUGE, 0) }).map(drop)
    }

    /// Moves it to addresses that are not aligned as its pages are, or are. Where that fails, nothing of it is left to use.
    pub(super) fn relocate(&mut self, skew: usize) -> io::Result<()> {
        let room = self.len + 2 * HUGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new addresses.
        let room_at =
            mapped(unsafe { libc::mmap(ptr::null_mut(), room, libc::PROT_NONE, flags, -1, 0) })?;
        let to = room_at.next_multiple_of(HUGE) + skew;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: this mapping as in `cut`; the target lies in the addresses above, which are nobody else's.
        let moved =
            mapped(unsafe { libc::mremap(at(self.start), self.len, self.len, flags, at(to)) });
        if moved.is_ok() {
            self.start = to;
            // SAFETY: what is left of the new addresses on both sides, where nothing is.
            unsafe {
                libc::munmap(at(room_at), to - room_at);
                libc::munmap(at(to + self.len), room_at + room - (to + self.len));
            }
        } else {
            // A part may have moved, and another thread may have got what that left: all of it is given up.
            self.len = 0;
        }
        moved.map(drop)
    }

    pub(super) fn protect(&self, range: Range<usize>, protection: i32) -> io::Result<()> {
        // SAFETY: a part of this mapping, on which no reference lies.
        done(unsafe { libc::mprotect(at(self.start + range.start), range.len(), protection) })
    }

    pub(super) fn advise(&self, range: Range<usize>, advice: i32) -> io::Result<()> {
        advise(self.start + range.start, range.len(), advice)
    }

    pub(super) fn lock(&self, range: Range<usize>) -> io::Result<()> {
        // SAFETY: changes nothing that a program can see.
        unsafe {
            done(libc::mlock(at(self.start + range.start), range.len()))?;
            done(libc::munlock(at(self.start + range.start), range.len()))
        }
    }

    /// The number at a byte; what cannot be read is an error, and no signal.
    pub(super) fn peek(&self, byte: usize) -> io::Result<u64> {
        let mut found = 0_u64;
        let here = vector((&raw mut found).cast(), 8);
        let there = vector(at(self.start + byte), 8);
        // SAFETY: eight bytes of ours are written; the others are read by the kernel, if they are there.
        moved(unsafe { libc::process_vm_readv(libc::getpid(), &here, 1, &there, 1, 0) })?;
        Ok(found)
    }

    /// Writes a number at a byte, in the same way.
    pub(super) fn poke(&self, byte: usize, mut number: u64) -> io::Result<()> {
        let here = vector((&raw mut number).cast(), 8);
        let there = vector(at(self.start + byte), 8);
        // SAFETY: eight bytes of ours are read; the others are written by the kernel, if they are there, and no reference lies on them.
        moved(unsafe { libc::process_vm_writev(libc::getpid(), &here, 1, &there, 1, 0) })
    }

    /// Puts bytes of it into a pipe, as a reference to their page.
    pub(super) fn splice(&self, pipe: &impl AsRawFd, byte: usize) -> io::Result<()> {
        let bytes = vector(at(self.start + byte), 64);
        // SAFETY: the bytes may change at any time, before and after they are read from the pipe.
        let done = unsafe { libc::vmsplice(pipe.as_raw_fd(), &bytes, 1, libc::SPLICE_F_NONBLOCK) };
        usize::try_from(done)
            .map(drop)
            .map_err(|_| io::Error::last_os_error())
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: addresses that are this value's alone, on which no reference lies.
            unsafe { libc::munmap(at(self.start), self.len) };
        }
    }
}

/// `madvise` of any addresses; advice that changes what memory holds is for one's own.
pub(super) fn advise(start: usize, len: usize, advice: i32) -> io::Result<()> {
    // SAFETY: the caller's own addresses, or advice that only brings pages in.
    done(unsafe { libc::madvise(at(start), len, advice) })
}

fn vector(base: *mut libc::c_void, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base,
        iov_len: len,
    }
}

fn moved(answer: isize) -> io::Result<()> {
    match answer {
        8 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}
