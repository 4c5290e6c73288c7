// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Bad arguments of `mmap`, and the ends of a buffer.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{ensure, Result};
use htlb_user::buffer::Populate;

use super::super::area::{done, expect_errno, Area, BASE, HUGE, RW};
use super::super::child::dies_of;
use super::super::quiet::quiet_cases;
use super::super::Case;
use super::{mapped, sized};

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        what_cannot_be_mapped_is_refused,
        a_touch_between_size_and_capacity_is_a_signal_until_the_buffer_grows,
        other_calls_on_the_file_change_nothing,
        a_wish_for_an_address_is_heard,
    ]
}

fn what_cannot_be_mapped_is_refused() -> Result<()> {
    let (buffer, area) = mapped(2, 91)?;
    let map = |offset: u64, len: usize, flags: i32| Area::map(&buffer, offset, len, RW, flags);
    let shared = libc::MAP_SHARED;
    expect_errno(map(0, 0, shared), libc::EINVAL)?;
    expect_errno(map(1, HUGE, shared), libc::EINVAL)?;
    expect_errno(map(0, 2 * HUGE + 1, shared), libc::ENXIO)?;
    expect_errno(map(2 * HUGE as u64, BASE, shared), libc::ENXIO)?;
    expect_errno(map(HUGE as u64, 2 * HUGE, shared), libc::ENXIO)?;
    expect_errno(map(0, 1 << 40, shared), libc::ENXIO)?;
    expect_errno(map(1 << 52, BASE, shared), libc::ENXIO)?;
    expect_errno(map(1 << 62, HUGE, libc::MAP_PRIVATE), libc::ENXIO)?;
    expect_errno(map(u64::MAX << 12, BASE, shared), libc::EOVERFLOW)?;
    expect_errno(map(u64::MAX << 21, 2 * HUGE, shared), libc::EOVERFLOW)?;
    expect_errno(map(0, usize::MAX << 12, shared), libc::ENOMEM)?;
    expect_errno(map(0, usize::MAX >> 1, shared), libc::ENOMEM)?;
    expect_errno(
        map(0, HUGE, libc::MAP_SHARED | libc::MAP_HUGETLB),
        libc::EINVAL,
    )?;
    expect_errno(
        map(0, HUGE, libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC),
        libc::EOPNOTSUPP,
    )?;
    expect_errno(map(0, HUGE, 0), libc::EINVAL)?;
    let executable = Area::map(&buffer, 0, HUGE, libc::PROT_READ | libc::PROT_EXEC, shared);
    expect_errno(executable, libc::EPERM)?;
    area.expect(area.all(), 91)?;
    area.expect_huge(2 * HUGE)
}

fn a_touch_between_size_and_capacity_is_a_signal_until_the_buffer_grows() -> Result<()> {
    let buffer = sized(HUGE, 4 * HUGE, Populate::Now)?;
    let area = Area::shared(&buffer, 4 * HUGE)?;
    let copies = Area::private(&buffer, 4 * HUGE)?;
    area.stamp(0..HUGE, 92);
    for at in [HUGE, 2 * HUGE + BASE, 4 * HUGE - 8] {
        dies_of(libc::SIGBUS, || area.read(at))?;
        dies_of(libc::SIGBUS, || area.write(at, 1))?;
        dies_of(libc::SIGBUS, || copies.write(at, 1))?;
    }
    expect_errno(
        area.advise(HUGE..2 * HUGE, libc::MADV_POPULATE_WRITE),
        libc::EFAULT,
    )?;
    buffer.truncate(2 * HUGE as u64)?;
    area.expect_zeroes(HUGE..2 * HUGE)?;
    area.stamp(HUGE..2 * HUGE, 93);
    area.expect_huge(2 * HUGE)?;
    dies_of(libc::SIGBUS, || area.read(2 * HUGE))?;
    buffer.truncate(4 * HUGE as u64)?;
    area.stamp(2 * HUGE..4 * HUGE, 94);
    area.expect_huge(4 * HUGE)?;
    copies.expect(2 * HUGE..4 * HUGE, 94)?;
    ensure!(buffer.truncate(4 * HUGE as u64 + 1).is_err());
    area.expect(0..HUGE, 92)?;
    area.expect(HUGE..2 * HUGE, 93)
}

fn other_calls_on_the_file_change_nothing() -> Result<()> {
    let (buffer, area) = mapped(2, 95)?;
    let fd = buffer.as_fd().as_raw_fd();
    let mut bytes = [0_u8; 8];
    // SAFETY: calls on a descriptor of ours, with a buffer of ours.
    unsafe {
        expect_errno(done(libc::ftruncate(fd, 4096)), libc::EINVAL)?;
        expect_errno(done(libc::ftruncate(fd, 1 << 40)), libc::EINVAL)?;
        ensure!(libc::fallocate(fd, 3, 0, 4096) == -1);
        ensure!(libc::read(fd, bytes.as_mut_ptr().cast(), 8) == -1);
        ensure!(libc::write(fd, bytes.as_ptr().cast(), 8) == -1);
        // Nothing is behind the pages, so that nothing is to be waited for.
        done(libc::fsync(fd))?;
        libc::posix_fadvise(fd, 0, 0, libc::POSIX_FADV_DONTNEED);
        libc::readahead(fd, 0, 4 << 20);
    }
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a record of ours, which the call fills where it succeeds.
    let stat = unsafe {
        done(libc::fstat(fd, stat.as_mut_ptr()))?;
        stat.assume_init()
    };
    ensure!(stat.st_size == 2 * HUGE as i64, "{}", stat.st_size);
    area.expect(area.all(), 95)?;
    area.expect_huge(2 * HUGE)
}

fn a_wish_for_an_address_is_heard() -> Result<()> {
    let (buffer, area) = mapped(2, 96)?;
    let free = Area::reservation(6 * HUGE)?;
    let wish = free.start().next_multiple_of(HUGE) + HUGE;
    drop(free);
    let heard = Area::map_at(wish, &buffer, 0, 2 * HUGE, RW, libc::MAP_SHARED)?;
    ensure!(heard.start() == wish);
    heard.expect(heard.all(), 96)?;
    heard.expect_huge(2 * HUGE)?;
    // Where something is already, only a demand would take its place.
    let elsewhere = Area::map_at(wish, &buffer, 0, 2 * HUGE, RW, libc::MAP_SHARED)?;
    ensure!(elsewhere.start() != wish);
    elsewhere.expect(elsewhere.all(), 96)?;
    elsewhere.expect_huge(2 * HUGE)?;
    let taken = Area::map_at(
        area.start(),
        &buffer,
        0,
        HUGE,
        RW,
        libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
    );
    expect_errno(taken, libc::EEXIST)
}
