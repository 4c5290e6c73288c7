// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pools, `meminfo` and transparent huge pages: what the kernel says of its memory.

use htlb_core::{ByteLen, HugeSize, NodeId, PageCount};
use htlb_user::system::thp::{self, Defrag, When};
use htlb_user::system::{meminfo, pools, resize, Error};

use super::tree::Tree;
use super::{names, NODES};

const POOL: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";

#[test]
fn pools_of_two_sizes_on_two_nodes() {
    let tree = Tree::new(&[
        (&format!("{POOL}/nr_hugepages"), "10\n"),
        (&format!("{POOL}/free_hugepages"), "6\n"),
        (&format!("{POOL}/resv_hugepages"), "2\n"),
        (&format!("{POOL}/surplus_hugepages"), "1\n"),
        (&format!("{POOL}/nr_overcommit_hugepages"), "4\n"),
        (
            &format!("{NODES}/node10/hugepages/hugepages-2048kB/nr_hugepages"),
            "4",
        ),
        (
            &format!("{NODES}/node10/hugepages/hugepages-2048kB/surplus_hugepages"),
            "1",
        ),
        (
            &format!("{NODES}/node2/hugepages/hugepages-2048kB/nr_hugepages"),
            "6",
        ),
        (
            "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
            "0\n",
        ),
        ("sys/kernel/mm/hugepages/hugepages-3kB/nr_hugepages", "5\n"),
        (
            "sys/kernel/mm/hugepages/hugepages-99999999999999999999kB/nr_hugepages",
            "5\n",
        ),
        ("sys/kernel/mm/hugepages/README", "no pool"),
    ]);
    let pools = pools::read(&tree.root()).unwrap();
    let sizes: Vec<_> = pools.iter().map(|pool| pool.size).collect();
    assert_eq!(sizes, [HugeSize::MIB2, HugeSize::GIB1]);
    let counts = pools[0].counts;
    assert_eq!(counts.unreserved().raw(), 4);
    assert_eq!(counts.available().raw(), 7);
    assert_eq!(counts.persistent().raw(), 9);
    let nodes: Vec<_> = pools[0]
        .nodes
        .iter()
        .map(|n| (n.node.raw(), n.total.raw()))
        .collect();
    assert_eq!(nodes, [(2, 6), (10, 4)]);
    let ten = Some(NodeId::new(10).unwrap());
    assert_eq!(pools[0].persistent(ten).raw(), 3);
    tree.write(&format!("{POOL}/free_hugepages"), b"-1\n");
    names(pools::read(&tree.root()), "free_hugepages", "-1");
    let unknown = resize::resize(&tree.root(), HugeSize::BASE, None, PageCount::ONE);
    names(unknown, "4KiB", "2MiB, 1GiB");
    let nowhere = Some(NodeId::new(7).unwrap());
    tree.write(&format!("{POOL}/free_hugepages"), b"6\n");
    let got = resize::resize(&tree.root(), HugeSize::MIB2, nowhere, PageCount::ONE);
    assert!(matches!(got, Err(Error::NoPool { .. })));
}

#[test]
fn transients_do_not_wrap() {
    // More reserved than free, more surplus than total: what two reads at different moments can give.
    let tree = Tree::new(&[
        (&format!("{POOL}/nr_hugepages"), "1"),
        (&format!("{POOL}/free_hugepages"), "1"),
        (&format!("{POOL}/resv_hugepages"), "5"),
        (&format!("{POOL}/surplus_hugepages"), "3"),
        (&format!("{POOL}/nr_overcommit_hugepages"), "2"),
    ]);
    let counts = pools::read(&tree.root()).unwrap()[0].counts;
    assert_eq!(
        (counts.available().raw(), counts.persistent().raw()),
        (0, 0)
    );
}

#[test]
fn meminfo_ancient_and_odd() {
    let tree = Tree::new(&[(
        "proc/meminfo",
        "        total:    used:    free:\nMem:  1 2 3\nMemTotal: 100 kB\nMemFree:\t40 kB\nHugePages_Total:     7\n\
         HugePages_Free: 3\nHugepagesize:       2048 kB\nUnaccepted:\nWhat is this\n:\nHardwareCorrupted: -1 kB\n",
    )]);
    let info = meminfo::read(&tree.root()).unwrap();
    assert_eq!(info.total, Some(ByteLen::new(100 << 10)));
    assert_eq!(info.available, Some(ByteLen::new(40 << 10)));
    assert_eq!(
        (info.huge_total, info.huge_free, info.huge_surplus),
        (Some(7), Some(3), None)
    );
    assert_eq!(
        pools::default_size(&tree.root()).unwrap(),
        Some(HugeSize::MIB2)
    );
    for (text, found) in [
        ("MemFree: lots\n", "lots"),
        ("MemFree: 1 MB\n", "MB"),
        ("MemFree:\n", "MemFree"),
        ("MemFree: 99999999999999999999 kB\n", "9999"),
        ("MemFree: 18446744073709551615 kB\n", "18446744073709551615"),
    ] {
        tree.write("proc/meminfo", text.as_bytes());
        names(meminfo::read(&tree.root()), "proc/meminfo", found);
    }
    tree.write(
        &format!("{NODES}/node0/meminfo"),
        b"Node 0 MemTotal: 50 kB\nNode 0 MemFree: 20 kB\nNode 0 Active(file): 3 kB\nNode 0 Inactive(file): 4 kB\n",
    );
    let node = meminfo::read_node(&tree.root(), NodeId::ZERO).unwrap();
    assert_eq!(node.available, Some(ByteLen::new(27 << 10)));
}

#[test]
fn thp_settings_inherit() {
    const THP: &str = "sys/kernel/mm/transparent_hugepage";
    let tree = Tree::new(&[
        (&format!("{THP}/enabled"), "always [madvise] never\n"),
        (
            &format!("{THP}/defrag"),
            "always defer [defer+madvise] madvise never\n",
        ),
        (
            &format!("{THP}/shmem_enabled"),
            "always within_size [advise] never deny force\n",
        ),
        (&format!("{THP}/hpage_pmd_size"), "2097152\n"),
        (
            &format!("{THP}/hugepages-2048kB/enabled"),
            "always [inherit] madvise never\n",
        ),
        (
            &format!("{THP}/hugepages-2048kB/shmem_enabled"),
            "always [inherit] within_size advise never\n",
        ),
        (
            &format!("{THP}/hugepages-64kB/enabled"),
            "[always] inherit madvise never\n",
        ),
    ]);
    let thp = thp::read(&tree.root()).unwrap().unwrap();
    let small = HugeSize::from_bytes(64 << 10).unwrap();
    assert_eq!(thp.defrag, Some(Defrag::DeferAdvised));
    assert_eq!(thp.anonymous(HugeSize::MIB2), When::Advised);
    assert_eq!(thp.shared(HugeSize::MIB2), When::Advised);
    assert_eq!(
        (thp.anonymous(small), thp.shared(small)),
        (When::Always, When::Never)
    );
    assert_eq!(thp.anonymous(HugeSize::GIB1), When::Never);
    tree.write(
        &format!("{THP}/shmem_enabled"),
        b"always within_size advise never [deny] force",
    );
    assert_eq!(
        thp::read(&tree.root())
            .unwrap()
            .unwrap()
            .shared(HugeSize::MIB2),
        When::Deny
    );
    for text in [
        "",
        "always madvise never",
        "[sometimes] never",
        "[always",
        "[]",
    ] {
        tree.write(&format!("{THP}/enabled"), text.as_bytes());
        names(
            thp::read(&tree.root()),
            "transparent_hugepage/enabled",
            text,
        );
    }
}
