// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Shared mappings that nobody reads or writes: the only unsafe code of the oracle.

use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::io::Errno;
use rustix::mm::{madvise, mmap, munmap, Advice, MapFlags, ProtFlags};

use crate::op::{Access, Reserving, Span};
use crate::PAGE;

/// A shared mapping of some pages of a file.
///
/// No reference and no pointer into it leaves this module, so it does not matter what becomes of its pages.
#[derive(Debug)]
pub(crate) struct Mapping {
    // INVARIANT: the start of `span.len` mapped pages that are this value's alone.
    start: NonNull<std::ffi::c_void>,
    span: Span,
}

impl Mapping {
    pub(crate) fn new(
        file: BorrowedFd<'_>,
        span: Span,
        reserving: Reserving,
    ) -> Result<Self, Errno> {
        let flags = match reserving {
            Reserving::Reserve => MapFlags::SHARED,
            Reserving::NoReserve => MapFlags::SHARED | MapFlags::NORESERVE,
        };
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED the kernel takes an address range that nothing else has, so no memory of this
        // program changes; the file is open.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                length(span.len),
                prot,
                flags,
                file,
                span.at * PAGE,
            )
        }?;
        let start = NonNull::new(start).expect("no mapping starts at zero");
        Ok(Self { start, span })
    }

    /// The pages of the file that it shows.
    pub(crate) const fn span(&self) -> Span {
        self.span
    }

    /// Faults the pages of `part`, which are pages of the file, in.
    pub(crate) fn populate(&self, part: Span, access: Access) -> Result<(), Errno> {
        assert!(self.span.at <= part.at && part.end() <= self.span.end());
        let advice = match access {
            Access::Read => Advice::LinuxPopulateRead,
            Access::Write => Advice::LinuxPopulateWrite,
        };
        let skipped = length(part.at - self.span.at);
        // SAFETY: the assertion keeps the offset, and by INVARIANT what follows it, within the mapping. Populating changes
        // no byte that anybody can see, and reports as an errno what would be a signal.
        unsafe {
            madvise(
                self.start.as_ptr().byte_add(skipped),
                length(part.len),
                advice,
            )
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: by INVARIANT the range is mapped and this value's alone, and no pointer into it is left.
        let unmapped = unsafe { munmap(self.start.as_ptr(), length(self.span.len)) };
        assert_eq!(unmapped, Ok(()), "a mapping can be given up");
    }
}

fn length(pages: u64) -> usize {
    usize::try_from(pages * PAGE).expect("a few pages")
}
