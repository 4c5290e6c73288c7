// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What can be done with an imported buffer, and what only with one of our own.

use std::os::fd::AsFd;

use anyhow::{ensure, Result};
use htlb_user::device::{Device, Export};

use super::super::span::{in_child, Span, HUGE};
use super::{donated, donor, import_all, number, LEN, PAGES};
use crate::kmod::importer::{Direction, Importer, View};

pub(super) fn pages_cannot_be_given_back_one_by_one() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    view.stamp(13);
    let huge = HUGE as u64;
    ensure!(number(buffer.punch(0, huge)) == libc::EPERM);
    ensure!(number(buffer.truncate(huge)) == libc::EPERM);
    ensure!(number(buffer.truncate(LEN as u64 + huge)) == libc::EFBIG);
    ensure!(buffer.populate(0, LEN as u64)? == 0, "all of it is there");
    ensure!(
        buffer.reserve(0, LEN as u64)? == 0,
        "nothing is left to promise"
    );
    buffer.seal()?;
    buffer.unseal()?;
    ensure!(buffer.size()? == LEN as u64 && view.has_stamp(13, LEN));
    Ok(())
}

pub(super) fn private_copies_and_pins_are_refused() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let refused = Span::private(&buffer, LEN).expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    let view = Span::shared(&buffer, LEN)?;
    view.write(0, 14);
    let refused = view.hold().expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EFAULT), "{refused}");
    // The donor's own mapping has what the buffer's lacks.
    let donor = Span::shared(&file, LEN)?;
    ensure!(donor.word(0) == 14);
    drop(donor.hold()?);
    Ok(())
}

pub(super) fn two_imports_share_a_file() -> Result<()> {
    let (pool, file) = donor()?;
    let device = Device::open()?;
    let (first, second) = (import_all(&device, &file)?, import_all(&device, &file)?);
    ensure!(
        donated(&device)? == 2 * LEN as u64,
        "each counts what it holds"
    );
    let (one, two) = (Span::shared(&first, LEN)?, Span::shared(&second, LEN)?);
    one.stamp(15);
    ensure!(two.has_stamp(15, LEN));
    drop((one, first));
    ensure!(two.has_stamp(15, LEN) && donated(&device)? == LEN as u64);
    drop(file);
    ensure!(two.has_stamp(15, LEN) && pool.free()? == PAGES);
    drop((two, second));
    ensure!(pool.free()? == 2 * PAGES && donated(&device)? == 0);
    Ok(())
}

pub(super) fn a_mapping_is_cut_and_inherited() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    view.stamp(16);
    // Half of the last page goes: what is left of it is mapped by smaller entries.
    view.unmap(LEN - HUGE / 2, HUGE / 2)?;
    ensure!(
        view.has_stamp(16, LEN - HUGE / 2),
        "what is left of a cut page"
    );
    let seen = in_child(|| {
        view.write(8, 17);
        view.has_stamp(16, LEN - HUGE / 2)
    })?;
    ensure!(seen && view.word(8) == 17, "a child has the same pages");
    let refused = view
        .advise(0, LEN - HUGE, libc::MADV_DONTNEED)
        .expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    ensure!(view.word(8) == 17 && view.word(0) == 16);
    Ok(())
}

pub(super) fn an_import_is_exported() -> Result<()> {
    let (pool, file) = donor()?;
    Span::shared(&file, LEN)?.stamp(18);
    let buffer = import_all(&Device::open()?, &file)?;
    let dma_buf = buffer.export(0, 0, Export::Writable)?;
    drop((buffer, file));
    let importer = Importer::open()?;
    let attachment = importer.attach(dma_buf.as_fd())?;
    let table = importer.map(&attachment, Direction::Bidirectional)?;
    ensure!(table.bytes == LEN as u64, "{table:?}");
    importer.select(&attachment, View::Device)?;
    let mut word = [0; 8];
    for at in (0..LEN as u64).step_by(HUGE / 4) {
        ensure!(importer.read_at(&mut word, at)? == 8);
        ensure!(u64::from_ne_bytes(word) == 18 ^ at, "byte {at}");
    }
    importer.unmap(&attachment)?;
    importer.detach(attachment)?;
    let view = Span::shared(&dma_buf, LEN)?;
    ensure!(view.has_stamp(18, LEN), "by way of the dma-buf");
    drop((view, dma_buf));
    // The last reference to a dma-buf is dropped a moment after its descriptor.
    for _ in 0..50 {
        if pool.free()? == 2 * PAGES {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    anyhow::bail!("{} are free", pool.free()?)
}
