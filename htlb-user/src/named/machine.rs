// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What policy needs to know of this machine, and how many pages it has at the moment.
//!
//! Whatever cannot be read is taken as absent: a container without `/sys` has one node and perhaps the default huge page, and a
//! load works there. [`crate::system`] tells who wants to know what is wrong.

use std::path::Path;

use htlb_core::{AddressBits, HugeSize, NodeId, NodeMask, PageChoice, PageCount, Sizes, Topology};

use crate::store::{Config, Mount, Store, StoreError};
use crate::sys::{numa, process};
use crate::system::cgroup::{Cgroups, HugetlbLimits};
use crate::system::mounts::{self, Access};
use crate::system::pools::{self, Counts};
use crate::system::thp::{self, Thp, When};
use crate::system::topology;
use crate::system::{meminfo, Root};

/// How far `ZONE_DMA` reaches on x86.
const DMA_ZONE_BITS: u32 = 24;

/// This machine, as policy sees it.
#[derive(Clone, Debug)]
pub struct Machine {
    root: Root,
    nodes: NodeMask,
    local: NodeId,
    sizes: Vec<HugeSize>,
    default_size: Option<HugeSize>,
    thp: Option<Thp>,
}

impl Machine {
    /// The machine this runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::at(Root::host())
    }

    /// The machine that the files below `root` describe.
    #[must_use]
    pub fn at(root: Root) -> Self {
        let nodes = topology::read(&root).map_or(NodeMask::EMPTY, |topology| topology.usable());
        let nodes = if nodes.is_empty() {
            NodeId::ZERO.mask()
        } else {
            nodes
        };
        let here = numa::here()
            .ok()
            .and_then(|here| NodeId::new(here.node).ok());
        let local = here.filter(|node| nodes.contains(*node)).or(nodes.first());
        let info = meminfo::read(&root).unwrap_or_default();
        let mut sizes = pools::sizes(&root).unwrap_or_default();
        // Without /sys the kernel has its default size still, and /proc counts it.
        if info.huge_total.is_some() {
            sizes.extend(info.huge_size);
        }
        sizes.sort_unstable();
        sizes.dedup();
        let off = process::thp_disabled().unwrap_or(false);
        Self {
            thp: thp::read(&root).unwrap_or(None).filter(|_| !off),
            nodes,
            local: local.unwrap_or(NodeId::ZERO),
            sizes,
            default_size: info.huge_size,
            root,
        }
    }

    /// The store of this user, on the hugetlbfs mounts that take files.
    ///
    /// # Errors
    /// Those of [`Config::system`] and [`Store::open`].
    pub fn store(&self) -> Result<Store, StoreError> {
        let mounts = mounts::hugetlbfs(&self.root).unwrap_or_default();
        let usable = mounts.into_iter().filter_map(|mount| {
            let page_size = mount.page_size?;
            (mount.access == Access::ReadWrite).then_some(Mount {
                path: mount.path,
                page_size,
            })
        });
        Store::open(Config::system(usable.collect())?)
    }

    /// The nodes with memory that this process may use.
    #[must_use]
    pub const fn nodes(&self) -> NodeMask {
        self.nodes
    }

    /// What [`htlb_core::policy::resolve`] is told, where shared memory would lie in `shared`.
    ///
    /// Where nobody names a page size, pools that are empty are passed over, but for the default size: that one is
    /// what a reader of the receipt may want to fill.
    #[must_use]
    pub fn topology(&self, page: PageChoice, shared: Option<&Path>) -> Topology {
        let wanted = |size: &HugeSize| match page {
            PageChoice::Automatic => {
                Some(*size) == self.default_size || self.available(*size, None) > 0
            }
            _ => true,
        };
        // CAST: 24 is inside 24 to 64; the widest mask stands in for what cannot happen.
        let dma_zone = AddressBits::new(DMA_ZONE_BITS).unwrap_or(AddressBits::ALL);
        Topology {
            nodes: self.nodes,
            local: self.local,
            sizes: Sizes::new(self.sizes.iter().copied().filter(wanted)),
            transparent: shared.and_then(|shared| self.transparent(shared)),
            dma_zone,
        }
    }

    /// The size of transparent huge pages for shared memory in `folder`, where the system allows them.
    fn transparent(&self, folder: &Path) -> Option<HugeSize> {
        let thp = self.thp.as_ref()?;
        let size = thp.pmd_size?;
        let allowed = match (thp.shared(size), thp.enabled) {
            (When::Deny, _) => false,
            (When::Force, _) => true,
            (_, When::Never) => false,
            (When::Never, _) => matches!(
                mounts::transparent(&self.root, folder),
                Ok(Some(When::Always | When::WithinSize | When::Advised))
            ),
            _ => true,
        };
        allowed.then_some(size)
    }

    /// The counters of the system's pool; by `/proc` where there is no `/sys`.
    pub(super) fn counts(&self, size: HugeSize) -> Option<Counts> {
        if let Ok(Some(pool)) = pools::read_size(&self.root, size) {
            return Some(pool.counts);
        }
        let info = meminfo::read(&self.root).ok()?;
        let pages = |count: Option<u64>| PageCount::new(count.unwrap_or(0));
        (info.huge_size == Some(size) && info.huge_total.is_some()).then(|| Counts {
            total: pages(info.huge_total),
            free: pages(info.huge_free),
            reserved: pages(info.huge_reserved),
            surplus: pages(info.huge_surplus),
            overcommit: PageCount::ZERO,
        })
    }

    /// The pages of `size` that could be had now, on these nodes only where some are named.
    pub(super) fn available(&self, size: HugeSize, nodes: Option<NodeMask>) -> u64 {
        let Some(counts) = self.counts(size) else {
            return 0;
        };
        let all = counts.available().raw();
        let Some(nodes) = nodes else { return all };
        let Ok(Some(pool)) = pools::read_size(&self.root, size) else {
            return all;
        };
        if pool.nodes.is_empty() {
            return all;
        }
        let named = pool.nodes.iter().filter(|pool| nodes.contains(pool.node));
        let free: u64 = named.map(|pool| pool.free.raw()).sum();
        let growth = all.saturating_sub(counts.unreserved().raw());
        free.saturating_add(growth).min(all)
    }

    /// The size that the pool, or its part on one node, was set to.
    pub(super) fn persistent(&self, size: HugeSize, node: Option<NodeId>) -> u64 {
        match pools::read_size(&self.root, size) {
            Ok(Some(pool)) => pool.persistent(node).raw(),
            _ => self
                .counts(size)
                .map_or(0, |counts| counts.persistent().raw()),
        }
    }

    /// What control groups allow of `size`.
    pub(super) fn hugetlb_limits(&self, size: HugeSize) -> Option<HugetlbLimits> {
        let groups = Cgroups::find(&self.root).ok()?;
        groups.hugetlb(&self.root, size).ok()?
    }

    /// The bytes of ordinary memory that can be had before the kernel would have to end a process; `None` if unknown.
    pub(super) fn memory_room(&self) -> Option<u64> {
        let info = meminfo::read(&self.root).unwrap_or_default();
        let swap = info.swap_free.map_or(0, |free| free.raw());
        let machine = info.available.map(|free| free.raw().saturating_add(swap));
        let group = Cgroups::find(&self.root).ok().and_then(|groups| {
            let room = groups.memory(&self.root).ok()??.room?.raw();
            let cache = groups.reclaimable(&self.root).ok()?.raw();
            Some(room.saturating_add(cache))
        });
        machine.into_iter().chain(group).min()
    }
}
