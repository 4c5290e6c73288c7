// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What goes in comes out, whatever its length, and nothing else.

use std::fs::File;

use super::content;
use super::world::{part_bytes, said, World};

const MIB2: usize = 2 << 20;

const LENGTHS: [usize; 10] = [
    0,
    1,
    4095,
    4096,
    4097,
    MIB2 - 1,
    MIB2,
    MIB2 + 1,
    5 << 20,
    (9 << 20) + 12_345,
];

/// Loads, looks at it from every side, and removes it.
fn check(world: &World, name: &str, expected: &[u8]) {
    assert!(
        world.good("cat", &[name]) == expected,
        "{} bytes",
        expected.len()
    );
    let list = world.json("ls", &[]);
    let buffers = list["buffers"].as_array().unwrap();
    assert_eq!(buffers.len(), 1);
    assert_eq!(
        (&buffers[0]["name"], &buffers[0]["bytes"]),
        (&name.into(), &expected.len().into())
    );
    let mut stored = Vec::new();
    for part in buffers[0]["parts"].as_array().unwrap() {
        assert_eq!(part["offset"], stored.len());
        let bytes = part_bytes(world, part);
        assert_eq!(part["bytes"], bytes.len());
        stored.extend(bytes);
    }
    assert!(stored[..expected.len()] == *expected);
    assert!(
        stored[expected.len()..].iter().all(|byte| *byte == 0),
        "the tail is not zero"
    );
    world.good("rm", &[name]);
    assert_eq!(world.json("ls", &[])["buffers"], serde_json::json!([]));
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn files_of_odd_lengths() {
    let world = World::new("lengths");
    for (seed, len) in (1..).zip(LENGTHS) {
        let bytes = content(len, seed);
        let file = world.file("odd", &bytes);
        let verify: &[&str] = if len % 2 == 0 { &["--verify"] } else { &[] };
        let mut args = vec![file.as_str()];
        args.extend(verify);
        let loaded = world.json("load", &args);
        assert_eq!(loaded["bytes"], len);
        assert_eq!(loaded["verified"], !verify.is_empty());
        assert_eq!(loaded["receipt"]["asked_bytes"], len);
        check(&world, "odd", &bytes);
    }
}

#[test]
fn pipes_of_odd_lengths() {
    let world = World::new("pipes");
    for (seed, len) in (100..).zip(LENGTHS) {
        let bytes = content(len, seed);
        let output = world.load_pipe("pipe", &bytes, &[]);
        assert!(output.status.success(), "{}", said(&output));
        check(&world, "pipe", &bytes);
    }
}

#[test]
fn standard_input_that_is_a_file() {
    let world = World::new("stdin");
    let bytes = content(100_001, 7);
    let file = world.file("in", &bytes);
    let mut command = world.command("load", &["-", "--name", "in", "--verify"]);
    let output = command.stdin(File::open(file).unwrap()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    check(&world, "in", &bytes);
}

#[test]
fn a_new_load_takes_the_place_of_the_old_and_readers_keep_theirs() {
    let world = World::new("replace");
    let (old, new) = (content(3 << 20, 1), content(70_000, 2));
    world.good("load", &[&world.file("x", &old)]);
    // The program waits for its standard input to end; by then the name is another buffer.
    let mut reader = world.command("run", &["x", "--", "sh", "-c", "read line; cat <&$HTLB_FD"]);
    let mut reader = reader
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its descriptor is open once the shell runs: HTLB_FD is there then.
    let opened = format!("/proc/{}/environ", reader.id());
    while !std::fs::read(&opened).is_ok_and(|env| env.windows(8).any(|word| word == b"HTLB_FD=")) {
        std::thread::yield_now();
    }
    world.good("load", &[&world.file("x", &new)]);
    assert!(world.good("cat", &["x"]) == new);
    drop(reader.stdin.take());
    let kept = reader.wait_with_output().unwrap().stdout;
    assert!(
        kept[..old.len()] == old,
        "the old buffer went away under its reader"
    );
    check(&world, "x", &new);
}

#[test]
fn a_program_finds_the_buffer() {
    let world = World::new("run");
    let bytes = content(10_000, 3);
    world.good("load", &[&world.file("x", &bytes)]);
    for source in ["\"$HTLB_PATH\"", "/proc/self/fd/$HTLB_FD"] {
        let script =
            format!("test $HTLB_NAME = x && test $HTLB_PARTS = 1 && head -c $HTLB_LEN {source}");
        assert!(
            world.good("run", &["x", "--", "sh", "-c", &script]) == bytes,
            "{source}"
        );
    }
    assert_eq!(
        world
            .run("run", &["x", "--", "sh", "-c", "exit 42"])
            .status
            .code(),
        Some(42)
    );
    world.good("load", &[&world.file("empty", b"")]);
    assert_eq!(
        world.good(
            "run",
            &[
                "empty",
                "--",
                "sh",
                "-c",
                "cat <&$HTLB_FD; cat $HTLB_PATH; echo $HTLB_LEN"
            ]
        ),
        b"0\n"
    );
}
