// SPDX-License-Identifier: GPL-2.0-only
//! Pages of a hugetlb file, pinned: they stay where they are, and what they hold stays, whatever becomes of the file.
//!
//! They are hugetlb's, so that none of them bears the mark of [`Page::owned`]: hugetlb uses that place itself. The list of pins
//! is the proof instead, page by page, and a number that is not in it is an error here as well.

use core::ptr::NonNull;

use htlb_core::{Error as Reason, HugeSize, PageIndex, Pfn};
use kernel::bindings;
use kernel::fs::LocalFile;
use kernel::prelude::*;
use kernel::sync::aref::ARef;

use super::page::Page;
use super::system;

#[allow(improper_ctypes)]
extern "C" {
    fn htlb_c_import_order(file: *mut bindings::file) -> c_int;
    fn htlb_c_import_is_sound(folio: *mut bindings::folio, order: u32) -> bool;
    fn htlb_c_import_pfn(folio: *mut bindings::folio) -> usize;
}

/// So many pages are pinned in one call: between two, a fatal signal is seen.
const AT_ONCE: usize = 64;

/// A hugetlb file that may be written to.
pub(crate) struct HugeFile {
    file: ARef<LocalFile>,
    size: HugeSize,
}

/// The pinned pages of a range of a file, in the order of the file.
///
/// # Invariants
///
/// Each element is a hugetlb folio of this size, in which we hold one pin.
pub(crate) struct Pins {
    folios: KVVec<NonNull<bindings::folio>>,
    size: HugeSize,
}

// SAFETY: a pin is a count in the folio, and can be given up by any thread.
unsafe impl Send for Pins {}
// SAFETY: the list does not change once it is made.
unsafe impl Sync for Pins {}

impl HugeFile {
    /// The file of a descriptor: `EBADF` for none, `EOPNOTSUPP` for one without huge pages, `EACCES` for one that is not
    /// open for reading and writing, `EPERM` for one that is sealed against writing.
    pub(crate) fn of_fd(fd: i32) -> Result<Self> {
        let fd = u32::try_from(fd).map_err(|_| EBADF)?;
        let file = LocalFile::fget(fd)?;
        // SAFETY: an open file.
        let order = unsafe { htlb_c_import_order(file.as_ptr()) };
        let order = u8::try_from(order).map_err(|_| Error::from_errno(order))?;
        let size = HugeSize::from_order(order).map_err(crate::error::errno)?;
        Ok(Self { file, size })
    }

    /// The size of its pages.
    pub(crate) const fn page_size(&self) -> HugeSize {
        self.size
    }

    /// Pins `pages` pages from `offset` bytes on, a multiple of the page size. Those that the file does not have yet, it gets.
    ///
    /// `ENXIO` beyond the end of the file, `ENOMEM` where hugetlb has no more pages, `EIO` for a page that went bad.
    pub(crate) fn pin(&self, offset: u64, pages: usize) -> Result<Pins> {
        let mut pins = Pins { folios: KVVec::with_capacity(pages, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?, size: self.size };
        while pins.folios.len() < pages {
            if system::fatal_signal() {
                return Err(EINTR);
            }
            let done = (pins.folios.len() as u64).checked_mul(self.size.bytes()).ok_or(EOVERFLOW)?;
            let start = offset.checked_add(done).ok_or(EOVERFLOW)?;
            self.pin_some(start, (pages - pins.folios.len()).min(AT_ONCE), &mut pins)?;
        }
        Ok(pins)
    }

    /// Pins up to `most` pages, at least one, and adds them to the list, which has room for them.
    fn pin_some(&self, start: u64, most: usize, pins: &mut Pins) -> Result {
        let bytes = (most as u64).checked_mul(self.size.bytes()).ok_or(EOVERFLOW)?;
        let last = start.checked_add(bytes).and_then(|end| end.checked_sub(1)).ok_or(EOVERFLOW)?;
        let (start, last) = (i64::try_from(start)?, i64::try_from(last)?);
        let mut some: [*mut bindings::folio; AT_ONCE] = [core::ptr::null_mut(); AT_ONCE];
        let mut inside: usize = 0;
        // SAFETY: an open file; there is room for `most` pointers, and one offset.
        let got = unsafe {
            bindings::memfd_pin_folios(self.file.as_ptr(), start, last, some.as_mut_ptr(), most as u32, &mut inside)
        };
        let got = match usize::try_from(got) {
            Ok(0) => return Err(EFAULT),
            Ok(got) => got,
            Err(_) => {
                let error = Error::from_errno(i32::try_from(got)?);
                // The only thing that is left to be invalid is an end beyond the file's.
                return Err(if error == EINVAL { ENXIO } else { error });
            }
        };
        let mut outcome = Ok(());
        for folio in some.into_iter().take(got).filter_map(NonNull::new) {
            // SAFETY: pinned above.
            if !unsafe { htlb_c_import_is_sound(folio.as_ptr(), u32::from(self.size.order())) } {
                outcome = Err(crate::error::errno(Reason::Poisoned));
            }
            // INVARIANT: pinned above, and of this size, unless the whole list is given up.
            if pins.folios.push_within_capacity(folio).is_err() {
                let mut folio = folio.as_ptr();
                // SAFETY: pinned above, and in no list.
                unsafe { bindings::unpin_folios(&mut folio, 1) };
                outcome = Err(EFAULT);
            }
        }
        outcome
    }
}

impl Pins {
    /// How many pages they are.
    pub(crate) fn len(&self) -> usize {
        self.folios.len()
    }

    /// The size of each.
    pub(crate) const fn page_size(&self) -> HugeSize {
        self.size
    }

    /// The first frame of the page at an index.
    pub(crate) fn pfn(&self, index: PageIndex) -> Option<Pfn> {
        let folio = self.folios.get(usize::try_from(index.raw()).ok()?)?;
        // SAFETY: pinned, by the invariants.
        Some(Pfn::new(unsafe { htlb_c_import_pfn(folio.as_ptr()) } as u64))
    }

    /// The page at an index, if it begins at this frame.
    pub(crate) fn page(&self, index: PageIndex, pfn: Pfn, size: HugeSize) -> Option<Page> {
        let known = size == self.size && self.pfn(index) == Some(pfn);
        if !known {
            pr_err!("frame {:#x} is not a page of this import\n", pfn.raw());
        }
        // INVARIANT: the pin keeps it for as long as we live.
        if known {
            Page::of_pin(pfn, size)
        } else {
            None
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for some in self.folios.chunks_mut(AT_ONCE) {
            // SAFETY: pointers to folios in which we hold a pin each, by the invariants; nobody looks at the list again. A
            // `NonNull` is laid out as a pointer.
            unsafe { bindings::unpin_folios(some.as_mut_ptr().cast(), some.len()) };
        }
    }
}
