// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Huge pages of the system's pool: taken as promised, given back, never more than needed.

use htlb_core::HugeSize;
use htlb_tests::host::{Counter, HugePools, Place};
use htlb_tests::skip::skip;

use super::content;
use super::world::{said, Pool, World};

fn free() -> u64 {
    let pools = HugePools::system();
    let read = |counter| {
        pools
            .read(Place::Machine, HugeSize::MIB2, counter)
            .unwrap()
            .raw()
    };
    assert_eq!(read(Counter::Reserved), 0, "a reservation was left behind");
    read(Counter::Free)
}

/// A world that has a hugetlbfs; or a skip.
fn world(test: &str) -> Option<World> {
    let script = "mkdir -p /run/huge; mount -t hugetlbfs -o pagesize=2M,mode=1777 none /run/huge";
    World::mounted(test, script)
}

#[test]
fn pages_are_taken_and_given_back() {
    let test = "pages_are_taken_and_given_back";
    let Some(_pool) = Pool::with(test, 8) else {
        return;
    };
    let Some(world) = world(test) else { return };
    let before = free();
    let bytes = content(5 << 20, 21);
    let file = world.file("x", &bytes);
    for args in [
        &[][..],
        &["--page-size", "2M", "--strict"],
        &["--threads", "7", "--verify"],
    ] {
        let mut all = vec![file.as_str()];
        all.extend(args);
        let loaded = world.json("load", &all);
        let shares = &loaded["receipt"]["shares"];
        assert_eq!(
            (&shares[0]["rung"], &shares[0]["pages"], shares[1].is_null()),
            (&"system".into(), &3.into(), true)
        );
        assert_eq!(loaded["receipt"]["advice"], serde_json::Value::Null);
        assert_eq!(loaded["parts"][0]["kind"], "hugetlbfs");
        assert_eq!(
            before - free(),
            3,
            "three pages hold 5 MiB, and the replaced ones are back"
        );
        assert!(world.good("cat", &["x"]) == bytes);
    }
    // Programs read the file of huge pages as any other.
    let script = "head -c $HTLB_LEN \"$HTLB_PATH\" | cksum; head -c $HTLB_LEN <&$HTLB_FD | cksum";
    let sums = String::from_utf8(world.good("run", &["x", "--", "sh", "-c", script])).unwrap();
    let sums: Vec<&str> = sums.lines().collect();
    assert_eq!(sums[0], sums[1]);
    world.good("rm", &["x"]);
    assert_eq!(free(), before);
}

#[test]
fn a_pool_that_is_too_small_gives_what_it_has() {
    let test = "a_pool_that_is_too_small_gives_what_it_has";
    let Some(_pool) = Pool::with(test, 3) else {
        return;
    };
    let Some(world) = world(test) else { return };
    let before = free();
    let bytes = content((20 << 20) + 77, 22);
    let file = world.file("x", &bytes);
    let loaded = world.json("load", &[&file]);
    assert_eq!(loaded["receipt"]["shares"][0]["pages"], 3);
    assert_eq!(loaded["parts"].as_array().unwrap().len(), 2);
    let advice = loaded["receipt"]["advice"].as_str().unwrap();
    assert!(
        advice.starts_with("htlb pool 2M ") && free() == 0,
        "{advice}"
    );
    assert!(world.good("cat", &["x"]) == bytes);
    let script = "test $HTLB_PARTS = 2 && cat \"$HTLB_PATH\" && tail -c +1 <&$HTLB_FD_1";
    let joined = world.good("run", &["x", "--", "sh", "-c", script]);
    assert!(joined[..bytes.len()] == bytes);
    world.good("rm", &["x"]);
    assert_eq!(free(), before);

    // A stream finds out on its way.
    let output = world.load_pipe("x", &bytes, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(free(), 0);
    assert!(world.good("cat", &["x"]) == bytes);
    world.good("rm", &["x"]);
    assert_eq!(free(), before);

    world.bad(4, "load", &[&file, "--page-size", "2M", "--strict"]);
    assert_eq!(free(), before, "a refused load keeps nothing");
    // The advice is right.
    let pages: u64 = advice.rsplit(' ').next().unwrap().parse().unwrap();
    let resized = world.json("pool", &["2M", &pages.to_string()]);
    assert_eq!(
        (&resized["after"], &resized["cause"]),
        (&pages.into(), &serde_json::Value::Null)
    );
    let loaded = world.json("load", &[&file, "--page-size", "2M", "--strict"]);
    assert_eq!(loaded["receipt"]["shares"][0]["pages"], 11);
    world.good("rm", &["x"]);
}

#[test]
fn a_stream_gives_back_what_it_did_not_need() {
    let test = "a_stream_gives_back_what_it_did_not_need";
    let Some(_pool) = Pool::with(test, 40) else {
        return;
    };
    let Some(world) = world(test) else { return };
    let before = free();
    for len in [1, 2 << 20, (2 << 20) + 1, (33 << 20) - 1] {
        let bytes = content(len, 23);
        let output = world.load_pipe("x", &bytes, &["--page-size", "2M", "--strict"]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(before - free(), len.div_ceil(2 << 20) as u64, "{len} bytes");
        assert!(world.good("cat", &["x"]) == bytes);
        world.good("rm", &["x"]);
        assert_eq!(free(), before);
    }
}

#[test]
fn root_gets_a_mount_where_there_is_none() {
    let test = "root_gets_a_mount_where_there_is_none";
    let Some(_pool) = Pool::with(test, 4) else {
        return;
    };
    let Some(world) = World::mounted(test, "") else {
        return;
    };
    let before = free();
    let bytes = content(3 << 20, 24);
    let loaded = world.json("load", &[&world.file("x", &bytes)]);
    let kind = loaded["parts"][0]["kind"].as_str().unwrap();
    if kind == "tmpfs" {
        return skip(test, "this root may not mount a hugetlbfs");
    }
    assert!(kind.ends_with("hugetlbfs"), "{kind}");
    assert!(world.good("cat", &["x"]) == bytes);
    world.good("rm", &["x"]);
    assert_eq!(free(), before);
}

#[test]
fn processes_at_once_on_huge_pages() {
    let test = "processes_at_once_on_huge_pages";
    let Some(_pool) = Pool::with(test, 12) else {
        return;
    };
    let Some(world) = world(test) else { return };
    let before = free();
    let contents = [content(3 << 20, 1), content(5 << 20, 2)];
    let files = [
        world.file("one", &contents[0]),
        world.file("two", &contents[1]),
    ];
    std::thread::scope(|scope| {
        for file in &files {
            let world = &world;
            scope.spawn(move || {
                for _ in 0..15 {
                    let output = world.run("load", &[file, "--name", "x"]);
                    assert!(output.status.success(), "{}", said(&output));
                }
            });
        }
        for _ in 0..30 {
            let output = world.run("cat", &["x"]);
            let whole = contents.contains(&output.stdout);
            assert!(
                whole || output.status.code() == Some(3),
                "{}",
                output.status
            );
        }
    });
    world.good("rm", &["x"]);
    assert_eq!(free(), before);
}
