// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A stretch of this process's addresses over a buffer, mapped, cut and moved by the kernel's own calls: all that a program may do
//! to it, and that [`htlb_user::device::Mapping`] would not.
//!
//! Contents are stamps: each base page begins and ends with a number made of the stamp and of where the page is in its buffer, so that
//! a page of another buffer, or another page of the same, is told from the right one.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use anyhow::{ensure, Context, Result};

/// Bytes of a huge page.
pub(super) const HUGE: usize = 2 << 20;
/// Bytes of a base page.
pub(super) const BASE: usize = 4 << 10;
/// Reading and writing.
pub(super) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// Mapped addresses. What is unmapped of it is not touched any more, but by a child that is to die of it.
#[derive(Debug)]
pub(super) struct Area {
    start: usize,
    len: usize,
    /// Where it begins in its buffer.
    offset: u64,
}

impl Area {
    /// Maps `len` bytes from `offset` on, wherever the kernel likes.
    pub(super) fn map(
        of: impl AsFd,
        offset: u64,
        len: usize,
        protection: i32,
        flags: i32,
    ) -> io::Result<Self> {
        Self::map_at(0, of, offset, len, protection, flags)
    }

    /// All of a buffer, shared, readable and writable.
    pub(super) fn shared(of: impl AsFd, len: usize) -> io::Result<Self> {
        Self::map(of, 0, len, RW, libc::MAP_SHARED)
    }

    /// All of a buffer, with writes to copies.
    pub(super) fn private(of: impl AsFd, len: usize) -> io::Result<Self> {
        Self::map(of, 0, len, RW, libc::MAP_PRIVATE)
    }

    /// As [`Area::map`], with a wish or, with `MAP_FIXED`, a demand for the address, where nothing of anybody's is.
    pub(super) fn map_at(
        address: usize,
        of: impl AsFd,
        offset: u64,
        len: usize,
        protection: i32,
        flags: i32,
    ) -> io::Result<Self> {
        // SAFETY: with MAP_FIXED the cases name addresses of a reservation of their own; without, the kernel takes free ones.
        // The offset goes to the kernel as it is.
        let got = unsafe {
            libc::syscall(
                libc::SYS_mmap,
                address,
                len,
                protection,
                flags,
                of.as_fd().as_raw_fd(),
                offset,
            )
        };
        match usize::try_from(got) {
            Ok(start) => Ok(Self { start, len, offset }),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }

    /// Addresses that nothing can be reached by, for [`Area::map_at`].
    pub(super) fn reservation(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new addresses, which nobody has.
        let got = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: got.expose_provenance(),
            len,
            offset: 0,
        })
    }

    /// Memory that children share, of nobody's buffer.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: new addresses, which nobody has.
        let got = unsafe { libc::mmap(ptr::null_mut(), len, RW, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: got.expose_provenance(),
            len,
            offset: 0,
        })
    }

    pub(super) const fn start(&self) -> usize {
        self.start
    }

    /// All of it.
    pub(super) const fn all(&self) -> Range<usize> {
        0..self.len
    }

    pub(super) fn pointer(&self, at: usize) -> *mut u8 {
        assert!(at < self.len, "{at} of {}", self.len);
        ptr::with_exposed_provenance_mut(self.start + at)
    }

    /// The number at a byte, a multiple of 8.
    pub(super) fn read(&self, at: usize) -> u64 {
        // SAFETY: in the area and aligned, memory that anybody may change at any time, hence volatile; what is not mapped there any
        // more ends the process, as the type says.
        unsafe { self.pointer(at).cast::<u64>().read_volatile() }
    }

    /// Writes a number at a byte, a multiple of 8.
    pub(super) fn write(&self, at: usize, number: u64) {
        // SAFETY: as in `read`.
        unsafe { self.pointer(at).cast::<u64>().write_volatile(number) }
    }

    /// Stamps the base pages of a range.
    pub(super) fn stamp(&self, range: Range<usize>, stamp: u64) {
        for page in range.step_by(BASE) {
            let number = number(stamp, self.offset + page as u64);
            self.write(page, number);
            self.write(page + BASE - 8, number);
        }
    }

    /// Whether the base pages of a range have this stamp.
    pub(super) fn expect(&self, range: Range<usize>, stamp: u64) -> Result<()> {
        for page in range.step_by(BASE) {
            let number = number(stamp, self.offset + page as u64);
            for at in [page, page + BASE - 8] {
                let found = self.read(at);
                ensure!(
                    found == number,
                    "byte {at:#x}: {found:#x} instead of {number:#x}"
                );
            }
        }
        Ok(())
    }

    /// Whether a range is zero, as far as stamps go.
    pub(super) fn expect_zeroes(&self, range: Range<usize>) -> Result<()> {
        for page in range.step_by(BASE) {
            for at in [page, page + BASE - 8] {
                let found = self.read(at);
                ensure!(found == 0, "byte {at:#x}: {found:#x} instead of zero");
            }
        }
        Ok(())
    }

    /// Ends the mapping of a range.
    pub(super) fn unmap(&self, range: Range<usize>) -> io::Result<()> {
        // SAFETY: a part of the area, which nobody touches afterwards.
        done(unsafe { libc::munmap(self.pointer(range.start).cast(), range.len()) })
    }

    /// Changes what may be done in a range.
    pub(super) fn protect(&self, range: Range<usize>, protection: i32) -> io::Result<()> {
        // SAFETY: a part of the area, on which no reference lies.
        done(unsafe { libc::mprotect(self.pointer(range.start).cast(), range.len(), protection) })
    }

    /// Gives advice on a range.
    pub(super) fn advise(&self, range: Range<usize>, advice: i32) -> io::Result<()> {
        // SAFETY: a part of the area, on which no reference lies, and whose contents are the cases' to lose.
        done(unsafe { libc::madvise(self.pointer(range.start).cast(), range.len(), advice) })
    }

    /// Moves a range, or gives it another length; what was there is somewhere else then.
    pub(super) fn remap(
        &self,
        range: Range<usize>,
        len: usize,
        flags: i32,
        to: usize,
    ) -> io::Result<Self> {
        let target: *mut libc::c_void = ptr::with_exposed_provenance_mut(to);
        // SAFETY: a part of the area; `to` is an address of a reservation of the case's own, where it is used.
        let got = unsafe {
            libc::mremap(
                self.pointer(range.start).cast(),
                range.len(),
                len,
                flags,
                target,
            )
        };
        if got == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: got.expose_provenance(),
            len,
            offset: self.offset + range.start as u64,
        })
    }

    /// How many of its bytes this process reaches by huge entries.
    pub(super) fn huge_bytes(&self) -> Result<usize> {
        let smaps = fs::read_to_string("/proc/self/smaps").context("reading smaps")?;
        let mut inside = false;
        let mut sum = 0;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some(addresses) = addresses(first) {
                inside = addresses.start < self.start + self.len && addresses.end > self.start;
            } else if inside && first == "FilePmdMapped:" {
                let kibibytes: usize = words.next().context("no number")?.parse()?;
                sum += kibibytes << 10;
            }
        }
        Ok(sum)
    }

    /// Its lines in smaps that begin with a word.
    pub(super) fn smaps(&self, word: &str) -> Result<Vec<String>> {
        let smaps = fs::read_to_string("/proc/self/smaps").context("reading smaps")?;
        let mut inside = false;
        let mut found = Vec::new();
        for line in smaps.lines() {
            if let Some(addresses) = line.split_whitespace().next().and_then(addresses) {
                inside = addresses.start < self.start + self.len && addresses.end > self.start;
            } else if inside && line.starts_with(word) {
                found.push(line.to_owned());
            }
        }
        Ok(found)
    }

    /// Fails unless so many bytes are reached by huge entries.
    pub(super) fn expect_huge(&self, bytes: usize) -> Result<()> {
        let found = self.huge_bytes()?;
        ensure!(
            found == bytes,
            "{found} bytes by huge entries instead of {bytes}"
        );
        Ok(())
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: nobody can touch it through this value any more. What a case unmapped or moved before is not mapped, since the
        // cases make no mappings that they do not know of in between; unmapping nothing is no error.
        unsafe { libc::munmap(ptr::with_exposed_provenance_mut(self.start), self.len) };
    }
}

/// The number that a page with this stamp has at this place of its buffer.
pub(super) fn number(stamp: u64, offset: u64) -> u64 {
    (stamp << 48) ^ offset ^ 0x0000_5354_414d_5000
}

fn addresses(word: &str) -> Option<Range<usize>> {
    let (start, end) = word.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

/// What a call that answers 0 or -1 says.
pub(super) fn done(answer: i32) -> io::Result<()> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// How many page faults this thread has had.
pub(super) fn faults() -> i64 {
    // SAFETY: a plain record of numbers, of which all zero is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the record is ours, and of the kernel's size.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    usage.ru_minflt + usage.ru_majflt
}

/// Fails unless a call fails with this number.
pub(super) fn expect_errno<T: std::fmt::Debug>(answer: io::Result<T>, errno: i32) -> Result<()> {
    match answer {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        other => anyhow::bail!(
            "{other:?} instead of {}",
            io::Error::from_raw_os_error(errno)
        ),
    }
}
