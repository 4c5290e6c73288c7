// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The instruments themselves, on what the kernel has: other groups' verdicts are worth what these are.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use htlb_user::device::{How, Mapping};
use rustix::fs::MemfdFlags;

use super::{cases, is_debug_kernel, Group, Module};
use crate::dma_buf::{self, Access};
use crate::kmod::importer::{Direction, Importer, View};
use crate::kmod::leaves;

pub(super) const GROUP: Group = Group {
    name: "importer",
    modules: &[
        Module::new("htlb_importer", ""),
        Module::new("htlb_leaves", ""),
    ],
    cases: || {
        cases![
            a_table_covers_the_buffer,
            the_device_the_kernel_and_a_program_see_the_same_bytes,
            a_view_ends_at_the_end_of_the_buffer,
            what_is_not_mapped_is_not_read,
            what_is_no_dma_buf_is_refused,
            a_device_has_its_own_attachments,
            limits_come_before_attachments,
            closing_the_device_detaches_everything,
            leaves_are_counted_by_level,
        ]
    },
};

const LEN: u64 = 1 << 20;

/// Both of the kernel's own exporters.
fn buffers() -> Result<[OwnedFd; 2]> {
    let memfd = dma_buf::memfd(LEN, MemfdFlags::empty()).context("making a memfd")?;
    let udmabuf = dma_buf::udmabuf(memfd.as_fd(), LEN).context("exporting a memfd")?;
    let heap = dma_buf::from_heap("/dev/dma_heap/system", LEN).context("asking the heap")?;
    Ok([udmabuf, heap])
}

fn map(buffer: &OwnedFd) -> Result<Mapping> {
    // CAST: 1 MiB.
    Mapping::new(buffer.as_fd(), 0, LEN as usize, How::SHARED, 4096).context("mapping a dma-buf")
}

fn pattern(seed: u8) -> Vec<u8> {
    // CAST: the low byte is what is meant.
    (0..LEN).map(|at| (at >> 7) as u8 ^ seed).collect()
}

fn errno<T: std::fmt::Debug>(answer: std::io::Result<T>) -> Option<i32> {
    answer.expect_err("it is refused").raw_os_error()
}

fn a_table_covers_the_buffer() -> Result<()> {
    for buffer in buffers()? {
        let device = Importer::open()?;
        let attachment = device.attach(buffer.as_fd())?;
        ensure!(attachment.bytes == LEN, "{attachment:?}");
        let table = device.map(&attachment, Direction::FromDevice)?;
        ensure!(table.bytes == LEN && table.dma_entries > 0, "{table:?}");
        let entries = device.entries(&attachment, &table)?;
        ensure!(entries.len() == table.dma_entries as usize);
        ensure!(entries.iter().map(|entry| entry.length).sum::<u64>() == LEN);
        ensure!(entries.first().map(|entry| entry.address) == Some(table.first));
        let mut places: Vec<(u64, u64)> = entries
            .iter()
            .map(|entry| (entry.address, entry.length))
            .collect();
        places.sort_unstable();
        let apart = |pair: &[(u64, u64)]| pair[0].0 + pair[0].1 <= pair[1].0;
        ensure!(places.windows(2).all(apart), "they overlap: {places:x?}");
        ensure!(errno(device.entry(&attachment, table.dma_entries)) == Some(libc::ERANGE));
        device.unmap(&attachment)?;
        device.detach(attachment)?;
    }
    Ok(())
}

fn the_device_the_kernel_and_a_program_see_the_same_bytes() -> Result<()> {
    // When a processor is to look, the kernel's udmabuf maps the buffer for a device of its own, which never said how long
    // its segments may be: the debug kernel finds fault with that. This machine's memory is the same for all anyway.
    for (buffer, synchronises) in buffers()?.into_iter().zip([!is_debug_kernel(), true]) {
        let mut program = map(&buffer)?;
        let device = Importer::open()?;
        let attachment = device.attach(buffer.as_fd())?;
        device.map(&attachment, Direction::Bidirectional)?;
        device.vmap(&attachment)?;
        let mut seen = vec![0; LEN as usize];

        device.select(&attachment, View::Device)?;
        ensure!(device.write_at(&pattern(1), 0)? == seen.len());
        if synchronises {
            device.begin_cpu_access(&attachment, Direction::Bidirectional)?;
        }
        program.read_at(0, &mut seen)?;
        ensure!(seen == pattern(1), "a program sees what the device wrote");
        device.select(&attachment, View::Vmap)?;
        ensure!(device.read_at(&mut seen, 0)? == seen.len());
        ensure!(seen == pattern(1), "the kernel sees what the device wrote");
        ensure!(device.write_at(&pattern(2), 0)? == seen.len());
        program.read_at(0, &mut seen)?;
        ensure!(seen == pattern(2), "a program sees what the kernel wrote");
        if synchronises {
            device.end_cpu_access(&attachment, Direction::Bidirectional)?;
            dma_buf::begin_cpu_access(buffer.as_fd(), Access::ReadWrite)?;
        }
        program.write_at(0, &pattern(3))?;
        if synchronises {
            dma_buf::end_cpu_access(buffer.as_fd(), Access::ReadWrite)?;
        }
        device.select(&attachment, View::Device)?;
        ensure!(device.read_at(&mut seen, 0)? == seen.len());
        ensure!(seen == pattern(3), "the device sees what a program wrote");
        device.vunmap(&attachment)?;
        device.unmap(&attachment)?;
        device.detach(attachment)?;
    }
    Ok(())
}

fn a_view_ends_at_the_end_of_the_buffer() -> Result<()> {
    for buffer in buffers()? {
        let device = Importer::open()?;
        let attachment = device.attach(buffer.as_fd())?;
        device.map(&attachment, Direction::Bidirectional)?;
        device.select(&attachment, View::Device)?;
        let mut bytes = [0; 100];
        ensure!(device.read_at(&mut bytes, LEN - 7)? == 7);
        ensure!(device.write_at(&bytes, LEN - 7)? == 7);
        ensure!(device.read_at(&mut bytes, LEN)? == 0);
        ensure!(device.read_at(&mut bytes, 1 << 40)? == 0);
    }
    Ok(())
}

fn what_is_not_mapped_is_not_read() -> Result<()> {
    for buffer in buffers()? {
        let device = Importer::open()?;
        let mut byte = [0];
        ensure!(errno(device.read_at(&mut byte, 0)) == Some(libc::ENXIO));
        let attachment = device.attach(buffer.as_fd())?;
        for view in [View::Device, View::Vmap] {
            ensure!(errno(device.select(&attachment, view)) == Some(libc::ENXIO));
        }
        ensure!(errno(device.entry(&attachment, 0)) == Some(libc::ENXIO));
        ensure!(errno(device.unmap(&attachment)) == Some(libc::ENXIO));
        ensure!(errno(device.vunmap(&attachment)) == Some(libc::ENXIO));

        device.map(&attachment, Direction::ToDevice)?;
        let again = device.map(&attachment, Direction::ToDevice);
        ensure!(errno(again) == Some(libc::EBUSY));
        device.select(&attachment, View::Device)?;
        ensure!(device.read_at(&mut byte, 0)? == 1);
        device.unmap(&attachment)?;
        ensure!(errno(device.read_at(&mut byte, 0)) == Some(libc::ENXIO));
        device.vmap(&attachment)?;
        ensure!(errno(device.vmap(&attachment)) == Some(libc::EBUSY));
        device.select(&attachment, View::Vmap)?;
        device.detach(attachment)?;
        ensure!(errno(device.read_at(&mut byte, 0)) == Some(libc::ENXIO));
    }
    Ok(())
}

fn what_is_no_dma_buf_is_refused() -> Result<()> {
    let device = Importer::open()?;
    let memfd = dma_buf::memfd(LEN, MemfdFlags::empty())?;
    ensure!(errno(device.attach(memfd.as_fd())) == Some(libc::EINVAL));
    Ok(())
}

fn a_device_has_its_own_attachments() -> Result<()> {
    let [buffer, _] = buffers()?;
    let (one, other) = (Importer::open()?, Importer::open()?);
    let first = one.attach(buffer.as_fd())?;
    ensure!(errno(other.map(&first, Direction::ToDevice)) == Some(libc::ENOENT));
    ensure!(errno(other.vmap(&first)) == Some(libc::ENOENT));
    let second = other.attach(buffer.as_fd())?;
    let tables = [
        one.map(&first, Direction::ToDevice)?,
        other.map(&second, Direction::ToDevice)?,
    ];
    ensure!(tables[0] == tables[1], "{tables:?}");
    Ok(())
}

fn limits_come_before_attachments() -> Result<()> {
    let [buffer, _] = buffers()?;
    let device = Importer::open()?;
    for (bits, segment) in [(0, u32::MAX), (65, u32::MAX), (64, 4095)] {
        ensure!(errno(device.limit(bits, segment)) == Some(libc::EINVAL));
    }
    device.limit(64, 1 << 16)?;
    let attachment = device.attach(buffer.as_fd())?;
    ensure!(errno(device.limit(64, u32::MAX)) == Some(libc::EBUSY));
    device.detach(attachment)?;
    device.limit(64, u32::MAX)?;
    Ok(())
}

/// How often the kernel's list of dma-bufs names a device of ours.
fn attached_devices() -> Result<usize> {
    let list = "/sys/kernel/debug/dma_buf/bufinfo";
    let list = fs::read_to_string(list).with_context(|| format!("reading {list}"))?;
    Ok(list.matches("htlb_importer").count())
}

fn closing_the_device_detaches_everything() -> Result<()> {
    let buffers = buffers()?;
    let before = attached_devices()?;
    let device = Importer::open()?;
    for buffer in &buffers {
        let attachment = device.attach(buffer.as_fd())?;
        device.map(&attachment, Direction::Bidirectional)?;
        device.vmap(&attachment)?;
        device.select(&attachment, View::Vmap)?;
    }
    ensure!(attached_devices()? == before + 2);
    drop(device);
    ensure!(attached_devices()? == before);
    for buffer in &buffers {
        map(buffer)?.write_at(0, b"it is still there")?;
    }
    Ok(())
}

fn leaves_are_counted_by_level() -> Result<()> {
    const HUGE: usize = 2 << 20;
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    let memfd = dma_buf::memfd(HUGE as u64, MemfdFlags::empty())?;
    let mut mapping = Mapping::new(memfd.as_fd(), 0, HUGE, How::SHARED, HUGE)?;
    let count = |from: usize, len: usize, mapping: &Mapping| {
        leaves::count(mapping.address() + from, len).context("counting")
    };
    ensure!(count(0, HUGE, &mapping)?.total() == 0);
    for page in [0, 7, 511] {
        mapping.write_at(page * 4096, &[1])?;
    }
    let found = count(0, HUGE, &mapping)?;
    ensure!((found.pud, found.pmd, found.pte) == (0, 0, 3), "{found:?}");
    ensure!(count(4096, 7 * 4096, &mapping)?.pte == 1);
    ensure!(count(8 * 4096, 503 * 4096, &mapping)?.total() == 0);
    ensure!(errno(leaves::count(usize::MAX, 4096)) == Some(libc::EINVAL));

    fs::write(POOL, "1").context("making a huge page")?;
    let memfd = dma_buf::memfd(HUGE as u64, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
    let mut mapping = Mapping::new(memfd.as_fd(), 0, HUGE, How::SHARED, HUGE)?;
    mapping.write_at(0, &[1])?;
    let found = count(0, HUGE, &mapping)?;
    drop((mapping, memfd));
    fs::write(POOL, "0").context("giving the huge page back")?;
    ensure!((found.pud, found.pmd, found.pte) == (0, 1, 0), "{found:?}");

    let heap = dma_buf::from_heap("/dev/dma_heap/system", HUGE as u64)?;
    let mapping = Mapping::new(heap.as_fd(), 0, HUGE, How::READ, HUGE)?;
    let found = count(0, HUGE, &mapping)?;
    ensure!(
        (found.pud, found.pmd, found.pte) == (0, 0, 512),
        "a mapping that smaps does not see: {found:?}"
    );
    Ok(())
}
