// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The record that a program asks with, as the kernel's own heap reads it.

use std::os::fd::AsFd;

use anyhow::{ensure, Context, Result};
use htlb_user::device::{How, Mapping};
use rustix::io::{fcntl_getfd, FdFlags};

use super::super::rest;
use super::{allocate, ask, errno, map, taken, Allocation, BASE, HEAP, SYSTEM, WHOLE, WRITABLE};

pub(super) fn arguments_are_checked() -> Result<()> {
    for heap in [SYSTEM, HEAP] {
        for (what, wrong) in [
            (
                "no size",
                Allocation {
                    len: 0,
                    ..Allocation::default()
                },
            ),
            (
                "a size that overflows",
                Allocation {
                    len: u64::MAX,
                    ..Allocation::default()
                },
            ),
            (
                "a descriptor",
                Allocation {
                    len: BASE,
                    fd: 1,
                    ..Allocation::default()
                },
            ),
            (
                "flags",
                Allocation {
                    len: BASE,
                    heap_flags: 1,
                    ..Allocation::default()
                },
            ),
            (
                "flags of the file",
                Allocation {
                    len: BASE,
                    fd_flags: 1 << 28,
                    ..Allocation::default()
                },
            ),
            (
                "an unknown mode",
                Allocation {
                    len: BASE,
                    fd_flags: libc::O_NONBLOCK.unsigned_abs(),
                    ..Allocation::default()
                },
            ),
        ] {
            let refused = errno(ask(heap, &mut { wrong }, WHOLE));
            ensure!(refused == Some(libc::EINVAL), "{heap}: {what}: {refused:?}");
        }
    }
    rest::wait()
}

pub(super) fn access_modes_are_those_asked_for() -> Result<()> {
    for heap in [SYSTEM, HEAP] {
        let reader = allocate(heap, BASE, 0)?;
        ensure!(fcntl_getfd(&reader)? == FdFlags::empty(), "{heap}");
        let attempt = Mapping::new(reader.as_fd(), 0, 4096, How::SHARED, 4096);
        ensure!(errno(attempt) == Some(libc::EACCES), "{heap}");
        Mapping::new(reader.as_fd(), 0, 4096, How::READ, 4096)?;
        let writer = allocate(heap, BASE, libc::O_WRONLY.unsigned_abs())?;
        let attempt = Mapping::new(writer.as_fd(), 0, 4096, How::READ, 4096);
        ensure!(errno(attempt) == Some(libc::EACCES), "{heap}");
        let closed = allocate(heap, BASE, WRITABLE)?;
        ensure!(fcntl_getfd(&closed)? == FdFlags::CLOEXEC, "{heap}");
    }
    Ok(())
}

/// A record without `heap_flags`, and one with more than the kernel knows.
pub(super) fn programs_of_other_versions_are_understood() -> Result<()> {
    for heap in [SYSTEM, HEAP] {
        for bytes in [16, WHOLE, size_of::<Allocation>()] {
            let mut allocation = Allocation {
                len: BASE,
                fd_flags: WRITABLE,
                ..Allocation::default()
            };
            ask(heap, &mut allocation, bytes).with_context(|| format!("{heap}: {bytes} bytes"))?;
            drop(map(&taken(&allocation), BASE, BASE)?);
        }
    }
    Ok(())
}
