// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What goes wrong is said in a line or two, with the next step, and by the exit code.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};

use htlb_tests::skip::skip;

use super::content;
use super::world::{is_root, said, World};

fn is_short(text: &str) -> bool {
    (1..=2).contains(&text.trim_end().lines().count()) && text.starts_with("htlb: ")
}

#[test]
fn names_that_are_hostile() {
    let world = World::new("names");
    let file = world.file("f", b"bytes");
    let long = "x".repeat(201);
    for name in [
        "",
        ".",
        "..",
        "a/b",
        "../../etc/passwd",
        "a\nb",
        "\u{202e}gpj",
        &long,
    ] {
        let text = world.bad(2, "load", &[&file, "--name", name]);
        assert!(is_short(&text) && text.contains("--name"), "{text}");
        for command in ["cat", "rm"] {
            world.bad(2, command, &[name]);
        }
    }
    for name in [
        "-rf",
        "--json",
        "two words",
        "größe 🦀",
        "$(reboot)",
        "'",
        "%s%n",
        ".hidden",
        &long[1..],
    ] {
        let text = world.good("load", &[&file, &format!("--name={name}")]);
        assert!(String::from_utf8(text).unwrap().contains("htlb cat "));
        assert_eq!(world.good("cat", &["--", name]), b"bytes");
        world.good("rm", &["--", name]);
    }
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn sources_that_are_none() {
    let world = World::new("sources");
    let nothing = world.folder.join("nothing");
    let text = world.bad(3, "load", &[nothing.to_str().unwrap()]);
    assert!(is_short(&text) && text.contains("nothing"), "{text}");
    let text = world.bad(1, "load", &[world.folder.to_str().unwrap()]);
    assert!(is_short(&text) && text.contains("directory"), "{text}");
    world.bad(2, "load", &["-"]);
    world.bad(2, "load", &["/"]);
    world.bad(2, "load", &[&world.file("f", b"x"), "--strict"]);
    // A stream cannot be read twice.
    world.bad(2, "load", &["/proc/version", "--verify"]);
    world.good("load", &["/proc/version"]);
    assert_eq!(
        world.good("cat", &["version"]),
        fs::read("/proc/version").unwrap()
    );
}

#[test]
fn a_file_that_may_not_be_read() {
    let Some(world) = World::unprivileged("a_file_that_may_not_be_read") else {
        return;
    };
    let file = world.file("secret", b"x");
    fs::set_permissions(world.outside("secret"), Permissions::from_mode(0o000)).unwrap();
    let text = world.bad(1, "load", &[&file]);
    assert!(is_short(&text) && text.contains("ermission"), "{text}");
}

#[test]
fn buffers_that_are_none() {
    let world = World::new("none");
    for command in ["cat", "rm"] {
        let text = world.bad(3, command, &["nosuch"]);
        assert!(is_short(&text) && text.contains("htlb ls"), "{text}");
    }
    world.bad(3, "run", &["nosuch", "--", "true"]);
    world.good("load", &[&world.file("x", b"x")]);
    world.bad(127, "run", &["x", "--", "/nosuch/program"]);
    world.bad(126, "run", &["x", "--", "/proc/version"]);
    // The one that exists is removed all the same.
    let text = world.bad(3, "rm", &["nosuch", "x", "nosuch2"]);
    assert!(text.contains("nosuch2"), "{text}");
    world.bad(3, "cat", &["x"]);
}

#[test]
fn a_source_that_changes() {
    let world = World::new("changes");
    let file = world.file("x", &content(64 << 20, 5));
    let done = AtomicBool::new(false);
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut end = OpenOptions::new()
                .append(true)
                .open(world.outside("x"))
                .unwrap();
            while !done.load(Ordering::Relaxed) {
                end.write_all(b"more").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let output = world.run("load", &[&file]);
        done.store(true, Ordering::Relaxed);
        output
    });
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(is_short(&String::from_utf8_lossy(&output.stderr)));
    world.bad(3, "cat", &["x"]);
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn memory_that_is_lost_is_said() {
    let world = World::new("lost");
    world.good("load", &[&world.file("x", b"abc")]);
    let mut files = world.memory_files();
    // The record, and the file with the bytes.
    files.retain(|file| file.extension().is_some_and(|part| part == "0"));
    assert_eq!(files.len(), 1);
    fs::remove_file(&files[0]).unwrap();
    let text = world.bad(3, "cat", &["x"]);
    assert!(text.contains("htlb rm"), "{text}");
    assert!(world.json("ls", &[])["buffers"][0]["error"]
        .as_str()
        .unwrap()
        .contains("gone"));
    assert!(String::from_utf8(world.good("ls", &[]))
        .unwrap()
        .contains("unusable"));
    world.good("rm", &["x"]);
}

#[test]
fn a_device_mask_without_rights() {
    let Some(world) = World::unprivileged("a_device_mask_without_rights") else {
        return;
    };
    let text = world.bad(1, "load", &[&world.file("x", b"x"), "--dma-mask", "32"]);
    assert!(
        text.contains("CAP_SYS_ADMIN") && text.contains("cannot be known"),
        "{text}"
    );
}

#[test]
fn a_device_mask_of_shared_memory() {
    if !is_root() {
        return skip(
            "a_device_mask_of_shared_memory",
            "only root may see addresses",
        );
    }
    let world = World::new("mask");
    let file = world.file("x", b"x");
    let text = String::from_utf8(
        world
            .run("load", &[&file, "--dma-mask", "40", "--page-size", "base"])
            .stderr,
    )
    .unwrap();
    // The root of a container sees no addresses either.
    assert!(
        text.contains("may move") || text.contains("cannot be known"),
        "{text}"
    );
    world.good("load", &[&file, "--dma-mask", "64"]);
}

#[test]
fn a_node_that_is_none() {
    let world = World::new("node");
    let file = world.file("x", b"x");
    let text = world.bad(2, "load", &[&file, "--node", "63"]);
    assert!(text.contains("htlb info"), "{text}");
    world.bad(2, "load", &[&file, "--node", "64"]);
    let loaded = world.json("load", &[&file, "--node", "0"]);
    assert_eq!(
        loaded["receipt"]["shares"][0]["nodes"],
        serde_json::json!([{"node": 0, "pages": 1}])
    );
}
