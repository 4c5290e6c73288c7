// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! As much of io_uring as it takes to hold pages for long, and to look at them through what is held.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{ensure, Result};

use super::area::Area;

/// As the kernel has them, `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Parameters {
    entries: u32,
    completions: u32,
    flags: u32,
    thread: [u32; 2],
    features: u32,
    queue: u32,
    reserved: [u32; 3],
    submission: Offsets,
    completion: Offsets,
}

/// Where the parts of a queue are in its mapping.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    /// Of submissions: flags, dropped, and the array. Of completions: overflow, and the records.
    more: [u32; 3],
    reserved: u32,
    user: u64,
}

/// `struct io_uring_sqe`.
#[repr(C)]
#[derive(Default)]
struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    len: u32,
    how: u32,
    user: u64,
    buffer: u16,
    rest: [u16; 3],
    more: [u64; 2],
}

/// `struct io_uring_cqe`.
#[repr(C)]
struct Completion {
    user: u64,
    result: i32,
    flags: u32,
}

const ENTRIES: u32 = 4;
const WRITE_FIXED: u8 = 5;
const REGISTER_BUFFERS: u32 = 0;
const UNREGISTER_BUFFERS: u32 = 1;
const WAIT_FOR_COMPLETIONS: u32 = 1;
/// Where the queues and the submissions are mapped from. One mapping has both queues, in every kernel since 5.4.
const QUEUES: u64 = 0;
const SUBMISSIONS: u64 = 0x1000_0000;

/// A ring with registered pages.
#[derive(Debug)]
pub(super) struct Ring {
    fd: OwnedFd,
    queues: Area,
    submissions: Area,
    tail: usize,
    array: usize,
    completions: [usize; 3],
}

impl Ring {
    /// A new ring; nothing where the kernel has none.
    pub(super) fn new() -> Result<Option<Self>> {
        let mut parameters = Parameters::default();
        // SAFETY: a record of ours, of the kernel's size.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, &mut parameters) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOSYS) => Ok(None),
                _ => Err(error.into()),
            };
        }
        // SAFETY: a new descriptor, which nobody else knows of.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let (of_submissions, of_completions) = (&parameters.submission, &parameters.completion);
        // A mapping is whole base pages, and these queues are shorter than one.
        let shared = libc::MAP_SHARED | libc::MAP_POPULATE;
        let queues = Area::map(&fd, QUEUES, super::area::BASE, super::area::RW, shared)?;
        let submissions = Area::map(&fd, SUBMISSIONS, super::area::BASE, super::area::RW, shared)?;
        Ok(Some(Self {
            tail: of_submissions.tail as usize,
            array: of_submissions.more[2] as usize,
            completions: [
                of_completions.head as usize,
                of_completions.mask as usize,
                of_completions.more[1] as usize,
            ],
            fd,
            queues,
            submissions,
        }))
    }

    fn ask(&self, what: u32, vectors: &[libc::iovec]) -> io::Result<()> {
        // SAFETY: as many vectors as are said, none for the end of a registration; the areas that they name are mapped.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.fd.as_raw_fd(),
                what,
                if vectors.is_empty() {
                    ptr::null()
                } else {
                    vectors.as_ptr()
                },
                vectors.len(),
            )
        };
        super::area::done(answer as i32)
    }

    /// Registers a range: its pages are held until the end of the registration, or of the ring.
    pub(super) fn register(&mut self, area: &Area, range: Range<usize>) -> io::Result<()> {
        let vector = libc::iovec {
            iov_base: area.pointer(range.start).cast(),
            iov_len: range.len(),
        };
        self.ask(REGISTER_BUFFERS, &[vector])
    }

    /// Ends the registration.
    pub(super) fn unregister(&mut self) -> io::Result<()> {
        self.ask(UNREGISTER_BUFFERS, &[])
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: a word of the queues' mapping, which lives as long as the ring, and which the kernel changes by atomic stores.
        unsafe { AtomicU32::from_ptr(self.queues.pointer(at).cast()) }
    }

    /// Writes a range that is registered to a file, from its start on; says how many bytes.
    pub(super) fn write_fixed(
        &mut self,
        to: BorrowedFd<'_>,
        area: &Area,
        range: Range<usize>,
    ) -> Result<usize> {
        let submission = Submission {
            operation: WRITE_FIXED,
            fd: to.as_fd().as_raw_fd(),
            address: area.start() as u64 + range.start as u64,
            len: u32::try_from(range.len())?,
            ..Submission::default()
        };
        let tail = self.word(self.tail).load(Ordering::Acquire);
        let slot = tail % ENTRIES;
        let place = self
            .submissions
            .pointer(slot as usize * size_of::<Submission>());
        // SAFETY: a slot of the submissions' mapping that the kernel does not look at before the tail passes it.
        unsafe { place.cast::<Submission>().write(submission) };
        self.word(self.array + slot as usize * 4)
            .store(slot, Ordering::Relaxed);
        self.word(self.tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        // SAFETY: submits what was just written and waits for its end; no signal mask is given.
        let entered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.as_raw_fd(),
                1,
                1,
                WAIT_FOR_COMPLETIONS,
                ptr::null::<libc::c_void>(),
                0,
            )
        };
        ensure!(entered == 1, "{entered}: {}", io::Error::last_os_error());
        let [head, mask, records] = self.completions;
        let done = self.word(head).load(Ordering::Acquire);
        let slot = (done & self.word(mask).load(Ordering::Relaxed)) as usize;
        let place = self
            .queues
            .pointer(records + slot * size_of::<Completion>());
        // SAFETY: a record that the kernel has written, since one completion was waited for.
        let completion = unsafe { place.cast::<Completion>().read() };
        self.word(head)
            .store(done.wrapping_add(1), Ordering::Release);
        match usize::try_from(completion.result) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(io::Error::from_raw_os_error(-completion.result).into()),
        }
    }
}
