// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Whether pages are where the request wants them: asked of the kernel after the fact, never assumed.

use std::collections::BTreeMap;

use htlb_core::{AddressBits, ByteLen, ByteOffset, ByteRange, HugeSize, NodeId, NodeMask};

use super::machine::Machine;
use super::shortage::Why;
use crate::sys::numa::Place;
use crate::sys::pagemap;
use crate::sys::window::{Backing, Fork, Window};

/// How many pages are asked about at once.
const AT_ONCE: u64 = 1 << 16;

/// The bytes of `range` on each node; empty where the kernel does not say.
///
/// # Errors
/// Where a page is on a node outside `required`, or the kernel does not say and it matters.
pub(super) fn nodes(
    machine: &Machine,
    window: &Window,
    range: ByteRange,
    required: Option<NodeMask>,
) -> Result<BTreeMap<NodeId, u64>, Why> {
    let mut found = BTreeMap::new();
    if machine.nodes().count() == 1 {
        // There is no other place.
        found.extend(
            machine
                .nodes()
                .first()
                .map(|node| (node, range.len().raw())),
        );
        return Ok(found);
    }
    let page = window.granule().bytes();
    let (mut unknown, mut elsewhere) = (0_u64, 0_u64);
    for part in pieces(range, AT_ONCE.saturating_mul(page)) {
        for place in window
            .nodes(part)
            .map_err(|error| Why::new(error.to_string()))?
        {
            match place {
                Place::On(node) => {
                    let outside = required.is_some_and(|required| !required.contains(node));
                    elsewhere += u64::from(outside);
                    *found.entry(node).or_insert(0) += page;
                }
                Place::Absent | Place::Unknown => unknown += 1,
            }
        }
    }
    match required {
        Some(required) if elsewhere > 0 => Err(Why::new(format!(
            "{elsewhere} pages came from another node than {required}"
        ))),
        Some(required) if unknown > 0 => Err(Why::new(format!(
            "the kernel does not say whether {unknown} pages are on node {required} (move_pages is filtered)"
        ))),
        _ if unknown > 0 => Ok(BTreeMap::new()),
        _ => Ok(found),
    }
}

/// Checks that the last byte of every page is below the mask.
pub(super) fn dma(
    window: &Window,
    range: ByteRange,
    size: HugeSize,
    bits: AddressBits,
) -> Result<(), Why> {
    if bits == AddressBits::ALL {
        return Ok(());
    }
    let (mut all, mut above) = (0_u64, 0_u64);
    for part in pieces(range, AT_ONCE.saturating_mul(size.bytes())) {
        for entry in pagemap::entries(window, part).map_err(|error| Why::new(error.to_string()))? {
            let Some(pfn) = entry.pfn() else {
                return Err(Why::new("the kernel hides the address of a page"));
            };
            all += 1;
            above += u64::from(!bits.covers(pfn, size));
        }
    }
    match above {
        0 => Ok(()),
        _ => Err(Why::new(format!(
            "{above} of {all} pages lie above the {}-bit DMA mask, and the kernel lets nobody choose",
            bits.raw()
        ))),
    }
}

/// Whether the kernel shows physical addresses to this process.
pub(super) fn sees_addresses() -> bool {
    let page = HugeSize::BASE
        .bytes()
        .max(crate::sys::base_page_bytes() as u64);
    let Ok(granule) = HugeSize::from_bytes(page) else {
        return false;
    };
    let probe = || -> Result<bool, Box<dyn std::error::Error>> {
        let window = Window::reserve(Backing::Private, ByteLen::new(page), granule, Fork::Exclude)?;
        window.map(window.whole())?;
        window.populate_write(window.whole())?;
        let entries = pagemap::entries(&window, window.whole())?;
        Ok(entries.iter().all(|entry| entry.pfn().is_some()))
    };
    probe().unwrap_or(false)
}

/// `range` in pieces of at most `len` bytes.
fn pieces(range: ByteRange, len: u64) -> impl Iterator<Item = ByteRange> {
    let mut start = range.start().raw();
    std::iter::from_fn(move || {
        let end = start.saturating_add(len).min(range.end().raw());
        let piece = ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).ok();
        start = end;
        piece
    })
}
