// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! An owned stretch of address space.
//!
//! A [`Window`] is reserved once, aligned, without access and without memory. Then parts of its backing are mapped into it, in
//! whole pages of its page size (*granules*): the file's offset is the window's offset, always, so that
//! no byte of a file appears twice. `Drop` unmaps, in the process that made it and in no other.
//!
//! Invariants:
//! - `base..base + len` belongs to this window until `Drop`, except granules in state `Lost`.
//! - A bit in `taken` is set for every granule that is leased or not mapped.
//! - A granule's mapping changes only under the lock on `places` and with its bit taken.

mod error;
mod mapping;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use htlb_core::{ByteLen, ByteOffset, ByteRange, Error, HugeSize};

use super::address_space::reserve_aligned;
use super::lease::Lease;
use super::memfd;
use super::path::FileSystem;
use super::{base_page_bytes, check, Failure};
use crate::locks::locked;

pub use super::backing::{Advice, Backing, Fork, Peers};
pub use error::WindowError;

/// What is at the place of one granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Address space without access.
    Reserved,
    /// The backing's bytes of the same offset.
    Mapped,
    /// Unknown since a failed replacement: never touched again, not even by `Drop`.
    Lost,
}

/// An owned, aligned stretch of address space; see the [module](self).
pub struct Window {
    base: NonNull<u8>,
    len: usize,
    granule: HugeSize,
    backing: Backing,
    fork: Fork,
    maker: libc::pid_t,
    pub(super) taken: Box<[AtomicU64]>,
    places: Mutex<Box<[Place]>>,
}

// SAFETY: the pointer is the only field that is not Send by itself. The address space it names belongs to the process, not to a
// thread, and is reached only through leases, whose atomic bits keep two threads apart.
unsafe impl Send for Window {}
// SAFETY: methods with &self use atomics, a mutex, or system calls that the kernel serialises; bytes are reached only through leases.
unsafe impl Sync for Window {}

impl Window {
    /// Reserves `len` bytes of address space, aligned to `granule`, and to 2 MiB if it is that long; nothing mapped.
    ///
    /// `granule` is the page size of the backing, and the unit of mapping and leasing; `len` is rounded up to it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use htlb_core::{ByteLen, HugeSize};
    /// use htlb_user::sys::window::{Backing, Fork, Window};
    /// let window = Arc::new(Window::reserve(Backing::Private, ByteLen::new(1 << 20), HugeSize::MIB2, Fork::Exclude)?);
    /// window.map(window.whole())?;
    /// let mut lease = window.lease(window.whole())?;
    /// lease.bytes_mut().ok_or("peers")?[4096] = 7;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::SizeZero`] and [`Error::SizeTooLarge`]; `ENOMEM` where the address space is short;
    /// [`Error::PageSizeInvalid`] for a granule below the base page of the machine, or the page of a hugetlb file.
    pub fn reserve(
        backing: Backing,
        len: ByteLen,
        granule: HugeSize,
        fork: Fork,
    ) -> Result<Self, WindowError> {
        if len.is_zero() {
            return Err(Error::SizeZero.into());
        }
        let size = usize::try_from(granule.bytes()).map_err(|_| Error::PageSizeInvalid)?;
        if size < base_page_bytes() {
            return Err(Error::PageSizeInvalid.into());
        }
        if let Some(file) = backing.descriptor() {
            let system = FileSystem::of(file)?;
            if system.is_hugetlbfs() && system.block > granule.bytes() {
                return Err(Error::PageSizeInvalid.into());
            }
        }
        let len = usize::try_from(granule.len_of(granule.pages_for(len))?.raw())
            .map_err(|_| Error::SizeTooLarge)?;
        // CAST: 2 MiB fit every usize. A transparent huge page is mapped as one only where the address allows it.
        let huge = HugeSize::MIB2.bytes() as usize;
        let align = if len >= huge { size.max(huge) } else { size };
        let base = reserve_aligned(len, align)?;
        let granules = len / size;
        let window = Self {
            base,
            len,
            granule,
            backing,
            fork,
            // SAFETY: getpid has no arguments and cannot fail.
            maker: unsafe { libc::getpid() },
            taken: (0..granules.div_ceil(64))
                .map(|_| AtomicU64::new(u64::MAX))
                .collect(),
            places: Mutex::new(vec![Place::Reserved; granules].into_boxed_slice()),
        };
        window.exclude_from_fork(0, len)?;
        Ok(window)
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> ByteLen {
        // CAST: usize is at most 64 bits wide on Linux.
        ByteLen::new(self.len as u64)
    }

    /// Never true.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Every byte of it.
    #[must_use]
    pub fn whole(&self) -> ByteRange {
        self.bytes_at(0, self.len)
    }

    /// The unit of mapping and leasing.
    #[must_use]
    pub const fn granule(&self) -> HugeSize {
        self.granule
    }

    /// The first address. Aligned to the granule. Touching what is not mapped is a signal.
    #[must_use]
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whether slices of it can be had.
    #[must_use]
    pub const fn peers(&self) -> Peers {
        match self.backing {
            Backing::Shared(_, peers) => peers,
            _ => Peers::Trusted,
        }
    }

    /// The file that peers may have too, if it is one.
    #[must_use]
    pub fn shared_file(&self) -> Option<BorrowedFd<'_>> {
        match &self.backing {
            Backing::Shared(file, _) => Some(file.as_fd()),
            _ => None,
        }
    }

    /// Whether the calling process made it; a forked child did not, and the window does nothing there.
    #[must_use]
    pub fn is_mine(&self) -> bool {
        // SAFETY: getpid has no arguments and cannot fail.
        self.maker == unsafe { libc::getpid() }
    }

    /// Makes the backing file long enough for the first `len` bytes of the window; never shorter.
    ///
    /// # Errors
    /// Those of `ftruncate`; [`WindowError::Range`] past the window.
    pub fn extend_file(&self, len: ByteLen) -> Result<(), WindowError> {
        if len > self.len() {
            return Err(Error::RangeBeyondEnd.into());
        }
        match self.descriptor() {
            // INVARIANT: it was made as long as the window needs.
            Some(_) if matches!(self.backing, Backing::Device(_)) => Ok(()),
            Some(file) if memfd::len(file)? < len => Ok(memfd::set_len(file, len)?),
            _ => Ok(()),
        }
    }

    /// The exclusive right to `range`.
    ///
    /// # Errors
    /// [`WindowError::Leased`] where a part is leased, or not mapped.
    pub fn lease(self: &Arc<Self>, range: ByteRange) -> Result<Lease, WindowError> {
        let (start, len) = self.granules(range)?;
        Lease::new(Arc::clone(self), start, len)
    }

    /// Checks that `range` is whole granules inside the window: offset and length.
    pub(super) fn granules(&self, range: ByteRange) -> Result<(usize, usize), WindowError> {
        if range.end().raw() > self.len().raw() {
            return Err(Error::RangeBeyondEnd.into());
        }
        if !self.granule.divides(range.start().raw()) || !self.granule.divides(range.end().raw()) {
            return Err(Error::RangeUnaligned.into());
        }
        // CAST: both are at most self.len, a usize.
        Ok((range.start().raw() as usize, range.len().raw() as usize))
    }

    /// As `granules`, and that all of it is mapped. What other threads unmap meanwhile is again address space of this window.
    pub(super) fn mapped(&self, range: ByteRange) -> Result<(usize, usize), WindowError> {
        let (start, len) = self.granules(range)?;
        self.check_maker()?;
        let mut places = self.places();
        let part = self.part(&mut places, start, len)?;
        if part.iter().any(|place| *place != Place::Mapped) {
            return Err(WindowError::Mapping);
        }
        Ok((start, len))
    }

    /// A child without the window may have anything at these addresses, which no call may then touch.
    fn check_maker(&self) -> Result<(), WindowError> {
        match self.fork {
            Fork::Exclude if !self.is_mine() => Err(WindowError::Mapping),
            _ => Ok(()),
        }
    }

    /// The address of offset `start`, which the caller checked.
    pub(super) fn address(&self, start: usize) -> NonNull<u8> {
        debug_assert!(start <= self.len);
        // SAFETY: offset at most the length (`granules` checks), so it stays within, or one past, one reserved region.
        unsafe { self.base.add(start) }
    }

    pub(super) fn madvise(&self, start: usize, len: usize, advice: i32) -> Result<(), Failure> {
        // SAFETY: the range lies in address space that this window owns. Callers pass advice that keeps the bytes, or
        // hold the lease bits of the whole range.
        let answer = unsafe { libc::madvise(self.address(start).as_ptr().cast(), len, advice) };
        check("madvise", answer.into()).map(drop)
    }

    pub(super) fn index(&self, start: usize) -> usize {
        start >> self.granule.shift()
    }

    pub(super) fn count(&self, len: usize) -> usize {
        len >> self.granule.shift()
    }

    pub(super) fn bytes_at(&self, start: usize, len: usize) -> ByteRange {
        // CAST: usize is at most 64 bits wide on Linux.
        let (start, len) = (ByteOffset::new(start as u64), ByteLen::new(len as u64));
        // Never taken: a window is not empty and fits the address space. The core's range has no unchecked constructor.
        ByteRange::at(start, len).unwrap_or_else(|_| unreachable!("an empty window"))
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.backing.descriptor()
    }

    fn places(&self) -> MutexGuard<'_, Box<[Place]>> {
        // A panic between two stores is impossible here, so what an earlier holder left is consistent.
        locked(&self.places)
    }

    fn part<'p>(
        &self,
        places: &'p mut [Place],
        start: usize,
        len: usize,
    ) -> Result<&'p mut [Place], WindowError> {
        let first = self.index(start);
        places
            .get_mut(first..first + self.count(len))
            .ok_or(WindowError::Range(Error::RangeBeyondEnd))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // A child's address space is a copy, or lacks the window: other things may live at these addresses there.
        if !self.is_mine() {
            return;
        }
        let size = self.len / self.places().len().max(1);
        let places = std::mem::take(
            self.places
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let mut start = 0;
        for run in places.chunk_by(|a, b| (*a == Place::Lost) == (*b == Place::Lost)) {
            let len = run.len() * size;
            if run.first() != Some(&Place::Lost) {
                // SAFETY: these granules belong to this window, and every lease holds an Arc of it, so none is left.
                // A refusal (too many areas) leaks address space, which is all that Drop can do about it.
                unsafe { libc::munmap(self.address(start).as_ptr().cast(), len) };
            }
            start += len;
        }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("base", &self.base)
            .field("len", &self.len)
            .field("granule", &self.granule)
            .field("backing", &self.backing)
            .finish_non_exhaustive()
    }
}
