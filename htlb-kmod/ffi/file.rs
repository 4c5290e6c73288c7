// SPDX-License-Identifier: GPL-2.0-only
//! The file that each buffer is: its inode has the buffer's address space and size, its life is the buffer's.

use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use htlb_core::{ByteLen, ByteRange};
use kernel::error::from_err_ptr;
use kernel::fs::file::FileDescriptorReservation;
use kernel::fs::File;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;
use kernel::{bindings, fs};

use super::{c, fault, module};
use crate::buffer::DmaBuffer;
use crate::mapping::{self, Area};

/// A reference to a buffer's file.
///
/// # Invariants
///
/// A counted reference to a file with [`OPERATIONS`], whose private data is an `Arc<DmaBuffer>`.
pub(crate) struct BufferFile(NonNull<bindings::file>);

// SAFETY: the count is atomic, and files are used from any thread.
unsafe impl Send for BufferFile {}
// SAFETY: as above.
unsafe impl Sync for BufferFile {}

/// The page-table entries of everybody who maps one buffer.
///
/// # Invariants
///
/// The address space of the inode of the buffer's own file. It is stored in the buffer only, which is dropped by that file's
/// release at the latest, so it is valid whenever it can be reached.
#[derive(Clone, Copy)]
pub(crate) struct Mappings {
    space: NonNull<bindings::address_space>,
    file: NonNull<bindings::file>,
}

// SAFETY: an address space is used from any thread.
unsafe impl Send for Mappings {}
// SAFETY: as above.
unsafe impl Sync for Mappings {}

/// Whether private copies go too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    /// They stay: a punch.
    Stay,
    /// They go, because the file ends before them: a truncate.
    Go,
}

struct Operations(bindings::file_operations);
// SAFETY: an immutable table.
unsafe impl Sync for Operations {}

static OPERATIONS: Operations = Operations(bindings::file_operations {
    owner: module::owner(),
    release: Some(release),
    mmap: Some(mmap),
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: bindings::compat_ptr_ioctl,
    get_unmapped_area: Some(get_unmapped_area),
    // Nothing is behind the pages, so msync has nothing to do.
    fsync: Some(bindings::noop_fsync),
    ..pin_init::zeroed()
});

impl BufferFile {
    /// The file of a new buffer, which it owns from now on.
    pub(crate) fn new(buffer: Arc<DmaBuffer>) -> Result<Self> {
        let size = buffer.size().raw();
        let private = buffer.into_foreign();
        // SAFETY: the table is static; `private` is what its functions expect.
        let file = unsafe { c::htlb_c_file_create(&OPERATIONS.0, private, size) };
        let file = match from_err_ptr(file) {
            Ok(file) => file,
            Err(error) => {
                // SAFETY: it came from `into_foreign` above, and no file has it.
                unsafe { <Arc<DmaBuffer> as ForeignOwnable>::from_foreign(private) }.close();
                return Err(error);
            }
        };
        // INVARIANT: a new file with our table.
        let this = Self(NonNull::new(file).ok_or(ENFILE)?);
        // SAFETY: an open file has a mapping for as long as it lives.
        let space = NonNull::new(unsafe { (*file).f_mapping }).ok_or(EINVAL)?;
        this.buffer().mapped_by(Mappings { space, file: this.0 });
        Ok(this)
    }

    /// The buffer's file behind a descriptor, or `EINVAL` for any other file.
    pub(crate) fn of_fd(fd: u32) -> Result<Self> {
        let file = fs::LocalFile::fget(fd)?;
        Self::of_file(file.as_ptr())
    }

    fn of_file(file: *mut bindings::file) -> Result<Self> {
        // SAFETY: the caller has a reference, and the table of an open file does not change.
        if !core::ptr::eq(unsafe { (*file).f_op }, &OPERATIONS.0) {
            return Err(EINVAL);
        }
        // SAFETY: as above; this adds one of our own.
        let file = unsafe { c::htlb_c_file_get(file) };
        // INVARIANT: it has our table.
        NonNull::new(file).map(Self).ok_or(EINVAL)
    }

    /// The buffer.
    pub(crate) fn buffer(&self) -> ArcBorrow<'_, DmaBuffer> {
        // SAFETY: by the invariants the private data is an `Arc<DmaBuffer>`, which the file keeps.
        unsafe { <Arc<DmaBuffer> as ForeignOwnable>::borrow((*self.0.as_ptr()).private_data) }
    }

    /// The file.
    pub(crate) const fn as_ptr(&self) -> *mut bindings::file {
        self.0.as_ptr()
    }

    /// Gives the reference away, to C.
    pub(crate) fn into_raw(self) -> *mut bindings::file {
        let file = self.0.as_ptr();
        core::mem::forget(self);
        file
    }

    /// Takes a reference back that [`BufferFile::into_raw`] gave away.
    ///
    /// # Safety
    ///
    /// `file` came from there, and that reference is given up.
    pub(crate) unsafe fn from_raw(file: *mut bindings::file) -> Option<Self> {
        // INVARIANT: by the contract.
        NonNull::new(file).map(Self)
    }

    /// Installs it as a descriptor of the caller.
    pub(crate) fn install(self, flags: u32) -> Result<u32> {
        let reserved = FileDescriptorReservation::get_unused_fd_flags(flags)?;
        let fd = reserved.reserved_fd();
        // SAFETY: the reference moves into the `ARef`; no operation of this file has a position, so nobody
        // is in `fdget_pos` with it for more than a refusal.
        let file: ARef<File> = unsafe { ARef::from_raw(NonNull::new_unchecked(self.into_raw().cast())) };
        reserved.fd_install(file);
        Ok(fd)
    }
}

impl Clone for BufferFile {
    fn clone(&self) -> Self {
        // SAFETY: we have a reference, and this adds another.
        unsafe { c::htlb_c_file_get(self.0.as_ptr()) };
        // INVARIANT: the same file.
        Self(self.0)
    }
}

impl Drop for BufferFile {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and ends here.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}

impl Mappings {
    /// Takes every page-table entry of the range away. `settle` is called after no new fault can look at a slot, and before the
    /// entries go: it waits for the faults that had looked before.
    pub(crate) fn revoke(self, range: ByteRange, copies: Copies, settle: impl FnOnce()) {
        let space = self.space.as_ptr();
        // SAFETY: valid by the invariants; may sleep, and no lock below this one is held.
        unsafe { c::htlb_c_revoke_begin(space) };
        settle();
        // SAFETY: as above.
        unsafe { c::htlb_c_revoke(space, range.start().raw(), range.len().raw(), copies == Copies::Go) };
        // SAFETY: taken above by this thread.
        unsafe { c::htlb_c_revoke_end(space) };
    }

    /// Runs `f` while nobody revokes.
    pub(super) fn hold<T>(self, f: impl FnOnce() -> T) -> T {
        let space = self.space.as_ptr();
        // SAFETY: valid by the invariants; may sleep.
        unsafe { c::htlb_c_hold_begin(space) };
        let value = f();
        // SAFETY: taken above by this thread.
        unsafe { c::htlb_c_hold_end(space) };
        value
    }

    /// The size that the kernel checks faults and copies against. One thread at a time: the one that changes the buffer's.
    pub(crate) fn resize(self, size: ByteLen) {
        // SAFETY: valid by the invariants.
        unsafe { c::htlb_c_file_resize(self.file.as_ptr(), size.raw()) };
    }
}

/// # Safety
///
/// Called by the kernel with a file of ours, when its last reference went.
unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: the private data came from `into_foreign`, and the file gives it up.
    let buffer = unsafe { <Arc<DmaBuffer> as ForeignOwnable>::from_foreign((*file).private_data) };
    buffer.close();
    0
}

/// # Safety
///
/// Called by the kernel with a file of ours, which it keeps open during the call.
unsafe extern "C" fn ioctl(file: *mut bindings::file, number: c_uint, argument: c_ulong) -> c_long {
    // SAFETY: by the contract.
    let file = unsafe { BufferFile::borrow(file) };
    match file.and_then(|file| crate::ioctl::on_buffer(&file, number, argument)) {
        Ok(value) => value,
        Err(error) => error.to_errno() as c_long,
    }
}

impl BufferFile {
    /// A reference of its own to the file of a call.
    ///
    /// # Safety
    ///
    /// `file` is an open file.
    pub(super) unsafe fn borrow(file: *mut bindings::file) -> Result<Self> {
        Self::of_file(file)
    }
}

/// # Safety
///
/// Called by the kernel with a file of ours and an area that is being set up.
unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: by the contract.
    match unsafe { map(file, vma) } {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Makes an area one of the buffer's. Its file is the buffer's already.
///
/// # Safety
///
/// `vma` is being set up, and `file`, a file of ours, is its file.
pub(super) unsafe fn map(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> Result {
    // SAFETY: a file of ours, by the contract.
    let buffer = unsafe { <Arc<DmaBuffer> as ForeignOwnable>::borrow((*file).private_data) };
    // SAFETY: being set up by this thread alone, by the contract.
    let (start, end, pgoff) = unsafe {
        let area = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
        (area.vm_start, area.vm_end, (*vma).vm_pgoff)
    };
    let area = Area {
        offset: (pgoff as u64)
            .checked_mul(kernel::page::PAGE_SIZE as u64)
            .ok_or(EOVERFLOW)?,
        len: end.wrapping_sub(start) as u64,
        // SAFETY: as above.
        copies_on_write: unsafe { c::htlb_c_vma_is_cow(vma) },
    };
    let entries = mapping::admit(&buffer, &area)?;
    // SAFETY: as above; the flags suit the operations that are set with them.
    unsafe {
        if !c::htlb_c_vma_flags_set(vma, fault::flags(entries)) {
            return Err(EINVAL);
        }
        (*vma).vm_ops = fault::operations(entries);
    }
    Ok(())
}

/// # Safety
///
/// Called by the kernel with a file of ours.
unsafe extern "C" fn get_unmapped_area(
    file: *mut bindings::file,
    address: c_ulong,
    len: c_ulong,
    pgoff: c_ulong,
    flags: c_ulong,
) -> c_ulong {
    // SAFETY: by the contract: the kernel calls this under the mmap lock.
    if unsafe { c::htlb_c_remaps_window(file, address as usize, flags as usize) } {
        return EINVAL.to_errno() as c_ulong;
    }
    // SAFETY: by the contract; it is not dropped, so the reference stays the caller's.
    match unsafe { BufferFile::from_raw(file) }.map(ManuallyDrop::new) {
        Some(file) => file.unmapped_area(address, len, pgoff, flags),
        None => EINVAL.to_errno() as c_ulong,
    }
}

impl BufferFile {
    /// Where a mapping of the buffer goes: an address that agrees with the offset as far as its pages are large, or an errno.
    pub(super) fn unmapped_area(&self, address: c_ulong, len: c_ulong, pgoff: c_ulong, flags: c_ulong) -> c_ulong {
        let offset = (pgoff as u64).checked_mul(kernel::page::PAGE_SIZE as u64);
        let align = offset.and_then(|offset| mapping::alignment(&self.buffer(), offset, len as u64));
        // SAFETY: the file is ours; plain numbers beside it, checked by the callee.
        let there = || unsafe {
            c::htlb_c_unmapped_area_at(self.as_ptr(), address as usize, len as usize, pgoff as usize, flags as usize) as c_ulong
        };
        let Some(align) = align else { return there() };
        // A wish is the caller's to align; where it cannot be had, it is as if there were none.
        if address != 0 {
            let got = there();
            if got == address {
                return got;
            }
        }
        // SAFETY: as above.
        unsafe { c::htlb_c_unmapped_area(self.as_ptr(), len as usize, pgoff as usize, flags as usize, align as usize) as c_ulong }
    }

    /// Makes an area of another file's one of the buffer's.
    ///
    /// # Safety
    ///
    /// `vma` is being set up, by the `mmap` of its file.
    pub(super) unsafe fn map_into(&self, vma: *mut bindings::vm_area_struct) -> Result {
        // SAFETY: by the contract. The area has a reference of its own from here on, and what it had is given back, also
        // where the rest fails: the kernel lets the file go that it then finds there.
        unsafe { bindings::vma_set_file(vma, self.as_ptr()) };
        // SAFETY: as above.
        unsafe { c::htlb_c_vma_is_window(vma) };
        // SAFETY: by the contract, and its file is ours now.
        unsafe { map(self.as_ptr(), vma) }
    }
}
