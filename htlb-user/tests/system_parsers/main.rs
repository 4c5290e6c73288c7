// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The readers of `/sys` and `/proc`, on trees made for them: ordinary, odd, hostile, absent.

mod cgroups;
mod locked;
mod mounted;
mod nodes;
mod noise;
mod pages;
mod tree;

use htlb_core::{ByteLen, HugeSize, NodeId, PageCount};
use htlb_user::system::cgroup::Cgroups;
use htlb_user::system::topology::{self, Source};
use htlb_user::system::{meminfo, mounts, pools, resize, thp, Error, Root};

pub(crate) const NODES: &str = "sys/devices/system/node";

pub(crate) fn mib(n: u64) -> ByteLen {
    ByteLen::new(n << 20)
}

/// The error, and that it names the file and what was found.
pub(crate) fn names<T: std::fmt::Debug>(got: Result<T, Error>, file: &str, found: &str) {
    let text = got.unwrap_err().to_string();
    assert!(text.contains(file) && text.contains(found), "{text}");
}

#[test]
fn nothing_at_all_is_a_value() {
    let root = Root::at("/nonexistent/htlb");
    assert!(pools::read(&root).unwrap().is_empty());
    assert_eq!(pools::default_size(&root).unwrap(), None);
    assert_eq!(thp::read(&root).unwrap(), None);
    assert!(mounts::hugetlbfs(&root).unwrap().is_empty());
    assert_eq!(meminfo::read(&root).unwrap(), meminfo::MemInfo::default());
    let groups = Cgroups::find(&root).unwrap();
    assert!(groups.hugetlb(&root, HugeSize::MIB2).unwrap().is_none());
    assert!(groups.memory(&root).unwrap().is_none());
    let topology = topology::read(&root).unwrap();
    assert_eq!(
        (topology.source, topology.nodes.len()),
        (Source::Assumed, 1)
    );
    assert_eq!(topology.nodes[0].memory, None);
    assert_eq!(topology.usable(), NodeId::ZERO.mask());
    assert_eq!(topology.distance(NodeId::ZERO, NodeId::ZERO), None);
    let refused = resize::resize(&root, HugeSize::MIB2, None, PageCount::ONE);
    assert!(matches!(&refused, Err(Error::NoPool { supported, .. }) if supported.is_empty()));
}
