// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A file mapped into memory, unmapped when dropped.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use super::{checked, Span};

/// What `madvise(2)` wants its addresses rounded to, at most.
const BASE_PAGE: usize = 64 << 10;

/// A whole file, mapped shared.
///
/// Its pages are the file's: what is written here is what everyone who opens the file reads. A mapping of a
/// published file is read-only.
///
/// # Invariants
/// `pointer` is a mapping of `len` bytes that belongs to this value, writable if `access` says so.
#[derive(Debug)]
pub struct FileMapping {
    pointer: NonNull<u8>,
    len: usize,
    access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

// SAFETY: the mapping is process-wide and belongs to this value alone; which thread uses it does not matter.
unsafe impl Send for FileMapping {}
// SAFETY: a shared reference only lends bytes for reading.
unsafe impl Sync for FileMapping {}

impl FileMapping {
    /// Maps all `len` bytes of a file that is being filled. On a hugetlbfs the kernel reserves the pages now.
    ///
    /// # Errors
    /// `ENOMEM`: fewer huge pages than that are free. `EINVAL`: `len` is zero, or not whole pages.
    pub(crate) fn writable(file: &File, len: usize) -> io::Result<Self> {
        Self::map(file, len, Access::Write)
    }

    /// Maps all `len` bytes of a published file.
    pub(crate) fn readable(file: &File, len: usize) -> io::Result<Self> {
        Self::map(file, len, Access::Read)
    }

    fn map(file: &File, len: usize, access: Access) -> io::Result<Self> {
        // A mapping that reached past the end of the file would answer a touch there with SIGBUS.
        if u64::try_from(len).map_or(true, |len| {
            file.metadata().map_or(true, |found| found.len() < len)
        }) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
        let pointer = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if pointer == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // INVARIANT: mmap gave `len` bytes to nobody else.
        let pointer = NonNull::new(pointer.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self {
            pointer,
            len,
            access,
        })
    }

    /// Puts a page behind every byte now, so that a shortage is an error here and not a signal later.
    ///
    /// # Errors
    /// `ENOMEM`, whatever the kernel calls it: no page is left, or a control group forbids one.
    /// `EINVAL`: the kernel is older than 5.14.
    pub fn populate(&mut self) -> io::Result<()> {
        self.populate_from(0)
    }

    /// The same for the pages from the one that holds byte `offset` to the end.
    ///
    /// A [`fill`](crate::load::fill) needs no more than that, from the length of its source: reads that find no
    /// page get one, several at a time and while the device works, and report a shortage as an error. Only the
    /// zeros behind the end are written by the processor.
    ///
    /// # Errors
    /// As [`FileMapping::populate`].
    pub fn populate_from(&mut self, offset: usize) -> io::Result<()> {
        let start = (offset & !(BASE_PAGE - 1)).min(self.len);
        let advice = match self.access {
            Access::Read => libc::MADV_POPULATE_READ,
            Access::Write => libc::MADV_POPULATE_WRITE,
        };
        loop {
            // SAFETY: `start` is at most `len`, so the range lies in the mapping of this value, and populating
            // changes no byte.
            match checked(unsafe {
                libc::madvise(
                    self.pointer.as_ptr().add(start).cast(),
                    self.len - start,
                    advice,
                )
            }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                    return Err(io::Error::from_raw_os_error(libc::ENOMEM))
                }
                done => return done,
            }
        }
    }

    /// The length in bytes: whole pages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte; never so for a mapping that exists.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes. On another process's word: a peer of the same user that forces its way into a published file
    /// can change them meanwhile.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, readable and initialised by the kernel; `&self` keeps the spans of this value out.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }

    /// The memory, for a load to fill; `None` if the file is published and thus read-only.
    pub fn span(&mut self) -> Option<Span<'_>> {
        match self.access {
            Access::Read => None,
            // SAFETY: mapped, readable, writable and initialised by the kernel, and borrowed from `&mut self`.
            Access::Write => Some(unsafe { Span::from_raw_parts(self.pointer, self.len) }),
        }
    }
}

impl Drop for FileMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping belongs to this value, and every borrow of it has ended.
        unsafe { libc::munmap(self.pointer.as_ptr().cast(), self.len) };
    }
}
