// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `/proc` and `/sys` with any text in them: an error that names the file, or a consistent picture.
#![no_main]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use htlb_core::{ByteLen, HugeSize, NodeId};
use htlb_user::sys::process::Limit;
use htlb_user::system::cgroup::{Cgroups, Limits};
use htlb_user::system::{meminfo, memlock, mounts, pools, thp, topology, Error, Root};
use libfuzzer_sys::fuzz_target;

const SIZES: [HugeSize; 3] = [HugeSize::BASE, HugeSize::MIB2, HugeSize::GIB1];

// Each file is a line `# /its/path` and what follows up to the next such line.
fuzz_target!(|bytes: &[u8]| {
    let root = Root::of_files(files(bytes));
    groups(&root);
    machine(&root);
    nodes(&root);
    if let Some(mounts) = judged(mounts::hugetlbfs(&root)) {
        assert!(mounts.iter().all(|mount| mount.path.is_absolute()));
    }
    judged(mounts::transparent(&root, Path::new("/dev/shm/x")));
    let limit = Limit {
        soft: Some(ByteLen::new(1 << 16)),
        hard: None,
    };
    if let Some(memlock) = judged(memlock::read_with(&root, limit)) {
        for what in memlock::Use::ALL {
            let _ = memlock.charge(what);
        }
    }
});

fn files(bytes: &[u8]) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut current: Option<PathBuf> = None;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match (line.strip_prefix(b"# /"), &current) {
            (Some(path), _) => {
                let path = Path::new("/").join(OsStr::from_bytes(path.trim_ascii_end()));
                files.entry(path.clone()).or_insert_with(Vec::new);
                current = Some(path);
            }
            (None, Some(path)) => {
                let file: &mut Vec<u8> = files.entry(path.clone()).or_default();
                file.extend_from_slice(line);
            }
            (None, None) => {}
        }
    }
    files
}

/// The answer; an error says which file, and what was found there.
fn judged<T: Debug>(answer: Result<T, Error>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            assert!(matches!(error, Error::Found { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains('/') && text.len() < 8192, "{text}");
            None
        }
    }
}

fn groups(root: &Root) {
    let Some(groups) = judged(Cgroups::find(root)) else {
        return;
    };
    let consistent = |limits: &Limits| {
        assert_eq!(limits.max.is_some(), limits.room.is_some());
        assert_eq!(limits.max.is_some(), limits.set_by.is_some());
        assert!(limits.room <= limits.max, "{limits:?}");
        assert!(limits.set_by.iter().all(|path| path.is_absolute()));
    };
    for size in SIZES {
        if let Some(Some(limits)) = judged(groups.hugetlb(root, size)) {
            consistent(&limits.pages);
            limits.reservations.iter().for_each(consistent);
            assert_eq!(limits.room().is_some(), limits.command().is_some());
        }
    }
    if let Some(Some(limits)) = judged(groups.memory(root)) {
        consistent(&limits);
    }
    judged(groups.reclaimable(root));
}

fn machine(root: &Root) {
    judged(meminfo::read(root));
    judged(meminfo::read_node(root, NodeId::ZERO));
    judged(pools::default_size(root));
    if let Some(pools) = judged(pools::read(root)) {
        assert!(pools.windows(2).all(|two| two[0].size < two[1].size));
        for pool in &pools {
            assert!(pool.counts.unreserved() <= pool.counts.free);
            assert!(pool.counts.available() >= pool.counts.unreserved());
            assert!(pool.persistent(None) <= pool.counts.total);
            let nodes = &pool.nodes;
            assert!(nodes.windows(2).all(|two| two[0].node <= two[1].node));
            for node in nodes {
                assert!(pool.persistent(Some(node.node)) <= node.total);
            }
        }
    }
    if let Some(Some(thp)) = judged(thp::read(root)) {
        for size in SIZES {
            let _ = (thp.anonymous(size), thp.shared(size));
        }
    }
}

fn nodes(root: &Root) {
    let Some(topology) = judged(topology::read(root)) else {
        return;
    };
    let nodes = &topology.nodes;
    assert!(!nodes.is_empty() && nodes.windows(2).all(|two| two[0].id < two[1].id));
    assert!(topology.usable().is_subset_of(topology.allowed_nodes));
    for node in nodes {
        let distances = node.distances.len();
        assert!(distances == 0 || distances == nodes.len());
        for other in nodes {
            let known = topology.distance(node.id, other.id).is_some();
            assert_eq!(known, distances > 0);
        }
    }
}
