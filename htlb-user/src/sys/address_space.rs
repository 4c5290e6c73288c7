// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Address space without memory, as [`super::window`] needs it.

use std::ptr::{self, NonNull};

use super::Failure;

/// A second mapping of a part, for as long as the first is put in place; nobody touches it.
pub(super) struct Probe(pub(super) NonNull<u8>, pub(super) usize);

impl Drop for Probe {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap gave to the maker of this probe, whose address went nowhere else.
        unsafe { libc::munmap(self.0.as_ptr().cast(), self.1) };
    }
}

/// What `mmap` answered.
pub(super) fn pointer(got: *mut libc::c_void) -> Result<NonNull<u8>, Failure> {
    if got == libc::MAP_FAILED {
        return Err(Failure::last("mmap"));
    }
    NonNull::new(got.cast()).ok_or(Failure::new("mmap", libc::ENOMEM))
}

const RESERVED: libc::c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Address space of `len` bytes at a multiple of `align`: more is taken, and both ends are given back.
pub(super) fn reserve_aligned(len: usize, align: usize) -> Result<NonNull<u8>, Failure> {
    let too_long = Failure::new("mmap", libc::ENOMEM);
    let more = len.checked_add(align).ok_or(too_long)?;
    // SAFETY: without an address the kernel picks free space.
    let got = unsafe { libc::mmap(ptr::null_mut(), more, libc::PROT_NONE, RESERVED, -1, 0) };
    let got = pointer(got)?;
    let skip = got.as_ptr().addr().wrapping_neg() & (align - 1);
    // SAFETY: `align` is a power of two, so `skip` is below it, and this stays inside what was mapped.
    let base = unsafe { got.add(skip) };
    // SAFETY: `skip` bytes before and `align - skip` bytes after are parts of the fresh mapping outside base..base + len, in whole
    // base pages since the mapping, `align` and `len` are. A refusal leaks them, unused.
    unsafe {
        if skip > 0 {
            libc::munmap(got.as_ptr().cast(), skip);
        }
        libc::munmap(base.add(len).as_ptr().cast(), align - skip);
    }
    Ok(base)
}

/// Puts address space without access in the place of what is mapped.
///
/// # Safety
/// The caller owns `at..at + len`, in whole base pages, and nobody holds a reference into it.
pub(super) unsafe fn reserve_at(at: NonNull<u8>, len: usize) -> Result<(), Failure> {
    let fixed = RESERVED | libc::MAP_FIXED;
    // SAFETY: what MAP_FIXED replaces is the caller's, and unreferenced, by this function's contract.
    let got = unsafe { libc::mmap(at.as_ptr().cast(), len, libc::PROT_NONE, fixed, -1, 0) };
    pointer(got).map(drop)
}
