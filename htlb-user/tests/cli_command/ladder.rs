// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Down the ladder on machines that have less: each case loads, and says what was missing.

use std::fs;
use std::path::Path;

use htlb_tests::skip::skip;
use serde_json::Value;

use super::content;
use super::world::{is_root, is_shared_memory, said, Pool, World};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// Loads 5 MiB and a byte, reads them back, and returns the receipt.
fn load(world: &World, args: &[&str]) -> Value {
    let bytes = content((5 << 20) + 1, 11);
    let file = world.file("x", &bytes);
    let mut all = vec![file.as_str()];
    all.extend(args);
    let loaded = world.json("load", &all);
    assert!(world.good("cat", &["x"]) == bytes);
    world.good("rm", &["x"]);
    loaded
}

fn rungs(loaded: &Value) -> Vec<(String, u64)> {
    let shares = loaded["receipt"]["shares"].as_array().unwrap();
    let rung = |share: &Value| {
        (
            share["rung"].as_str().unwrap().to_owned(),
            share["pages"].as_u64().unwrap(),
        )
    };
    shares.iter().map(rung).collect()
}

#[test]
fn without_a_huge_page() {
    let test = "without_a_huge_page";
    let Some(_pool) = Pool::with(test, 0) else {
        return;
    };
    let world = World::new(test);
    let loaded = load(&world, &[]);
    let rungs = rungs(&loaded);
    assert!(rungs.iter().all(|(rung, _)| rung != "system"), "{rungs:?}");
    assert!(is_shared_memory(&loaded["parts"][0]));
    assert!(loaded["receipt"]["refusals"][0]["why"]
        .as_str()
        .unwrap()
        .contains("empty"));
    let advice = loaded["receipt"]["advice"].as_str().unwrap();
    let expected = if is_root() {
        "htlb pool 2M 3"
    } else {
        "echo 3 | sudo tee "
    };
    assert!(advice.starts_with(expected), "{advice}");

    let file = world.file("x", &content(3 << 20, 1));
    let text = world.bad(4, "load", &[&file, "--page-size", "2M", "--strict"]);
    assert!(
        text.contains("empty") && text.contains(&advice[..9]),
        "{text}"
    );
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
    let output = world.load_pipe(
        "x",
        &content(9 << 20, 1),
        &["--page-size", "2M", "--strict"],
    );
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
    // Nothing was missed by what fits a base page.
    world.good("load", &[&world.file("small", b"x")]);
    assert_eq!(
        world.json("load", &[&world.file("small", b"x")])["receipt"]["advice"],
        Value::Null
    );
    // What that costs is said to people.
    let text = String::from_utf8(world.good("load", &[&file])).unwrap();
    assert!(
        text.contains("page-table entries") || !rungs.iter().any(|(rung, _)| rung == "base"),
        "{text}"
    );
    assert!(text.contains(advice.split(' ').next().unwrap()), "{text}");
}

#[test]
fn without_privileges() {
    let test = "without_privileges";
    let Some(_pool) = Pool::with(test, 0) else {
        return;
    };
    let Some(world) = World::unprivileged(test) else {
        return;
    };
    let loaded = load(&world, &[]);
    let advice = loaded["receipt"]["advice"].as_str().unwrap();
    assert!(
        advice.contains("echo 3 | sudo tee /sys/kernel/mm/hugepages/"),
        "{advice}"
    );
    let text = world.bad(1, "pool", &["2M", "1"]);
    assert!(text.contains("sudo tee"), "{text}");
}

#[test]
fn without_privileges_and_without_a_mount() {
    let test = "without_privileges_and_without_a_mount";
    let Some(_pool) = Pool::with(test, 8) else {
        return;
    };
    let Some(world) = World::unprivileged(test) else {
        return;
    };
    let loaded = load(&world, &[]);
    if rungs(&loaded).iter().any(|(rung, _)| rung == "system") {
        return skip(
            test,
            "this machine has a hugetlbfs that everybody may write",
        );
    }
    let advice = loaded["receipt"]["advice"].as_str().unwrap();
    assert!(
        advice.contains("mount -t hugetlbfs -o pagesize=2M,mode=1777"),
        "{advice}"
    );
    assert!(
        !advice.contains("nr_hugepages"),
        "there are pages enough: {advice}"
    );
    assert!(is_shared_memory(&loaded["parts"][0]));
}

#[test]
fn in_a_container_without_sys() {
    let test = "in_a_container_without_sys";
    let Some(world) = World::mounted(test, "mount -t tmpfs -o ro none /sys") else {
        return;
    };
    load(&world, &[]);
    load(&world, &["--page-size", "2M"]);
    load(&world, &["--node", "0", "--threads", "3"]);
    let info = world.json("info", &[]);
    assert_eq!(
        (&info["pools"], &info["thp"]),
        (&serde_json::json!([]), &Value::Null)
    );
    assert!(String::from_utf8(world.good("info", &[]))
        .unwrap()
        .contains("No huge-page pools"));
    world.bad(3, "pool", &["2M", "1"]);
}

/// A setting of transparent huge pages, put back when dropped.
struct Setting(&'static str, String);

impl Setting {
    fn new(test: &str, file: &'static str, word: &str) -> Option<Self> {
        let path = Path::new(THP).join(file);
        let before = fs::read_to_string(&path).unwrap_or_default();
        let before = before
            .split(['[', ']'])
            .nth(1)
            .unwrap_or_default()
            .to_owned();
        if let Err(error) = fs::write(&path, word) {
            skip(test, &format!("{}: {error}", path.display()));
            return None;
        }
        Some(Self(file, before))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(Path::new(THP).join(self.0), &self.1);
    }
}

#[test]
fn transparent_huge_pages_where_they_are_allowed() {
    let test = "transparent_huge_pages_where_they_are_allowed";
    // The lease also keeps other tests from changing the settings.
    let Some(_pool) = Pool::with(test, 0) else {
        return;
    };
    let Some(_shmem) = Setting::new(test, "shmem_enabled", "advise") else {
        return;
    };
    let Some(_enabled) = Setting::new(test, "enabled", "madvise") else {
        return;
    };
    let world = World::new(test);
    let loaded = load(&world, &["--page-size", "thp"]);
    let bytes: u64 = loaded["receipt"]["shares"]
        .as_array()
        .unwrap()
        .iter()
        .map(|share| share["page_bytes"].as_u64().unwrap() * share["pages"].as_u64().unwrap())
        .sum();
    assert!(bytes > 5 << 20);
    if rungs(&loaded) != [("transparent".to_owned(), 3)] {
        return skip(
            test,
            "memory is too fragmented, or this kernel collapses no shared memory",
        );
    }
    load(&world, &["--page-size", "thp", "--strict"]);
    assert_eq!(rungs(&load(&world, &[])), [("transparent".to_owned(), 3)]);
    let bytes = content(11 << 20, 3);
    assert!(world.load_pipe("x", &bytes, &[]).status.success());
    assert!(world.good("cat", &["x"]) == bytes);

    for (file, word) in [
        ("shmem_enabled", "never"),
        ("enabled", "never"),
        ("shmem_enabled", "deny"),
    ] {
        let Some(_never) = Setting::new(test, file, word) else {
            return;
        };
        let loaded = load(&world, &[]);
        assert!(
            rungs(&loaded).iter().all(|(rung, _)| rung == "base"),
            "{file} {word}"
        );
        world.bad(
            4,
            "load",
            &[
                &world.file("x", &[1; 3 << 20]),
                "--page-size",
                "thp",
                "--strict",
            ],
        );
    }
}

#[test]
fn with_shared_memory_that_is_too_small() {
    let test = "with_shared_memory_that_is_too_small";
    let Some(_pool) = Pool::with(test, 0) else {
        return;
    };
    // XDG_RUNTIME_DIR is not set, so /tmp comes after it, and that is small as well.
    let script = "mount -t tmpfs -o size=2M,mode=1777 none /dev/shm";
    let Some(world) = World::mounted(test, script) else {
        return;
    };
    let file = world.file("x", &content(5 << 20, 1));
    let text = world.bad(4, "load", &[&file]);
    assert!(text.contains("2 MiB are free"), "{text}");
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
    let output = world.load_pipe("x", &content(5 << 20, 1), &[]);
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
    world.good("load", &[&world.file("small", b"x")]);
}
