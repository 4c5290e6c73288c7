// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages behind a file: mapped, bound to nodes, populated, verified; as many as there are.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use htlb_core::{
    AddressBits, ByteLen, ByteOffset, ByteRange, HugeSize, NodeId, NodeMask, NodePolicy,
};

use super::error::NamedError;
use super::machine::Machine;
use super::populate::{populate, How, Options, Stop};
use super::shortage::Why;
use super::verify;
use crate::sys::base_page_bytes;
use crate::sys::lease::Lease;
use crate::sys::numa::{Existing, Policy};
use crate::sys::pagemap;
use crate::sys::populate::PopulateError;
use crate::sys::window::{Backing, Fork, Peers, Window, WindowError};

/// How often a populate that met a shortage is repeated with what it found: each time fewer pages are asked for.
const RETRIES: usize = 16;

/// What is wanted of the pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) machine: &'a Machine,
    pub(super) policy: NodePolicy,
    pub(super) nodes: NodeMask,
    pub(super) dma_mask: AddressBits,
    pub(super) options: &'a Options<'a>,
}

/// Pages of a file, from one offset on.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) lease: Lease,
    /// Their bytes on each node, where the system says.
    pub(super) nodes: BTreeMap<NodeId, u64>,
    /// Of them, the bytes that are transparent huge pages.
    pub(super) transparent: u64,
}

impl Pages {
    pub(super) fn len(&self) -> u64 {
        self.lease.len().raw()
    }
}

/// Why there are none.
pub(super) enum NoPages {
    Cancelled,
    Why(Why),
}

impl NoPages {
    /// `None`: the caller wants no more of it.
    pub(super) fn why(self) -> Result<Why, NamedError> {
        match self {
            Self::Cancelled => Err(NamedError::Cancelled),
            Self::Why(why) => Ok(why),
        }
    }
}

impl From<Why> for NoPages {
    fn from(why: Why) -> Self {
        Self::Why(why)
    }
}

impl From<WindowError> for NoPages {
    fn from(error: WindowError) -> Self {
        Self::Why(Why::new(error.to_string()))
    }
}

/// Gets pages for `range` of `file`, which is that long: of a hugetlbfs perhaps fewer than wanted, of shared memory all.
///
/// The file keeps its length; what lies behind the pages that were got has none.
pub(super) fn pages(
    file: BorrowedFd<'_>,
    range: ByteRange,
    size: HugeSize,
    how: How,
    wish: &Wish<'_>,
) -> Result<Pages, NoPages> {
    let base = HugeSize::from_bytes(base_page_bytes() as u64).unwrap_or(HugeSize::BASE);
    let huge = size != HugeSize::BASE && how == How::Plain;
    let granule = if huge { size } else { base };
    let file = file
        .try_clone_to_owned()
        .map_err(|error| Why::new(format!("a file cannot be opened twice: {error}")))?;
    let len = ByteLen::new(range.end().raw());
    // The file is unlinked, or of mode 0600 until it is published, so nobody else writes there.
    let backing = Backing::Shared(file, Peers::Trusted);
    let window = Arc::new(Window::reserve(backing, len, granule, Fork::Exclude)?);
    let mut range = if huge {
        map_most(&window, range)?
    } else {
        // Up to a granule more than the file has, in whole base pages, where those are larger than 4 KiB.
        let end = window.whole().end();
        let whole = ByteRange::new(range.start(), end).map_err(WindowError::Range)?;
        window.map(whole)?;
        whole
    };
    bind(&window, range, wish)?;
    let page = match how {
        How::Transparent(size) => size,
        How::Plain => granule,
    };
    for _ in 0..RETRIES {
        match populate(&window, range, page, how, wish.options) {
            Ok(()) => return verified(window, range, size, how, wish),
            Err(Stop::Cancelled) => return Err(NoPages::Cancelled),
            Err(Stop::Failed(error @ PopulateError::Shortage(_))) if huge => {
                range = shrink_to_present(&window, range, size)
                    .ok_or_else(|| Why::new(error.to_string()))?;
            }
            Err(Stop::Failed(error)) => return Err(Why::new(error.to_string()).into()),
        }
    }
    Err(Why::new("pages vanish as fast as they are populated: somebody else takes them").into())
}

/// Maps as much of the front of `range` as the kernel has unreserved pages for.
fn map_most(window: &Window, range: ByteRange) -> Result<ByteRange, NoPages> {
    let page = window.granule().bytes();
    let (start, mut mapped) = (range.start().raw(), 0);
    let mut step = range.len().raw() / page;
    let mut refusal = None;
    while step > 0 {
        let left = range.len().raw() - mapped;
        let len = step.saturating_mul(page).min(left);
        let Ok(part) = ByteRange::at(ByteOffset::new(start + mapped), ByteLen::new(len)) else {
            break;
        };
        match window.map(part) {
            Ok(()) => mapped += len,
            Err(WindowError::Kernel(failure)) if failure.is(libc::ENOMEM) => {
                refusal = Some(failure);
                step /= 2;
            }
            Err(error) => return Err(error.into()),
        }
    }
    ByteRange::at(range.start(), ByteLen::new(mapped)).map_err(|_| {
        let why = refusal.map_or_else(|| "no page".to_owned(), |failure| failure.to_string());
        Why::new(format!("none could be reserved ({why})")).into()
    })
}

/// After a shortage: as many pages from the front as were found at all. Those behind are given back, for the front to use.
fn shrink_to_present(window: &Window, range: ByteRange, size: HugeSize) -> Option<ByteRange> {
    let present = pagemap::present(window, range).ok()?;
    let kept = size.len_of(present).ok()?;
    let front = ByteRange::at(range.start(), kept).ok()?;
    let behind = ByteRange::new(front.end(), range.end()).ok()?;
    window.discard(behind).ok()?;
    window.unmap(behind).ok()?;
    Some(front)
}

/// Tells the kernel on which nodes to look.
fn bind(window: &Window, range: ByteRange, wish: &Wish<'_>) -> Result<(), NoPages> {
    let policy = match wish.policy {
        NodePolicy::Default => return Ok(()),
        NodePolicy::Bind(_) => Policy::Bind(wish.nodes),
        NodePolicy::Preferred(node) => Policy::Preferred(node),
        NodePolicy::PreferredMany(mask) => Policy::PreferredMany(mask.and(wish.machine.nodes())),
        NodePolicy::Interleave(_) => Policy::Interleave(wish.nodes),
    };
    match window.mbind(range, policy, Existing::Ignore) {
        Ok(()) => Ok(()),
        // Every node is allowed, or it is only a preference: what a filter forbids is not missed. The nodes are verified.
        Err(_) if !wish.policy.is_strict() => Ok(()),
        Err(_) if wish.machine.nodes().is_subset_of(wish.nodes) => Ok(()),
        Err(error) => Err(Why::new(format!("cannot bind to node {}: {error}", wish.nodes)).into()),
    }
}

fn verified(
    window: Arc<Window>,
    range: ByteRange,
    size: HugeSize,
    how: How,
    wish: &Wish<'_>,
) -> Result<Pages, NoPages> {
    let required = wish.policy.is_strict().then_some(wish.nodes);
    let nodes = verify::nodes(wish.machine, &window, range, required)?;
    verify::dma(&window, range, size, wish.dma_mask)?;
    let transparent = match how {
        How::Plain => 0,
        How::Transparent(_) => pagemap::huge_mapped(&window, range)?.bytes.raw(),
    };
    Ok(Pages {
        lease: window.lease(range)?,
        nodes,
        transparent: transparent.min(range.len().raw()),
    })
}
