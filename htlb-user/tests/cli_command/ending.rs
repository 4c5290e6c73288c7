// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Ends that nobody planned: signals, SIGKILL, readers that go away.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::content;
use super::world::{said, World};

/// A load from a pipe that has given some bytes and gives no more.
fn stalled(world: &World) -> (Child, u32) {
    let mut command = world.program("sh");
    // The shell tells its number, which the command keeps.
    command
        .args(["-c", "echo $$; exec \"$@\"", "sh"])
        .arg(world.htlb())
        .args(["load", "-", "--name", "x"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut digits = Vec::new();
    let mut out = child.stdout.take().unwrap();
    let mut byte = [0];
    while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        digits.push(byte[0]);
    }
    child.stdout = Some(out);
    let pipe = child.stdin.as_mut().unwrap();
    // More than fits the pipe, so that the load has begun when the last of it is taken.
    pipe.write_all(&content(5 << 20, 9)).unwrap();
    (child, String::from_utf8(digits).unwrap().parse().unwrap())
}

fn send(signal: &str, process: u32) {
    let sent = Command::new("kill")
        .args([signal, &process.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[test]
fn a_signal_ends_in_order() {
    let world = World::new("signal");
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 143)] {
        let (child, process) = stalled(&world);
        let started = Instant::now();
        send(signal, process);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(started.elapsed() < Duration::from_secs(20));
        assert!(String::from_utf8_lossy(&output.stderr).contains("nothing was kept"));
        assert_eq!(
            world.memory_files(),
            Vec::<std::path::PathBuf>::new(),
            "{signal}"
        );
    }
    world.bad(3, "cat", &["x"]);
}

#[test]
fn what_a_killed_load_left_goes_with_the_next_command() {
    let world = World::new("killed");
    let (child, process) = stalled(&world);
    assert!(
        !world.memory_files().is_empty(),
        "a load in progress has a file at least"
    );
    // A living load is nobody's garbage.
    assert_eq!(world.json("ls", &[])["reaped"]["loads"], 0);
    send("-KILL", process);
    child.wait_with_output().unwrap();
    assert_eq!(world.json("ls", &[])["reaped"]["loads"], 1);
    assert_eq!(world.memory_files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new("reader");
    world.good("load", &[&world.file("x", &content(8 << 20, 4))]);
    for command in [
        ["cat", "x"].as_slice(),
        &["ls"],
        &["info"],
        &["help", "json"],
    ] {
        let mut built = world.command(command[0], &command[1..]);
        let mut child = built
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // As the first reader that is met by `head -c 1`.
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0]).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            said(&output)
        );
    }
    // A full disk is one.
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = world.command("cat", &["x"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}
