// SPDX-License-Identifier: GPL-2.0-only
//! Pages at chosen frames: what the page allocator cannot be asked for.

use htlb_core::{Frame, Gfp, HugeSize, NodeId, Pfn};
use kernel::bindings;
use kernel::prelude::*;

use super::c;

extern "C" {
    fn htlb_c_node_span(nid: c_int, start: *mut usize, end: *mut usize);
    fn htlb_c_range_alloc_at(gfp: bindings::gfp_t, order: u32, nid: c_int, pfn: usize) -> bool;
}

/// What may be said of how hard to try; where to look is said by the frame.
const MANNERS: Gfp = Gfp::KERNEL.union(Gfp::NOWARN).union(Gfp::RETRY_MAYFAIL);

/// The first frame of a node, and the first beyond it; there may be holes in between, and other nodes' frames.
pub(crate) fn span(node: NodeId) -> (u64, u64) {
    let (mut start, mut end) = (0usize, 0usize);
    // SAFETY: the node has memory, as every caller's has, so there is a record of it; the pointers are to our own variables.
    unsafe { htlb_c_node_span(c_int::from(node.raw()), &mut start, &mut end) };
    (start as u64, end as u64)
}

/// A page with arbitrary contents that begins at exactly this frame, if that is possible: whatever is in use there moves away.
pub(crate) fn allocate_at(gfp: Gfp, size: HugeSize, node: NodeId, first: Pfn) -> Option<Frame> {
    // Made first: it is refused where the frame does not suit the size, and nothing has happened then.
    let frame = Frame::new(first, size).ok()?;
    let pfn = usize::try_from(first.raw()).ok()?;
    let manners = (gfp & MANNERS) | Gfp::NOWARN;
    // SAFETY: translates bits.
    let gfp = unsafe { c::htlb_c_gfp(manners.bits()) };
    // SAFETY: may sleep, as every caller may; the callee looks whether there is memory at these frames.
    let came = unsafe { htlb_c_range_alloc_at(gfp, u32::from(size.order()), c_int::from(node.raw()), pfn) };
    came.then_some(frame)
}
