// SPDX-License-Identifier: GPL-2.0-only
//! Pages that this module owns.
//!
//! Every page from the allocator is marked as ours until it goes back. The core only moves numbers; [`Page::owned`] looks
//! for the mark each time a number becomes a page again, so that a wrong one is an error here and never somebody
//! else's memory.

use htlb_core::{Frame, Gfp, HugeSize, NodeId, Pfn};

use super::c;

/// The largest order that is one folio, mapped by its page structures. Larger pages are ranges of frames.
const FOLIO_ORDER: u8 = 9;

/// What `alloc_contig_pages` refuses: ranges are no compound pages, take nothing from the reserves, and are tried for as hard as ever.
const NOT_FOR_RANGES: Gfp = Gfp::COMP.union(Gfp::HIGH).union(Gfp::MEMALLOC).union(Gfp::NOMEMALLOC).union(Gfp::NORETRY);

/// A page of ours, for as long as its frame is not freed; or one that a pin keeps, for as long as the pin.
#[derive(Clone, Copy)]
pub(crate) struct Page {
    pfn: usize,
    size: HugeSize,
}

/// Whether pages of this size are folios: counted by smaps, pinnable by GUP.
pub(crate) const fn is_folio(size: HugeSize) -> bool {
    size.order() <= FOLIO_ORDER
}

/// A new page with arbitrary contents, on exactly this node.
pub(crate) fn allocate(gfp: Gfp, size: HugeSize, node: NodeId) -> Option<Frame> {
    let order = u32::from(size.order());
    let nid = c_int_of(node);
    let gfp = gfp | Gfp::THISNODE;
    let pfn = if is_folio(size) {
        // SAFETY: translates bits.
        let gfp = unsafe { c::htlb_c_gfp((gfp | Gfp::NOWARN).bits()) };
        // SAFETY: may sleep, as every caller may; the node is online, since it was among those with memory.
        unsafe { c::htlb_c_page_alloc(gfp, order, nid) }
    } else {
        // SAFETY: translates bits.
        let gfp = unsafe { c::htlb_c_gfp((gfp | Gfp::NOWARN).difference(NOT_FOR_RANGES).bits()) };
        // SAFETY: as above; a null mask means every node that the flags allow, which is this one.
        unsafe { c::htlb_c_range_alloc(gfp, order, nid, core::ptr::null_mut()) }
    };
    let frame = (pfn != 0).then(|| Frame::new(Pfn::new(pfn as u64), size).ok());
    frame.flatten()
}

/// Gives a page back to the system, which has it again once nobody holds it any more.
pub(crate) fn free(frame: Frame) {
    let size = frame.size();
    let Some(page) = Page::owned(frame.into_pfn(), size) else {
        return;
    };
    if is_folio(size) && page.is_poisoned() {
        // The allocator looks at the memory of single pages only: what it would give out again, nobody gets.
        kernel::pr_warn!("the page at frame {:#x} has a memory error and is not given back\n", page.pfn);
        return;
    }
    if is_folio(size) {
        // SAFETY: the page is ours, and the frame, which was the right to it, is gone.
        unsafe { c::htlb_c_page_free(page.pfn) };
    } else {
        // SAFETY: as above; it was allocated with this order, because a frame keeps its size.
        unsafe { c::htlb_c_range_free(page.pfn, u32::from(size.order())) };
    }
}

fn c_int_of(node: NodeId) -> core::ffi::c_int {
    core::ffi::c_int::from(node.raw())
}

/// The node that a frame lies on, whoever has its page by now.
pub(crate) fn node_of(pfn: Pfn) -> Option<NodeId> {
    usize::try_from(pfn.raw()).ok().and_then(node)
}

fn node(pfn: usize) -> Option<NodeId> {
    // SAFETY: looks at frames that exist only; on which node one lies never changes.
    let nid = unsafe { c::htlb_c_page_node(pfn) };
    u32::try_from(nid).ok().and_then(|nid| NodeId::new(nid).ok())
}

impl Page {
    /// The page that begins at this frame, if it is ours.
    pub(crate) fn owned(pfn: Pfn, size: HugeSize) -> Option<Self> {
        let pfn = usize::try_from(pfn.raw()).ok()?;
        // SAFETY: checks that the frame exists before it looks at it.
        let ours = unsafe { c::htlb_c_page_is_ours(pfn) };
        if !ours {
            kernel::pr_err!("frame {:#x} is not a page of this module\n", pfn);
        }
        ours.then_some(Self { pfn, size })
    }

    /// A page that is not ours but that a pin of ours keeps: for [`super::import`], which proves it.
    pub(super) fn of_pin(pfn: Pfn, size: HugeSize) -> Option<Self> {
        let pfn = usize::try_from(pfn.raw()).ok()?;
        Some(Self { pfn, size })
    }

    /// The node that it lies on.
    pub(crate) fn node(self) -> NodeId {
        node(self.pfn).unwrap_or(NodeId::ZERO)
    }

    /// Notes at which byte of its buffer it begins: what `finish_fault` maps it by.
    pub(crate) fn place(self, offset: u64) {
        if is_folio(self.size) {
            // SAFETY: the page is ours, and claimed, so that nobody else looks at it.
            unsafe { c::htlb_c_page_place(self.pfn, (offset >> kernel::page::PAGE_SHIFT) as usize) };
        }
    }

    /// Whether nobody but us holds it. Once true of a page that is in no slot and no page table, it stays true.
    pub(crate) fn is_exclusive(self) -> bool {
        // SAFETY: the page is ours.
        unsafe { c::htlb_c_page_is_exclusive(self.pfn) }
    }

    /// Whether memory in it went bad.
    pub(crate) fn is_poisoned(self) -> bool {
        // SAFETY: all of its frames exist.
        unsafe { c::htlb_c_page_is_poisoned(self.pfn, 1 << self.size.order()) }
    }

    /// Waits until no fault is between its look at the slot and the page-table entry.
    pub(crate) fn drain(self) {
        if is_folio(self.size) {
            // SAFETY: the page is ours; may sleep.
            unsafe { c::htlb_c_page_drain(self.pfn) };
        }
    }

    /// Zeroes it from byte `from` on; false where a fatal signal came first.
    pub(crate) fn clear(self, from: u64) -> bool {
        // SAFETY: the page is ours and has that many bytes; it is claimed, so nobody else sees it.
        unsafe { c::htlb_c_page_clear(self.pfn, from, self.size.bytes()) }
    }
}
