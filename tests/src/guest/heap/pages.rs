// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which pages an allocation is made of: how many, how large, where, and what there is instead of too many.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use htlb_core::HugeSize;
use htlb_user::device::{Device, How, Mapping};
use rustix::fs::{seek, SeekFrom};

use super::super::rest;
use super::{allocate, entries, errno, map, BASE, DMA32, GIANT, GIB, HEAP, PAGE, WRITABLE};
use crate::kmod::importer::Importer;
use crate::kmod::leaves::{self, Leaves};

pub(super) fn a_size_is_rounded_up_to_base_pages() -> Result<()> {
    let device = Device::open()?;
    for (len, is, pages) in [
        (1, BASE, 1),
        (BASE, BASE, 1),
        (BASE + 1, 2 * BASE, 1),
        (PAGE - 1, PAGE, 1),
        (PAGE + 1, PAGE + BASE, 2),
        (3 * PAGE, 3 * PAGE, 3),
    ] {
        let free = device.stats(HugeSize::MIB2, None)?.free;
        let dma_buf = allocate(HEAP, len, WRITABLE)?;
        ensure!(seek(&dma_buf, SeekFrom::End(0))? == is, "{len} bytes");
        let taken = free - device.stats(HugeSize::MIB2, None)?.free;
        ensure!(taken == pages * PAGE, "{len} bytes took {taken}");
        drop(map(&dma_buf, is, BASE)?);
        let beyond = Mapping::new(dma_buf.as_fd(), is, 4096, How::READ, 4096);
        ensure!(errno(beyond) == Some(libc::EINVAL), "{len} bytes");
        drop(dma_buf);
        rest::wait()?;
    }
    Ok(())
}

pub(super) fn the_pages_are_huge_for_programs_and_devices() -> Result<()> {
    let dma_buf = allocate(HEAP, 4 * PAGE, WRITABLE)?;
    let mut mapping = map(&dma_buf, 4 * PAGE, PAGE)?;
    for page in 0..4 {
        mapping.write_at(page * usize::try_from(PAGE)?, &[1])?;
    }
    let found = leaves::count(mapping.address(), mapping.len())?;
    let huge = Leaves {
        pmd: 4,
        ..Leaves::default()
    };
    ensure!(found == huge, "{found:?}");
    let device = Importer::open()?;
    for entry in entries(&device, &dma_buf)? {
        ensure!(
            entry.address % PAGE == 0 && entry.length % PAGE == 0,
            "{entry:x?}"
        );
    }
    Ok(())
}

/// Keeps this thread on one processor.
fn run_on(processor: usize) -> Result<()> {
    // SAFETY: an empty set is all zeroes.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the machine has fewer processors than the set has bits.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the kernel reads the set, whose size is told.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    ensure!(done == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// The second processor's memory lies above 4 GiB, and is what it is given first.
pub(super) fn a_32_bit_device_can_use_all_of_its_heap() -> Result<()> {
    run_on(1)?;
    let device = Importer::open()?;
    let any = allocate(HEAP, 2 * PAGE, WRITABLE)?;
    let found = entries(&device, &any)?;
    ensure!(
        found.iter().any(|entry| entry.address >= 1 << 32),
        "all are low: {found:x?}"
    );
    let narrow = Importer::open()?;
    narrow.limit(32, u32::MAX)?;
    ensure!(errno(narrow.attach(any.as_fd())) == Some(libc::EFAULT));

    let low = allocate(DMA32, 16 * PAGE, WRITABLE)?;
    let found = entries(&narrow, &low)?;
    ensure!(found.iter().map(|entry| entry.length).sum::<u64>() == 16 * PAGE);
    for entry in found {
        ensure!(entry.address + entry.length <= 1 << 32, "{entry:x?}");
    }
    Ok(())
}

/// A GiB in one piece is not always to be had.
pub(super) fn the_largest_pages_or_an_error() -> Result<()> {
    match allocate(GIANT, GIB, WRITABLE) {
        Ok(dma_buf) => {
            let mapping = map(&dma_buf, GIB, GIB)?;
            ensure!(mapping.byte(usize::try_from(GIB)? - 1)? == 0);
            let found = leaves::count(mapping.address(), mapping.len())?;
            let huge = Leaves {
                pud: 1,
                ..Leaves::default()
            };
            ensure!(found == huge, "{found:?}");
            let found = entries(&Importer::open()?, &dma_buf)?;
            ensure!(
                found.len() == 1 && found.iter().all(|entry| entry.length == GIB),
                "{found:x?}"
            );
        }
        Err(error) => ensure!(error.raw_os_error() == Some(libc::ENOMEM), "{error}"),
    }
    rest::wait()
}

pub(super) fn what_is_too_much_leaves_nothing_behind() -> Result<()> {
    for heap in [HEAP, DMA32, GIANT] {
        // The machine has the least of these, but not to give away.
        for len in [3 << 30, 1 << 40, 1 << 50] {
            let began = Instant::now();
            let refused = errno(allocate(heap, len, WRITABLE));
            ensure!(
                refused == Some(libc::ENOMEM),
                "{heap}, {len} bytes: {refused:?}"
            );
            // Fetching all that there is before saying no takes many times as long, and everybody's memory.
            let took = began.elapsed();
            ensure!(
                heap == GIANT || took < Duration::from_secs(2),
                "{heap}, {len} bytes: refused after {took:?}"
            );
        }
    }
    rest::wait()
}
