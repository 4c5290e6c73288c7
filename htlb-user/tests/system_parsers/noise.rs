// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Files with noise in them: an error that names the file, and never a panic.

use htlb_core::HugeSize;
use htlb_user::sys::process::Limit;
use htlb_user::system::cgroup::Cgroups;
use htlb_user::system::{meminfo, memlock, mounts, pools, thp, topology, Error};

use super::tree::Tree;

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
