// SPDX-License-Identifier: GPL-2.0-only
//! What may be mapped, and how.

use htlb_core::{ByteOffset, HugeSize};
use kernel::prelude::*;

use crate::buffer::DmaBuffer;

/// How the pages of an area get into page tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entries {
    /// As folios: counted, pinnable, copied on a private write.
    Folios,
    /// As bare frames: what pages larger than 2 MiB need.
    Frames,
}

/// An area that a program would like to have.
pub(crate) struct Area {
    /// Where it begins in the buffer, in bytes.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Whether writes to it would go to private copies.
    pub(crate) copies_on_write: bool,
}

/// Whether an area may be mapped, and how. Beyond the size a mapping is allowed up to the capacity, since a buffer can grow;
/// touching it there is a signal.
///
/// `ENXIO` beyond the capacity, `EINVAL` for private copies of pages that are no folios.
pub(crate) fn admit(buffer: &DmaBuffer, area: &Area) -> Result<Entries> {
    let end = area.offset.checked_add(area.len).ok_or(EOVERFLOW)?;
    if end > buffer.map().extents().capacity().raw() {
        return Err(ENXIO);
    }
    let entries = if buffer.has_folios_only() { Entries::Folios } else { Entries::Frames };
    if entries == Entries::Frames && area.copies_on_write {
        return Err(EINVAL);
    }
    Ok(entries)
}

/// The alignment of addresses for a mapping of `len` bytes from `offset` on: that of the largest page that lies in it whole.
pub(crate) fn alignment(buffer: &DmaBuffer, offset: u64, len: u64) -> Option<u64> {
    let end = offset.checked_add(len)?;
    buffer
        .map()
        .extents()
        .iter()
        .filter(|extent| extent.size() > HugeSize::BASE)
        .find(|extent| {
            let size = extent.size().bytes();
            let first = offset.max(extent.start().raw()).checked_next_multiple_of(size);
            first.and_then(|first| first.checked_add(size)).is_some_and(|last| last <= end)
        })
        .map(|extent| extent.size().bytes())
}

/// Whether a mapping may be cut in two at an address, which is that of this byte of the buffer.
///
/// Not inside a page that one entry above the 2 MiB level may map: where the kernel cuts an area it looks for an entry of that level, and
/// takes what the page holds for a table of them (`mm/rmap.c: mm_find_pmd`). Device DAX refuses this too.
pub(crate) fn may_be_cut(buffer: &DmaBuffer, offset: u64, address: u64) -> bool {
    let index = buffer.map().index_at(ByteOffset::new(offset)).ok();
    let size = index.and_then(|index| buffer.map().extents().size_of(index)).unwrap_or(HugeSize::BASE);
    let inside = |at: u64| at & (size.bytes() - 1) != 0;
    // Where the two do not agree, no such entry is.
    size <= HugeSize::MIB2 || !inside(offset) || inside(address.wrapping_sub(offset))
}
