// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who holds pages without having them mapped.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};

use super::area::Area;

/// A pipe: what comes out, and what goes in.
pub(super) fn pipe() -> io::Result<(File, File)> {
    let mut ends = [-1; 2];
    // SAFETY: two numbers of ours.
    super::area::done(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: two new descriptors, which nobody else knows of.
    let [reader, writer] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    Ok((reader, writer))
}

/// Puts a range into a pipe, as references to its pages.
pub(super) fn splice(pipe: &File, area: &Area, range: Range<usize>) -> io::Result<usize> {
    let vector = libc::iovec {
        iov_base: area.pointer(range.start).cast(),
        iov_len: range.len(),
    };
    // SAFETY: a range of the area, which may change at any time, before and after it is read from the pipe.
    let moved = unsafe { libc::vmsplice(pipe.as_raw_fd(), &vector, 1, libc::SPLICE_F_NONBLOCK) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
