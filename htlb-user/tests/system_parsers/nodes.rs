// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Nodes with numbers between them missing.

use htlb_core::{NodeId, NodeMask};
use htlb_user::system::topology::{self, Source};

use super::tree::Tree;
use super::{names, NODES};

#[test]
fn topology_of_sparse_nodes() {
    let tree = Tree::new(&[
        (&format!("{NODES}/online"), "0,2,70\n"),
        (&format!("{NODES}/node0/cpulist"), "0-1,4\n"),
        (&format!("{NODES}/node0/distance"), "10 21 40\n"),
        (
            &format!("{NODES}/node0/meminfo"),
            "Node 0 MemTotal: 0 kB\nNode 0 MemFree: 0 kB\n",
        ),
        (&format!("{NODES}/node2/cpulist"), "\n"),
        (&format!("{NODES}/node2/distance"), "21 10 40\n"),
        (
            &format!("{NODES}/node2/meminfo"),
            "Node 2 MemTotal: 2048 kB\nNode 2 MemFree: 1024 kB\n",
        ),
        (
            "proc/self/status",
            "Name:\tx\nCpus_allowed_list:\t0,4\nMems_allowed_list:\t0,2,5\n",
        ),
    ]);
    let root = tree.root();
    let topology = topology::read(&root).unwrap();
    let two = NodeId::new(2).unwrap();
    assert_eq!(
        (topology.nodes.len(), topology.beyond, topology.source),
        (2, 1, Source::Sysfs)
    );
    assert_eq!(topology.nodes[0].cpus, [0, 1, 4]);
    assert_eq!(topology.allowed_cpus.as_deref(), Some(&[0, 4][..]));
    assert_eq!(topology.allowed_nodes, NodeMask::from_bits(0b101));
    assert_eq!(topology.usable(), two.mask(), "node 0 has no memory");
    assert_eq!(topology.distance(NodeId::ZERO, two), Some(21));
    assert_eq!(
        topology.distance(NodeId::ZERO, NodeId::new(1).unwrap()),
        None
    );
    for list in ["0-4294967295", "3-1", "1,1", "0,x", "-", "99999"] {
        tree.write(&format!("{NODES}/online"), list.as_bytes());
        names(topology::read(&root), "node/online", list);
    }
    tree.write(&format!("{NODES}/online"), b"0,2");
    tree.write(&format!("{NODES}/node2/distance"), b"10");
    names(topology::read(&root), "node2/distance", "10");
}
