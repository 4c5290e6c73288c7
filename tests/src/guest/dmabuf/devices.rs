// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a device gets that attaches to a dma-buf, and what it keeps from happening.

use std::os::fd::AsFd;

use anyhow::{ensure, Result};
use htlb_core::{ByteLen, HugeSize, NodePolicy};
use htlb_user::buffer::Populate;
use htlb_user::device::{Account, Device, DeviceBuffer, Export, How};

use super::{buffer, buffer_on, bytes_of, errno, map, pattern, request, runs, scattered, whole};
use super::{BASE, MIB, PAGE};
use crate::dma_buf::{self, Access};
use crate::kmod::importer::{Direction, Importer, View};

/// What a device is given for a range: addresses and lengths.
fn entries(
    device: &Importer,
    buffer: &DeviceBuffer,
    offset: u64,
    len: u64,
) -> Result<Vec<(u64, u64)>> {
    let dma_buf = buffer.export(offset, len, Export::Writable)?;
    let attachment = device.attach(dma_buf.as_fd())?;
    let table = device.map(&attachment, Direction::Bidirectional)?;
    ensure!(table.cpu_entries == table.dma_entries, "{table:?}");
    ensure!(table.bytes == attachment.bytes, "{table:?}");
    let entries = device.entries(&attachment, &table)?;
    device.unmap(&attachment)?;
    device.detach(attachment)?;
    Ok(entries
        .iter()
        .map(|entry| (entry.address, entry.length))
        .collect())
}

pub(super) fn a_device_gets_one_entry_for_each_contiguous_run() -> Result<()> {
    let device = Importer::open()?;
    let (scattered, other) = scattered()?;
    let neighbours = buffer(4 * PAGE, Populate::Now)?;
    for buffer in [&scattered, &neighbours] {
        let expected = runs(buffer, 0, 4 * PAGE)?;
        // The guest has no IOMMU: the device's addresses are the physical ones.
        let found = entries(&device, buffer, 0, 0)?;
        ensure!(found == expected, "{found:x?} is not {expected:x?}");
    }
    drop(other);
    Ok(())
}

pub(super) fn entries_are_as_long_as_the_device_takes() -> Result<()> {
    let buffer = buffer(2 * PAGE, Populate::Now)?;
    let expected = runs(&buffer, 0, 2 * PAGE)?;
    // The last is no whole number of pages, and the first no whole part of a huge page.
    for longest in [3 * MIB, MIB, 64 << 10, BASE, (64 << 10) + 4095] {
        let device = Importer::open()?;
        device.limit(64, u32::try_from(longest)?)?;
        let found = entries(&device, &buffer, 0, 0)?;
        let takes = longest / BASE * BASE;
        let cut: Vec<(u64, u64)> = expected
            .iter()
            .flat_map(|&(first, len)| {
                (0..len.div_ceil(takes))
                    .map(move |part| (first + part * takes, takes.min(len - part * takes)))
            })
            .collect();
        ensure!(
            found == cut,
            "at most {longest}: {found:x?} is not {cut:x?}"
        );
    }
    Ok(())
}

pub(super) fn a_range_is_a_part_of_the_buffers_runs() -> Result<()> {
    let (scattered, _other) = scattered()?;
    let device = Importer::open()?;
    for (offset, len) in [
        (0, BASE),
        (3 * BASE, 5 * BASE),
        (PAGE - BASE, 2 * BASE),
        (PAGE, PAGE),
        (PAGE + 7 * BASE, 2 * PAGE),
    ] {
        let expected = runs(&scattered, offset, len)?;
        let found = entries(&device, &scattered, offset, len)?;
        ensure!(
            found == expected,
            "{len} from {offset}: {found:x?} is not {expected:x?}"
        );
    }
    Ok(())
}

pub(super) fn the_device_the_kernel_and_programs_see_the_same_bytes() -> Result<()> {
    let (buffer, _other) = scattered()?;
    let dma_buf = whole(&buffer)?;
    let len = 4 * PAGE;
    let mut program = map(&dma_buf, 0, len)?;
    let owner = buffer.map(0, usize::try_from(len)?, How::READ)?;
    let device = Importer::open()?;
    let attachment = device.attach(dma_buf.as_fd())?;
    device.map(&attachment, Direction::Bidirectional)?;
    device.vmap(&attachment)?;
    let mut seen = vec![0; usize::try_from(len)?];

    device.select(&attachment, View::Device)?;
    ensure!(device.write_at(&pattern(1, len), 0)? == seen.len());
    dma_buf::begin_cpu_access(dma_buf.as_fd(), Access::ReadWrite)?;
    ensure!(
        bytes_of(&program, 0, seen.len())? == pattern(1, len),
        "through the dma-buf"
    );
    ensure!(
        bytes_of(&owner, 0, seen.len())? == pattern(1, len),
        "through the buffer"
    );
    device.select(&attachment, View::Vmap)?;
    ensure!(device.read_at(&mut seen, 0)? == seen.len());
    ensure!(
        seen == pattern(1, len),
        "the kernel sees what the device wrote"
    );
    ensure!(device.write_at(&pattern(2, len), 0)? == seen.len());
    ensure!(
        bytes_of(&program, 0, seen.len())? == pattern(2, len),
        "what the kernel wrote"
    );
    program.write_at(0, &pattern(3, len))?;
    dma_buf::end_cpu_access(dma_buf.as_fd(), Access::ReadWrite)?;
    device.select(&attachment, View::Device)?;
    ensure!(device.read_at(&mut seen, 0)? == seen.len());
    ensure!(
        seen == pattern(3, len),
        "the device sees what a program wrote"
    );
    device.vunmap(&attachment)?;
    // What was taken down can be put up again.
    device.vmap(&attachment)?;
    device.select(&attachment, View::Vmap)?;
    ensure!(device.read_at(&mut seen, 0)? == seen.len());
    ensure!(
        seen == pattern(3, len),
        "the kernel sees what a program wrote"
    );
    Ok(())
}

pub(super) fn access_by_programs_is_announced_with_any_number_of_devices() -> Result<()> {
    let buffer = buffer(PAGE, Populate::Now)?;
    let dma_buf = whole(&buffer)?;
    let devices = [Importer::open()?, Importer::open()?];
    let mut attachments = Vec::new();
    for attached in 0..=devices.len() {
        for access in [Access::Read, Access::Write, Access::ReadWrite] {
            dma_buf::begin_cpu_access(dma_buf.as_fd(), access)?;
            dma_buf::end_cpu_access(dma_buf.as_fd(), access)?;
        }
        if let Some(device) = devices.get(attached) {
            let attachment = device.attach(dma_buf.as_fd())?;
            // One of them only reads, the other only writes.
            let directions = [Direction::ToDevice, Direction::FromDevice];
            let direction = directions[attached];
            device.map(&attachment, direction)?;
            for direction in directions {
                device.begin_cpu_access(&attachment, direction)?;
                device.end_cpu_access(&attachment, direction)?;
            }
            attachments.push(attachment);
        }
    }
    // While one is attached but does not have it mapped.
    devices[0].unmap(&attachments[0])?;
    dma_buf::begin_cpu_access(dma_buf.as_fd(), Access::ReadWrite)?;
    dma_buf::end_cpu_access(dma_buf.as_fd(), Access::ReadWrite)?;
    devices[0].map(&attachments[0], Direction::Bidirectional)?;
    Ok(())
}

pub(super) fn attaching_populates() -> Result<()> {
    let buffer = buffer(4 * PAGE, Populate::Later)?;
    let dma_buf = buffer.export(PAGE, 2 * PAGE, Export::Writable)?;
    ensure!(buffer.info()?.populated == 0, "exporting takes no page");
    let device = Importer::open()?;
    let attachment = device.attach(dma_buf.as_fd())?;
    ensure!(buffer.info()?.populated == 2 * PAGE, "{:?}", buffer.info()?);
    device.map(&attachment, Direction::FromDevice)?;
    device.select(&attachment, View::Device)?;
    let mut seen = vec![1; usize::try_from(2 * PAGE)?];
    ensure!(device.read_at(&mut seen, 0)? == seen.len());
    ensure!(seen.iter().all(|byte| *byte == 0), "the pages are zeroed");
    Ok(())
}

pub(super) fn attaching_fails_where_no_page_is_to_be_had() -> Result<()> {
    let owner = Device::open()?;
    let most = Some(ByteLen::new(PAGE));
    owner.limit(Account::ThisFile, HugeSize::MIB2, most, ByteLen::ZERO)?;
    let request = request(2 * PAGE, NodePolicy::Default)?;
    let buffer = owner.create(&request, request.size(), Populate::Unpromised)?;
    let dma_buf = whole(&buffer)?;
    let device = Importer::open()?;
    let refused = errno(device.attach(dma_buf.as_fd()));
    ensure!(refused == Some(libc::EDQUOT), "{refused:?}");
    // It is sealed no more, and what came before the refusal can go.
    buffer.punch(0, 2 * PAGE)?;
    owner.limit(Account::ThisFile, HugeSize::MIB2, None, ByteLen::ZERO)?;
    device.attach(dma_buf.as_fd())?;
    ensure!(buffer.info()?.populated == 2 * PAGE);
    Ok(())
}

/// The second node lies above 4 GiB.
pub(super) fn a_page_that_the_device_does_not_reach_is_refused() -> Result<()> {
    let (low, high) = (buffer_on(0, PAGE)?, buffer_on(1, PAGE)?);
    let (low_at, high_at) = (low.lookup(0)?.physical, high.lookup(0)?.physical);
    ensure!(
        low_at < 1 << 32 && high_at >= 1 << 32,
        "{low_at:x} and {high_at:x}"
    );
    let device = Importer::open()?;
    device.limit(32, u32::MAX)?;
    let refused = errno(device.attach(whole(&high)?.as_fd()));
    ensure!(refused == Some(libc::EFAULT), "{refused:?}");
    high.punch(0, PAGE)?;
    let found = entries(&device, &low, 0, 0)?;
    ensure!(found == [(low_at, PAGE)], "{found:x?}");

    // To the bit: the last byte counts.
    let bits = u64::BITS - (low_at + PAGE - 1).leading_zeros();
    for (bits, reached) in [(bits, true), (bits - 1, false)] {
        let device = Importer::open()?;
        device.limit(bits, u32::MAX)?;
        let answer = device.attach(whole(&low)?.as_fd());
        ensure!(
            answer.is_ok() == reached,
            "{bits} bits for {low_at:x}: {answer:?}"
        );
    }
    Ok(())
}

pub(super) fn an_attached_buffer_is_sealed() -> Result<()> {
    let bytes = 2 * PAGE;
    let buffer = buffer(bytes, Populate::Now)?;
    // Of one page; but it is the buffer that is sealed.
    let dma_buf = buffer.export(0, PAGE, Export::Writable)?;
    let devices = [Importer::open()?, Importer::open()?];
    let first = devices[0].attach(dma_buf.as_fd())?;
    let second = devices[1].attach(dma_buf.as_fd())?;
    let is_sealed = || -> Result<bool> {
        let refused = [
            buffer.punch(PAGE, PAGE).map_err(|error| error.errno()),
            buffer.truncate(PAGE).map_err(|error| error.errno()),
        ];
        Ok(refused == [Err(libc::EPERM), Err(libc::EPERM)])
    };
    ensure!(is_sealed()?, "two are attached");
    devices[0].detach(first)?;
    ensure!(is_sealed()?, "one is attached");
    devices[1].map(&second, Direction::ToDevice)?;
    devices[1].unmap(&second)?;
    ensure!(is_sealed()?, "one is attached and has nothing mapped");
    devices[1].detach(second)?;
    ensure!(buffer.punch(PAGE, PAGE)?.removed == PAGE);
    ensure!(buffer.truncate(PAGE)?.removed == 0);
    ensure!(buffer.punch(0, PAGE)?.removed == PAGE);
    Ok(())
}

pub(super) fn what_a_truncate_took_cannot_be_attached_to() -> Result<()> {
    let buffer = buffer(2 * PAGE, Populate::Now)?;
    let (all, second) = (
        whole(&buffer)?,
        buffer.export(PAGE, PAGE, Export::Writable)?,
    );
    let first = buffer.export(0, PAGE, Export::Writable)?;
    buffer.truncate(PAGE)?;
    let device = Importer::open()?;
    for gone in [&all, &second] {
        let refused = errno(device.attach(gone.as_fd()));
        ensure!(refused == Some(libc::ENXIO), "{refused:?}");
    }
    let attachment = device.attach(first.as_fd())?;
    device.detach(attachment)?;
    // Nothing stays sealed, and what is there again can be attached to.
    buffer.punch(0, PAGE)?;
    buffer.truncate(2 * PAGE)?;
    device.attach(all.as_fd())?;
    ensure!(buffer.info()?.populated == 2 * PAGE);
    Ok(())
}
