// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `/dev/htlb`: records through `ioctl`, and mappings at addresses that huge pages can have.
//!
//! Typed calls are in [`crate::device`].

mod mapping;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use htlb_core::uapi::{self, Record};
use htlb_core::ByteRange;

use super::address_space::{reserve_aligned, Probe};
use super::{base_page_bytes, Failure};

pub use mapping::{Faults, How, Mapping, Protection, Sharing};

/// More than any record here is long.
const LONGEST: usize = 256;

/// Sends a record and puts the answer in its place; its size field is set here. Returns what the call returned, 0 or a descriptor.
pub(crate) fn exchange<R: Record>(fd: BorrowedFd<'_>, record: &mut R) -> io::Result<i32> {
    let mut space = [0_u8; LONGEST];
    // CAST: a record is smaller than 2^14 bytes.
    let len = R::SIZE as usize;
    let bytes = space
        .get_mut(..len)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
    record.encode(bytes);
    for (to, from) in bytes.iter_mut().zip(R::SIZE.to_ne_bytes()) {
        *to = from;
    }
    // SAFETY: the number is one of this interface, whose calls read and write as many bytes as the record's size field says: `len`,
    // all of them in `bytes`. Records hold no pointers, so nothing else of this process is touched; a file of another kind does not
    // know the type byte 0xBC, which no driver of the kernel uses.
    let answer =
        answered(unsafe { libc::ioctl(fd.as_raw_fd(), number(R::IOCTL), bytes.as_mut_ptr()) })?;
    *record = R::decode(bytes).map_err(io::Error::from)?;
    Ok(answer)
}

/// The same for a call whose answer is a new file descriptor.
pub(crate) fn exchange_for_fd<R: Record>(
    fd: BorrowedFd<'_>,
    record: &mut R,
) -> io::Result<OwnedFd> {
    let new = exchange(fd, record)?;
    // SAFETY: the callers send records whose calls return a descriptor that is new, and that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// A dma-buf, whose descriptor is in the record.
pub(crate) fn export(fd: BorrowedFd<'_>, record: &mut uapi::Export) -> io::Result<OwnedFd> {
    record.fd = -1;
    exchange(fd, record)?;
    if record.fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the call succeeded and put a descriptor there: it is new, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(record.fd) })
}

/// Gives the pages of a range of a buffer back to the module.
pub(super) fn punch(buffer: BorrowedFd<'_>, range: ByteRange) -> Result<(), Failure> {
    let mut punch = uapi::Punch {
        offset: range.start().raw(),
        len: range.len().raw(),
        ..uapi::Punch::default()
    };
    match exchange(buffer, &mut punch) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::of_io("HTLB_IOC_PUNCH", &error)),
    }
}

/// Sends bytes as they are, right or wrong, and puts the answer in their place: for tests. Returns what the call returned.
///
/// They are laid out before a page without access, so that a size field that says more than there is gets `EFAULT` and
/// touches nothing of this process.
///
/// # Errors
/// `EINVAL` for a number that is not of the type byte [`uapi::MAGIC`]; else what the kernel answers.
pub fn ioctl_bytes(fd: BorrowedFd<'_>, ioctl: u32, bytes: &mut [u8]) -> io::Result<i32> {
    if (ioctl >> 8) & 0xff != u32::from(uapi::MAGIC) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let page = base_page_bytes();
    let len = bytes.len().next_multiple_of(page);
    let whole = len
        .checked_add(page)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let base = reserve_aligned(whole, page).map_err(raw)?;
    let _unmapped = Probe(base, whole);
    if len > 0 {
        // SAFETY: the first `len` of the `whole` bytes that were just mapped, and that nobody else knows of.
        if unsafe {
            libc::mprotect(
                base.as_ptr().cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
            )
        } != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: `bytes.len()` is at most `len`, so this lies in the mapping, and that many bytes follow up to the page without access.
    let place = unsafe { base.add(len - bytes.len()) };
    // SAFETY: `place` has room for all of `bytes`, as above, in memory that is not theirs.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
    // SAFETY: a call of this type byte goes upwards from `place`, as `exchange` says, and whatever length it takes for true, it comes to
    // the page without access first.
    let done = answered(unsafe { libc::ioctl(fd.as_raw_fd(), number(ioctl), place.as_ptr()) });
    // SAFETY: as for the copy there.
    unsafe { ptr::copy_nonoverlapping(place.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
    done
}

/// The type that the C library wants for an ioctl number differs.
fn number(ioctl: u32) -> libc::Ioctl {
    // CAST: the same 32 bits, whatever the sign.
    ioctl as libc::Ioctl
}

fn answered(answer: libc::c_int) -> io::Result<i32> {
    match answer {
        ..=-1 => Err(io::Error::last_os_error()),
        answer => Ok(answer),
    }
}

fn raw(failure: Failure) -> io::Error {
    io::Error::from_raw_os_error(failure.errno.raw())
}
