// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What this crate asks of the kernel, as small safe functions: the only place with `unsafe`.
//!
//! | module | what it wraps |
//! |---|---|
//! | [`memfd`] | files that live in memory: hugetlb or shared memory, their length, holes and seals |
//! | [`window`] | an owned stretch of address space, and what is mapped into it |
//! | [`fork`] | whether this is a child, without a system call |
//! | [`lease`] | the exclusive right to a part of a window: the only way to its bytes |
//! | [`populate`] | pages put in place before they are touched, shortage as a value |
//! | [`clear`] | fast zeroing |
//! | [`numa`] | memory policies, the node of a page, the CPUs that may be used |
//! | [`pagemap`] | frame numbers, presence, and whether an entry is huge |
//! | [`process`] | who is alive, what its limits are |
//! | [`mod@file`] | files by descriptor: direct I/O, locks, links, advice |
//! | [`device`] | the records of `/dev/htlb`, and mappings aligned for huge pages |
//! | [`raw`] | what a program would do by hand: the peers of the benchmarks |
//! | [`path`] | free space and access of a mount |
//! | [`fork`] | whether this is the process that made something |
//! | [`zeroed`] | memory for tables |
//!
//! Nothing here is `unsafe` to call and nothing here decides: policy is the core's. A call that fails gives a
//! [`Failure`], which names the system call and its errno. The module is public for the `htlb` command and the
//! tests; programs use the crate's buffers.
//!
//! # Why bytes are sound
//!
//! A slice is sound only while nobody else writes there. Three facts make it so, none of which rests on the
//! accounting being right:
//! 1. A [`window::Window`] maps each part of its file at one place only (offset in the window = offset in the file), and a
//!    [`memfd::Memfd`] is consumed by its window, so no second mapping of it exists in this process.
//! 2. A part is leased to one [`lease::Lease`] at a time, by an atomic bit per page; only a lease gives slices, `&[u8]` from
//!    `&self` and `&mut [u8]` from `&mut self`.
//! 3. Unmapping and hole punching first take the same bits, so they fail while a lease is alive.
//!
//! Other processes are outside what types can prove: a window over a file that peers may write gives slices
//! only where its maker declared them [`window::Peers::Trusted`].

use std::fmt;
use std::io;

mod address_space;
mod backing;

pub mod clear;
pub mod device;
pub mod file;
pub mod fork;
pub mod lease;
pub mod memfd;
pub mod numa;
pub mod pagemap;
pub mod path;
pub mod populate;
pub mod process;
pub mod raw;
pub mod window;
pub mod zeroed;

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Wraps a raw number, `ENOMEM` and so on.
    #[must_use]
    pub const fn new(raw: i32) -> Self {
        Self(raw)
    }

    /// The errno that the calling thread's last failed call left.
    #[must_use]
    pub fn last() -> Self {
        Self(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// The raw number.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&io::Error::from_raw_os_error(self.0), f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A system call that failed: which, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The call, in the words of its manual page: `mmap`, `memfd_create`.
    pub call: &'static str,
    /// What it answered.
    pub errno: Errno,
}

impl Failure {
    /// The failure of `call` with `errno`.
    #[must_use]
    pub const fn new(call: &'static str, errno: i32) -> Self {
        Self {
            call,
            errno: Errno::new(errno),
        }
    }

    fn last(call: &'static str) -> Self {
        Self {
            call,
            errno: Errno::last(),
        }
    }

    fn of_io(call: &'static str, error: &io::Error) -> Self {
        Self::new(call, error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Whether it failed with `errno`.
    #[must_use]
    pub const fn is(self, errno: i32) -> bool {
        self.errno.0 == errno
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.errno)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = io::Error::from_raw_os_error(failure.errno.0).kind();
        io::Error::new(kind, failure)
    }
}

/// Turns the -1 of a call into a [`Failure`], and anything else into its value.
fn check(call: &'static str, answer: libc::c_long) -> Result<u64, Failure> {
    u64::try_from(answer).map_err(|_| Failure::last(call))
}

/// The base page of the running kernel, in bytes. Not always 4096: `arm64` and `powerpc` have 16 and 64 KiB.
#[must_use]
pub fn base_page_bytes() -> usize {
    // SAFETY: sysconf reads a constant of the process and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}
