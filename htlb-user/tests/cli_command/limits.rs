// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Control groups that refuse huge pages: at the reservation, and at the page itself.

use std::fs;
use std::path::PathBuf;

use htlb_tests::skip::skip;

use super::content;
use super::world::{Pool, World};

const MIB2: u64 = 2 << 20;

/// A group below the top of the unified hierarchy, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(test: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let Some(top) = line.and_then(|line| line.split(' ').nth(4)) else {
            skip(test, "no unified control group hierarchy");
            return None;
        };
        let control = PathBuf::from(top).join("cgroup.subtree_control");
        let path = PathBuf::from(top).join(format!("htlb-cli-{test}-{}", std::process::id()));
        let made = fs::write(&control, "+hugetlb").and_then(|()| fs::create_dir(&path));
        if let Err(error) = made {
            skip(test, &format!("{}: {error}", control.display()));
            return None;
        }
        Some(Self(path))
    }

    fn set(&self, file: &str, pages: u64) {
        fs::write(self.0.join(file), (pages * MIB2).to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Loads 10 MiB, five pages of 2 MiB, under a limit of two; `hidden` is a script that hides what tells of the limit.
fn limited(test: &str, file: &str, hidden: &str) {
    let Some(_pool) = Pool::with(test, 8) else {
        return;
    };
    let Some(group) = Group::new(test) else {
        return;
    };
    let script = format!(
        "mkdir -p /run/huge; mount -t hugetlbfs -o pagesize=2M,mode=1777 none /run/huge; {hidden}"
    );
    let Some(mut world) = World::mounted(test, &script) else {
        return;
    };
    group.set(file, 2);
    world.before = Some(format!("echo $$ > {}/cgroup.procs", group.0.display()));
    let bytes = content(10 << 20, 31);
    let file = world.file("x", &bytes);
    let loaded = world.json("load", &[&file]);
    let shares = &loaded["receipt"]["shares"];
    assert_eq!(
        (&shares[0]["rung"], &shares[0]["pages"]),
        (&"system".into(), &2.into()),
        "{loaded}"
    );
    assert!(world.good("cat", &["x"]) == bytes);
    if hidden.is_empty() {
        let advice = loaded["receipt"]["advice"].as_str().unwrap();
        assert!(
            advice.contains("echo max") && advice.contains("hugetlb.2MB."),
            "{advice}"
        );
        let why = loaded["receipt"]["refusals"][0]["why"].as_str().unwrap();
        assert!(why.contains("control group"), "{why}");
        world.good("rm", &["x"]);
        let info = String::from_utf8(world.good("info", &[])).unwrap();
        assert!(info.contains("Control group   2MiB"), "{info}");
    } else {
        let limits = &world.json("info", &[])["limits"];
        assert_eq!(
            limits["hugetlb"],
            serde_json::json!([]),
            "the limit is not hidden"
        );
        world.good("rm", &["x"]);
    }
    let text = world.bad(4, "load", &[&file, "--page-size", "2M", "--strict"]);
    assert!(text.contains("2MiB pages"), "{text}");
    assert_eq!(world.memory_files(), Vec::<PathBuf>::new());
}

#[test]
fn pages_are_limited() {
    limited("pages_are_limited", "hugetlb.2MB.max", "");
}

#[test]
fn reservations_are_limited() {
    limited("reservations_are_limited", "hugetlb.2MB.rsvd.max", "");
}

/// A script that hides the control groups: then a limit shows only when it is met.
const HIDE: &str = "umount --lazy --recursive /sys/fs/cgroup";

#[test]
fn pages_are_limited_and_nobody_says_so() {
    limited(
        "pages_are_limited_and_nobody_says_so",
        "hugetlb.2MB.max",
        HIDE,
    );
}

#[test]
fn reservations_are_limited_and_nobody_says_so() {
    limited(
        "reservations_are_limited_and_nobody_says_so",
        "hugetlb.2MB.rsvd.max",
        HIDE,
    );
}
