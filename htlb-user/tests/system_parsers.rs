// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The readers of `/sys` and `/proc`, on trees made for them: ordinary, odd, hostile, absent.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use htlb_core::{ByteLen, HugeSize, NodeId, NodeMask, PageCount};
use htlb_user::sys::process::Limit;
use htlb_user::system::cgroup::{Accounting, Cgroups, Version, View};
use htlb_user::system::memlock::{self, Capability, Charge, Membership, Use};
use htlb_user::system::mounts::{self, Access};
use htlb_user::system::thp::{self, Defrag, When};
use htlb_user::system::topology::{self, Source};
use htlb_user::system::{meminfo, pools, resize, Error, Root};

/// A tree of files, removed when dropped.
struct Tree(PathBuf);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tree-{}-{number}", std::process::id());
        let tree = Self(std::env::temp_dir().join(format!("htlb-{name}")));
        fs::create_dir_all(&tree.0).unwrap();
        for (path, text) in files {
            tree.write(path, text.as_bytes());
        }
        tree
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A new file each time: some file systems flush what is truncated and rewritten.
        let _ = fs::remove_file(&path);
        fs::write(path, bytes).unwrap();
    }

    fn root(&self) -> Root {
        Root::at(&self.0)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mib(n: u64) -> ByteLen {
    ByteLen::new(n << 20)
}

/// The error, and that it names the file and what was found.
fn names<T: std::fmt::Debug>(got: Result<T, Error>, file: &str, found: &str) {
    let text = got.unwrap_err().to_string();
    assert!(text.contains(file) && text.contains(found), "{text}");
}

const POOL: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
const NODES: &str = "sys/devices/system/node";

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

#[test]
fn mounts_with_every_escape() {
    let tree = Tree::new(&[
        ("proc/meminfo", "Hugepagesize: 2048 kB\n"),
        (
            "proc/self/mountinfo",
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             40 27 0:40 / /dev/hugepages rw,relatime shared:3 master:1 - hugetlbfs none rw,pagesize=1024M,size=2147483648,min_size=1073741824,nr_inodes=12k\n\
             41 27 0:41 / /mnt/a\\040b\\134c\\011d\\999\\04 ro - hugetlbfs - with\\040space rw\n\
             42 27 0:42 / /mnt/x rw - hugetlbfs none ro,gid=100,mode=1770,pagesize=2M\n\
             43 27 0:43 / /mnt/short rw - hugetlbfs none\n",
        ),
    ]);
    let found = mounts::hugetlbfs(&tree.root()).unwrap();
    assert_eq!(found.len(), 4);
    assert_eq!(found[0].page_size, Some(HugeSize::GIB1));
    assert_eq!(
        (found[0].limit, found[0].minimum, found[0].inodes),
        (Some(mib(2048)), Some(mib(1024)), Some(12288))
    );
    assert_eq!(found[1].path, PathBuf::from("/mnt/a b\\c\td\\999\\04"));
    assert_eq!(
        (found[1].access, found[1].page_size),
        (Access::ReadOnly, Some(HugeSize::MIB2))
    );
    assert_eq!(
        (found[2].access, found[3].access),
        (Access::ReadOnly, Access::ReadWrite)
    );
    for (line, text) in [
        ("1 2 3", "1 2 3"),
        ("1 2 0:1 / relative rw - hugetlbfs none rw", "relative"),
        ("1 2 0:1 / /x rw hugetlbfs none rw", "/x"),
        (
            "1 2 0:1 / /x rw - hugetlbfs none pagesize=3M",
            "pagesize=3M",
        ),
        (
            "1 2 0:1 / /x rw - hugetlbfs none pagesize=18446744073709551615G",
            "pagesize",
        ),
        ("1 2 0:1 / /x rw - hugetlbfs none size=", "size="),
    ] {
        tree.write("proc/self/mountinfo", line.as_bytes());
        names(mounts::hugetlbfs(&tree.root()), "mountinfo", text);
    }
}

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

#[test]
fn what_counts_against_memlock() {
    let limit = |bytes| Limit {
        soft: bytes,
        hard: None,
    };
    let some = limit(Some(ByteLen::new(65536)));
    let tree = Tree::new(&[
        (
            "proc/self/status",
            "Gid:\t5\t5\t5\t5\nGroups:\t7 9 \nCapEff:\t0000000000000000\n",
        ),
        ("proc/sys/vm/hugetlb_shm_group", "0\n"),
    ]);
    let root = tree.root();
    let plain = memlock::read_with(&root, some).unwrap();
    assert_eq!(
        (plain.capability, plain.shm_member),
        (Capability::Lacking, Membership::Outside)
    );
    let counted = Charge::Counted(ByteLen::new(65536));
    assert_eq!(plain.charge(Use::HugetlbMapping), Charge::Free);
    assert_eq!(plain.charge(Use::ShmHugetlb), Charge::Refused);
    assert_eq!(
        plain.charge(Use::MlockHugetlb),
        Charge::Checked(ByteLen::new(65536))
    );
    for what in [Use::Mlock, Use::RdmaPin, Use::IoUringFixed, Use::VfioPin] {
        assert_eq!(plain.charge(what), counted);
    }
    tree.write("proc/sys/vm/hugetlb_shm_group", b"9\n");
    let member = memlock::read_with(&root, some).unwrap();
    assert_eq!(member.charge(Use::ShmHugetlb), Charge::Free);
    let unlimited = memlock::read_with(&root, limit(None)).unwrap();
    assert_eq!(unlimited.charge(Use::RdmaPin), Charge::Free);
    tree.write("proc/self/status", b"CapEff:\t0000000000004000\n");
    let capable = memlock::read_with(&root, some).unwrap();
    assert!(Use::ALL
        .iter()
        .all(|what| capable.charge(*what) == Charge::Free));
    tree.write("proc/self/status", b"CapEff:\tyes\n");
    names(memlock::read_with(&root, some), "proc/self/status", "yes");
}

/// Every file that is read, with something plausible in it.
const PLAUSIBLE: &[(&str, &str)] = &[
    ("proc/meminfo", "MemTotal: 100 kB\nMemFree: 50 kB\nHugepagesize: 2048 kB\n"),
    ("proc/self/cgroup", "4:memory:/a\n0::/b\n"),
    ("proc/self/mountinfo", "1 2 0:1 / /cg rw s:1 - cgroup2 c rw\n2 2 0:2 / /m rw - cgroup c memory\n3 2 0:3 / /h\\040 rw - hugetlbfs n rw,size=1G\n"),
    ("proc/self/status", "Cpus_allowed_list:\t0-1\nMems_allowed_list:\t0\nCapEff:\t00ff\nGid:\t1 1 1 1\n"),
    ("proc/sys/vm/hugetlb_shm_group", "0\n"),
    ("cg/b/hugetlb.2MB.max", "max\n"),
    ("cg/b/hugetlb.2MB.events", "max 0\n"),
    ("m/a/memory.limit_in_bytes", "4096\n"),
    ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "1\n"),
    ("sys/devices/system/node/online", "0\n"),
    ("sys/devices/system/node/node0/cpulist", "0-1\n"),
    ("sys/devices/system/node/node0/distance", "10\n"),
    ("sys/kernel/mm/transparent_hugepage/enabled", "[always] never\n"),
];

#[test]
fn noise_gives_errors_that_name_a_file_and_never_panics() {
    let tree = Tree::new(PLAUSIBLE);
    let root = tree.root();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut good, mut bad) = (0, 0);
    let limit = Limit {
        soft: None,
        hard: None,
    };
    for _ in 0..1500 {
        let (path, text) = PLAUSIBLE[random(PLAUSIBLE.len())];
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len().max(1)).min(bytes.len());
            match random(4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, random(256) as u8),
                2 => bytes
                    .splice(at..at, *b"18446744073709551615")
                    .for_each(drop),
                _ => bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|b| *b = b"\0 -,:/.\\[]\n\xff"[random(12)]),
            }
        }
        tree.write(path, &bytes);
        let groups = Cgroups::find(&root);
        let results = [
            pools::read(&root).map(drop),
            thp::read(&root).map(drop),
            mounts::hugetlbfs(&root).map(drop),
            meminfo::read(&root).map(drop),
            topology::read(&root).map(drop),
            memlock::read_with(&root, limit).map(drop),
            groups
                .and_then(|g| g.hugetlb(&root, HugeSize::MIB2).and(g.memory(&root)))
                .map(drop),
        ];
        for result in results {
            match result {
                Ok(()) => good += 1,
                Err(error @ (Error::Found { .. } | Error::Read { .. })) => {
                    bad += 1;
                    let message = error.to_string();
                    assert!(
                        message.contains("htlb-tree-") && message.len() < 900,
                        "{message}"
                    );
                }
                Err(other) => panic!("{other}"),
            }
        }
        tree.write(path, text.as_bytes());
    }
    assert!(good > 1000 && bad > 150, "{good} {bad}");
}
