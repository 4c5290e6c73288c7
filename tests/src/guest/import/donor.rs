// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the donor does to its file while a buffer has the pages.

use anyhow::{ensure, Context, Result};
use htlb_user::device::Device;
use rustix::fs::{fallocate, fcntl_add_seals, ftruncate, FallocateFlags, SealFlags};
use rustix::io::Errno;

use super::super::span::{Span, HUGE};
use super::{donor, import_all, LEN, PAGES};

pub(super) fn the_donor_shrinks_the_file() -> Result<()> {
    let (pool, file) = donor()?;
    Span::shared(&file, LEN)?.stamp(5);
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    view.write(0, 5);
    ftruncate(&file, HUGE as u64)?;
    ensure!(view.has_stamp(5, LEN), "the buffer lost what it held");
    ensure!(
        pool.free()? == PAGES,
        "pages that the buffer has are not free"
    );
    // A page that is touched for the first time after the donor lost it.
    let second = Span::shared(&buffer, LEN)?;
    ensure!(second.has_stamp(5, LEN));
    ftruncate(&file, LEN as u64)?;
    let donor = Span::shared(&file, LEN)?;
    ensure!(donor.word(HUGE) == 0, "a new page of the donor's is zero");
    donor.write(HUGE, 6);
    ensure!(
        view.has_stamp(5, LEN),
        "the donor's new page is not the buffer's"
    );
    drop((donor, view, second, buffer));
    ensure!(pool.free()? == 2 * PAGES - 2, "{} are free", pool.free()?);
    drop(file);
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}

pub(super) fn the_donor_punches_the_file() -> Result<()> {
    let (pool, file) = donor()?;
    let donor = Span::shared(&file, LEN)?;
    donor.stamp(7);
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, HUGE as u64, HUGE as u64)?;
    ensure!(view.has_stamp(7, LEN), "the buffer lost what it held");
    ensure!(donor.word(HUGE) == 0, "the donor has a new page there");
    donor.write(HUGE + 8, 8);
    view.write(HUGE + 16, 9);
    ensure!(
        view.word(HUGE + 8) == 0 && donor.word(HUGE + 16) == 0,
        "they share it still"
    );
    donor.write(8, 10);
    ensure!(view.word(8) == 10, "the other pages are shared");
    drop((donor, view, buffer, file));
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}

pub(super) fn the_donor_cannot_forbid_writing_meanwhile() -> Result<()> {
    let (pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    ensure!(
        fcntl_add_seals(&file, SealFlags::WRITE) == Err(Errno::BUSY),
        "the buffer can be written to"
    );
    let view = Span::shared(&buffer, LEN)?;
    view.stamp(11);
    drop((view, buffer));
    fcntl_add_seals(&file, SealFlags::WRITE).context("after the buffer's end")?;
    drop(file);
    ensure!(pool.free()? == 2 * PAGES);
    Ok(())
}

pub(super) fn the_donor_goes() -> Result<()> {
    let (pool, file) = donor()?;
    Span::shared(&file, LEN)?.stamp(12);
    let device = Device::open()?;
    let buffer = import_all(&device, &file)?;
    drop((file, device));
    let view = Span::shared(&buffer, LEN)?;
    drop(buffer);
    ensure!(view.has_stamp(12, LEN));
    ensure!(pool.free()? == PAGES);
    drop(view);
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    Ok(())
}
