// SPDX-License-Identifier: GPL-2.0-only
//! What this machine has, and what the caller may do.

use htlb_core::{NodeId, NodeMask};

use super::c;

/// The nodes that have memory; those beyond 63 are not used.
pub(crate) fn memory_nodes() -> NodeMask {
    // SAFETY: reads a mask.
    NodeMask::from_bits(unsafe { c::htlb_c_memory_nodes() })
}

/// The nearest node with memory.
pub(crate) fn local_node() -> NodeId {
    // SAFETY: reads a per-processor number, which may be stale when it is used.
    let nid = unsafe { c::htlb_c_local_node() };
    let node = u32::try_from(nid).ok().and_then(|nid| NodeId::new(nid).ok());
    node.unwrap_or(NodeId::ZERO)
}

/// All memory, in bytes.
pub(crate) fn total_memory() -> u64 {
    // SAFETY: reads a counter.
    unsafe { c::htlb_c_total_pages() }.saturating_mul(kernel::page::PAGE_SIZE as u64)
}

/// What can be had without pushing others out to swap, in bytes: an estimate, `MemAvailable` of `/proc/meminfo`.
pub(crate) fn available_memory() -> u64 {
    // SAFETY: reads counters.
    unsafe { c::htlb_c_available_pages() }.saturating_mul(kernel::page::PAGE_SIZE as u64)
}

/// Whether the caller has `CAP_SYS_ADMIN`.
pub(crate) fn is_admin() -> bool {
    // SAFETY: looks at the current task's credentials.
    unsafe { c::htlb_c_capable_admin() }
}

/// Whether the caller has been told to go.
pub(crate) fn fatal_signal() -> bool {
    // SAFETY: looks at the current task.
    unsafe { c::htlb_c_fatal_signal() }
}
