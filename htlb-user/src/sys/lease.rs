// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The exclusive right to a part of a window, and the only way to its bytes.
//!
//! One bit per page of the window says whether somebody has it. A [`Lease`] sets the bits of its range, all or none, and clears them
//! when it is dropped. This is user space's own check before a page is let go, as the folio's reference count is the
//! kernel's: should the accounting ever be wrong, the answer is [`WindowError::Leased`], never two owners of one page.

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use htlb_core::{ByteLen, ByteOffset, ByteRange, Error};

use super::clear::{self, Caches};
use super::window::{Peers, Window, WindowError};
use super::{check, Failure};

/// The exclusive right to a part of a [`Window`], which it keeps alive.
///
/// Neither `Clone` nor `Copy`. Bytes that were never populated are put in place by their first touch, which is a signal where the
/// system has no page: populate first.
#[must_use = "a dropped lease is given back at once"]
pub struct Lease {
    window: Arc<Window>,
    start: usize,
    len: usize,
}

static_assertions::assert_not_impl_any!(Lease: Clone, Copy);
static_assertions::assert_impl_all!(Lease: Send, Sync);

impl Lease {
    pub(super) fn new(window: Arc<Window>, start: usize, len: usize) -> Result<Self, WindowError> {
        take(&window.taken, window.index(start), window.count(len))?;
        Ok(Self { window, start, len })
    }

    /// The window it is a part of.
    #[must_use]
    pub fn window(&self) -> &Arc<Window> {
        &self.window
    }

    /// Its place in the window.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        self.window.bytes_at(self.start, self.len)
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> ByteLen {
        self.range().len()
    }

    /// Never true.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// The first address.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.window.address(self.start)
    }

    /// The bytes; `None` where untrusted peers may write them.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        // SAFETY: the range is mapped read-write for as long as the lease lives (its bits keep `unmap` away, its Arc keeps the window)
        // and at most isize::MAX long; mapped memory is initialised. Nobody in this process writes: writers need `&mut self`, and no other
        // lease covers these bytes. Peers are excluded by the test, or by the word of whoever made the window.
        (self.window.peers() == Peers::Trusted)
            .then(|| unsafe { std::slice::from_raw_parts(self.as_ptr().as_ptr(), self.len) })
    }

    /// The bytes, to write; `None` where untrusted peers may write them too.
    #[must_use]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: as for `bytes`; `&mut self` makes this the only borrow of the only lease.
        (self.window.peers() == Peers::Trusted)
            .then(|| unsafe { std::slice::from_raw_parts_mut(self.as_ptr().as_ptr(), self.len) })
    }

    /// Copies bytes out, from `offset` of the lease.
    ///
    /// # Errors
    /// [`Error::RangeBeyondEnd`] past the end; nothing is copied then.
    pub fn copy_to(&self, offset: ByteOffset, to: &mut [u8]) -> Result<(), Error> {
        let from = self.place(offset, to.len())?;
        // SAFETY: `place` checked that `to.len()` bytes from there lie in the lease. `to` is a live exclusive borrow, and no
        // slice of the lease is `&mut` while `&self` is borrowed, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    /// Copies bytes in, at `offset` of the lease.
    ///
    /// # Errors
    /// [`Error::RangeBeyondEnd`] past the end; nothing is copied then.
    pub fn copy_from(&mut self, offset: ByteOffset, from: &[u8]) -> Result<(), Error> {
        let to = self.place(offset, from.len())?;
        // SAFETY: `place` checked the bounds; `&mut self` excludes every slice of the lease, so `from` lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        Ok(())
    }

    /// Sets every byte to zero; see [`clear::clear`].
    pub fn zero(&mut self, caches: Caches) {
        self.zero_from(0, caches);
    }

    /// Sets the bytes from `from` to the end to zero; nothing where that lies past the end.
    pub fn zero_from(&mut self, from: usize, caches: Caches) {
        // SAFETY: as for `bytes_mut`. Where a peer races, the bytes are the peer's afterwards; no reference to them outlives this call.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.as_ptr().as_ptr(), self.len) };
        clear::clear(bytes.get_mut(from..).unwrap_or_default(), caches);
    }

    /// Sets `len` bytes from `offset` to zero, also where slices are not to be had.
    ///
    /// # Errors
    /// [`Error::RangeBeyondEnd`] past the end; nothing is changed then.
    pub fn zero_part(&mut self, offset: ByteOffset, len: usize) -> Result<(), Error> {
        let from = self.place(offset, len)?;
        // SAFETY: `place` checked the bounds; `&mut self` excludes every slice of the lease.
        unsafe { std::ptr::write_bytes(from.as_ptr(), 0, len) };
        Ok(())
    }

    /// Reads the first byte of every page of the window's size, so that it is in the page tables.
    pub fn touch(&self) {
        for offset in (0..self.len).step_by(self.len / self.window.count(self.len).max(1)) {
            // SAFETY: inside the lease, mapped; a volatile read of an initialised byte, which nobody in this process writes.
            unsafe { self.as_ptr().add(offset).read_volatile() };
        }
    }

    /// Reads from a file straight into the lease, also where slices are not to be had. Returns the bytes read; 0 is the end.
    ///
    /// The address has the alignment of `offset` and the window, as direct I/O wants it.
    ///
    /// # Errors
    /// [`WindowError::Range`] past the end of the lease; what `pread` answers (`EFAULT` where no page could be had).
    pub fn read_at(
        &mut self,
        offset: ByteOffset,
        len: ByteLen,
        file: BorrowedFd<'_>,
        position: ByteOffset,
    ) -> Result<ByteLen, WindowError> {
        let len = usize::try_from(len.raw()).map_err(|_| Error::RangeOverflow)?;
        let to = self.place(offset, len)?;
        let position = i64::try_from(position.raw()).map_err(|_| Error::RangeOverflow)?;
        loop {
            // SAFETY: `place` checked that the kernel writes inside the lease, which `&mut self` makes ours alone.
            let got = unsafe { libc::pread(file.as_raw_fd(), to.as_ptr().cast(), len, position) };
            match check("pread", got as libc::c_long) {
                Err(failure) if failure.is(libc::EINTR) => {}
                other => return Ok(ByteLen::new(other?)),
            }
        }
    }

    /// Cuts off and returns what begins `at` bytes from the start.
    ///
    /// # Errors
    /// [`WindowError::Range`] unless `at` is a page boundary inside the lease; the lease is as it was.
    pub fn split_off(&mut self, at: ByteLen) -> Result<Self, WindowError> {
        if !self.window.granule().divides(at.raw()) {
            return Err(Error::RangeUnaligned.into());
        }
        let keep = usize::try_from(at.raw()).map_err(|_| Error::RangeOverflow)?;
        match self.len.checked_sub(keep) {
            Some(len) if keep > 0 && len > 0 => {
                self.len = keep;
                Ok(Self {
                    window: Arc::clone(&self.window),
                    start: self.start + keep,
                    len,
                })
            }
            _ => Err(Error::RangeEmpty.into()),
        }
    }

    /// One lease of two that follow each other in one window.
    ///
    /// # Errors
    /// Both back where they do not.
    pub fn join(mut self, next: Self) -> Result<Self, (Self, Self)> {
        let adjacent =
            Arc::ptr_eq(&self.window, &next.window) && self.start + self.len == next.start;
        if !adjacent {
            return Err((self, next));
        }
        // The bits of `next` stay set: they are this lease's from now on, so its own Drop must not run.
        let next = std::mem::ManuallyDrop::new(next);
        self.len += next.len;
        // SAFETY: `next` is never used or dropped again, so its Arc is taken out exactly once.
        drop(unsafe { std::ptr::read(&next.window) });
        Ok(self)
    }

    fn place(&self, offset: ByteOffset, len: usize) -> Result<NonNull<u8>, Error> {
        let offset = usize::try_from(offset.raw()).map_err(|_| Error::RangeOverflow)?;
        match offset.checked_add(len) {
            // SAFETY: at most one past the last byte of the lease.
            Some(end) if end <= self.len => Ok(unsafe { self.as_ptr().add(offset) }),
            _ => Err(Error::RangeBeyondEnd),
        }
    }
}

/// The bytes of leases that follow each other in one window, as one slice.
///
/// `None` where they do not, or where untrusted peers may write them.
#[must_use]
pub fn bytes_across<'a>(first: &'a Lease, more: &'a [Arc<Lease>]) -> Option<&'a [u8]> {
    let mut end = first.start + first.len;
    for next in more {
        if !Arc::ptr_eq(&first.window, &next.window) || next.start != end {
            return None;
        }
        end += next.len;
    }
    // SAFETY: as for `Lease::bytes`, for each of the leases, all of which are borrowed for as long as the slice lives. They
    // cover one stretch of one mapping without a gap, and the pointer was made for the whole window.
    (first.window.peers() == Peers::Trusted)
        .then(|| unsafe { std::slice::from_raw_parts(first.as_ptr().as_ptr(), end - first.start) })
}

impl Drop for Lease {
    fn drop(&mut self) {
        let window = &self.window;
        give_back(
            &window.taken,
            window.index(self.start),
            window.count(self.len),
        );
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("ptr", &self.as_ptr())
            .field("len", &self.len)
            .finish()
    }
}

impl From<Failure> for Error {
    /// What a refusal of the kernel means in the core's words.
    fn from(failure: Failure) -> Self {
        match failure.errno.raw() {
            libc::EHWPOISON => Self::Poisoned,
            libc::EINTR => Self::Interrupted,
            libc::EOVERFLOW | libc::EFBIG => Self::SizeTooLarge,
            libc::ENODEV | libc::EOPNOTSUPP => Self::PageSizeUnsupported,
            _ => Self::OutOfPages,
        }
    }
}

/// The bits of `first..first + count` in words of 64: (word, mask).
fn masks(first: usize, count: usize) -> impl DoubleEndedIterator<Item = (usize, u64)> {
    let end = first + count;
    (first / 64..end.div_ceil(64)).map(move |word| {
        let low = first.saturating_sub(word * 64).min(64);
        let high = (end - word * 64).min(64);
        let ones = u64::MAX >> (64 - (high - low));
        (word, ones << low)
    })
}

/// Takes `count` granules, all or none.
pub(super) fn take(taken: &[AtomicU64], first: usize, count: usize) -> Result<(), WindowError> {
    for (done, (word, mask)) in masks(first, count).enumerate() {
        let Some(bits) = taken.get(word) else {
            return Err(Error::RangeBeyondEnd.into());
        };
        // ORDER: Acquire pairs with the Release in `give_back`: what the last owner wrote is seen.
        let won = bits
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |old| {
                (old & mask == 0).then_some(old | mask)
            })
            .is_ok();
        if !won {
            for (word, mask) in masks(first, count).take(done) {
                if let Some(bits) = taken.get(word) {
                    bits.fetch_and(!mask, Ordering::Release);
                }
            }
            return Err(WindowError::Leased);
        }
    }
    Ok(())
}

/// Gives `count` granules back.
pub(super) fn give_back(taken: &[AtomicU64], first: usize, count: usize) {
    for (word, mask) in masks(first, count) {
        if let Some(bits) = taken.get(word) {
            // ORDER: Release: the next owner sees what was written here.
            bits.fetch_and(!mask, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    fn set(taken: &[AtomicU64]) -> Vec<usize> {
        (0..taken.len() * 64)
            .filter(|i| taken[i / 64].load(Ordering::Relaxed) >> (i % 64) & 1 == 1)
            .collect()
    }

    #[test]
    fn ranges_of_any_place_and_length() {
        for first in [0, 1, 63, 64, 65, 127] {
            for count in [1, 2, 63, 64, 65, 128, 129] {
                let taken = bits(4);
                take(&taken, first, count).unwrap();
                assert_eq!(set(&taken), (first..first + count).collect::<Vec<_>>());
                give_back(&taken, first, count);
                assert!(set(&taken).is_empty());
            }
        }
    }

    #[test]
    fn all_or_none() {
        let taken = bits(4);
        take(&taken, 150, 1).unwrap();
        assert_eq!(take(&taken, 10, 141), Err(WindowError::Leased));
        assert_eq!(set(&taken), [150]);
        take(&taken, 10, 140).unwrap();
        assert_eq!(take(&taken, 140, 5), Err(WindowError::Leased));
        assert!(matches!(
            take(&taken, 250, 10),
            Err(WindowError::Range(_)) | Err(WindowError::Leased)
        ));
    }

    #[test]
    fn one_winner_among_threads() {
        let taken = bits(2);
        let counter = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if take(&taken, 60, 8).is_ok() {
                            assert_eq!(counter.fetch_add(1, Ordering::Relaxed), 0);
                            counter.fetch_sub(1, Ordering::Relaxed);
                            give_back(&taken, 60, 8);
                        }
                    }
                });
            }
        });
        assert!(set(&taken).is_empty());
    }
}
