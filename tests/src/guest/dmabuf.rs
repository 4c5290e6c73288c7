// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A range of a buffer as a dma-buf: what may be exported, what devices get, what programs see, and who keeps whom.

mod devices;
mod lives;
mod mappings;
mod ranges;

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use htlb_core::{ByteLen, HugeSize, NodeId, NodePolicy, Request};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer, Export, How, Mapping};

use super::{cases, Group, Module};
use devices::*;
use lives::*;
use mappings::*;
use ranges::*;

pub(super) const GROUP: Group = Group {
    name: "dmabuf",
    modules: &[
        Module::new("htlb", "pages_2m=16"),
        Module::new("htlb_importer", ""),
        Module::new("htlb_leaves", ""),
    ],
    cases: || {
        cases![
            a_device_gets_one_entry_for_each_contiguous_run,
            entries_are_as_long_as_the_device_takes,
            a_range_is_a_part_of_the_buffers_runs,
            the_device_the_kernel_and_programs_see_the_same_bytes,
            access_by_programs_is_announced_with_any_number_of_devices,
            attaching_populates,
            attaching_fails_where_no_page_is_to_be_had,
            a_page_that_the_device_does_not_reach_is_refused,
            an_attached_buffer_is_sealed,
            what_a_truncate_took_cannot_be_attached_to,
            a_mapping_is_made_of_huge_entries,
            a_mapping_begins_where_the_range_does,
            a_punch_revokes_mappings_of_the_dma_buf,
            a_private_copy_stays_private,
            a_reader_cannot_map_for_writing,
            a_mapping_ends_with_the_range,
            a_mapping_shows_no_other_pages,
            a_page_comes_with_the_touch,
            ranges_are_checked,
            flags_are_checked,
            a_descriptor_that_cannot_be_told_is_not_left,
            a_descriptor_is_closed_on_exec_if_asked,
            the_kernel_names_the_exporter,
            the_dma_buf_outlives_the_buffers_descriptor,
            the_mapping_outlives_the_dma_buf,
            the_module_stays_for_a_dma_buf,
            attach_punch_and_touch_at_the_same_time.within(120),
        ]
    },
};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 2 * MIB;
const BASE: u64 = 4096;

fn request(bytes: u64, nodes: NodePolicy) -> Result<Request> {
    let builder = Request::builder(ByteLen::new(bytes)).page_size(HugeSize::MIB2);
    Ok(builder.nodes(nodes).strict().build()?)
}

/// So many bytes of 2 MiB pages.
fn buffer(bytes: u64, populate: Populate) -> Result<DeviceBuffer> {
    let request = request(bytes, NodePolicy::Default)?;
    let device = Device::open()?;
    Ok(device.create(&request, ByteLen::new(bytes), populate)?)
}

/// The same, all on one node.
fn buffer_on(node: u32, bytes: u64) -> Result<DeviceBuffer> {
    let request = request(bytes, NodePolicy::Bind(NodeId::new(node)?.mask()))?;
    let device = Device::open()?;
    Ok(device.create(&request, ByteLen::new(bytes), Populate::Now)?)
}

/// A dma-buf of all of a buffer.
fn whole(buffer: &DeviceBuffer) -> Result<OwnedFd> {
    Ok(buffer.export(0, 0, Export::Writable)?)
}

/// Maps bytes of a dma-buf, where its pages can have huge entries if the range begins with one.
fn map(dma_buf: &OwnedFd, offset: u64, len: u64) -> Result<Mapping> {
    map_as(dma_buf, offset, len, How::SHARED)
}

fn map_as(dma_buf: &OwnedFd, offset: u64, len: u64, how: How) -> Result<Mapping> {
    let len = usize::try_from(len)?;
    Mapping::new(dma_buf.as_fd(), offset, len, how, PAGE as usize).context("mapping a dma-buf")
}

fn bytes_of(mapping: &Mapping, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    mapping.read_at(usize::try_from(offset)?, &mut bytes)?;
    Ok(bytes)
}

/// Bytes that differ from page to page, from the `seed`th on.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    // CAST: the low byte is what is meant.
    (0..len)
        .map(|at| (seed + (at >> 9) * 7 + at) as u8)
        .collect()
}

/// The physically contiguous runs of a range, each an address and a length.
fn runs(buffer: &DeviceBuffer, offset: u64, len: u64) -> Result<Vec<(u64, u64)>> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let next = ((at / PAGE + 1) * PAGE).min(end);
        let physical = buffer.lookup(at)?.physical;
        match runs.last_mut() {
            Some((first, len)) if *first + *len == physical => *len += next - at,
            _ => runs.push((physical, next - at)),
        }
        at = next;
    }
    Ok(runs)
}

/// Buffers of four pages that are not neighbours: between them lie those of the other. And the other.
fn scattered() -> Result<(DeviceBuffer, DeviceBuffer)> {
    let other = buffer(8 * PAGE, Populate::Now)?;
    for hole in [1, 3, 5, 7] {
        other.punch(hole * PAGE, PAGE)?;
    }
    let scattered = buffer(4 * PAGE, Populate::Now)?;
    let found = runs(&scattered, 0, 4 * PAGE)?;
    ensure!(
        found.len() > 1,
        "what was to be scattered is one run: {found:x?}"
    );
    Ok((scattered, other))
}

/// The number that a refusal has.
fn errno<T: std::fmt::Debug>(answer: std::io::Result<T>) -> Option<i32> {
    answer.expect_err("it is refused").raw_os_error()
}
