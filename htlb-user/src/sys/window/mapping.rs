// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What of its backing is mapped into a window, and what the kernel is told about it.

use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use htlb_core::ByteRange;

use super::{Advice, Backing, Fork, Place, Window, WindowError};
use crate::sys::address_space::{pointer, reserve_at, Probe};
use crate::sys::{device, lease, memfd, Failure};

impl Window {
    /// Maps `range` of the backing, read-write, at the same offset of the window. Populates nothing.
    ///
    /// On hugetlb the kernel reserves the pages now, blind to nodes and cgroups: populate before relying on them.
    ///
    /// # Errors
    /// [`WindowError::Mapping`] where a part is mapped already; `ENOMEM` where hugetlb has too few unreserved pages.
    pub fn map(&self, range: ByteRange) -> Result<(), WindowError> {
        let (start, len) = self.granules(range)?;
        self.check_maker()?;
        let mut places = self.places();
        let part = self.part(&mut places, start, len)?;
        if part.iter().any(|place| *place != Place::Reserved) {
            return Err(WindowError::Mapping);
        }
        // A shortage must show before anything of the window is replaced: older kernels take the old mapping
        // away first. The reservation of this probe belongs to the file, so the second mmap needs none.
        let probe = match self.descriptor() {
            Some(_) => Some(Probe(self.mmap(ptr::null_mut(), start, len)?, len)),
            None => None,
        };
        let mapped = self.mmap(self.address(start).as_ptr(), start, len);
        drop(probe);
        if let Err(failure) = mapped {
            part.fill(Place::Lost);
            return Err(failure.into());
        }
        if let Err(failure) = self.exclude_from_fork(start, len) {
            // SAFETY: granules of this window whose bits are still taken, under the lock on `places`: nobody refers to them.
            let undone = unsafe { reserve_at(self.address(start), len) };
            part.fill(undone.map_or(Place::Lost, |()| Place::Reserved));
            return Err(failure.into());
        }
        part.fill(Place::Mapped);
        lease::give_back(&self.taken, self.index(start), self.count(len));
        Ok(())
    }

    /// Takes `range` out of the window again: its addresses lose access, its pages stay in the file.
    ///
    /// # Errors
    /// [`WindowError::Leased`], [`WindowError::Mapping`] where a part is not mapped.
    pub fn unmap(&self, range: ByteRange) -> Result<(), WindowError> {
        let (start, len) = self.granules(range)?;
        self.check_maker()?;
        let mut places = self.places();
        let part = self.part(&mut places, start, len)?;
        if part.iter().any(|place| *place != Place::Mapped) {
            return Err(WindowError::Mapping);
        }
        lease::take(&self.taken, self.index(start), self.count(len))?;
        // SAFETY: granules of this window, under the lock on `places`; with their bits taken no lease refers to them.
        let replaced = unsafe { reserve_at(self.address(start), len) };
        if let Err(failure) = replaced {
            part.fill(Place::Lost);
            return Err(failure.into());
        }
        part.fill(Place::Reserved);
        Ok(self.exclude_from_fork(start, len)?)
    }

    /// Gives the pages of `range` back to the system; it reads as zero afterwards, and on hugetlb the touch may signal.
    ///
    /// # Errors
    /// [`WindowError::Leased`]; [`WindowError::Mapping`]; what `fallocate` or `madvise` answers.
    #[doc(alias = "MADV_REMOVE")]
    #[doc(alias = "FALLOC_FL_PUNCH_HOLE")]
    pub fn discard(&self, range: ByteRange) -> Result<(), WindowError> {
        let (start, len) = self.mapped(range)?;
        // INVARIANT: with the bits taken nobody holds a slice whose bytes would change.
        lease::take(&self.taken, self.index(start), self.count(len))?;
        let done = match (self.descriptor(), &self.backing) {
            (Some(file), Backing::Device(_)) => device::punch(file, range),
            (Some(file), _) => memfd::punch(file, range),
            (None, Backing::SharedAnonymous) => self.madvise(start, len, libc::MADV_REMOVE),
            (None, _) => self.madvise(start, len, libc::MADV_DONTNEED),
        };
        lease::give_back(&self.taken, self.index(start), self.count(len));
        Ok(done?)
    }

    /// Tells the kernel something about `range`.
    ///
    /// # Errors
    /// `EINVAL` where this kernel does not know it; for [`Advice::Collapse`] `ENOMEM`, `EBUSY`, `EAGAIN`.
    pub fn advise(&self, range: ByteRange, advice: Advice) -> Result<(), WindowError> {
        let (start, len) = self.mapped(range)?;
        Ok(self.madvise(start, len, advice.raw())?)
    }

    pub(super) fn exclude_from_fork(&self, start: usize, len: usize) -> Result<(), Failure> {
        match self.fork {
            Fork::Inherit => Ok(()),
            Fork::Exclude => self.madvise(start, len, libc::MADV_DONTFORK),
        }
    }

    /// Maps the backing's bytes from `start`: at `at`, which must be a granule of this window under the lock, or anywhere.
    fn mmap(&self, at: *mut u8, start: usize, len: usize) -> Result<NonNull<u8>, Failure> {
        let (share, fd) = match (self.descriptor(), &self.backing) {
            (Some(file), _) => (libc::MAP_SHARED, file.as_raw_fd()),
            (None, Backing::SharedAnonymous) => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
            (None, _) => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        let fixed = if at.is_null() { 0 } else { libc::MAP_FIXED };
        let offset = if fd < 0 {
            0
        } else {
            libc::off_t::try_from(start).map_err(|_| Failure::new("mmap", libc::EOVERFLOW))?
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without an address the kernel picks free space. With one, MAP_FIXED replaces only granules of this window
        // that its caller found `Reserved` under the lock: nobody can hold a pointer to bytes there.
        let got = unsafe { libc::mmap(at.cast(), len, access, share | fixed, fd, offset) };
        pointer(got)
    }
}
