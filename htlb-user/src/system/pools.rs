// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The system's hugetlb pools, per page size and node.

use htlb_core::{HugeSize, NodeId, PageCount};

use super::root::{node_of_directory, size_of_directory};
use super::{meminfo, Error, Root};

pub(super) const POOLS: &str = "/sys/kernel/mm/hugepages";
pub(super) const NODES: &str = "/sys/devices/system/node";

/// The pool of one page size, as it was at one moment: the kernel gives no consistent view of several counters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(alias = "hstate")]
pub struct Pool {
    /// The page size.
    pub size: HugeSize,
    /// All nodes together.
    pub counts: Counts,
    /// Each node; empty where the system does not say.
    pub nodes: Vec<NodePool>,
}

/// The counters of one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All pages, surplus ones too.
    #[doc(alias = "nr_hugepages")]
    pub total: PageCount,
    /// Those that nobody uses; some may be reserved.
    #[doc(alias = "free_hugepages")]
    pub free: PageCount,
    /// Free ones that a mapping has been promised.
    #[doc(alias = "resv_hugepages")]
    pub reserved: PageCount,
    /// Those above the persistent size, which leave when they are released.
    #[doc(alias = "surplus_hugepages")]
    pub surplus: PageCount,
    /// How many surplus pages there may be.
    #[doc(alias = "nr_overcommit_hugepages")]
    pub overcommit: PageCount,
}

/// The part of a pool that is on one node. Reservations and overcommit are not per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodePool {
    /// The node.
    pub node: NodeId,
    /// All pages, surplus ones too.
    pub total: PageCount,
    /// Those that nobody uses.
    pub free: PageCount,
    /// Those above the persistent size.
    pub surplus: PageCount,
}

impl Counts {
    /// What could be had now: free, not reserved, and room to grow by overcommit, if the system finds the memory.
    #[must_use]
    pub fn available(&self) -> PageCount {
        let room = self.overcommit.raw().saturating_sub(self.surplus.raw());
        PageCount::new(self.unreserved().raw().saturating_add(room))
    }

    /// Free pages that nobody has been promised: what can be had for sure.
    #[must_use]
    pub fn unreserved(&self) -> PageCount {
        PageCount::new(self.free.raw().saturating_sub(self.reserved.raw()))
    }

    /// The size that the pool was set to.
    #[must_use]
    pub fn persistent(&self) -> PageCount {
        PageCount::new(self.total.raw().saturating_sub(self.surplus.raw()))
    }
}

impl Pool {
    /// The persistent pages on `node`, or on all.
    #[must_use]
    pub fn persistent(&self, node: Option<NodeId>) -> PageCount {
        let Some(node) = node else {
            return self.counts.persistent();
        };
        let found = self.nodes.iter().find(|pool| pool.node == node);
        PageCount::new(found.map_or(0, |p| p.total.raw().saturating_sub(p.surplus.raw())))
    }
}

/// Every pool, ascending by page size; none where the kernel has no hugetlb or there is no `/sys`.
///
/// # Errors
/// [`Error::Found`] where a counter is no number.
pub fn read(root: &Root) -> Result<Vec<Pool>, Error> {
    let mut pools = Vec::new();
    for size in sizes(root)? {
        pools.extend(read_size(root, size)?);
    }
    Ok(pools)
}

/// The pool of one page size; `None` where there is none.
///
/// # Errors
/// As [`read`].
pub fn read_size(root: &Root, size: HugeSize) -> Result<Option<Pool>, Error> {
    let directory = format!("{POOLS}/{}", directory_name(size));
    let count = |name: &str| root.number(format!("{directory}/{name}"));
    let Some(total) = count("nr_hugepages")? else {
        return Ok(None);
    };
    let some = |name| Ok(PageCount::new(count(name)?.unwrap_or(0)));
    let counts = Counts {
        total: PageCount::new(total),
        free: some("free_hugepages")?,
        reserved: some("resv_hugepages")?,
        surplus: some("surplus_hugepages")?,
        overcommit: some("nr_overcommit_hugepages")?,
    };
    Ok(Some(Pool {
        size,
        counts,
        nodes: read_nodes(root, size)?,
    }))
}

/// The page sizes that have a pool, ascending. Directories that are no page size are skipped.
///
/// # Errors
/// [`Error::Read`] where the directory is there but closed.
pub fn sizes(root: &Root) -> Result<Vec<HugeSize>, Error> {
    let names = root.names(POOLS)?;
    let mut sizes: Vec<_> = names.iter().filter_map(|n| size_of_directory(n)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    Ok(sizes)
}

/// The size that `MAP_HUGETLB` means without saying; `None` where the kernel has no hugetlb.
///
/// # Errors
/// As [`meminfo::read`].
pub fn default_size(root: &Root) -> Result<Option<HugeSize>, Error> {
    Ok(meminfo::read(root)?.huge_size)
}

/// `hugepages-2048kB`.
pub(super) fn directory_name(size: HugeSize) -> String {
    format!("hugepages-{}kB", size.bytes() >> 10)
}

fn read_nodes(root: &Root, size: HugeSize) -> Result<Vec<NodePool>, Error> {
    let mut nodes = Vec::new();
    for name in root.names(NODES)? {
        let Some(node) = node_of_directory(&name) else {
            continue;
        };
        let directory = format!("{NODES}/{name}/hugepages/{}", directory_name(size));
        let count = |file: &str| root.number(format!("{directory}/{file}"));
        if let Some(total) = count("nr_hugepages")? {
            nodes.push(NodePool {
                node,
                total: PageCount::new(total),
                free: PageCount::new(count("free_hugepages")?.unwrap_or(0)),
                surplus: PageCount::new(count("surplus_hugepages")?.unwrap_or(0)),
            });
        }
    }
    nodes.sort_unstable_by_key(|pool| pool.node);
    Ok(nodes)
}
