// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The windows of an arena, by address.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use htlb_core::{ByteLen, ByteOffset, ByteRange, Error, Frame, HugeSize, NodeId, Pfn, Rung};

use super::{address, refused};
use crate::locks::{reading, writing};
use crate::sys::lease::Lease;
use crate::sys::window::Window;

/// A window, and where its pages are as far as the system says.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) window: Arc<Window>,
    /// The physical frame number of each page; empty where it cannot be known or may change.
    pub(super) physical: Box<[u64]>,
    pub(super) nodes: Nodes,
    /// Pages that have not gone back to the system.
    pub(super) live: u64,
    /// The rung of the module that gave them; `None` for those of the kernel itself.
    pub(super) device: Option<Rung>,
}

/// The node of each page.
#[derive(Debug)]
pub(super) enum Nodes {
    /// All on one.
    All(NodeId),
    /// Each on its own, `None` where the system does not say.
    Each(Box<[Option<NodeId>]>),
}

impl Nodes {
    pub(super) fn of(&self, page: usize) -> Option<NodeId> {
        match self {
            Self::All(node) => Some(*node),
            Self::Each(nodes) => nodes.get(page).copied().flatten(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Regions(RwLock<BTreeMap<usize, Region>>);

impl Regions {
    pub(super) fn insert(&self, region: Region) {
        let base = region.window.base().as_ptr().addr();
        self.write().insert(base, region);
    }

    /// Takes the window at `base` out, none of whose pages is in the stock.
    pub(super) fn remove(&self, base: usize) {
        // The window is unmapped when the lock is free again.
        let removed = self.write().remove(&base);
        drop(removed);
    }

    pub(super) fn lease(&self, pfn: Pfn, len: ByteLen) -> Result<Lease, Error> {
        let regions = self.read();
        let (offset, region) = find(&regions, pfn).ok_or(Error::FrameInvalid)?;
        let range = ByteRange::at(ByteOffset::new(offset), len)?;
        region.window.lease(range).map_err(refused)
    }

    pub(super) fn shared_file(&self) -> Option<OwnedFd> {
        self.read()
            .values()
            .find_map(|region| region.window.shared_file()?.try_clone_to_owned().ok())
    }

    pub(super) fn holds(&self, pfn: Pfn) -> bool {
        find(&self.read(), pfn).is_some()
    }

    pub(super) fn physical(&self, pfn: Pfn, size: HugeSize) -> Option<Pfn> {
        let regions = self.read();
        let (offset, region) = find(&regions, pfn)?;
        region
            .physical
            .get(page_at(offset, size))
            .copied()
            .map(Pfn::new)
    }

    pub(super) fn node(&self, pfn: Pfn, size: HugeSize) -> Option<NodeId> {
        let regions = self.read();
        let (offset, region) = find(&regions, pfn)?;
        region.nodes.of(page_at(offset, size))
    }

    /// The rung of the module that gave the page, if it did.
    pub(super) fn device(&self, pfn: Pfn) -> Option<Rung> {
        find(&self.read(), pfn)?.1.device
    }

    /// The rung of the module that gave every page here; `None` where there is no such one.
    pub(super) fn sole_device(&self) -> Option<Rung> {
        let regions = self.read();
        let mut all = regions.values().map(|region| region.device);
        let first = all.next()??;
        all.all(|other| other == Some(first)).then_some(first)
    }

    /// Gives pages back to the system, and each window with its last one.
    pub(super) fn let_go(&self, frames: Vec<Frame>, size: HugeSize) {
        let mut frames: Vec<Pfn> = frames.into_iter().map(Frame::into_pfn).collect();
        frames.sort_unstable();
        let mut empty = Vec::new();
        let mut regions = self.write();
        let mut rest = frames.as_slice();
        while let Some(first) = rest.first() {
            let Some((&base, region)) = regions.range_mut(..=address(*first)).next_back() else {
                // A page of no window, which nobody has made: there is nothing to give back.
                rest = rest.get(1..).unwrap_or_default();
                continue;
            };
            let end = base as u64 + region.window.len().raw();
            let here = rest
                .partition_point(|pfn| (address(*pfn) as u64) < end)
                .max(1);
            let (pages, others) = rest.split_at(here);
            rest = others;
            region.live = region.live.saturating_sub(pages.len() as u64);
            if region.live == 0 {
                empty.extend(regions.remove(&base));
            } else if region.window.shared_file().is_none() {
                // A hole in a file that peers have would be a hole for them too: there, pages go with the window.
                discard(region, base, pages, size);
            }
        }
        drop(regions);
        drop(empty);
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<usize, Region>> {
        reading(&self.0)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<usize, Region>> {
        writing(&self.0)
    }
}

/// Punches pages, in ascending order, out of a window: one call for each run of them.
fn discard(region: &Region, base: usize, pages: &[Pfn], size: HugeSize) {
    for run in pages.chunk_by(|a, b| b.raw() - a.raw() == size.base_pages()) {
        let Some(first) = run.first() else { continue };
        let start = ByteOffset::new((address(*first) - base) as u64);
        let len = ByteLen::new(run.len() as u64 * size.bytes());
        if let Ok(range) = ByteRange::at(start, len) {
            // Pages that are refused here, being leased, stay with their window and go with it.
            let _ = region.window.discard(range);
        }
    }
}

/// The window that a page lies in, and where in it, in bytes.
fn find(regions: &BTreeMap<usize, Region>, pfn: Pfn) -> Option<(u64, &Region)> {
    let at = address(pfn);
    let (base, region) = regions.range(..=at).next_back()?;
    // CAST: usize is at most 64 bits wide on Linux.
    let offset = (at - base) as u64;
    (offset < region.window.len().raw()).then_some((offset, region))
}

fn page_at(offset: u64, size: HugeSize) -> usize {
    // CAST: an offset in a window, whose length is a usize.
    (offset >> size.shift()) as usize
}
