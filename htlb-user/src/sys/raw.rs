// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Memory as a program gets it by hand: the peers that the benchmarks measure against.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use htlb_core::{ByteLen, HugeSize};

use super::Failure;

/// What a mapping is made of.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Anonymous huge pages: `MAP_HUGETLB`.
    Hugetlb(HugeSize),
    /// Anonymous base pages, kept from becoming huge.
    Base,
    /// A part of a file, shared, from this offset in bytes.
    File(&'a File, u64),
}

/// When its pages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// With the first touch.
    Lazy,
    /// At once: `MAP_POPULATE`.
    Populate,
}

/// A mapping, unmapped by `Drop`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes, read-write.
    ///
    /// Without [`Pages::Populate`] a touch may be a signal where a cgroup limits huge pages: for benchmarks only, on memory that is
    /// known to be there.
    ///
    /// # Errors
    /// What `mmap` answers.
    pub fn new(source: Source<'_>, len: ByteLen, pages: Pages) -> Result<Self, Failure> {
        let len = usize::try_from(len.raw()).map_err(|_| Failure::new("mmap", libc::EOVERFLOW))?;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (flags, fd, offset) = match source {
            Source::Hugetlb(size) => {
                // CAST: the shift of a page size is below 64.
                let log2 = (size.shift() as libc::c_int) << libc::MAP_HUGE_SHIFT;
                (anonymous | libc::MAP_HUGETLB | log2, -1, 0)
            }
            Source::Base => (anonymous, -1, 0),
            Source::File(file, offset) => (libc::MAP_SHARED, file.as_raw_fd(), offset),
        };
        let offset =
            libc::off_t::try_from(offset).map_err(|_| Failure::new("mmap", libc::EOVERFLOW))?;
        let populate = match pages {
            Pages::Lazy => 0,
            Pages::Populate => libc::MAP_POPULATE,
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without an address the kernel picks free space; nothing of the process is replaced.
        let got = unsafe { libc::mmap(ptr::null_mut(), len, access, flags | populate, fd, offset) };
        let base = super::address_space::pointer(got)?;
        let mapping = Self { base, len };
        if matches!(source, Source::Base) {
            // SAFETY: exactly the fresh mapping; the advice changes no byte. A refusal leaves ordinary memory.
            unsafe { libc::madvise(got, len, libc::MADV_NOHUGEPAGE) };
        }
        Ok(mapping)
    }

    /// Writes one byte in every `step` bytes, so that each page is there.
    pub fn touch(&mut self, step: usize) {
        for offset in (0..self.len).step_by(step.max(1)) {
            // SAFETY: inside the mapping, which this value owns alone; a plain byte.
            unsafe { self.base.add(offset).write_volatile(1) };
        }
    }

    /// The bytes, to read and write.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped read-write for as long as `self` lives and owned by it alone; mapped memory is initialised. A file behind it is the
        // benchmark's own, which nobody else writes.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave to this value, which nobody can use any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

// SAFETY: the mapping belongs to the process, and this value is its only owner.
unsafe impl Send for Mapping {}
