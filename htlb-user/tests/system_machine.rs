// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The readers on the running machine, resizing its pool, and the limits of a real control group.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use htlb_core::{ByteLen, ByteOffset, ByteRange, HugeSize, NodeId, PageCount};
use htlb_user::sys::memfd::{Kind, Memfd};
use htlb_user::sys::pagemap;
use htlb_user::sys::populate::PopulateError;
use htlb_user::sys::process;
use htlb_user::sys::window::{Backing, Fork, Window, WindowError};
use htlb_user::system::cgroup::Cgroups;
use htlb_user::system::resize::{resize, Cause};
use htlb_user::system::{meminfo, memlock, mounts, pools, thp, topology, Error, Root};

mod system_support;
use system_support::{number, skipped, PoolGuard, POOL};

const MIB2: u64 = 2 << 20;

fn hugetlb(pages: u64) -> Arc<Window> {
    let file = Memfd::new(Kind::Hugetlb(HugeSize::MIB2)).unwrap();
    file.set_len(ByteLen::new(pages * MIB2)).unwrap();
    let len = ByteLen::new(pages * MIB2);
    Arc::new(Window::reserve(Backing::Sole(file), len, HugeSize::MIB2, Fork::Exclude).unwrap())
}

#[test]
fn this_machine_is_understood() {
    let root = Root::host();
    let info = meminfo::read(&root).unwrap();
    assert!(info.total > info.free && info.available.is_some());
    let topology = topology::read(&root).unwrap();
    assert!(!topology.usable().is_empty());
    assert!(topology
        .distance(topology.nodes[0].id, topology.nodes[0].id)
        .is_none_or(|d| d == 10));
    let cpus = htlb_user::sys::numa::allowed_cpus().unwrap();
    assert_eq!(topology.allowed_cpus, Some(cpus));
    thp::read(&root).unwrap();
    mounts::hugetlbfs(&root).unwrap();
    memlock::read(&root).unwrap();
    let groups = Cgroups::find(&root).unwrap();
    for pool in pools::read(&root).unwrap() {
        assert!(pool.counts.free <= pool.counts.total);
        groups.hugetlb(&root, pool.size).unwrap();
    }
    groups.memory(&root).unwrap();
}

#[test]
fn resizing_reads_back_and_says_what_is_stuck() {
    let name = "resizing_reads_back_and_says_what_is_stuck";
    let Some(_pool) = PoolGuard::with_pages(name, 2) else {
        return;
    };
    let root = Root::host();
    let set = |node, pages| resize(&root, HugeSize::MIB2, node, PageCount::new(pages));
    let report = set(None, 6).unwrap();
    assert!(report.is_met(), "{report}");
    assert_eq!(
        (
            report.before.counts.total.raw(),
            report.after.counts.total.raw()
        ),
        (2, 6)
    );
    assert_eq!(number(&Path::new(POOL).join("nr_hugepages")), 6);
    let report = set(Some(NodeId::ZERO), 4).unwrap();
    assert_eq!(
        (report.is_met(), report.after.persistent(report.node).raw()),
        (true, 4)
    );
    let window = hugetlb(3);
    window.map(window.whole()).unwrap();
    window.populate_write(window.whole()).unwrap();
    let report = set(None, 0).unwrap();
    let pages = PageCount::new(3);
    assert_eq!(report.cause, Some(Cause::InUse { pages }), "{report}");
    assert!(report
        .to_string()
        .contains("3 of the pages to remove are in use"));
    drop(window);
    assert_eq!(
        number(&Path::new(POOL).join("nr_hugepages")),
        0,
        "surplus pages left when released"
    );
    let missing = HugeSize::from_bytes(64 << 10).unwrap();
    assert!(matches!(
        resize(&root, missing, None, PageCount::ONE),
        Err(Error::NoPool { .. })
    ));
}

/// A group below the top of the unified hierarchy, removed when dropped.
struct Group(PathBuf, Option<PathBuf>);

impl Group {
    fn new(test: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let Some(top) = line
            .and_then(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
        else {
            skipped(test, "no unified control group hierarchy");
            return None;
        };
        let control = top.join("cgroup.subtree_control");
        let had = fs::read_to_string(&control)
            .unwrap_or_default()
            .contains("hugetlb");
        if let Err(error) = fs::write(&control, "+hugetlb") {
            skipped(test, format!("{}: {error}", control.display()));
            return None;
        }
        let group = Self(
            top.join(format!("htlb-test-{}", std::process::id())),
            (!had).then_some(control),
        );
        if let Err(error) = fs::create_dir(&group.0) {
            skipped(test, format!("{}: {error}", group.0.display()));
            return None;
        }
        Some(group)
    }

    fn set(&self, file: &str, value: u64) {
        fs::write(self.0.join(file), value.to_string()).unwrap();
    }

    /// Runs the test `body` of this file in a process of its own, inside the group.
    fn run(&self, body: &str) {
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", body, "--nocapture", "--ignored"])
            .env("HTLB_TEST_GROUP", &self.0)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{errors}"
        );
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Pages that the child's memfd held are uncharged a moment after its exit.
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => break,
            }
        }
        if let Some(control) = &self.1 {
            let _ = fs::write(control, "-hugetlb");
        }
    }
}

#[test]
fn a_group_limits_pages_and_reservations() {
    let name = "a_group_limits_pages_and_reservations";
    let Some(_pool) = PoolGuard::with_pages(name, 6) else {
        return;
    };
    let Some(group) = Group::new(name) else {
        return;
    };
    group.set("hugetlb.2MB.max", 2 * MIB2);
    group.set("hugetlb.2MB.rsvd.max", 4 * MIB2);
    group.run("inside_a_group");
}

/// The body of the test above. Ignored, as it means nothing outside of a group.
#[test]
#[ignore = "the child of a_group_limits_pages_and_reservations"]
fn inside_a_group() {
    let Some(group) = env::var_os("HTLB_TEST_GROUP").map(PathBuf::from) else {
        return skipped(
            "inside_a_group",
            "only inside the group that its parent makes",
        );
    };
    fs::write(group.join("cgroup.procs"), "0").unwrap();
    let root = Root::host();
    let read = || {
        Cgroups::find(&root)
            .unwrap()
            .hugetlb(&root, HugeSize::MIB2)
            .unwrap()
            .unwrap()
    };
    let limits = read();
    assert_eq!(limits.pages.max, Some(ByteLen::new(2 * MIB2)));
    assert_eq!(limits.pages.set_by.as_deref(), Some(group.as_path()));
    assert_eq!(
        limits.reservations.as_ref().unwrap().max,
        Some(ByteLen::new(4 * MIB2))
    );
    assert_eq!(limits.room(), Some(ByteLen::new(2 * MIB2)));
    // Six pages are free, but the reservation is refused at mmap, as a value.
    let window = hugetlb(6);
    let refused = window.map(window.whole());
    assert!(
        matches!(refused, Err(WindowError::Kernel(f)) if f.is(libc::ENOMEM)),
        "{refused:?}"
    );
    // Four can be reserved. The third cannot be had: a SIGBUS at a touch, a value here.
    let four = ByteRange::at(ByteOffset::ZERO, ByteLen::new(4 * MIB2)).unwrap();
    window.map(four).unwrap();
    let short = window.populate_write(four);
    assert!(
        matches!(short, Err(PopulateError::Shortage(_))),
        "{short:?}"
    );
    assert_eq!(pagemap::present(&window, four).unwrap().raw(), 2);
    let limits = read();
    assert_eq!(limits.room(), Some(ByteLen::ZERO));
    assert!(limits.pages.refused >= 1);
}

#[test]
fn without_rights_a_resize_names_the_command() {
    let name = "without_rights_a_resize_names_the_command";
    if process::effective_user() == 0 {
        // The same test, in a process that gave its rights up.
        let exe = env::temp_dir().join(format!("htlb-unprivileged-{}", std::process::id()));
        fs::copy(env::current_exe().unwrap(), &exe).unwrap();
        use std::os::unix::process::CommandExt;
        let output = Command::new(&exe)
            .args(["--exact", name, "--nocapture"])
            .uid(65534)
            .gid(65534)
            .current_dir("/")
            .output();
        fs::remove_file(&exe).unwrap();
        let output = match output {
            // The root of a user namespace is the only user there; or the folder for the copy is closed to others.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                return skipped(name, "no other user can be had here");
            }
            output => output.unwrap(),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let root = Root::host();
    let Some(pool) = pools::read_size(&root, HugeSize::MIB2).unwrap() else {
        return skipped(name, "no 2 MiB pool");
    };
    let error = resize(&root, HugeSize::MIB2, None, PageCount::new(8)).unwrap_err();
    let wanted = format!("echo 8 | sudo tee {POOL}/nr_hugepages");
    assert_eq!(error.command().as_deref(), Some(wanted.as_str()));
    assert!(error.to_string().contains(&wanted));
    assert_eq!(
        pools::read_size(&root, HugeSize::MIB2)
            .unwrap()
            .unwrap()
            .counts
            .total,
        pool.counts.total
    );
    // Without rights, presence is known and frame numbers are not.
    let window = Window::reserve(
        Backing::Private,
        ByteLen::new(4096),
        HugeSize::BASE,
        Fork::Exclude,
    )
    .unwrap();
    window.map(window.whole()).unwrap();
    window.populate_write(window.whole()).unwrap();
    let entries = pagemap::entries(&window, window.whole()).unwrap();
    assert!(entries[0].is_present() && entries[0].pfn().is_none());
}
