// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Changing the size of a pool, and saying what came of it.
//!
//! The kernel takes any number, does what it can, and reports success. So the counters are read back, and
//! what is missing gets its likely cause: a judgement from free memory, never a certainty.

use std::io::{ErrorKind, Write};
use std::{fmt, fs};

use htlb_core::{ByteLen, HugeSize, NodeId, PageCount};

use super::error::boot_name;
use super::pools::{self, directory_name, Pool, NODES, POOLS};
use super::{meminfo, Error, Root};

/// What came of a resize.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the kernel reports success even where it did nothing"]
pub struct ResizeReport {
    /// The page size.
    pub size: HugeSize,
    /// The node that was to have them, or all.
    pub node: Option<NodeId>,
    /// The persistent pages asked for.
    pub asked: PageCount,
    /// The pool before, all nodes.
    pub before: Pool,
    /// The pool after, all nodes.
    pub after: Pool,
    /// Why it is not as asked; `None` where it is.
    pub cause: Option<Cause>,
}

/// Why a pool is not of the size that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Growing: less memory is available than is missing.
    Memory {
        /// What is available after the attempt.
        available: ByteLen,
        /// What the missing pages need.
        needed: ByteLen,
    },
    /// Growing: there is memory enough, but not in pieces of that size.
    Fragmentation {
        /// What is available after the attempt.
        available: ByteLen,
    },
    /// Growing a size above what the page allocator hands out: found only in movable memory that is free by chance, else at boot.
    Gigantic {
        /// The size.
        size: HugeSize,
    },
    /// Shrinking: pages are in use or reserved. They left the persistent count and go when they are released.
    InUse {
        /// How many.
        pages: PageCount,
    },
    /// Somebody else changed the pool at the same time, or the system does not tell enough.
    Unknown,
}

impl ResizeReport {
    /// The persistent pages that are missing from, or too many for, what was asked.
    #[must_use]
    pub fn shortfall(&self) -> PageCount {
        let after = self.after.persistent(self.node);
        PageCount::new(self.asked.raw().abs_diff(after.raw()))
    }

    /// Whether the pool is as asked and holds no page for longer than that.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.cause.is_none()
    }

    /// For each node: the persistent pages before and after.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, PageCount, PageCount)> + '_ {
        self.after.nodes.iter().map(|pool| {
            let node = Some(pool.node);
            (
                pool.node,
                self.before.persistent(node),
                self.after.persistent(node),
            )
        })
    }
}

impl fmt::Display for ResizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = (
            self.before.persistent(self.node),
            self.after.persistent(self.node),
        );
        write!(f, "{} pages of {}", self.asked, self.size)?;
        if let Some(node) = self.node {
            write!(f, " on node {node}")?;
        }
        write!(f, ": {before} before, {after} now")?;
        if !self.shortfall().is_zero() {
            let word = if after < self.asked {
                "short"
            } else {
                "too many"
            };
            write!(f, ", {} {word}", self.shortfall())?;
        }
        if self.node.is_none() && self.after.nodes.len() > 1 {
            for (node, before, after) in self.nodes() {
                write!(f, "; node {node}: {before} to {after}")?;
            }
        }
        match self.cause {
            Some(cause) => write!(f, ". {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |len: ByteLen| len.raw() >> 20;
        match *self {
            Self::Memory { available, needed } => write!(
                f,
                "Likely cause: not enough memory, {} MiB needed and {} MiB available",
                mib(needed),
                mib(available)
            ),
            Self::Fragmentation { available } => write!(
                f,
                "Likely cause: fragmentation, {} MiB are available but in smaller pieces; \
                 try as root: echo 3 > /proc/sys/vm/drop_caches; echo 1 > /proc/sys/vm/compact_memory, and again",
                mib(available)
            ),
            Self::Gigantic { size } => write!(
                f,
                "Likely cause: no free contiguous stretch of {size}; these pages are best got at boot: hugepagesz={} hugepages=N",
                boot_name(size)
            ),
            Self::InUse { pages } => write!(
                f,
                "{pages} of the pages to remove are in use or reserved: they are surplus now and go when released"
            ),
            Self::Unknown => f.write_str("Cause unknown: somebody else may have changed the pool"),
        }
    }
}

/// Sets the number of persistent pages of `size`, on one node or spread over all as the kernel sees fit.
///
/// Blocks while the kernel looks for memory, seconds for many pages.
///
/// # Errors
/// [`Error::NotAllowed`] with the command for root, [`Error::NoPool`], [`Error::BootOnly`], [`Error::Write`]. A pool
/// that stays short is not an error: see [`ResizeReport::cause`].
#[doc(alias = "nr_hugepages")]
pub fn resize(
    root: &Root,
    size: HugeSize,
    node: Option<NodeId>,
    pages: PageCount,
) -> Result<ResizeReport, Error> {
    let before = existing(root, size, node)?;
    let directory = match node {
        None => format!("{POOLS}/{}", directory_name(size)),
        Some(node) => format!("{NODES}/node{node}/hugepages/{}", directory_name(size)),
    };
    let path = root.path(format!("{directory}/nr_hugepages"));
    // Opened without O_CREAT or O_TRUNC: a kernel file, which takes one write.
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut file| file.write_all(pages.raw().to_string().as_bytes()));
    written.map_err(|source| match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::NotAllowed {
            path,
            value: pages.raw(),
        },
        ErrorKind::InvalidInput if is_gigantic(size) => Error::BootOnly {
            size,
            pages: pages.raw(),
        },
        _ => Error::Write {
            path,
            value: pages.raw(),
            source,
        },
    })?;
    let after = existing(root, size, node)?;
    let cause = cause(root, &before, &after, node, pages)?;
    Ok(ResizeReport {
        size,
        node,
        asked: pages,
        before,
        after,
        cause,
    })
}

fn existing(root: &Root, size: HugeSize, node: Option<NodeId>) -> Result<Pool, Error> {
    let has = |pool: &Pool| node.is_none_or(|node| pool.nodes.iter().any(|n| n.node == node));
    match pools::read_size(root, size)?.filter(has) {
        Some(pool) => Ok(pool),
        None => Err(Error::NoPool {
            size,
            supported: pools::sizes(root)?,
        }),
    }
}

fn cause(
    root: &Root,
    before: &Pool,
    after: &Pool,
    node: Option<NodeId>,
    asked: PageCount,
) -> Result<Option<Cause>, Error> {
    let (was, is) = (before.persistent(node), after.persistent(node));
    if is == asked {
        let surplus = surplus(after, node).saturating_sub(surplus(before, node));
        let stuck = asked < was && surplus > 0;
        return Ok(stuck.then_some(Cause::InUse {
            pages: PageCount::new(surplus),
        }));
    }
    if is > asked {
        let pages = PageCount::new(is.raw() - asked.raw());
        let used = after
            .counts
            .total
            .raw()
            .saturating_sub(after.counts.unreserved().raw());
        return Ok(Some(match used {
            0 => Cause::Unknown,
            _ => Cause::InUse { pages },
        }));
    }
    let info = match node {
        Some(node) => meminfo::read_node(root, node)?,
        None => meminfo::read(root)?,
    };
    let missing = asked.raw() - is.raw();
    let needed = ByteLen::new(missing.saturating_mul(after.size.bytes()));
    Ok(Some(match info.available {
        Some(available) if available < needed => Cause::Memory { available, needed },
        _ if is_gigantic(after.size) => Cause::Gigantic { size: after.size },
        Some(available) => Cause::Fragmentation { available },
        None => Cause::Unknown,
    }))
}

fn surplus(pool: &Pool, node: Option<NodeId>) -> u64 {
    match node {
        None => pool.counts.surplus.raw(),
        Some(node) => pool
            .nodes
            .iter()
            .find(|pool| pool.node == node)
            .map_or(0, |pool| pool.surplus.raw()),
    }
}

/// Above the largest block of the page allocator: order 10 by default, 4 MiB of 4 KiB pages.
fn is_gigantic(size: HugeSize) -> bool {
    size.order() > 10
}

#[cfg(test)]
mod tests {
    use super::pools::{Counts, NodePool};
    use super::*;

    fn pool(size: HugeSize, total: u64, surplus: u64, free: u64) -> Pool {
        let n = PageCount::new;
        Pool {
            size,
            counts: Counts {
                total: n(total),
                free: n(free),
                surplus: n(surplus),
                ..Counts::default()
            },
            nodes: vec![NodePool {
                node: NodeId::ZERO,
                total: n(total),
                free: n(free),
                surplus: n(surplus),
            }],
        }
    }

    fn machine(name: &str, available_kib: u64) -> (Root, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("htlb-resize-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("proc")).unwrap();
        let text = format!("MemFree: 1 kB\nMemAvailable: {available_kib} kB\n");
        fs::write(path.join("proc/meminfo"), text).unwrap();
        (Root::at(&path), path)
    }

    #[test]
    fn causes_follow_from_what_is_left() {
        let (root, path) = machine("causes", 40 << 10);
        let two = HugeSize::MIB2;
        let why = |before: &Pool, after: &Pool, node, asked| {
            cause(&root, before, after, node, PageCount::new(asked)).unwrap()
        };
        let old = pool(two, 4, 0, 4);
        assert_eq!(why(&old, &pool(two, 8, 0, 8), None, 8), None);
        let available = ByteLen::new(40 << 20);
        // 8 pages of 2 MiB would fit into 40 MiB; 100 would not.
        let short = why(&old, &pool(two, 8, 0, 8), None, 16);
        assert_eq!(short, Some(Cause::Fragmentation { available }));
        let needed = ByteLen::new(92 * two.bytes());
        let short = why(&old, &pool(two, 8, 0, 8), None, 100);
        assert_eq!(short, Some(Cause::Memory { available, needed }));
        // A node whose own file is missing tells nothing.
        let short = why(&old, &pool(two, 8, 0, 8), Some(NodeId::ZERO), 16);
        assert_eq!(short, Some(Cause::Unknown));
        let stuck = why(&old, &pool(two, 3, 3, 0), None, 0);
        let pages = PageCount::new(3);
        assert_eq!(stuck, Some(Cause::InUse { pages }));
        let (plenty, other) = machine("gigantic", 40 << 20);
        let size = HugeSize::GIB1;
        let none = pool(size, 0, 0, 0);
        let short = cause(&plenty, &none, &none, None, PageCount::ONE).unwrap();
        assert_eq!(short, Some(Cause::Gigantic { size }));
        for path in [path, other] {
            fs::remove_dir_all(path).unwrap();
        }
    }

    #[test]
    fn a_report_says_what_was_asked_found_and_next() {
        let report = ResizeReport {
            size: HugeSize::MIB2,
            node: None,
            asked: PageCount::new(16),
            before: pool(HugeSize::MIB2, 4, 0, 4),
            after: pool(HugeSize::MIB2, 9, 1, 8),
            cause: Some(Cause::Fragmentation {
                available: ByteLen::new(64 << 20),
            }),
        };
        assert_eq!(report.shortfall().raw(), 8);
        assert!(!report.is_met());
        let text = report.to_string();
        assert!(text.starts_with("16 pages of 2MiB: 4 before, 8 now, 8 short. Likely cause"));
        assert!(text.contains("compact_memory"));
        let nodes: Vec<_> = report.nodes().map(|(_, a, b)| (a.raw(), b.raw())).collect();
        assert_eq!(nodes, [(4, 8)]);
    }
}
