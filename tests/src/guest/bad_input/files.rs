// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The other system calls on our files, and our calls on other files.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use anyhow::{ensure, Result};

use super::{in_order, Bench, CAPACITY, SIZE};
use crate::guest::raw::{self, FileCall, Place};

const SHARED: i32 = libc::MAP_SHARED;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub(super) fn mappings_that_cannot_be() -> Result<()> {
    let bench = Bench::new()?;
    let buffer = bench.buffer.as_fd().as_raw_fd();
    let device = bench.device.as_fd().as_raw_fd();
    let size = usize::try_from(SIZE)?;
    let beyond = i64::try_from(CAPACITY)?;
    let page = 4096;
    let last = i64::MAX & !4095;
    for (what, fd, len, flags, offset, errno) in [
        ("no length", buffer, 0, SHARED, 0, libc::EINVAL),
        (
            "an offset that is none",
            buffer,
            size,
            SHARED,
            1,
            libc::EINVAL,
        ),
        (
            "an offset that is none",
            buffer,
            size,
            SHARED,
            4095,
            libc::EINVAL,
        ),
        (
            "neither shared nor private",
            buffer,
            size,
            0,
            0,
            libc::EINVAL,
        ),
        (
            "from the capacity on",
            buffer,
            4096,
            SHARED,
            beyond,
            libc::ENXIO,
        ),
        (
            "across the capacity",
            buffer,
            size,
            SHARED,
            beyond - page,
            libc::ENXIO,
        ),
        (
            "across the capacity, private",
            buffer,
            size,
            libc::MAP_PRIVATE,
            beyond - page,
            libc::ENXIO,
        ),
        ("far beyond", buffer, size, SHARED, 1 << 50, libc::ENXIO),
        ("the last offset", buffer, size, SHARED, last, libc::ENXIO),
        (
            "a negative offset",
            buffer,
            size,
            SHARED,
            -4096,
            libc::EOVERFLOW,
        ),
        (
            "a length that wraps",
            buffer,
            usize::MAX,
            SHARED,
            0,
            libc::ENOMEM,
        ),
        (
            "more than addresses",
            buffer,
            1 << 50,
            SHARED,
            0,
            libc::ENOMEM,
        ),
        (
            "synchronous",
            buffer,
            size,
            libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC,
            0,
            libc::EOPNOTSUPP,
        ),
        (
            "as hugetlb",
            buffer,
            size,
            SHARED | libc::MAP_HUGETLB,
            0,
            libc::EINVAL,
        ),
        ("the device", device, size, SHARED, 0, libc::ENODEV),
    ] {
        bench.unchanged(what, || {
            let done = raw::mmap(fd, 0, len, RW, flags, offset);
            ensure!(done == Err(errno), "{done:?}, not errno {errno}");
            Ok(())
        })?;
    }
    // What may be: any protection, a hint of any kind, beyond the size up to the capacity.
    for (what, address, len, protection, offset) in [
        ("beyond the size", 0, size, RW, i64::try_from(SIZE)?),
        ("from the middle of a page", 0, 4096, RW, 4096),
        ("without access", 0, size, libc::PROT_NONE, 0),
        ("to write only", 0, size, libc::PROT_WRITE, 0),
        ("near an address that is none", 1 << 63, size, RW, 0),
        ("near an odd address", 0x7000_0000_0123, size, RW, 0),
        ("near the end", usize::MAX - 4095, size, RW, 0),
    ] {
        bench.unchanged(what, || {
            let done = raw::mmap(buffer, address, len, protection, SHARED, offset);
            ensure!(done == Ok(()), "{done:?}");
            Ok(())
        })?;
    }
    // No program is run from a file without a name.
    let done = raw::mmap(buffer, 0, size, libc::PROT_EXEC, SHARED, 0);
    ensure!(done == Err(libc::EPERM), "to execute: {done:?}");
    in_order("wrong mappings")
}

pub(super) fn calls_that_a_buffer_does_not_know() -> Result<()> {
    let bench = Bench::new()?;
    let buffer = bench.buffer.as_fd().as_raw_fd();
    for (call, errno) in [
        (FileCall::Read, libc::EINVAL),
        (FileCall::Write, libc::EINVAL),
        (FileCall::Seek, libc::ESPIPE),
        (FileCall::Truncate, libc::EINVAL),
        (FileCall::Allocate, libc::ENODEV),
        (FileCall::Punch, libc::ENODEV),
    ] {
        bench.unchanged(&format!("{call:?}"), || {
            let done = raw::call(buffer, call);
            ensure!(done == Err(errno), "{done:?}, not errno {errno}");
            Ok(())
        })?;
    }
    in_order("other calls")
}

pub(super) fn other_files_do_not_know_our_calls() -> Result<()> {
    let bench = Bench::new()?;
    let null = File::open("/dev/null")?;
    let file = File::open("/proc/self/exe")?;
    let folder = File::open("/")?;
    let (socket, _peer) = UnixStream::pair()?;
    for call in bench.calls() {
        for (what, fd, errno) in [
            ("/dev/null", null.as_raw_fd(), libc::ENOTTY),
            ("a file", file.as_raw_fd(), libc::ENOTTY),
            ("a folder", folder.as_raw_fd(), libc::ENOTTY),
            ("a memfd", bench.memfd.as_raw_fd(), libc::ENOTTY),
            ("a socket", socket.as_raw_fd(), libc::ENOTTY),
            ("a closed descriptor", 1 << 20, libc::EBADF),
            ("no descriptor", -1, libc::EBADF),
        ] {
            let mut bytes = call.bytes.clone();
            let done = bench
                .arena
                .ioctl(fd, call.number, Place::Good, &mut bytes)?;
            ensure!(done == Err(errno), "{} on {what}: {done:?}", call.name);
        }
    }
    in_order("calls on other files")
}
