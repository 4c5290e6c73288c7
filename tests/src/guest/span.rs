// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A shared mapping by the kernel's own calls, and what may be done to a part of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};

use htlb_core::HugeSize;

use crate::kmod::leaves::{self, Leaves};

/// Bytes of a huge page.
pub(super) const HUGE: usize = 2 << 20;

/// A mapping, readable and writable.
#[derive(Debug)]
pub(super) struct Span {
    start: NonNull<u8>,
    len: usize,
}

fn done(answer: libc::c_int) -> io::Result<()> {
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

impl Span {
    /// The first `len` bytes of a file, shared, at an address of the kernel's choice.
    pub(super) fn shared(file: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(file, len, libc::MAP_SHARED)
    }

    /// The same, with writes to copies.
    pub(super) fn private(file: impl AsFd, len: usize) -> io::Result<Self> {
        Self::new(file, len, libc::MAP_PRIVATE)
    }

    fn new(file: impl AsFd, len: usize, flags: libc::c_int) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: a new mapping, where nothing is.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }

    pub(super) fn address(&self) -> usize {
        self.start.as_ptr().addr()
    }

    fn at(&self, at: usize) -> NonNull<u8> {
        assert!(at < self.len, "{at} of {}", self.len);
        // SAFETY: inside the mapping.
        unsafe { self.start.add(at) }
    }

    /// The word there; `at` is a multiple of eight, and mapped.
    pub(super) fn word(&self, at: usize) -> u64 {
        assert!(at % 8 == 0, "{at}");
        // SAFETY: inside the mapping, which begins on a page; others may write there.
        unsafe { self.at(at).cast::<u64>().read_volatile() }
    }

    /// As [`Span::word`].
    pub(super) fn write(&self, at: usize, word: u64) {
        assert!(at % 8 == 0, "{at}");
        // SAFETY: as above, and writable.
        unsafe { self.at(at).cast::<u64>().write_volatile(word) }
    }

    /// Writes a different word into each base page.
    pub(super) fn stamp(&self, seed: u64) {
        for at in (0..self.len).step_by(4096) {
            self.write(at, seed ^ at as u64);
        }
    }

    /// Whether each base page has the word that [`Span::stamp`] left, as far as `len`.
    pub(super) fn has_stamp(&self, seed: u64, len: usize) -> bool {
        (0..len)
            .step_by(4096)
            .all(|at| self.word(at) == seed ^ at as u64)
    }

    /// What the page tables have for it.
    pub(super) fn leaves(&self) -> io::Result<Leaves> {
        leaves::count(self.address(), self.len)
    }

    /// Takes a part out of it, which nobody touches any more.
    pub(super) fn unmap(&self, at: usize, len: usize) -> io::Result<()> {
        // SAFETY: a part of the mapping, in which no reference points.
        done(unsafe { libc::munmap(self.at(at).as_ptr().cast(), len) })
    }

    /// `madvise(2)` of a part.
    pub(super) fn advise(&self, at: usize, len: usize, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: a part of the mapping; what it holds is looked at as volatile words only.
        done(unsafe { libc::madvise(self.at(at).as_ptr().cast(), len, advice) })
    }

    /// A pipe that holds the first page of it, by reference.
    pub(super) fn hold(&self) -> io::Result<[File; 2]> {
        let mut ends = [-1; 2];
        // SAFETY: two numbers of ours.
        done(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
        // SAFETY: two new descriptors, which nobody else knows of.
        let pipe = ends.map(|end| unsafe { File::from_raw_fd(end) });
        let page = libc::iovec {
            iov_base: self.start.as_ptr().cast(),
            iov_len: 4096,
        };
        // SAFETY: inside the mapping; it may change at any time.
        match unsafe { libc::vmsplice(pipe[1].as_raw_fd(), &page, 1, 0) } {
            4096 => Ok(pipe),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        // SAFETY: our own addresses, to which no reference is left. What was taken out before has nobody else's mapping in it: these
        // programs map nothing while they have one.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// How many page faults this process has had.
pub(super) fn faults() -> i64 {
    // SAFETY: plain numbers, all of which the kernel writes.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a record of ours.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_minflt + usage.ru_majflt
}

/// What a child of this process says of `body`, which has the same mappings.
pub(super) fn in_child(body: impl FnOnce() -> bool) -> io::Result<bool> {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: ends the child at once.
        0 => unsafe { libc::_exit(libc::c_int::from(!body())) },
        child => {
            let mut status = 0;
            // SAFETY: our child, and a number of ours.
            unsafe { libc::waitpid(child, &mut status, 0) };
            Ok(status == 0)
        }
    }
}

/// Pages of hugetlb's own pool, of one size; as many as before when it is dropped.
#[derive(Debug)]
pub(super) struct HugetlbPool {
    file: String,
    before: String,
}

impl HugetlbPool {
    /// So many; fewer where memory is short.
    pub(super) fn of(size: HugeSize, pages: u64) -> io::Result<Self> {
        let folder = format!(
            "/sys/kernel/mm/hugepages/hugepages-{}kB",
            size.bytes() >> 10
        );
        let file = format!("{folder}/nr_hugepages");
        let before = std::fs::read_to_string(&file)?;
        std::fs::write(&file, pages.to_string())?;
        Ok(Self { file, before })
    }

    fn count(&self, of: &str) -> io::Result<u64> {
        let text = std::fs::read_to_string(self.file.replace("nr_hugepages", of))?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// How many there are.
    pub(super) fn total(&self) -> io::Result<u64> {
        self.count("nr_hugepages")
    }

    /// How many of them are free.
    pub(super) fn free(&self) -> io::Result<u64> {
        self.count("free_hugepages")
    }
}

impl Drop for HugetlbPool {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.file, self.before.trim()) {
            println!("cannot give hugetlb's pages back: {error}");
        }
    }
}
