// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the measurements ask of the kernel beyond what `htlb-user` wraps: the only unsafe code of this program.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::raw::c_int;

use htlb_user::device::Mapping;

/// Page faults of this process so far, of both kinds.
pub(crate) fn faults() -> io::Result<u64> {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: the call writes a whole `rusage`, and `usage` has room for one.
    answered(unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it is written.
    let usage = unsafe { usage.assume_init() };
    Ok(u64::try_from(usage.ru_minflt.saturating_add(usage.ru_majflt)).unwrap_or(0))
}

/// Reads one byte of every 4 KiB.
pub(crate) fn touch(mapping: &Mapping) {
    let base = mapping.as_ptr().as_ptr();
    let mut offset = 0;
    while offset < mapping.len() {
        // SAFETY: below the mapping's length; the mapping is readable, and its pages are there or the kernel makes them.
        unsafe { base.add(offset).read_volatile() };
        offset += 4096;
    }
}

/// `pread` into a mapping, as it is: no byte goes through memory of this program.
pub(crate) fn read_into(
    file: BorrowedFd<'_>,
    mapping: &mut Mapping,
    at: usize,
    len: usize,
) -> io::Result<usize> {
    within(mapping, at, len)?;
    // SAFETY: `len` bytes from `at` lie in the mapping, which is writable and borrowed exclusively.
    let done = unsafe {
        libc::pread(
            file.as_raw_fd(),
            mapping.as_ptr().add(at).as_ptr().cast(),
            len,
            0,
        )
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// `pwrite` from a mapping.
pub(crate) fn write_from(
    file: BorrowedFd<'_>,
    mapping: &Mapping,
    at: usize,
    len: usize,
) -> io::Result<usize> {
    within(mapping, at, len)?;
    // SAFETY: `len` bytes from `at` lie in the mapping, which is readable.
    let done = unsafe {
        libc::pwrite(
            file.as_raw_fd(),
            mapping.as_ptr().add(at).as_ptr().cast(),
            len,
            0,
        )
    };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

fn within(mapping: &Mapping, at: usize, len: usize) -> io::Result<()> {
    match at.checked_add(len) {
        Some(end) if end <= mapping.len() => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::ERANGE)),
    }
}

fn answered(answer: c_int) -> io::Result<c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}
