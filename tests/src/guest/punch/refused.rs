// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A punch or a truncate that is refused has changed nothing.

use std::os::fd::AsFd;

use anyhow::{ensure, Result};
use htlb_user::device::{Cut, DeviceBuffer, DeviceError};

use super::super::area::{Area, HUGE};
use super::super::mappings::{mapped, sized};
use super::super::probe::Probe;
use super::super::quiet::quiet_cases;
use super::super::{rest, Case};

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        a_pinned_page_is_not_punched,
        a_sealed_buffer_is_not_punched,
        bad_ranges_are_refused,
        a_cut_page_that_is_pinned_grows_again_with_zeroes,
    ]
}

fn expect_refusal(answer: Result<Cut, DeviceError>, errno: i32) -> Result<()> {
    match answer {
        Err(error) if error.errno() == errno => Ok(()),
        other => anyhow::bail!("{other:?} instead of {errno}"),
    }
}

/// Fails unless everything is as it was made.
fn unchanged(buffer: &DeviceBuffer, area: &Area, pages: usize, stamp: u64) -> Result<()> {
    rest::check().map_err(|said| anyhow::anyhow!(said))?;
    let info = buffer.info()?;
    ensure!(
        info.populated == (pages * HUGE) as u64 && info.bytes == info.populated,
        "{info:?}"
    );
    area.expect_huge(pages * HUGE)?;
    area.expect(area.all(), stamp)
}

fn a_pinned_page_is_not_punched() -> Result<()> {
    let (buffer, area) = mapped(4, 131)?;
    let probe = Probe::open()?;
    probe.pin(buffer.as_fd(), 2 * HUGE as u64)?;
    for (offset, len) in [(0, 4), (2, 1), (1, 2), (2, 2)] {
        let answer = buffer.punch((offset * HUGE) as u64, (len * HUGE) as u64);
        expect_refusal(answer, libc::EBUSY)?;
        unchanged(&buffer, &area, 4, 131)?;
    }
    expect_refusal(buffer.truncate(HUGE as u64), libc::EBUSY)?;
    expect_refusal(buffer.truncate(0), libc::EBUSY)?;
    unchanged(&buffer, &area, 4, 131)?;
    // What is not pinned goes.
    buffer.punch(0, 2 * HUGE as u64)?;
    area.expect_zeroes(0..2 * HUGE)?;
    probe.unpin(buffer.as_fd(), 2 * HUGE as u64)?;
    buffer.punch(0, 4 * HUGE as u64)?;
    area.expect_zeroes(area.all())
}

fn a_sealed_buffer_is_not_punched() -> Result<()> {
    let (buffer, area) = mapped(3, 132)?;
    buffer.seal()?;
    buffer.seal()?;
    for _ in 0..2 {
        expect_refusal(buffer.punch(0, HUGE as u64), libc::EPERM)?;
        expect_refusal(buffer.truncate(HUGE as u64), libc::EPERM)?;
        expect_refusal(buffer.truncate((2 * HUGE + 4096) as u64), libc::EPERM)?;
        unchanged(&buffer, &area, 3, 132)?;
        buffer.unseal()?;
    }
    ensure!(buffer.unseal().is_err());
    buffer.punch(0, HUGE as u64)?;
    area.expect_zeroes(0..HUGE)
}

fn bad_ranges_are_refused() -> Result<()> {
    let (buffer, area) = mapped(2, 133)?;
    let huge = HUGE as u64;
    for (offset, len) in [
        (0, 0),
        (1, huge),
        (0, huge - 1),
        (4096, 4096),
        (huge, 2 * huge),
        (2 * huge, huge),
        (1 << 62, huge),
        (u64::MAX - huge + 1, huge),
        (u64::MAX, u64::MAX),
    ] {
        let answer = buffer.punch(offset, len);
        ensure!(answer.is_err(), "{offset:#x}, {len:#x}: {answer:?}");
        unchanged(&buffer, &area, 2, 133)?;
    }
    expect_refusal(buffer.truncate(2 * huge + 1), libc::EFBIG)?;
    expect_refusal(buffer.truncate(u64::MAX), libc::EFBIG)?;
    unchanged(&buffer, &area, 2, 133)
}

fn a_cut_page_that_is_pinned_grows_again_with_zeroes() -> Result<()> {
    let (buffer, area) = mapped(2, 134)?;
    let probe = Probe::open()?;
    probe.pin(buffer.as_fd(), HUGE as u64)?;
    buffer.truncate((HUGE + 4096) as u64)?;
    buffer.truncate(2 * HUGE as u64)?;
    area.expect(0..HUGE + 4096, 134)?;
    area.expect_zeroes(HUGE + 4096..2 * HUGE)?;
    probe.unpin(buffer.as_fd(), HUGE as u64)?;
    drop(sized(HUGE, 0, htlb_user::buffer::Populate::Now)?);
    Ok(())
}
