// SPDX-License-Identifier: GPL-2.0-only
//! The functions of `include/linux/htlb.h`, which has their contracts. A `struct htlb_buffer` is the buffer's file.
#![allow(improper_ctypes)]

use core::mem::ManuallyDrop;

use htlb_core::uapi::Create;
use htlb_core::{ByteOffset, Gfp};
use kernel::bindings;
use kernel::prelude::*;

use super::file::BufferFile;
use super::sg::{Device, Direction, SgTable};
use crate::error::errno;
use crate::exports::{self, Blank, Wanted};

/// `struct htlb_buffer`: never looked into.
#[repr(C)]
pub(crate) struct RawBuffer {
    _file: [u8; 0],
}

/// `struct htlb_request`.
#[repr(C)]
pub(crate) struct RawRequest {
    size: u64,
    capacity: u64,
    page_size: u64,
    alignment: u64,
    contiguous: u64,
    nodes: u64,
    node_policy: u32,
    flags: u32,
    gfp: bindings::gfp_t,
    dma_bits: u32,
    dev: *mut bindings::device,
}

// `htlb_dma.c` asserts the same of the C record.
const _: () = assert!(size_of::<RawRequest>() == 72 && core::mem::offset_of!(RawRequest, dev) == 64);
const _: () = assert!(core::mem::offset_of!(RawRequest, node_policy) == 48);
const _: () = assert!(core::mem::offset_of!(RawRequest, gfp) == 56);

/// `htlb_fill_t`.
type Fill = unsafe extern "C" fn(context: *mut c_void, page: *mut bindings::page, offset: u64, len: u64) -> isize;

extern "C" {
    fn htlb_c_gfp_names(gfp: bindings::gfp_t, names: *mut u32) -> bool;
    fn htlb_c_page(pfn: usize) -> *mut bindings::page;
}

/// The buffer of a call, whose reference stays the caller's.
///
/// # Safety
///
/// `buffer` is null, or one of ours to which the caller has a reference for as long as the answer is used.
pub(super) unsafe fn borrow(buffer: *const RawBuffer) -> Result<ManuallyDrop<BufferFile>> {
    // SAFETY: by the contract; it is never dropped, so the reference stays the caller's.
    let file = unsafe { BufferFile::from_raw(buffer.cast_mut().cast()) };
    file.map(ManuallyDrop::new).ok_or(EINVAL)
}

fn give_away(file: Result<BufferFile>) -> *mut RawBuffer {
    match file {
        Ok(file) => file.into_raw().cast(),
        Err(error) => error.to_ptr(),
    }
}

fn code(outcome: Result) -> c_int {
    outcome.map_or_else(|error| error.to_errno(), |()| 0)
}

/// A driver gave back what it had not. No count is wrong for that, so the log is told, and nothing else.
fn unbalanced(what: &str) {
    pr_err!("{}() without its counterpart\n", what);
}

/// The core's names for a mask; `None` for a bit that has none.
fn names(gfp: bindings::gfp_t) -> Option<Gfp> {
    let mut bits = 0;
    // SAFETY: translates bits, into a place of ours.
    let all = unsafe { htlb_c_gfp_names(gfp, &mut bits) };
    all.then(|| Gfp::from_bits(bits)).flatten()
}

/// # Safety
///
/// As `htlb.h` says; the request and its device exist during the call.
#[no_mangle]
unsafe extern "C" fn htlb_create(request: *const RawRequest) -> *mut RawBuffer {
    // SAFETY: by the contract, unless null.
    let Some(request) = (unsafe { request.as_ref() }) else { return EINVAL.to_ptr() };
    let gfp = match request.gfp {
        0 => None,
        gfp => match names(gfp) {
            Some(gfp) => Some(gfp),
            None => return EINVAL.to_ptr(),
        },
    };
    let record = Create {
        size: Create::SIZE,
        flags: request.flags,
        bytes: request.size,
        capacity: request.capacity,
        page_bytes: request.page_size,
        alignment: request.alignment,
        contiguous: request.contiguous,
        nodes: request.nodes,
        node_policy: request.node_policy,
        dma_bits: request.dma_bits,
        ..Create::default()
    };
    // SAFETY: by the contract.
    let device = unsafe { Device::from_raw(request.dev) };
    give_away(exports::create(&Wanted { record, gfp, device }))
}

/// # Safety
///
/// As `htlb.h` says: in the context of a program.
#[no_mangle]
unsafe extern "C" fn htlb_from_fd(fd: c_int) -> *mut RawBuffer {
    give_away(u32::try_from(fd).map_err(|_| EBADF).and_then(BufferFile::of_fd))
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_get(buffer: *mut RawBuffer) -> *mut RawBuffer {
    // SAFETY: by the contract.
    if let Ok(file) = unsafe { borrow(buffer) } {
        core::mem::forget(BufferFile::clone(&file));
    }
    buffer
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_put(buffer: *mut RawBuffer) {
    // SAFETY: by the contract the caller gives a reference up.
    drop(unsafe { BufferFile::from_raw(buffer.cast()) });
}

/// # Safety
///
/// As `htlb.h` says: in the context of a program.
#[no_mangle]
unsafe extern "C" fn htlb_install_fd(buffer: *mut RawBuffer, flags: c_int) -> c_int {
    let install = || -> Result<c_int> {
        let flags = u32::try_from(flags)?;
        if flags & !kernel::fs::file::flags::O_CLOEXEC != 0 {
            return Err(EINVAL);
        }
        // SAFETY: by the contract.
        let file = unsafe { borrow(buffer) }?;
        Ok(c_int::try_from(BufferFile::clone(&file).install(flags)?)?)
    };
    install().unwrap_or_else(|error| error.to_errno())
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_size(buffer: *const RawBuffer) -> u64 {
    // SAFETY: by the contract.
    unsafe { borrow(buffer) }.map_or(0, |file| file.buffer().size().raw())
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_reserve(buffer: *mut RawBuffer, offset: u64, len: u64) -> c_int {
    // SAFETY: by the contract.
    code(unsafe { borrow(buffer) }.and_then(|file| {
        let range = exports::range(offset, len)?;
        file.buffer().reserve(range).map(drop).map_err(errno)
    }))
}

/// # Safety
///
/// As `htlb.h` says; `fill` takes `context`.
#[no_mangle]
unsafe extern "C" fn htlb_populate(
    buffer: *mut RawBuffer,
    offset: u64,
    len: u64,
    fill: Option<Fill>,
    context: *mut c_void,
) -> c_int {
    let filled = |page: &Blank, fill: Fill| -> Result<u64> {
        // SAFETY: the frame is that of a page of ours, claimed for filling, so nobody else looks at it; `fill` takes `context`,
        // by the contract.
        let written = unsafe { fill(context, htlb_c_page(page.pfn as usize), page.offset, page.len) };
        u64::try_from(written).map_err(|_| Error::from_errno(i32::try_from(written).unwrap_or(0)))
    };
    // SAFETY: by the contract.
    code(unsafe { borrow(buffer) }.and_then(|file| {
        let range = exports::range(offset, len)?;
        match fill {
            Some(fill) => exports::populate(&file.buffer(), range, Some(&|page: &Blank| filled(page, fill))),
            None => exports::populate(&file.buffer(), range, None),
        }
    }))
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_punch(buffer: *mut RawBuffer, offset: u64, len: u64) -> c_int {
    // SAFETY: by the contract.
    code(unsafe { borrow(buffer) }.and_then(|file| {
        let range = exports::range(offset, len)?;
        file.buffer().punch(range).map(drop).map_err(errno)
    }))
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_page_at(buffer: *const RawBuffer, offset: u64) -> *mut bindings::page {
    // SAFETY: by the contract.
    let Ok(file) = (unsafe { borrow(buffer) }) else { return core::ptr::null_mut() };
    match file.buffer().map().page_at(ByteOffset::new(offset)) {
        // SAFETY: the frame of a page in a slot exists.
        Ok(page) => unsafe { htlb_c_page(exports::frame_of(page) as usize) },
        Err(_) => core::ptr::null_mut(),
    }
}

/// # Safety
///
/// As `htlb.h` says; `page` is null or can be written to.
#[no_mangle]
unsafe extern "C" fn htlb_pin(buffer: *mut RawBuffer, offset: u64, page: *mut *mut bindings::page) -> c_int {
    // SAFETY: by the contract.
    code(unsafe { borrow(buffer) }.and_then(|file| {
        let buffer = file.buffer();
        let pin = buffer.pin(ByteOffset::new(offset)).map_err(errno)?;
        if let Ok(found) = buffer.map().page_at(ByteOffset::new(offset)) {
            // SAFETY: by the contract, unless null; the frame is that of a page, which is pinned.
            if let Some(page) = unsafe { page.as_mut() } {
                // SAFETY: as above.
                *page = unsafe { htlb_c_page(exports::frame_of(found) as usize) };
            }
            // The caller keeps it as the offset, and `htlb_unpin` recalls it.
            core::mem::forget(pin);
            return Ok(());
        }
        // The end of the buffer came between the two, inside the page.
        buffer.map().unpin(pin);
        Err(ENXIO)
    }))
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_unpin(buffer: *mut RawBuffer, offset: u64) {
    // SAFETY: by the contract.
    let Ok(file) = (unsafe { borrow(buffer) }) else { return };
    if !exports::unpin(&file.buffer(), offset) {
        unbalanced("htlb_unpin");
    }
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_seal(buffer: *mut RawBuffer) -> c_int {
    // SAFETY: by the contract.
    code(unsafe { borrow(buffer) }.and_then(|file| {
        // The caller keeps it as a number of calls, and `htlb_unseal` recalls it.
        file.buffer().seal().map(core::mem::forget).map_err(errno)
    }))
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_unseal(buffer: *mut RawBuffer) {
    // SAFETY: by the contract.
    let Ok(file) = (unsafe { borrow(buffer) }) else { return };
    if !exports::unseal(&file.buffer()) {
        unbalanced("htlb_unseal");
    }
}

/// # Safety
///
/// As `htlb.h` says; the device stays until the table is unmapped.
#[no_mangle]
unsafe extern "C" fn htlb_sg_map(
    buffer: *mut RawBuffer,
    dev: *mut bindings::device,
    offset: u64,
    len: u64,
    direction: u32,
) -> *mut bindings::sg_table {
    let map = || -> Result<SgTable> {
        // SAFETY: by the contract.
        let (file, device) = unsafe { (borrow(buffer)?, Device::from_raw(dev).ok_or(EINVAL)?) };
        exports::sg_map(&file.buffer(), device, exports::range(offset, len)?, Direction::new(direction)?)
    };
    match map() {
        Ok(table) => table.into_raw(),
        Err(error) => error.to_ptr(),
    }
}

/// # Safety
///
/// As `htlb.h` says: what `htlb_sg_map` was given, and what it gave.
#[no_mangle]
unsafe extern "C" fn htlb_sg_unmap(
    buffer: *mut RawBuffer,
    dev: *mut bindings::device,
    table: *mut bindings::sg_table,
    direction: u32,
) {
    // SAFETY: by the contract.
    let (file, device, table) = unsafe { (borrow(buffer), Device::from_raw(dev), SgTable::from_raw(table)) };
    if let (Ok(file), Some(device), Some(table), Ok(direction)) = (file, device, table, Direction::new(direction)) {
        exports::sg_unmap(&file.buffer(), device, table, direction);
    }
}

/// # Safety
///
/// As `htlb.h` says: `vma` is being set up by the caller's `mmap`.
#[no_mangle]
unsafe extern "C" fn htlb_mmap(buffer: *mut RawBuffer, vma: *mut bindings::vm_area_struct) -> c_int {
    if vma.is_null() {
        return EINVAL.to_errno();
    }
    // SAFETY: by the contract.
    code(unsafe { borrow(buffer) }.and_then(|file| unsafe { file.map_into(vma) }))
}

/// # Safety
///
/// As `htlb.h` says.
#[no_mangle]
unsafe extern "C" fn htlb_get_unmapped_area(
    buffer: *mut RawBuffer,
    address: c_ulong,
    len: c_ulong,
    pgoff: c_ulong,
    flags: c_ulong,
) -> c_ulong {
    // SAFETY: by the contract.
    match unsafe { borrow(buffer) } {
        Ok(file) => file.unmapped_area(address, len, pgoff, flags),
        Err(error) => error.to_errno() as c_ulong,
    }
}
