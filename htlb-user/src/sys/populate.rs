// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages put in place before anything touches them; a shortage is a value, not a signal.
//!
//! Linux 5.14 has `MADV_POPULATE_WRITE`. Older kernels get every page's first byte written by the kernel itself, through a
//! pipe, since a system call that finds no page answers `EFAULT` where a touch would end the process.

use std::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use htlb_core::{ByteRange, Error};

use super::window::{Window, WindowError};
use super::{check, lease, Failure};

/// How the pages were put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populated {
    /// In one call.
    #[doc(alias = "MADV_POPULATE_WRITE")]
    ByAdvice,
    /// Page by page, since this kernel has no such call.
    ByPipe,
}

/// Why not every page of a range could be put in place. Those before the first that failed are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PopulateError {
    /// No page: the pool, the node that the policy binds to, or a cgroup's limit is exhausted.
    Shortage(Failure),
    /// A page of the range has a memory error.
    Poisoned,
    /// Not a matter of pages: the range, or the call.
    Window(WindowError),
}

impl fmt::Display for PopulateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shortage(failure) => write!(f, "no page to populate with ({failure})"),
            Self::Poisoned => f.write_str("a page of the range has a memory error"),
            Self::Window(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PopulateError {}

impl From<WindowError> for PopulateError {
    fn from(error: WindowError) -> Self {
        Self::Window(error)
    }
}

impl From<PopulateError> for Error {
    fn from(error: PopulateError) -> Self {
        match error {
            PopulateError::Shortage(_) => Self::OutOfPages,
            PopulateError::Poisoned => Self::Poisoned,
            PopulateError::Window(WindowError::Range(error)) => error,
            PopulateError::Window(WindowError::Kernel(failure)) => failure.into(),
            PopulateError::Window(_) => Self::FrameInvalid,
        }
    }
}

/// `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`.
const READ: i32 = 22;
const WRITE: i32 = 23;

impl Window {
    /// Puts a writable page under every part of `range`, keeping the bytes of those that are there.
    ///
    /// Several threads may populate different ranges at once. Kernels without the call need the range unleased.
    ///
    /// # Errors
    /// [`PopulateError`]; pages before the one that failed stay populated ([`super::pagemap::present`] counts them).
    #[doc(alias = "MADV_POPULATE_WRITE")]
    pub fn populate_write(&self, range: ByteRange) -> Result<Populated, PopulateError> {
        match self.populate(range, WRITE) {
            Err(PopulateError::Window(WindowError::Kernel(f))) if f.is(libc::EINVAL) => {
                self.populate_by_pipe(range).map(|()| Populated::ByPipe)
            }
            other => other.map(|()| Populated::ByAdvice),
        }
    }

    /// Maps the pages of `range` for reading: what a file holds comes into the page tables, holes as a read would find them.
    ///
    /// # Errors
    /// As [`Window::populate_write`]; `EINVAL` where the kernel has no such call, and a read is all that is lost then.
    #[doc(alias = "MADV_POPULATE_READ")]
    pub fn populate_read(&self, range: ByteRange) -> Result<(), PopulateError> {
        self.populate(range, READ)
    }

    fn populate(&self, range: ByteRange, advice: i32) -> Result<(), PopulateError> {
        let (start, len) = self.mapped(range)?;
        loop {
            match self.madvise(start, len, advice) {
                Ok(()) => return Ok(()),
                // A signal that is not fatal, or a page on its way elsewhere: what is populated is skipped quickly.
                Err(failure) if failure.is(libc::EINTR) || failure.is(libc::EAGAIN) => {}
                Err(failure) => return Err(refusal(failure)),
            }
        }
    }

    /// What [`Window::populate_write`] does on kernels before 5.14.
    pub(super) fn populate_by_pipe(&self, range: ByteRange) -> Result<(), PopulateError> {
        let (start, len) = self.mapped(range)?;
        let (reader, writer) = pipe().map_err(WindowError::Kernel)?;
        // INVARIANT: with the bits taken no thread writes between the read of a byte and its writing back.
        lease::take(&self.taken, self.index(start), self.count(len))?;
        let step = len / self.count(len).max(1);
        let done = (start..start + len)
            .step_by(step)
            .try_for_each(|at| self.rewrite(at, &reader, &writer));
        lease::give_back(&self.taken, self.index(start), self.count(len));
        done.map_err(refusal)
    }

    /// Sends the byte at `at` through the pipe and back to where it was.
    fn rewrite(&self, at: usize, reader: &OwnedFd, writer: &OwnedFd) -> Result<(), Failure> {
        let byte = self.address(at).as_ptr().cast::<libc::c_void>();
        loop {
            // SAFETY: the byte lies in a mapped granule of this window, whose bit the caller holds; the kernel reads it.
            let sent = unsafe { libc::write(writer.as_raw_fd(), byte, 1) };
            match check("write", sent as libc::c_long) {
                Err(failure) if failure.is(libc::EINTR) => {}
                Err(failure) => return Err(failure),
                Ok(_) => break,
            }
        }
        loop {
            // SAFETY: as above, and the bit makes the byte ours to write: it gets the value that it has.
            let got = unsafe { libc::read(reader.as_raw_fd(), byte, 1) };
            match check("read", got as libc::c_long) {
                Err(failure) if failure.is(libc::EINTR) => {}
                other => break other.map(drop),
            }
        }
    }
}

/// A pipe's two ends, to read and to write.
fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    let mut ends = [-1; 2];
    // SAFETY: the kernel writes two descriptors into an array of two.
    let answer = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    check("pipe2", answer.into())?;
    // SAFETY: the kernel has just given us these two, and nobody else knows them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

fn refusal(failure: Failure) -> PopulateError {
    match failure.errno.raw() {
        libc::EFAULT | libc::ENOMEM | libc::ENOSPC => PopulateError::Shortage(failure),
        libc::EHWPOISON => PopulateError::Poisoned,
        _ => PopulateError::Window(failure.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pagemap;
    use crate::sys::window::{Backing, Fork};
    use htlb_core::{ByteLen, HugeSize};
    use std::sync::Arc;

    #[test]
    fn the_pipe_populates_and_keeps_bytes() {
        let len = ByteLen::new(4 * 4096);
        let window = Window::reserve(Backing::Private, len, HugeSize::BASE, Fork::Exclude).unwrap();
        let window = Arc::new(window);
        let whole = window.whole();
        assert_eq!(
            window.populate_by_pipe(whole),
            Err(WindowError::Mapping.into())
        );
        window.map(whole).unwrap();
        let mut lease = window.lease(whole).unwrap();
        lease.bytes_mut().unwrap()[8192] = 42;
        assert_eq!(
            window.populate_by_pipe(whole),
            Err(WindowError::Leased.into())
        );
        drop(lease);
        window.populate_by_pipe(whole).unwrap();
        assert_eq!(pagemap::present(&window, whole).unwrap().raw(), 4);
        assert_eq!(window.lease(whole).unwrap().bytes().unwrap()[8192], 42);
    }
}
