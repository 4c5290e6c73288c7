// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Limits of control groups, of either version.

use std::path::PathBuf;

use htlb_core::HugeSize;
use htlb_user::system::cgroup::{Accounting, Cgroups, Version, View};

use super::tree::Tree;
use super::{mib, names};

#[test]
fn a_limit_is_the_minimum_on_the_way_up() {
    let tree = Tree::new(&[
        ("proc/self/cgroup", "0::/a/b:c\n"),
        (
            "proc/self/mountinfo",
            "1 2 0:1 / /cg rw - cgroup2 cgroup2 rw,memory_hugetlb_accounting\n",
        ),
        ("cg/a/hugetlb.2MB.max", "8388608\n"),
        ("cg/a/hugetlb.2MB.current", "6291456\n"),
        ("cg/a/hugetlb.2MB.events", "max 9\n"),
        ("cg/a/b:c/hugetlb.2MB.max", "4194304\n"),
        ("cg/a/b:c/hugetlb.2MB.current", "0\n"),
        ("cg/a/b:c/hugetlb.2MB.events", "max 3\n"),
        ("cg/a/b:c/hugetlb.2MB.rsvd.max", "max\n"),
        ("cg/a/hugetlb.2MB.rsvd.max", "2097152\n"),
        ("cg/a/hugetlb.2MB.rsvd.current", "4194304\n"),
        ("cg/a/memory.max", "max\n"),
    ]);
    let root = tree.root();
    let groups = Cgroups::find(&root).unwrap();
    assert_eq!(groups.hugetlb_is_memory, Accounting::AsMemory);
    let limits = groups.hugetlb(&root, HugeSize::MIB2).unwrap().unwrap();
    // The group itself is the tighter maximum, its parent leaves less room.
    assert_eq!(
        (limits.pages.max, limits.pages.room),
        (Some(mib(4)), Some(mib(2)))
    );
    assert_eq!(limits.pages.set_by, Some(PathBuf::from("/cg/a/b:c")));
    assert_eq!(
        (
            limits.pages.refused,
            limits.pages.version,
            limits.pages.view
        ),
        (3, Version::V2, View::Whole)
    );
    let reservations = limits.reservations.as_ref().unwrap();
    assert_eq!(
        (reservations.max, reservations.room),
        (Some(mib(2)), Some(mib(0)))
    );
    assert_eq!(limits.room(), Some(mib(0)));
    assert!(groups.hugetlb(&root, HugeSize::GIB1).unwrap().is_none());
    assert_eq!(groups.memory(&root).unwrap().unwrap().max, None);
    tree.write("cg/a/hugetlb.2MB.max", b"a lot\n");
    names(
        groups.hugetlb(&root, HugeSize::MIB2),
        "hugetlb.2MB.max",
        "a lot",
    );
}

#[test]
fn version_one_hybrid_and_containers() {
    let tree = Tree::new(&[
        (
            "proc/self/cgroup",
            "9:name=systemd:/\n5:cpu,memory:/docker/x\n3:hugetlb:/docker/x/y\n0::/\n",
        ),
        (
            "proc/self/mountinfo",
            "1 2 0:1 /docker/x /cg/hugetlb ro - cgroup cgroup rw,hugetlb\n\
             2 2 0:2 / /cg/memory rw - cgroup cgroup rw,cpu,memory\n\
             3 2 0:3 / /cg/unified rw - cgroup2 cgroup2 rw\n",
        ),
        ("cg/hugetlb/hugetlb.2MB.limit_in_bytes", "10485760\n"),
        ("cg/hugetlb/hugetlb.2MB.failcnt", "2\n"),
        (
            "cg/hugetlb/y/hugetlb.2MB.limit_in_bytes",
            "9223372036852678656\n",
        ),
        ("cg/hugetlb/y/hugetlb.2MB.failcnt", "1\n"),
        ("cg/memory/release_agent", ""),
        ("cg/memory/docker/x/memory.limit_in_bytes", "1048576\n"),
        ("cg/memory/docker/x/memory.usage_in_bytes", "2097152\n"),
        ("cg/unified/cgroup.type", "domain\n"),
        ("cg/unified/hugetlb.2MB.max", "0\n"),
    ]);
    let root = tree.root();
    let groups = Cgroups::find(&root).unwrap();
    let limits = groups.hugetlb(&root, HugeSize::MIB2).unwrap().unwrap();
    assert_eq!(
        (limits.pages.max, limits.pages.version),
        (Some(mib(10)), Version::V1)
    );
    assert_eq!(
        (limits.pages.view, limits.pages.refused),
        (View::FromMount, 3)
    );
    assert!(limits.reservations.is_none());
    let memory = groups.memory(&root).unwrap().unwrap();
    assert_eq!(
        (memory.max, memory.room, memory.view),
        (Some(mib(1)), Some(mib(0)), View::Whole)
    );
    // A container of its own namespace: the mount's root looks like the top and is not.
    tree.write("proc/self/cgroup", b"0::/\n");
    let limits = Cgroups::find(&root)
        .unwrap()
        .hugetlb(&root, HugeSize::MIB2)
        .unwrap()
        .unwrap();
    assert_eq!(
        (limits.pages.max, limits.pages.view),
        (Some(mib(0)), View::FromMount)
    );
    // Outside of the namespace, or trying to get out of the mount: the mount is all that can be seen.
    for path in ["/../../other", "/../../../proc", "/a/../../x"] {
        tree.write("proc/self/cgroup", format!("0::{path}\n").as_bytes());
        let limits = Cgroups::find(&root)
            .unwrap()
            .hugetlb(&root, HugeSize::MIB2)
            .unwrap()
            .unwrap();
        assert_eq!(
            (limits.pages.max, limits.pages.view),
            (Some(mib(0)), View::FromMount),
            "{path}"
        );
    }
    tree.write("proc/self/cgroup", b"nonsense\n");
    names(Cgroups::find(&root), "proc/self/cgroup", "nonsense");
}
