// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What cannot be imported, and that nothing stays of a refusal.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{ensure, Result};
use htlb_core::uapi::{Import, Record};
use htlb_core::HugeSize;
use htlb_user::device::{ioctl_bytes, Device};
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};

use super::super::span::{HugetlbPool, HUGE};
use super::{donated, donor, import_all, memfd, number, LEN, PAGES};

pub(super) fn what_cannot_be_imported_is_refused() -> Result<()> {
    let (pool, file) = donor()?;
    let device = Device::open()?;
    let len = LEN as u64;
    let huge = HUGE as u64;
    let import = |fd: &OwnedFd, offset, len| number(device.import(fd.as_fd(), offset, len));

    for (offset, part) in [(0, huge - 4096), (4096, huge), (0, 4096), (huge / 2, huge)] {
        ensure!(
            import(&file, offset, part) == libc::EINVAL,
            "{part} bytes from {offset}"
        );
    }
    ensure!(import(&file, 0, 0) == libc::EINVAL);
    ensure!(import(&file, 0, len + huge) == libc::ENXIO);
    ensure!(import(&file, len, huge) == libc::ENXIO);
    ensure!(import(&file, 1 << 62, huge) == libc::ENXIO);
    ensure!(import(&file, u64::MAX - huge + 1, huge) == libc::EOVERFLOW);

    let small = memfd_create("small", MemfdFlags::CLOEXEC)?;
    ftruncate(&small, len)?;
    ensure!(import(&small, 0, len) == libc::EOPNOTSUPP, "base pages");
    ensure!(import(&OwnedFd::from(File::open("/dev/null")?), 0, len) == libc::EOPNOTSUPP);
    let own = OwnedFd::from(import_all(&device, &file)?);
    ensure!(
        import(&own, 0, len) == libc::EOPNOTSUPP,
        "a buffer of our own"
    );
    drop(own);

    let by_name = format!("/proc/self/fd/{}", file.as_raw_fd());
    let read_only = OwnedFd::from(File::open(&by_name)?);
    ensure!(
        import(&read_only, 0, len) == libc::EACCES,
        "a file that may only be read"
    );
    let sealed = memfd(len, MemfdFlags::HUGE_2MB)?;
    fcntl_add_seals(&sealed, SealFlags::WRITE)?;
    ensure!(
        import(&sealed, 0, len) == libc::EPERM,
        "a file that is sealed"
    );

    // What the library would not say.
    let device_fd = File::options().read(true).write(true).open("/dev/htlb")?;
    let raw = |record: Import| {
        let mut bytes = vec![0; Import::SIZE as usize];
        record.encode(&mut bytes);
        ioctl_bytes(device_fd.as_fd(), Import::IOCTL, &mut bytes)
            .expect_err("it is refused")
            .raw_os_error()
    };
    let good = Import {
        size: Import::SIZE,
        len,
        memfd: file.as_raw_fd(),
        ..Import::default()
    };
    ensure!(raw(Import { memfd: -1, ..good }) == Some(libc::EBADF));
    ensure!(raw(Import { memfd: 999, ..good }) == Some(libc::EBADF));
    ensure!(raw(Import { flags: 1, ..good }) == Some(libc::EINVAL));
    ensure!(
        raw(Import {
            reserved: 1,
            ..good
        }) == Some(libc::EINVAL)
    );

    ensure!(donated(&device)? == 0, "{} bytes stayed", donated(&device)?);
    drop((file, read_only, sealed));
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}

pub(super) fn hugetlb_without_pages_is_an_error_that_changes_nothing() -> Result<()> {
    let pool = HugetlbPool::of(HugeSize::MIB2, PAGES / 2)?;
    let file = memfd(LEN as u64, MemfdFlags::HUGE_2MB)?;
    let device = Device::open()?;
    ensure!(number(import_all(&device, &file)) == libc::ENOMEM);
    ensure!(donated(&device)? == 0);
    drop(file);
    ensure!(pool.free()? == PAGES / 2, "{} are free", pool.free()?);
    Ok(())
}
