// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Limits of control groups, which the kernel tells by a signal to whoever touches first: here they are values.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use htlb_core::{ByteLen, Error as Cause, Fallback, HugeSize};
use htlb_tests::skip::skip;
use htlb_user::buffer::{Layout, Populate};
use htlb_user::pools::Pools;

mod buffer_support;
use buffer_support::{again, huge, mib2, role, went_well, MIB2};

/// A control group of this test, which goes when it is dropped.
struct Group {
    at: PathBuf,
    /// The file that hands the controller on, where it did not before.
    enabled: Option<PathBuf>,
}

impl Group {
    /// `None` where there is no controller, or no right to make a group.
    fn new(name: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = mounts
            .lines()
            .find_map(|line| {
                let mut fields = line.split(' ');
                let at = fields.nth(1)?;
                (fields.next()? == "cgroup2").then_some(at)
            })
            .ok_or(io::ErrorKind::NotFound)?;
        let controllers = fs::read_to_string(Path::new(root).join("cgroup.controllers"))?;
        if !controllers.split_whitespace().any(|name| name == "hugetlb") {
            return Err(io::Error::other("there is no hugetlb controller"));
        }
        let control = Path::new(root).join("cgroup.subtree_control");
        let before = fs::read_to_string(&control)?;
        let enabled = !before.split_whitespace().any(|name| name == "hugetlb");
        fs::write(&control, "+hugetlb")?;
        let group = Self {
            at: Path::new(root).join(format!("htlb-test-{name}-{}", process::id())),
            enabled: enabled.then_some(control),
        };
        fs::create_dir(&group.at)?;
        Ok(group)
    }

    fn set(&self, file: &str, value: u64) -> io::Result<()> {
        fs::write(self.at.join(file), value.to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.at).is_ok() {
                if let Some(control) = &self.enabled {
                    let _ = fs::write(control, "-hugetlb");
                }
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{} stays", self.at.display());
    }
}

/// What a process can have whose group leaves it four pages of the pool's eight.
fn four_of_eight() {
    let pools = Pools::new().unwrap();
    for populate in [Populate::Now, Populate::Later] {
        let make = |pages: u64| {
            let builder = pools.buffer(pages * MIB2).page_size(HugeSize::MIB2);
            builder.populate(populate)
        };
        let error = make(6).strict().create().unwrap_err();
        assert!(
            matches!(error.cause(), Cause::OutOfPages | Cause::NoRoom),
            "{error}"
        );
        assert!(
            error.to_string().contains("a control group allows"),
            "{error}"
        );
        let (pages, free, reserved) = mib2(&pools);
        assert_eq!((pages, reserved), (free, 0));
        pools.trim();
        let four = make(4).strict().create().unwrap();
        assert!(make(1).strict().create().is_err(), "the fifth");
        drop(four);
        pools.trim();
        let half = make(6)
            .fallback(Fallback::BASE)
            .layout(Layout::Scattered)
            .create()
            .unwrap();
        let receipt = half.receipt();
        assert_eq!(receipt.huge(), ByteLen::new(4 * MIB2), "{receipt}");
        half.populate(0, 6 * MIB2).unwrap();
        let mut byte = [1];
        half.read_at(6 * MIB2 - 1, &mut byte).unwrap();
        drop(half);
        assert_eq!(mib2(&pools).2, 0);
        pools.trim();
        let shared = make(6).strict().shareable().create();
        assert!(shared.is_err());
        assert!(make(4).strict().shareable().create().is_ok());
    }
}

fn under(test: &str, file: &str) {
    if let Some(group) = role() {
        fs::write(Path::new(&group).join("cgroup.procs"), "0").unwrap();
        return four_of_eight();
    }
    let Some(_lease) = huge(test, 8) else { return };
    let group = match Group::new(test) {
        Ok(group) => group,
        Err(error) => return skip(test, &format!("no control group: {error}")),
    };
    if let Err(error) = group.set(file, 4 * MIB2) {
        return skip(test, &format!("{file}: {error}"));
    }
    went_well(again(test, group.at.to_str().unwrap()));
}

#[test]
fn a_limit_on_pages() {
    under("a_limit_on_pages", "hugetlb.2MB.max");
}

#[test]
fn a_limit_on_reservations() {
    under("a_limit_on_reservations", "hugetlb.2MB.rsvd.max");
}

#[test]
fn more_than_memory_is_a_value() {
    // Neither the OOM killer nor an abort: nothing is touched.
    let pools = Pools::new().unwrap();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let buffer = pools.buffer(2 * kib * 1024).base_pages();
    let error = buffer.create().unwrap_err();
    assert_eq!(error.cause(), Cause::OutOfPages);
    assert!(
        error.to_string().contains("bytes of memory can be had"),
        "{error}"
    );
    pools.check().unwrap();
}
