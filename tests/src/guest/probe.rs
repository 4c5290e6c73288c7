// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `/dev/htlb_probe`, the driver that does what a test tells it to.
//!
//! The records are those of `tests/kmod/htlb_probe/htlb_probe.h`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A place in a buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    fd: i32,
    reserved: u32,
    offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Fill {
    fd: i32,
    reserved: u32,
    offset: u64,
    len: u64,
}

/// The page that a producer has in hand.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Where it begins in the buffer.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Write {
    at: u64,
    data: u64,
    len: u64,
}

const READ: u32 = 2;
const WRITE: u32 = 1;

/// The number of an ioctl of the probe whose record is an `R`.
const fn number<R>(direction: u32, which: u32) -> u32 {
    // CAST: a record is a few bytes long.
    (direction << 30) | ((size_of::<R>() as u32) << 16) | ((b'q' as u32) << 8) | which
}

/// A driver: what it pinned and holds goes with it.
#[derive(Debug)]
pub struct Probe {
    file: File,
}

impl Probe {
    /// One more driver.
    ///
    /// # Errors
    /// The module `htlb_probe` is not loaded.
    pub fn open() -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/htlb_probe")?;
        Ok(Self { file })
    }

    /// `record` is one of those above, and the kernel's answer takes its place.
    fn call<R>(&self, direction: u32, which: u32, record: &mut R) -> io::Result<()> {
        // SAFETY: the number has the record's size, and the driver reads and writes no more than that, in plain integers;
        // of `Write` it also reads the bytes that it points to, which `write` below borrows.
        let answer = unsafe {
            libc::ioctl(
                self.file.as_raw_fd(),
                // CAST: the same 32 bits, whatever the sign.
                number::<R>(direction, which) as libc::Ioctl,
                std::ptr::from_mut(record),
            )
        };
        match answer {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Pins the page at an offset of a buffer.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn pin(&self, buffer: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.call(WRITE, 1, &mut place(buffer, offset))
    }

    /// Takes away one pin that [`Probe::pin`] put there.
    ///
    /// # Errors
    /// `ENOENT` where there is none of this driver.
    pub fn unpin(&self, buffer: BorrowedFd<'_>, offset: u64) -> io::Result<()> {
        self.call(WRITE, 2, &mut place(buffer, offset))
    }

    /// Takes a reference on the page of this frame number.
    ///
    /// # Errors
    /// `EINVAL` where there is no such page.
    pub fn hold(&self, pfn: u64) -> io::Result<()> {
        self.call(WRITE, 3, &mut { pfn })
    }

    /// Drops a reference that [`Probe::hold`] took.
    ///
    /// # Errors
    /// `ENOENT` where there is none of this driver.
    pub fn let_go(&self, pfn: u64) -> io::Result<()> {
        self.call(WRITE, 4, &mut { pfn })
    }

    /// Populates a range with what a producer makes, who calls [`Probe::next`] meanwhile on another thread. Once for each probe.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn fill(&self, buffer: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
        let mut fill = Fill {
            fd: buffer.as_raw_fd(),
            offset,
            len,
            ..Fill::default()
        };
        self.call(WRITE, 5, &mut fill)
    }

    /// Waits for the next page to fill; `None` when [`Probe::fill`] has ended.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn next(&self) -> io::Result<Option<Page>> {
        let mut page = Page::default();
        match self.call(READ, 6, &mut page) {
            Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
            done => done.map(|()| Some(page)),
        }
    }

    /// Writes into the page in hand.
    ///
    /// # Errors
    /// `ERANGE` past its end.
    pub fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut write = Write {
            at,
            data: bytes.as_ptr().addr() as u64,
            len: bytes.len() as u64,
        };
        self.call(WRITE, 7, &mut write)
    }

    /// Says how many bytes of the page in hand were written, or which errno is to come of it.
    ///
    /// # Errors
    /// `EINVAL` where no page is in hand.
    pub fn answer(&self, written: Result<u64, i32>) -> io::Result<()> {
        let mut answer = match written {
            Ok(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
            Err(errno) => -i64::from(errno),
        };
        self.call(WRITE, 8, &mut answer)
    }

    /// Lets this page and every further one fail.
    ///
    /// # Errors
    /// None is known.
    pub fn abandon(&self) -> io::Result<()> {
        self.call(0, 9, &mut [0_u8; 0])
    }
}

fn place(buffer: BorrowedFd<'_>, offset: u64) -> Place {
    Place {
        fd: buffer.as_raw_fd(),
        offset,
        ..Place::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        // _IOW('q', 1, 16 bytes), _IOR('q', 6, 16 bytes), _IO('q', 9).
        assert_eq!(number::<Place>(WRITE, 1), 0x4010_7101);
        assert_eq!(number::<Page>(READ, 6), 0x8010_7106);
        assert_eq!(number::<[u8; 0]>(0, 9), 0x7109);
        assert_eq!(number::<Fill>(WRITE, 5), 0x4018_7105);
    }
}
