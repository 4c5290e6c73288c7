// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A driver's file, mapped.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use anyhow::{Context, Result};

/// Bytes of a huge page.
pub(super) const HUGE: usize = 2 << 20;
const BASE: usize = 4 << 10;

/// Whose the writes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writes {
    Shared,
    Private,
}

/// A mapping, readable and writable.
#[derive(Debug)]
pub(super) struct View {
    start: NonNull<u8>,
    len: usize,
}

impl View {
    /// Maps `len` bytes of a file from byte `offset` on, where the kernel likes.
    pub(super) fn new(
        file: impl AsFd,
        offset: u64,
        len: usize,
        writes: Writes,
    ) -> io::Result<Self> {
        let flags = match writes {
            Writes::Shared => libc::MAP_SHARED,
            Writes::Private => libc::MAP_PRIVATE,
        };
        let offset = i64::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping, where nothing is.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                file.as_fd().as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    /// All of a file's buffer, shared.
    pub(super) fn shared(file: impl AsFd, len: usize) -> Result<Self> {
        Self::new(file, 0, len, Writes::Shared).context("mapping it")
    }

    pub(super) fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }

    /// The byte there.
    pub(super) fn byte(&self, at: usize) -> u8 {
        assert!(at < self.len, "{at} of {}", self.len);
        // SAFETY: inside the mapping; others may write there, and a byte is never torn.
        unsafe { self.start.add(at).read_volatile() }
    }

    /// The word there; `at` is a multiple of eight.
    pub(super) fn word(&self, at: usize) -> u64 {
        assert!(at + 8 <= self.len && at % 8 == 0, "{at} of {}", self.len);
        // SAFETY: inside the mapping, which begins on a page, so it is aligned.
        unsafe { self.start.add(at).cast::<u64>().read_volatile() }
    }

    pub(super) fn write(&self, at: usize, byte: u8) {
        assert!(at < self.len, "{at} of {}", self.len);
        // SAFETY: inside the mapping, which is writable.
        unsafe { self.start.add(at).write_volatile(byte) }
    }

    /// How many bytes of it are mapped by huge entries.
    pub(super) fn huge_bytes(&self) -> Result<u64> {
        let first = format!("{:x}-", self.address());
        let maps = fs::read_to_string("/proc/self/smaps")?;
        let mut own = maps.lines().skip_while(|line| !line.starts_with(&first));
        let line = own.find(|line| line.starts_with("FilePmdMapped:"));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        let kilobytes: u64 = number.context("no FilePmdMapped in smaps")?.parse()?;
        Ok(kilobytes << 10)
    }

    /// The physical address of a byte that has been touched.
    pub(super) fn physical(&self, at: usize) -> Result<u64> {
        const FRAME: u64 = (1 << 55) - 1;
        let address = self.address() + at;
        let mut pagemap = File::open("/proc/self/pagemap")?;
        pagemap.seek(SeekFrom::Start((address / BASE * 8) as u64))?;
        let mut entry = [0; 8];
        pagemap.read_exact(&mut entry)?;
        let frame = u64::from_ne_bytes(entry) & FRAME;
        anyhow::ensure!(frame != 0, "pagemap has no frame for byte {at}");
        Ok(frame * BASE as u64 + (address % BASE) as u64)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: our own mapping, of which no reference is left.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
