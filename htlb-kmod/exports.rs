// SPDX-License-Identifier: GPL-2.0-only
//! What drivers may ask, as `include/linux/htlb.h` says it: their numbers become the core's types here.
//!
//! What a driver makes is charged to the root account: limits are between programs and the administrator.

use core::cell::Cell;

use htlb_core::driver::Content;
use htlb_core::page_map::{Located, PagePin};
use htlb_core::uapi::{Create, CreateFlags};
use htlb_core::{AddressBits, ByteLen, ByteOffset, ByteRange, Error as Reason, Gfp, NodeId, Request, RequestBuilder};
use kernel::prelude::*;

use crate::accounts::Payer;
use crate::buffer::{DmaBuffer, Populate};
use crate::error::errno;
use crate::ffi::file::BufferFile;
use crate::ffi::published;
use crate::ffi::sg::{Device, Direction, SgTable};
use crate::segments;

/// The flags of `struct htlb_request`, and what a program would say for them.
const FLAGS: [(u32, CreateFlags); 4] = [
    (1 << 0, CreateFlags::STRICT),
    (1 << 1, CreateFlags::CONTIGUOUS),
    (1 << 2, CreateFlags::NORESERVE),
    (1 << 3, CreateFlags::POPULATE),
];

/// What a driver says of the buffer that it wants.
pub(crate) struct Wanted<'a> {
    /// All but the mask and the device, with the flags of `struct htlb_request`.
    pub(crate) record: Create,
    /// Its own mask.
    pub(crate) gfp: Option<Gfp>,
    /// Who is going to use it.
    pub(crate) device: Option<Device<'a>>,
}

fn flags(of_driver: u32) -> Result<CreateFlags, Reason> {
    let mut known = 0;
    let mut flags = CreateFlags::empty();
    for (bit, flag) in FLAGS {
        known |= bit;
        flags.set(flag, of_driver & bit != 0);
    }
    if of_driver & !known == 0 {
        Ok(flags)
    } else {
        Err(Reason::RecordFlags)
    }
}

/// The narrower of what the driver says and what its device says; 0 for neither.
fn narrower(said: u32, device: Option<AddressBits>) -> u32 {
    match device {
        Some(bits) if said == 0 || said > u32::from(bits.raw()) => u32::from(bits.raw()),
        _ => said,
    }
}

fn request(wanted: &Wanted<'_>, flags: CreateFlags) -> Result<Request, Reason> {
    let mut record = Create { flags: flags.bits(), ..wanted.record };
    if let Some(device) = wanted.device {
        record.dma_bits = narrower(record.dma_bits, Some(device.reach()?));
        if let (Create::NODES_DEFAULT, Some(node)) = (record.node_policy, device.node().and_then(known_node)) {
            record.node_policy = Create::NODES_PREFERRED;
            record.nodes = node.mask().bits();
        }
    }
    let request = record.to_request()?;
    match wanted.gfp {
        // Pages of programs stay inside their cpuset; those of drivers go where the mask says.
        Some(gfp) => RequestBuilder::from(request).gfp(gfp).build(),
        None => Ok(request),
    }
}

/// A node that has memory; a device may sit at one that has none.
fn known_node(node: NodeId) -> Option<NodeId> {
    crate::ffi::system::memory_nodes().contains(node).then_some(node)
}

/// A new buffer.
pub(crate) fn create(wanted: &Wanted<'_>) -> Result<BufferFile> {
    let flags = flags(wanted.record.flags).map_err(errno)?;
    let request = request(wanted, flags).map_err(errno)?;
    let populate = if flags.contains(CreateFlags::POPULATE) { Populate::Now } else { Populate::Later };
    let capacity = ByteLen::new(wanted.record.capacity.max(wanted.record.bytes));
    let commitment = Create { flags: flags.bits(), ..wanted.record }.commitment();
    let payer = Payer::root(published::machine()?)?;
    DmaBuffer::create(payer, &request, commitment, capacity, populate, &mut Content::Zeroes)
}

/// A range of bytes, at least one.
pub(crate) fn range(offset: u64, len: u64) -> Result<ByteRange> {
    let range = ByteRange::at(ByteOffset::new(offset), ByteLen::new(len)).map_err(errno)?;
    if range.is_empty() {
        return Err(errno(Reason::RangeEmpty));
    }
    Ok(range)
}

/// A page that a driver is to fill: its first frame, where it begins in the buffer, and how long it is.
pub(crate) struct Blank {
    /// The first frame.
    pub(crate) pfn: u64,
    /// In bytes.
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) len: u64,
}

/// Puts pages where there are none, with what `fill` writes; its errors are the answer as they are.
pub(crate) fn populate(
    buffer: &DmaBuffer,
    range: ByteRange,
    fill: Option<&dyn Fn(&Blank) -> Result<u64>>,
) -> Result {
    let Some(fill) = fill else {
        return buffer.populate(range, &mut Content::Zeroes).map(drop).map_err(errno);
    };
    let said = Cell::new(None);
    let mut produce = |page: &htlb_core::Blank| {
        let blank = Blank { pfn: page.pfn.raw(), offset: page.offset, len: page.size.bytes() };
        fill(&blank).map_err(|error| {
            said.set(Some(error));
            Reason::FillFailed
        })
    };
    let outcome = buffer.populate(range, &mut Content::Producer(&mut produce));
    outcome.map(drop).map_err(|reason| said.get().unwrap_or_else(|| errno(reason)))
}

/// The frame that holds a byte.
pub(crate) fn frame_of(page: Located) -> u64 {
    page.pfn.raw().saturating_add(page.offset_in_page.raw() >> kernel::page::PAGE_SHIFT)
}

/// Gives a pin back that is kept as an offset; false where there was none.
pub(crate) fn unpin(buffer: &DmaBuffer, offset: u64) -> bool {
    let map = buffer.map();
    // The buffer may have been cut inside the page, so that the offset lies beyond its size now.
    let index = map.extents().index_of(ByteOffset::new(offset));
    let pin: Option<PagePin> = index.and_then(|index| map.recall_pin(index));
    pin.map(|pin| map.unpin(pin)).is_some()
}

/// Gives a driver's seal back; false where there was none.
pub(crate) fn unseal(buffer: &DmaBuffer) -> bool {
    let map = buffer.map();
    map.recall_seal().map(|seal| map.unseal(seal)).is_some()
}

/// A range mapped for a device: an entry for each run, cut where the device wants it, the buffer sealed for as long as the table is mapped.
pub(crate) fn sg_map(buffer: &DmaBuffer, device: Device<'_>, range: ByteRange, direction: Direction) -> Result<SgTable> {
    let seal = buffer.seal().map_err(errno)?;
    let whole = buffer.whole_pages(range).map_err(errno);
    let mapped = whole
        .and_then(|whole| populate(buffer, whole, None))
        .and_then(|()| segments::table(buffer, device, range))
        .and_then(|table| table.map(device, direction));
    match mapped {
        Ok(table) => {
            // The seal lives as long as the table, which is C's now: `sg_unmap` recalls it.
            core::mem::forget(seal);
            Ok(table)
        }
        Err(error) => {
            buffer.map().unseal(seal);
            Err(error)
        }
    }
}

/// The end of [`sg_map`].
pub(crate) fn sg_unmap(buffer: &DmaBuffer, device: Device<'_>, table: SgTable, direction: Direction) {
    table.unmap(device, direction);
    if !unseal(buffer) {
        pr_warn!("a table was unmapped that is not of this buffer\n");
    }
}
