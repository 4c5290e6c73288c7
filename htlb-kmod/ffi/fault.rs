// SPDX-License-Identifier: GPL-2.0-only
//! Page faults: the kernel's question, and the four ways to answer it.
//!
//! In an area of [`Entries::Folios`] a plain fault returns a locked subpage of the folio, and `finish_fault` installs an
//! entry for all of it. In one of [`Entries::Frames`], for pages that are no folios, entries are installed here.

use core::cell::Cell;
use core::marker::PhantomData;

use htlb_core::page_map::Located;
use htlb_core::{ByteLen, HugeSize};
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;

use super::file::{BufferFile, Mappings};
use super::page::Page;
use super::wait::{self, Signals};
use super::c;
use crate::buffer::DmaBuffer;
use crate::fault::{resolve, Reply};
use crate::mapping::{self, Entries};

/// A fault under way.
pub(crate) struct Fault<'a> {
    vmf: *mut bindings::vm_fault,
    /// The size of the entry that the kernel would like.
    size: HugeSize,
    released: Cell<bool>,
    /// Keeps the buffer once the lock that kept its area is gone.
    kept: Cell<Option<BufferFile>>,
    _vmf: PhantomData<&'a mut bindings::vm_fault>,
}

/// Why a wait inside a fault ended without what it waited for.
pub(crate) enum Ended {
    /// The kernel is to try again; its lock is gone or it did not want to wait.
    Retry,
    /// A fatal signal.
    Killed,
}

struct Table(bindings::vm_operations_struct);
// SAFETY: immutable tables.
unsafe impl Sync for Table {}

static FOLIOS: Table = Table(bindings::vm_operations_struct {
    fault: Some(fault),
    // Without one the kernel takes the mmap lock for every fault.
    map_pages: Some(map_pages),
    ..pin_init::zeroed()
});

static FRAMES: Table = Table(bindings::vm_operations_struct {
    fault: Some(fault),
    huge_fault: Some(huge_fault),
    may_split: Some(may_split),
    ..pin_init::zeroed()
});

/// The operations of an area.
pub(super) fn operations(entries: Entries) -> *const bindings::vm_operations_struct {
    match entries {
        Entries::Folios => &FOLIOS.0,
        Entries::Frames => &FRAMES.0,
    }
}

/// The flags of an area.
pub(super) fn flags(entries: Entries) -> bindings::vm_flags_t {
    let common = bindings::VM_DONTEXPAND | bindings::VM_DONTDUMP;
    (match entries {
        Entries::Folios => common,
        Entries::Frames => common | bindings::VM_PFNMAP,
    }) as bindings::vm_flags_t
}

impl Fault<'_> {
    /// The byte of the buffer that was touched, cut to a base page.
    pub(crate) fn offset(&self) -> u64 {
        // SAFETY: the kernel's record is valid during the call.
        let pgoff = unsafe { (*self.vmf).__bindgen_anon_1.pgoff };
        (pgoff as u64) << kernel::page::PAGE_SHIFT
    }

    /// The size of the entry that is asked for.
    pub(crate) const fn size(&self) -> HugeSize {
        self.size
    }

    /// Which entries this area has.
    pub(crate) fn entries(&self) -> Entries {
        // SAFETY: the area is valid until the lock is released, and this is asked before.
        let ops = unsafe { (*(*self.vmf).__bindgen_anon_1.vma).vm_ops };
        if core::ptr::eq(ops, &FRAMES.0) {
            Entries::Frames
        } else {
            Entries::Folios
        }
    }

    fn has(&self, flag: bindings::fault_flag) -> bool {
        // SAFETY: as in `offset`.
        unsafe { (*self.vmf).flags & flag != 0 }
    }

    fn is_write(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_WRITE)
    }

    /// Whether the kernel's lock is gone: only [`Reply::Retry`] is left then.
    pub(crate) fn is_released(&self) -> bool {
        self.released.get()
    }

    /// Waits as the kernel allows it here: without its lock where it can try again, else with it.
    pub(crate) fn wait(&self, key: usize, over: impl FnMut() -> bool) -> Result<(), Ended> {
        if self.has(bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY) && !self.is_released() {
            if self.has(bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT) {
                return Err(Ended::Retry);
            }
            // SAFETY: the area, and so its file, is valid until the lock is released below. The file is a buffer's.
            let file = unsafe { BufferFile::borrow((*(*self.vmf).__bindgen_anon_1.vma).vm_file) };
            // Without the file there would be nothing to come back to; that of an area of ours is always one.
            let Ok(file) = file else { return Err(Ended::Killed) };
            self.kept.set(Some(file));
            // SAFETY: the lock is held, because ALLOW_RETRY is set and it has not been released.
            unsafe { c::htlb_c_release_fault_lock(self.vmf) };
            self.released.set(true);
        }
        let killable = self.is_released() || self.has(bindings::fault_flag_FAULT_FLAG_KILLABLE);
        let signals = if killable { Signals::Fatal } else { Signals::Ignored };
        wait::until(key, signals, over).map_err(|_| Ended::Killed)?;
        if self.is_released() {
            Err(Ended::Retry)
        } else {
            Ok(())
        }
    }

    /// Answers with the folio that `look` finds, looked up while nobody revokes; `None` where it finds none.
    pub(crate) fn answer_locked(&self, mappings: Mappings, look: impl FnOnce() -> Option<Located>) -> Option<Reply> {
        let (located, page) = mappings.hold(|| {
            let located = look()?;
            Page::owned(located.pfn, located.size)?;
            let subpage = located.offset_in_page.raw() >> kernel::page::PAGE_SHIFT;
            // SAFETY: the page is ours, and in a slot: it cannot leave while nobody revokes, and after that our reference
            // and the lock keep the one who revokes waiting.
            let page = unsafe { c::htlb_c_page_get_locked(located.pfn.raw() as usize, subpage as usize) };
            Some((located, page))
        })?;
        let pfn = located.pfn.raw() as usize;
        // A poisoned page must not reach `__do_fault`, which looks at the mapping that ours has not.
        // SAFETY: the frame is one of the page's.
        if unsafe { c::htlb_c_page_is_poisoned(pfn + (located.offset_in_page.raw() >> kernel::page::PAGE_SHIFT) as usize, 1) } {
            // SAFETY: locked, with our reference, above.
            unsafe { c::htlb_c_page_put_locked(pfn) };
            return Some(Reply::Poisoned);
        }
        // SAFETY: the kernel's record is ours to answer in; the reference and the lock go with the page.
        unsafe { (*self.vmf).page = page };
        Some(Reply::Locked)
    }

    /// Installs an entry for the frames that `look` finds, as large as asked, while nobody revokes; `None` where it finds none.
    pub(crate) fn answer_installed(
        &self,
        mappings: Mappings,
        look: impl FnOnce() -> Option<Located>,
        size: impl FnOnce() -> ByteLen,
    ) -> Option<Reply> {
        mappings.hold(|| {
            let located = look()?;
            if located.size < self.size || !self.fits(size()) {
                return Some(Reply::Fallback);
            }
            let inside = located.offset_in_page.raw() & !(self.size.bytes() - 1);
            let pfn = (located.pfn.raw() as usize) + (inside >> kernel::page::PAGE_SHIFT) as usize;
            // SAFETY: the area is one of frames and not of private copies, the address lies in it, and so does all of
            // the entry, as `fits` says; the frames are ours, in a slot, and cannot leave while nobody revokes.
            let code = unsafe {
                match self.size.order() {
                    18 => bindings::vmf_insert_pfn_pud(self.vmf, pfn, self.is_write()),
                    9 => bindings::vmf_insert_pfn_pmd(self.vmf, pfn, self.is_write()),
                    _ => {
                        let vma = (*self.vmf).__bindgen_anon_1.vma;
                        bindings::vmf_insert_pfn(vma, (*self.vmf).__bindgen_anon_1.address, pfn)
                    }
                }
            };
            Some(Reply::Installed(code))
        })
    }

    /// Whether an entry of the asked size fits the area, at an address that agrees with the offset, and ends below the buffer's
    /// end: a touch beyond that is a signal.
    fn fits(&self, end_of_buffer: ByteLen) -> bool {
        // SAFETY: the area is valid: its lock is held.
        let (address, pgoff, start, end) = unsafe {
            let vma = (*self.vmf).__bindgen_anon_1.vma;
            let area = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
            (
                (*self.vmf).__bindgen_anon_1.address as u64,
                (*self.vmf).__bindgen_anon_1.pgoff as u64,
                area.vm_start as u64,
                area.vm_end as u64,
            )
        };
        let mask = self.size.bytes() - 1;
        let first = address & !mask;
        let agrees = (address.wrapping_sub(pgoff << kernel::page::PAGE_SHIFT)) & mask == 0;
        let last_byte = self.offset() | mask;
        let below = self.size == HugeSize::BASE || last_byte < end_of_buffer.raw();
        agrees && below && first >= start && first.checked_add(mask).is_some_and(|last| last < end)
    }
}

/// # Safety
///
/// Called by the kernel with a fault in an area of ours.
unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: by the contract.
    unsafe { answer(vmf, HugeSize::BASE) }
}

/// # Safety
///
/// As [`fault`].
unsafe extern "C" fn huge_fault(vmf: *mut bindings::vm_fault, order: c_uint) -> bindings::vm_fault_t {
    let size = u8::try_from(order).ok().and_then(|order| HugeSize::from_order(order).ok());
    match size {
        // SAFETY: by the contract.
        Some(size @ (HugeSize::MIB2 | HugeSize::GIB1)) => unsafe { answer(vmf, size) },
        _ => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
    }
}

/// # Safety
///
/// Called by the kernel with an area of ours, and an address in it at which it would be cut.
unsafe extern "C" fn may_split(vma: *mut bindings::vm_area_struct, address: c_ulong) -> c_int {
    // SAFETY: the area's file is a buffer's, as in `answer`; its lock is held.
    let (buffer, start, pgoff): (ArcBorrow<'_, DmaBuffer>, _, _) = unsafe {
        let area = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
        let buffer = <Arc<DmaBuffer> as ForeignOwnable>::borrow((*(*vma).vm_file).private_data);
        (buffer, area.vm_start as u64, (*vma).vm_pgoff as u64)
    };
    let address = address as u64;
    let offset = (pgoff << kernel::page::PAGE_SHIFT).wrapping_add(address.wrapping_sub(start));
    if mapping::may_be_cut(&buffer, offset, address) {
        0
    } else {
        EINVAL.to_errno()
    }
}

/// # Safety
///
/// As [`fault`].
unsafe extern "C" fn map_pages(_: *mut bindings::vm_fault, _: c_ulong, _: c_ulong) -> bindings::vm_fault_t {
    0
}

/// # Safety
///
/// As [`fault`].
unsafe fn answer(vmf: *mut bindings::vm_fault, size: HugeSize) -> bindings::vm_fault_t {
    // SAFETY: the area's file is a buffer's: `map` is the only place that sets these operations. It lives as long as the area,
    // and beyond that if the fault keeps it.
    let buffer: ArcBorrow<'_, DmaBuffer> = unsafe {
        let file = (*(*vmf).__bindgen_anon_1.vma).vm_file;
        <Arc<DmaBuffer> as ForeignOwnable>::borrow((*file).private_data)
    };
    let fault = Fault {
        vmf,
        size,
        released: Cell::new(false),
        kept: Cell::new(None),
        _vmf: PhantomData,
    };
    let reply = resolve(&buffer, &fault);
    match reply {
        _ if fault.is_released() => bindings::vm_fault_reason_VM_FAULT_RETRY,
        Reply::Locked => bindings::vm_fault_reason_VM_FAULT_LOCKED,
        Reply::Installed(code) => code,
        Reply::Fallback => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
        Reply::Retry => bindings::vm_fault_reason_VM_FAULT_RETRY,
        Reply::Killed => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
        Reply::Poisoned => bindings::vm_fault_reason_VM_FAULT_HWPOISON,
        Reply::OutOfMemory => bindings::vm_fault_reason_VM_FAULT_OOM,
        Reply::Signal => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
    }
}
