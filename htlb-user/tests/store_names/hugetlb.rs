// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The same on the real pool of 2 MiB pages: a device fills huge pages, and the pool is left as it was found.
//!
//! Needs root. The mounts are made in a mount namespace of its own, which ends with the child.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use htlb_core::HugeSize;
use htlb_user::load::{fill, verify, Options, Source};
use htlb_user::store::{Backing, Config, Meta, Mount, PlaceKind, Store, StoreError, UnlinkedFiles};

use super::{crash, in_own_namespace, publish, read, Root, Setting};

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const WANTED: u64 = 32;
const MIB2: Backing = Backing::Hugetlb(HugeSize::MIB2);

/// The pool, for this process alone among the tests; its size is restored at the end.
struct Pool {
    before: u64,
    _lock: File,
}

fn counter(name: &str) -> u64 {
    fs::read_to_string(Path::new(POOL).join(name))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

impl Pool {
    fn take() -> io::Result<Self> {
        let lock = File::create("/run/htlb-test-pool.lock")?;
        // SAFETY: an open descriptor; no memory is passed.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let before = fs::read_to_string(Path::new(POOL).join("nr_hugepages"))?;
        let pool = Self {
            before: before.trim().parse().map_err(io::Error::other)?,
            _lock: lock,
        };
        fs::write(
            Path::new(POOL).join("nr_hugepages"),
            (pool.before + WANTED).to_string(),
        )?;
        if counter("nr_hugepages") < pool.before + WANTED {
            return Err(io::Error::other("the kernel has too few free huge pages"));
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = fs::write(
            Path::new(POOL).join("nr_hugepages"),
            self.before.to_string(),
        );
    }
}

fn taken(test: &str) -> Option<Pool> {
    std::env::var_os("HTLB_TEST_NAMESPACE")?;
    match Pool::take() {
        Ok(pool) => Some(pool),
        Err(error) => {
            eprintln!("SKIPPED {test}: no pool of 2 MiB pages to test with: {error}");
            None
        }
    }
}

fn mount(path: &Path) {
    fs::create_dir(path).unwrap();
    let mut command = Command::new("mount");
    command
        .args(["-t", "hugetlbfs", "-o", "pagesize=2M,mode=0700", "none"])
        .arg(path);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_device_fills_huge_pages() {
    in_own_namespace("hugetlb::device_child");
}

#[test]
#[ignore = "the child of a_device_fills_huge_pages"]
fn device_child() {
    let Some(pool) = taken("a_device_fills_huge_pages") else {
        return;
    };
    let free = counter("free_hugepages");
    let root = Root::new("device");
    let mut config = Config::within(&root.0, Vec::new()).unwrap();
    config.own_mounts = Some(root.0.join("mounts"));
    let store = Store::open(config.clone()).unwrap();
    // Made by the first, found by the second.
    let place = store.place(MIB2).unwrap();
    assert_eq!(
        (place.kind, place.page_size),
        (PlaceKind::OwnHugetlbfs, HugeSize::MIB2)
    );
    assert_eq!(Store::open(config).unwrap().place(MIB2).unwrap(), place);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(
        mounts.matches(root.0.to_str().unwrap()).count(),
        1,
        "mounted once"
    );

    // 2 huge pages, then base pages for the tail.
    let content: Vec<u8> = (0..(4 << 20) + 12_345_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let file =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("htlb-huge-{}", std::process::id()));
    fs::write(&file, &content).unwrap();
    let source = Source::open(&file).unwrap();
    let mut pending = store.create("model").unwrap();
    pending.add(MIB2, 4 << 20).unwrap();
    pending.add(Backing::SharedMemory, 12_345).unwrap();
    let mut memory: Vec<_> = pending
        .parts()
        .iter()
        .map(|part| part.map().unwrap())
        .collect();
    memory
        .iter_mut()
        .for_each(|memory| memory.populate().unwrap());
    assert_eq!(counter("free_hugepages"), free - 2);
    let mut spans: Vec<_> = memory
        .iter_mut()
        .map(|memory| memory.span().unwrap())
        .collect();
    let report = fill(&source, &mut spans, &Options::default(), |_| {}).unwrap();
    verify(&source, &mut spans, &Options::default(), |_| {}).unwrap();
    if source.is_direct() {
        assert_eq!(
            report.direct_bytes,
            content.len() as u64,
            "not one byte through the page cache"
        );
    }
    drop(memory);
    pending
        .publish(content.len() as u64, Meta::default())
        .unwrap();

    let mut found = Vec::new();
    store
        .open_name("model")
        .unwrap()
        .copy_to(&mut found)
        .unwrap();
    assert!(found == content);
    assert_eq!(
        counter("free_hugepages"),
        free - 2,
        "the pages outlive the loader"
    );

    // Filled without populating first: the reads get the pages, and only the tail is populated.
    store.remove("model").unwrap();
    let mut pending = store.create("model").unwrap();
    let part = pending.add(MIB2, content.len() as u64).unwrap();
    let mut memory = pending.parts()[part].map().unwrap();
    memory.populate_from(content.len()).unwrap();
    assert_eq!(counter("free_hugepages"), free - 1);
    fill(
        &source,
        &mut [memory.span().unwrap()],
        &Options::default(),
        |_| {},
    )
    .unwrap();
    assert_eq!(counter("free_hugepages"), free - 3);
    assert!(memory.bytes()[..content.len()] == content);
    assert!(memory.bytes()[content.len()..]
        .iter()
        .all(|byte| *byte == 0));
    drop((memory, pending));

    // More than there is: an error when it is mapped, and nothing is kept.
    let mut pending = store.create("model").unwrap();
    let part = pending.add(MIB2, (free + 1) << 21).unwrap();
    match pending.parts()[part].map() {
        Err(StoreError::Io { error, .. }) => assert_eq!(error.raw_os_error(), Some(libc::ENOMEM)),
        other => panic!("{other:?}"),
    }
    drop(pending);
    assert_eq!(
        (counter("free_hugepages"), counter("resv_hugepages")),
        (free, 0)
    );
    fs::remove_file(file).unwrap();
    drop(pool);
}

#[test]
fn a_death_on_hugetlbfs_frees_its_pages() {
    in_own_namespace("hugetlb::death_child");
}

#[test]
#[ignore = "the child of a_death_on_hugetlbfs_frees_its_pages"]
fn death_child() {
    let Some(pool) = taken("a_death_on_hugetlbfs_frees_its_pages") else {
        return;
    };
    let free = counter("free_hugepages");
    for unlinked_files in [UnlinkedFiles::WherePossible, UnlinkedFiles::Never] {
        let root = Root::new("death");
        let path = root.0.join("mount");
        mount(&path);
        let setting = Setting {
            root: root.0.clone(),
            mount: Some(path),
            unlinked_files,
        };
        crash::die_everywhere(&root, &setting, MIB2);
        assert_eq!(
            (counter("free_hugepages"), counter("resv_hugepages")),
            (free, 0)
        );
    }
    drop(pool);
}

#[test]
fn a_mount_of_another_page_size_is_not_used() {
    in_own_namespace("hugetlb::size_child");
}

#[test]
#[ignore = "the child of a_mount_of_another_page_size_is_not_used"]
fn size_child() {
    let Some(pool) = taken("a_mount_of_another_page_size_is_not_used") else {
        return;
    };
    let root = Root::new("size");
    let path = root.0.join("mount");
    mount(&path);
    // Whoever read the mounts was wrong about this one.
    let lie = Mount {
        path: path.clone(),
        page_size: HugeSize::GIB1,
    };
    let mut config = Config::within(&root.0, vec![lie]).unwrap();
    config.shared_memory.insert(0, path.clone());
    let store = Store::open(config).unwrap();
    assert!(matches!(
        store.place(Backing::Hugetlb(HugeSize::GIB1)),
        Err(StoreError::NoHugetlbfs { .. })
    ));
    assert!(
        !store
            .place(Backing::SharedMemory)
            .unwrap()
            .folder
            .starts_with(&path),
        "huge pages are not base pages"
    );
    let truth = Mount {
        path,
        page_size: HugeSize::MIB2,
    };
    let store = Store::open(Config::within(&root.0, vec![truth]).unwrap()).unwrap();
    publish(&store, "a", MIB2, 5).unwrap();
    assert_eq!(read(&store, "a").unwrap(), 5);
    store.remove("a").unwrap();
    drop(pool);
}
