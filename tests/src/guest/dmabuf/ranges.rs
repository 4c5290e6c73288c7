// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What may be exported, and what the answer is.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Export as Record, Record as _};
use htlb_user::buffer::Populate;
use htlb_user::device::{ioctl_bytes, DeviceBuffer, Export, How};
use rustix::io::{fcntl_getfd, FdFlags};

use super::{buffer, map, BASE, MIB, PAGE};

const WRITABLE: u32 = (libc::O_RDWR | libc::O_CLOEXEC).unsigned_abs();

/// How many descriptors this process has.
fn descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Sends a record as it is; it is to be refused, with this number, and no descriptor is left.
fn is_refused(buffer: &DeviceBuffer, record: Record, errno: i32) -> Result<()> {
    let before = descriptors()?;
    let mut bytes = [0; Record::SIZE as usize];
    let record = Record {
        size: Record::SIZE,
        ..record
    };
    record.encode(&mut bytes);
    let refused = ioctl_bytes(buffer.as_fd(), Record::IOCTL, &mut bytes)
        .map_err(|error| error.raw_os_error());
    ensure!(refused == Err(Some(errno)), "{record:?}: {refused:?}");
    ensure!(descriptors()? == before, "{record:?} left a descriptor");
    Ok(())
}

pub(super) fn ranges_are_checked() -> Result<()> {
    let bytes = 2 * PAGE;
    let buffer = buffer(bytes, Populate::Later)?;
    for (offset, len, errno) in [
        (1, 0, libc::EINVAL),
        (0, 1, libc::EINVAL),
        (BASE / 2, BASE, libc::EINVAL),
        (BASE, BASE + 1, libc::EINVAL),
        (bytes, 0, libc::EINVAL),
        (bytes, BASE, libc::ENXIO),
        (bytes - BASE, 2 * BASE, libc::ENXIO),
        (0, bytes + BASE, libc::ENXIO),
        (bytes + BASE, 0, libc::ENXIO),
        (1 << 62, 0, libc::ENXIO),
        (u64::MAX - 4095, BASE, libc::EOVERFLOW),
        (BASE, u64::MAX - 4095, libc::EOVERFLOW),
    ] {
        let record = Record {
            flags: WRITABLE,
            offset,
            len,
            ..Record::default()
        };
        is_refused(&buffer, record, errno)?;
    }
    for (offset, len, is) in [
        (0, 0, bytes),
        (BASE, 0, bytes - BASE),
        (bytes - BASE, 0, BASE),
        (0, BASE, BASE),
        (0, bytes, bytes),
        (MIB, PAGE, PAGE),
    ] {
        let range = buffer.export(offset, len, Export::Writable)?;
        ensure!(size_of(&range)? == is, "{len} from {offset}");
    }
    Ok(())
}

/// What a dma-buf says where it ends.
fn size_of(dma_buf: &OwnedFd) -> Result<u64> {
    let end = rustix::fs::seek(dma_buf, rustix::fs::SeekFrom::End(0))?;
    rustix::fs::seek(dma_buf, rustix::fs::SeekFrom::Start(0))?;
    Ok(end)
}

pub(super) fn flags_are_checked() -> Result<()> {
    let buffer = buffer(PAGE, Populate::Later)?;
    for flags in [
        libc::O_WRONLY,
        libc::O_RDWR | libc::O_WRONLY,
        libc::O_NONBLOCK,
        libc::O_RDWR | libc::O_TRUNC,
        1 << 30,
    ] {
        let record = Record {
            flags: flags.unsigned_abs(),
            ..Record::default()
        };
        is_refused(&buffer, record, libc::EINVAL)?;
    }
    let record = Record {
        flags: WRITABLE,
        reserved: 1,
        ..Record::default()
    };
    is_refused(&buffer, record, libc::EINVAL)
}

/// The record is where it can be read but not written.
pub(super) fn a_descriptor_that_cannot_be_told_is_not_left() -> Result<()> {
    let buffer = buffer(PAGE, Populate::Now)?;
    let page = buffer.map(0, 4096, How::READ)?;
    let mut bytes = [0; Record::SIZE as usize];
    let record = Record {
        size: Record::SIZE,
        flags: WRITABLE,
        ..Record::default()
    };
    record.encode(&mut bytes);
    buffer.map(0, 4096, How::SHARED)?.write_at(0, &bytes)?;
    let before = descriptors()?;
    // SAFETY: the call reads and writes one record at that address, as far as it is allowed to: it is not.
    let answer = unsafe {
        libc::ioctl(
            buffer.as_fd().as_raw_fd(),
            libc::Ioctl::from(Record::IOCTL),
            page.as_ptr().as_ptr(),
        )
    };
    let error = std::io::Error::last_os_error();
    ensure!(
        answer == -1 && error.raw_os_error() == Some(libc::EFAULT),
        "{answer}: {error}"
    );
    ensure!(descriptors()? == before, "a descriptor is left");
    Ok(())
}

pub(super) fn a_descriptor_is_closed_on_exec_if_asked() -> Result<()> {
    let buffer = buffer(PAGE, Populate::Later)?;
    for (flags, closed) in [
        (WRITABLE, FdFlags::CLOEXEC),
        (libc::O_RDWR.unsigned_abs(), FdFlags::empty()),
        (0, FdFlags::empty()),
    ] {
        let mut bytes = [0; Record::SIZE as usize];
        let record = Record {
            size: Record::SIZE,
            flags,
            ..Record::default()
        };
        record.encode(&mut bytes);
        ioctl_bytes(buffer.as_fd(), Record::IOCTL, &mut bytes)?;
        let fd = Record::decode(&bytes).map_err(std::io::Error::from)?.fd;
        // SAFETY: the call succeeded, so the descriptor is new, and nobody else's.
        let dma_buf = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        ensure!(fcntl_getfd(&dma_buf)? == closed, "flags {flags:#x}");
    }
    Ok(())
}

pub(super) fn the_kernel_names_the_exporter() -> Result<()> {
    let buffer = buffer(2 * PAGE, Populate::Later)?;
    let dma_buf = buffer.export(PAGE, 0, Export::Writable)?;
    let file = format!("/proc/self/fdinfo/{}", dma_buf.as_raw_fd());
    let said = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    ensure!(said.contains("exp_name:\thtlb\n"), "{said}");
    ensure!(said.contains(&format!("size:\t{PAGE}\n")), "{said}");
    drop(map(&dma_buf, 0, PAGE)?);
    Ok(())
}
