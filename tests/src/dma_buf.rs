// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The kernel's own makers of dma-bufs, and what any program may ask of a dma-buf: for tests that compare.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::ioctl::{ioctl, opcode, Ioctl, IoctlOutput, Opcode, Setter, Updater};

/// `struct udmabuf_create` of `linux/udmabuf.h`.
#[repr(C)]
struct UdmabufCreate {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

// SAFETY: the kernel reads as many bytes as the operation code says, the size of the record, and answers with a new
// descriptor.
unsafe impl Ioctl for UdmabufCreate {
    type Output = OwnedFd;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::write::<Self>(b'u', 0x42)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (self as *mut Self).cast()
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut c_void) -> rustix::io::Result<OwnedFd> {
        // SAFETY: the call succeeded, so `answer` is a descriptor that nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(answer) })
    }
}

/// `/dev/udmabuf`: a dma-buf over the first `len` bytes of a memfd that cannot shrink.
///
/// # Errors
///
/// No such device; `EINVAL` for a memfd that is not sealed; no memory.
pub fn udmabuf(memfd: BorrowedFd<'_>, len: u64) -> io::Result<OwnedFd> {
    const CLOEXEC: u32 = 1;
    let device = File::options()
        .read(true)
        .write(true)
        .open("/dev/udmabuf")?;
    let create = UdmabufCreate {
        // CAST: a borrowed descriptor is not negative.
        memfd: memfd.as_raw_fd() as u32,
        flags: CLOEXEC,
        offset: 0,
        size: len,
    };
    // SAFETY: the file is the device that knows this call.
    Ok(unsafe { ioctl(&device, create) }?)
}

/// `struct dma_heap_allocation_data` of `linux/dma-heap.h`.
#[repr(C)]
struct HeapAllocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

/// A dma-buf of `len` bytes from a heap, `/dev/dma_heap/system` or another.
///
/// # Errors
///
/// No such heap, no memory.
pub fn from_heap(heap: &str, len: u64) -> io::Result<OwnedFd> {
    const ALLOCATE: Opcode = opcode::read_write::<HeapAllocation>(b'H', 0);
    let heap = File::options().read(true).write(true).open(heap)?;
    let mut data = HeapAllocation {
        len,
        fd: 0,
        // CAST: flags of open(2), which are not negative.
        fd_flags: (libc::O_RDWR | libc::O_CLOEXEC) as u32,
        heap_flags: 0,
    };
    // SAFETY: the kernel reads and writes as many bytes as the operation code says, the size of the record.
    let call = unsafe { Updater::<ALLOCATE, _>::new(&mut data) };
    // SAFETY: the file is a heap, which knows this call.
    unsafe { ioctl(&heap, call) }?;
    let fd = i32::try_from(data.fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the call succeeded, and its answer is a descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A memfd of `len` bytes that cannot shrink, as `udmabuf` wants it, with pages as `pages` says: none or
/// [`MemfdFlags::HUGETLB`] with a size. They come when they are touched or pinned.
///
/// # Errors
///
/// No such page size, no descriptor.
pub fn memfd(len: u64, pages: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
    let memfd = memfd_create("htlb-tests", flags)?;
    ftruncate(&memfd, len)?;
    fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
    Ok(memfd)
}

/// What a program is about to do with a dma-buf's mapping, or has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It only reads.
    Read,
    /// It only writes.
    Write,
    /// Both.
    ReadWrite,
}

/// `DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_START`: before a program uses a dma-buf's mapping.
///
/// # Errors
///
/// The exporter's.
pub fn begin_cpu_access(buffer: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    sync(buffer, access, 0)
}

/// `DMA_BUF_IOCTL_SYNC` with `DMA_BUF_SYNC_END`: after that.
///
/// # Errors
///
/// The exporter's.
pub fn end_cpu_access(buffer: BorrowedFd<'_>, access: Access) -> io::Result<()> {
    const END: u64 = 1 << 2;
    sync(buffer, access, END)
}

fn sync(buffer: BorrowedFd<'_>, access: Access, flags: u64) -> io::Result<()> {
    const SYNC: Opcode = opcode::write::<u64>(b'b', 0);
    let access = match access {
        Access::Read => 1,
        Access::Write => 2,
        Access::ReadWrite => 3,
    };
    // SAFETY: the kernel reads the eight bytes that the operation code says; another file than a dma-buf refuses it.
    let call = unsafe { Setter::<SYNC, u64>::new(access | flags) };
    // SAFETY: as above.
    Ok(unsafe { ioctl(buffer.as_fd(), call) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_kernels_headers() {
        assert_eq!(opcode::write::<UdmabufCreate>(b'u', 0x42), 0x4018_7542);
        assert_eq!(opcode::read_write::<HeapAllocation>(b'H', 0), 0xC018_4800);
        assert_eq!(opcode::write::<u64>(b'b', 0), 0x4008_6200);
    }
}
