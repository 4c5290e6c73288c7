// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The leases on an imitated sysfs: what a real one would do to this machine is the runner's to try.

use super::*;
use std::fs::{File, OpenOptions};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A sysfs with one node and two pools, removed when dropped.
struct Imitation(PathBuf);

impl Imitation {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("htlb-sysfs-{}-{number}", std::process::id()));
        for (place, kib) in [
            ("kernel/mm", 2048),
            ("kernel/mm", 1_048_576),
            ("devices/system/node/node0", 2048),
            ("devices/system/node/node0", 1_048_576),
        ] {
            let folder = root
                .join(place)
                .join(format!("hugepages/hugepages-{kib}kB"));
            fs::create_dir_all(&folder).unwrap();
            for file in ["free", "resv", "surplus", "nr", "nr_overcommit"] {
                fs::write(folder.join(format!("{file}_hugepages")), "0\n").unwrap();
            }
        }
        fs::create_dir_all(root.join("devices/system/node/power")).unwrap();
        Self(root)
    }

    fn pools(&self) -> HugePools {
        HugePools::under(&self.0)
    }

    fn lock(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.0.join("lock"))
            .unwrap()
    }

    fn overcommit(&self) -> u64 {
        self.pools()
            .read(Place::Machine, HugeSize::MIB2, Counter::Overcommit)
            .unwrap()
            .raw()
    }
}

impl Drop for Imitation {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn sizes_and_nodes_are_found_and_sorted() {
    let sysfs = Imitation::new();
    let sizes = sysfs.pools().sizes().unwrap();
    assert_eq!(sizes, [HugeSize::MIB2, HugeSize::GIB1]);
    assert_eq!(sysfs.pools().nodes().unwrap(), [0]);
}

#[test]
fn a_machine_without_nodes_has_its_own_settings() {
    let sysfs = Imitation::new();
    fs::remove_dir_all(sysfs.0.join("devices")).unwrap();
    let journal = sysfs.pools().settings().unwrap().to_journal();
    assert_eq!(journal.lines().count(), 4);
    assert!(journal.contains("kernel/mm/hugepages/hugepages-2048kB/nr_hugepages\t0\n"));
}

#[test]
fn surplus_pages_are_not_a_setting() {
    let sysfs = Imitation::new();
    let folder = sysfs
        .0
        .join("devices/system/node/node0/hugepages/hugepages-2048kB");
    fs::write(folder.join("nr_hugepages"), "7\n").unwrap();
    fs::write(folder.join("surplus_hugepages"), "3\n").unwrap();
    let journal = sysfs.pools().settings().unwrap().to_journal();
    assert!(journal.contains("hugepages-2048kB/nr_hugepages\t4\n"));
}

#[test]
fn a_dropped_lease_gives_everything_back() {
    let sysfs = Imitation::new();
    let lease = PoolLease::take_of(sysfs.pools(), sysfs.lock()).unwrap();
    lease
        .set_overcommit(HugeSize::MIB2, PageCount::new(9))
        .unwrap();
    let total = lease.set_node_total(0, HugeSize::GIB1, PageCount::new(2));
    assert_eq!(total.unwrap(), PageCount::new(2));
    assert_eq!(sysfs.overcommit(), 9);
    let found = Settings::from_journal(&fs::read_to_string(sysfs.0.join("lock")).unwrap());
    drop(lease);
    assert_eq!(sysfs.pools().settings().unwrap(), found);
    assert_eq!(fs::read_to_string(sysfs.0.join("lock")).unwrap(), "");
}

#[test]
fn the_next_lease_undoes_what_a_killed_holder_left() {
    let sysfs = Imitation::new();
    let lease = PoolLease::take_of(sysfs.pools(), sysfs.lock()).unwrap();
    lease
        .set_overcommit(HugeSize::MIB2, PageCount::new(9))
        .unwrap();
    let journal = fs::read_to_string(sysfs.0.join("lock")).unwrap();
    drop(lease);

    // As a kill would leave it: the pool changed, the journal there, the lock gone.
    fs::write(sysfs.0.join("lock"), journal).unwrap();
    sysfs
        .pools()
        .write(
            Place::Machine,
            HugeSize::MIB2,
            Counter::Overcommit,
            PageCount::new(9),
        )
        .unwrap();
    drop(PoolLease::take_of(sysfs.pools(), sysfs.lock()).unwrap());
    assert_eq!(sysfs.overcommit(), 0);
}

#[test]
fn a_second_lease_waits_for_the_first() {
    let sysfs = Imitation::new();
    let first = PoolLease::take_of(sysfs.pools(), sysfs.lock()).unwrap();
    let refused = rustix::fs::flock(
        sysfs.lock(),
        rustix::fs::FlockOperation::NonBlockingLockExclusive,
    );
    assert_eq!(refused, Err(rustix::io::Errno::WOULDBLOCK));
    drop(first);
    drop(PoolLease::take_of(sysfs.pools(), sysfs.lock()).unwrap());
}

#[test]
fn a_journal_cut_short_restores_only_whole_lines() {
    let whole = Settings::from_journal("/a\t1\n/b\t22\n");
    let cut = Settings::from_journal("/a\t1\n/b\t2");
    assert_eq!(whole.files.len(), 2);
    assert_eq!(cut.files, [(PathBuf::from("/a"), 1)]);
}

#[test]
fn a_missing_counter_is_named_in_the_error() {
    let sysfs = Imitation::new();
    let error = sysfs
        .pools()
        .read(Place::Node(5), HugeSize::MIB2, Counter::Total)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("node5"));
}
