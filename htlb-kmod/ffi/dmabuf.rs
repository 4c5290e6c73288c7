// SPDX-License-Identifier: GPL-2.0-only
//! dma-bufs: the kernel's table of operations, tables that are mapped for a device, and views for the kernel itself.
#![allow(improper_ctypes)]

use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::{from_err_ptr, from_result, to_result};
use kernel::fs::file::FileDescriptorReservation;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;

use super::exports::{borrow, RawBuffer};
use super::module;
use super::sg::{Device, Direction, SgTable};
use crate::dmabuf::{self, Attachment, Exported};

extern "C" {
    fn htlb_c_sg_map_quietly(dev: *mut bindings::device, table: *mut bindings::sg_table) -> c_int;
    fn htlb_c_sg_unmap_quietly(dev: *mut bindings::device, table: *mut bindings::sg_table);
    fn htlb_c_sg_sync_for_cpu(dev: *mut bindings::device, table: *mut bindings::sg_table, direction: u32);
    fn htlb_c_sg_sync_for_device(dev: *mut bindings::device, table: *mut bindings::sg_table, direction: u32);
    fn htlb_c_vmap(frames: *mut u64, pages: u32) -> *mut c_void;
    fn htlb_c_vunmap(address: *mut c_void);
}

/// The flags of a dma-buf's file.
pub(crate) const MODES: u32 = kernel::fs::file::flags::O_ACCMODE | kernel::fs::file::flags::O_CLOEXEC;

/// A table, mapped for a device in both directions for as long as it lives. Caches, and the copies that a device may need instead of
/// the pages themselves, are brought up to date by the two `sync_` calls only.
pub(crate) struct Mapped {
    table: SgTable,
    device: Device<'static>,
}

impl Mapped {
    /// Maps a table.
    pub(crate) fn new(table: SgTable, device: Device<'static>) -> Result<Self> {
        // SAFETY: the device exists while it is attached; the table is ours and not mapped.
        to_result(unsafe { htlb_c_sg_map_quietly(device.as_ptr(), table.as_ptr()) })?;
        Ok(Self { table, device })
    }

    /// What processors wrote is what the device reads from now on.
    pub(crate) fn sync_for_device(&self, direction: Direction) {
        // SAFETY: the device exists while it is attached; the table is mapped for it.
        unsafe { htlb_c_sg_sync_for_device(self.device.as_ptr(), self.table.as_ptr(), direction.raw()) };
    }

    /// What the device wrote is what processors read from now on.
    pub(crate) fn sync_for_cpu(&self, direction: Direction) {
        // SAFETY: as above.
        unsafe { htlb_c_sg_sync_for_cpu(self.device.as_ptr(), self.table.as_ptr(), direction.raw()) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: as above; nobody uses it any more.
        unsafe { htlb_c_sg_unmap_quietly(self.device.as_ptr(), self.table.as_ptr()) };
    }
}

/// A piece of the kernel's address space.
///
/// # Invariants
///
/// Made by `htlb_c_vmap`, and not taken down yet.
pub(crate) struct View(NonNull<c_void>);

// SAFETY: kernel addresses are everybody's.
unsafe impl Send for View {}

impl View {
    /// These frames, one after the other.
    pub(crate) fn new(mut frames: KVVec<u64>) -> Result<Self> {
        let pages = u32::try_from(frames.len())?;
        // SAFETY: so many frames, all of them pages of a buffer, which the caller keeps; the list is only used during the call.
        let address = unsafe { htlb_c_vmap(frames.as_mut_ptr(), pages) };
        // INVARIANT: new.
        NonNull::new(address).map(Self).ok_or(ENOMEM)
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> *mut c_void {
        self.0.as_ptr()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: by the invariants; may sleep.
        unsafe { htlb_c_vunmap(self.0.as_ptr()) };
    }
}

struct Operations(bindings::dma_buf_ops);
// SAFETY: an immutable table.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::dma_buf_ops {
    attach: Some(attach),
    detach: Some(detach),
    map_dma_buf: Some(map),
    unmap_dma_buf: Some(unmap),
    release: Some(release),
    begin_cpu_access: Some(begin_cpu_access),
    end_cpu_access: Some(end_cpu_access),
    mmap: Some(mmap),
    vmap: Some(vmap),
    vunmap: Some(vunmap),
    ..pin_init::zeroed()
});

/// A dma-buf of ours.
///
/// # Invariants
///
/// A counted reference to a dma-buf with [`OPERATIONS`], whose private data is an `Arc<Exported>`.
pub(crate) struct DmaBuf(NonNull<bindings::dma_buf>);

impl DmaBuf {
    /// A new dma-buf. It keeps the module in the kernel.
    pub(crate) fn new(exported: Arc<Exported>, bytes: u64, flags: u32) -> Result<Self> {
        let bytes = usize::try_from(bytes)?;
        let flags = c_int::try_from(flags)?;
        let private = exported.into_foreign();
        let info = bindings::dma_buf_export_info {
            exp_name: c"htlb".as_ptr().cast(),
            owner: module::owner(),
            ops: &OPERATIONS.0,
            size: bytes,
            flags,
            resv: core::ptr::null_mut(),
            priv_: private.cast(),
        };
        // SAFETY: the table and the name are static; `private` is what the table's functions expect.
        match from_err_ptr(unsafe { bindings::dma_buf_export(&info) }) {
            // INVARIANT: new, with our table.
            Ok(new) => NonNull::new(new).map(Self).ok_or(ENOMEM),
            Err(error) => {
                // SAFETY: it came from `into_foreign` above, and no dma-buf has it.
                drop(unsafe { <Arc<Exported> as ForeignOwnable>::from_foreign(private) });
                Err(error)
            }
        }
    }

    /// Installs it as a descriptor of the caller, once `tell` has told its number.
    pub(crate) fn install(self, flags: u32, tell: impl FnOnce(i32) -> Result) -> Result {
        let reserved = FileDescriptorReservation::get_unused_fd_flags(flags)?;
        let fd = i32::try_from(reserved.reserved_fd())?;
        tell(fd)?;
        // SAFETY: the number is reserved for this; it takes the reservation and our reference, both of which are forgotten.
        unsafe { bindings::dma_buf_fd_install(self.0.as_ptr(), fd) };
        core::mem::forget(reserved);
        core::mem::forget(self);
        Ok(())
    }

    /// Gives the reference away, to C.
    fn into_raw(self) -> *mut bindings::dma_buf {
        let raw = self.0.as_ptr();
        core::mem::forget(self);
        raw
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and ends here.
        unsafe { bindings::dma_buf_put(self.0.as_ptr()) };
    }
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_export(buffer: *mut RawBuffer, offset: u64, len: u64, flags: c_int) -> *mut bindings::dma_buf {
    let export = || -> Result<DmaBuf> {
        // SAFETY: by the contract.
        let file = unsafe { borrow(buffer) }?;
        dmabuf::export(&file, offset, len, u32::try_from(flags)?)
    };
    match export() {
        Ok(new) => new.into_raw(),
        Err(error) => error.to_ptr(),
    }
}

/// What a dma-buf refers to.
///
/// # Safety
///
/// `buf` is a dma-buf of ours, and lives for `'a`.
unsafe fn exported<'a>(buf: *mut bindings::dma_buf) -> ArcBorrow<'a, Exported> {
    // SAFETY: by the contract, and the invariants of `DmaBuf`: it is given up only by `release`.
    unsafe { <Arc<Exported> as ForeignOwnable>::borrow((*buf).priv_.cast()) }
}

/// # Safety
///
/// `attachment` is one of a dma-buf of ours, after `attach` and before `detach`, for `'a`.
unsafe fn attached<'a>(attachment: *mut bindings::dma_buf_attachment) -> ArcBorrow<'a, Attachment> {
    // SAFETY: by the contract: `attach` put it there.
    unsafe { <Arc<Attachment> as ForeignOwnable>::borrow((*attachment).priv_.cast()) }
}

/// # Safety
///
/// Called by the kernel with a dma-buf of ours and a new attachment, whose device stays until `detach`.
unsafe extern "C" fn attach(buf: *mut bindings::dma_buf, attachment: *mut bindings::dma_buf_attachment) -> c_int {
    from_result(|| {
        // SAFETY: by the contract.
        let (exported, device) = unsafe { (exported(buf), Device::from_raw((*attachment).dev)) };
        let new = exported.attach(device.ok_or(EINVAL)?)?;
        // SAFETY: the attachment is this call's to set up.
        unsafe { (*attachment).priv_ = new.into_foreign().cast() };
        Ok(0)
    })
}

/// # Safety
///
/// Called by the kernel with a dma-buf of ours and an attachment of its, for the last time.
unsafe extern "C" fn detach(buf: *mut bindings::dma_buf, attachment: *mut bindings::dma_buf_attachment) {
    // SAFETY: by the contract; `attach` put the pointer there, and nobody uses it any more.
    let (exported, gone) = unsafe {
        (exported(buf), <Arc<Attachment> as ForeignOwnable>::from_foreign((*attachment).priv_.cast()))
    };
    exported.detach(gone);
}

/// # Safety
///
/// Called by the kernel with an attachment to a dma-buf of ours, under the dma-buf's reservation lock.
unsafe extern "C" fn map(attachment: *mut bindings::dma_buf_attachment, direction: bindings::dma_data_direction) -> *mut bindings::sg_table {
    // SAFETY: by the contract.
    let (exported, attached) = unsafe { (exported((*attachment).dmabuf), attached(attachment)) };
    match Direction::new(direction.0 as u32).and_then(|direction| exported.map(&attached, direction)) {
        Ok(()) => attached.mapped().table.as_ptr(),
        Err(error) => error.to_ptr(),
    }
}

/// # Safety
///
/// Called by the kernel as [`map`], with what that gave.
unsafe extern "C" fn unmap(attachment: *mut bindings::dma_buf_attachment, _: *mut bindings::sg_table, direction: bindings::dma_data_direction) {
    // SAFETY: by the contract.
    let (exported, attached) = unsafe { (exported((*attachment).dmabuf), attached(attachment)) };
    if let Ok(direction) = Direction::new(direction.0 as u32) {
        exported.unmap(&attached, direction);
    }
}

/// # Safety
///
/// Called by the kernel with a dma-buf of ours.
unsafe extern "C" fn begin_cpu_access(buf: *mut bindings::dma_buf, direction: bindings::dma_data_direction) -> c_int {
    from_result(|| {
        // SAFETY: by the contract.
        unsafe { exported(buf) }.begin_cpu_access(Direction::new(direction.0 as u32)?);
        Ok(0)
    })
}

/// # Safety
///
/// As [`begin_cpu_access`].
unsafe extern "C" fn end_cpu_access(buf: *mut bindings::dma_buf, direction: bindings::dma_data_direction) -> c_int {
    from_result(|| {
        // SAFETY: by the contract.
        unsafe { exported(buf) }.end_cpu_access(Direction::new(direction.0 as u32)?);
        Ok(0)
    })
}

/// # Safety
///
/// Called by the kernel with a dma-buf of ours, and an area of no more than its size that is being set up.
unsafe extern "C" fn mmap(buf: *mut bindings::dma_buf, vma: *mut bindings::vm_area_struct) -> c_int {
    from_result(|| {
        // SAFETY: by the contract.
        let exported = unsafe { exported(buf) };
        // SAFETY: the area is being set up by this thread alone.
        let pgoff = unsafe { &mut (*vma).vm_pgoff };
        *pgoff = pgoff.checked_add(exported.first_page().try_into()?).ok_or(EOVERFLOW)?;
        // From here on the area is one of the buffer, so that whoever punches finds it.
        // SAFETY: as above.
        unsafe { exported.file().map_into(vma) }?;
        Ok(0)
    })
}

/// # Safety
///
/// Called by the kernel with a dma-buf of ours that has no view, and a place for the answer.
unsafe extern "C" fn vmap(buf: *mut bindings::dma_buf, map: *mut bindings::iosys_map) -> c_int {
    from_result(|| {
        // SAFETY: by the contract.
        let address = unsafe { exported(buf) }.view()?;
        let answer = bindings::iosys_map {
            __bindgen_anon_1: bindings::iosys_map__bindgen_ty_1 { vaddr: address },
            is_iomem: false,
        };
        // SAFETY: the place is the caller's, and need not be initialised.
        unsafe { map.write(answer) };
        Ok(0)
    })
}

/// # Safety
///
/// Called by the kernel with a dma-buf of ours, when nobody uses its view any more.
unsafe extern "C" fn vunmap(buf: *mut bindings::dma_buf, _: *mut bindings::iosys_map) {
    // SAFETY: by the contract.
    unsafe { exported(buf) }.unview();
}

/// # Safety
///
/// Called by the kernel with a dma-buf of ours, when its last reference went.
unsafe extern "C" fn release(buf: *mut bindings::dma_buf) {
    // SAFETY: the private data came from `into_foreign`, and the dma-buf gives it up.
    drop(unsafe { <Arc<Exported> as ForeignOwnable>::from_foreign((*buf).priv_.cast()) });
}
