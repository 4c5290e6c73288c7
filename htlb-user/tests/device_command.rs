// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The `htlb` command and the module.

mod device_support;

use std::path::PathBuf;
use std::process::{Command, Output};

use htlb_user::buffer::Populate;
use serde_json::Value;

use device_support::{Ground, MIB2, PAGES};

/// The command that cargo built; in the guest, which has another folder for programs, the one on the path.
fn htlb(arguments: &[&str]) -> Output {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_htlb"));
    let program = match built.exists() {
        true => built,
        false => PathBuf::from("htlb"),
    };
    Command::new(program).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|error| panic!("{error}: {}", text(bytes)))
}

#[test]
fn without_the_module_the_command_says_what_to_do() {
    if std::path::Path::new("/dev/htlb").exists() {
        let test = "without_the_module_the_command_says_what_to_do";
        htlb_tests::skip::skip(test, "the kernel module is loaded here");
        return;
    }
    let pool = htlb(&["pool", "2M", "4", "--device"]);
    assert_eq!(pool.status.code(), Some(3));
    assert!(text(&pool.stderr).contains("modprobe htlb"));
    let file = std::env::current_exe().unwrap();
    let file = file.to_str().unwrap();
    let load = htlb(&["load", file, "--device", "--", "true"]);
    assert_eq!(load.status.code(), Some(4), "{}", text(&load.stderr));
    assert!(text(&load.stderr).contains("modprobe htlb"));
    assert_eq!(
        json(&htlb(&["info", "--json"]).stdout)["device"],
        Value::Null
    );
}

#[test]
fn a_device_load_is_for_a_program_and_for_a_file() {
    let file = std::env::current_exe().unwrap();
    let file = file.to_str().unwrap();
    for wrong in [
        &["load", file, "--device"][..],
        &["load", file, "--", "true"],
        &["load", "/proc/version", "--device", "--", "true"],
        &["load", file, "--device", "--page-size", "1G", "--", "true"],
    ] {
        let refused = htlb(wrong);
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
        assert!(refused.stdout.is_empty());
    }
}

#[test]
fn a_pool_is_resized_and_shown() {
    let Some(ground) = Ground::new("device_command_pool") else {
        return;
    };
    let resized = htlb(&["pool", "2M", "6", "--device", "--json"]);
    let report = json(&resized.stdout);
    assert_eq!(
        (&report["before"], &report["after"], &report["shortfall"]),
        (&PAGES.into(), &6.into(), &0.into())
    );
    assert_eq!(ground.free(), 6);
    let info = json(&htlb(&["info", "--json"]).stdout);
    let pools = info["device"]["pools"].as_array().unwrap();
    let pool = pools
        .iter()
        .find(|pool| pool["page_bytes"] == MIB2)
        .unwrap();
    assert_eq!((&pool["total"], &pool["free"]), (&6.into(), &6.into()));
    let nodes: u64 = pool["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["total"].as_u64().unwrap())
        .sum();
    assert_eq!(nodes, 6);
    let words = text(&htlb(&["info"]).stdout);
    assert!(words.contains("OF HTLB.KO"), "{words}");
    let back = htlb(&["pool", "2M", &PAGES.to_string(), "--device"]);
    let words = text(&back.stdout);
    assert!(
        words.contains(&format!("has {PAGES} pages of 2MiB now; it had 6")),
        "{words}"
    );
    // What is in use leaves when it comes back; what is promised stays.
    let held = ground.buffer(3, Populate::Later);
    let fewer = htlb(&["pool", "2M", "1", "--device"]);
    let words = text(&fewer.stdout);
    assert!(words.contains("has 3 pages of 2MiB now"), "{words}");
    assert!(words.contains("in use, or promised"), "{words}");
    drop(held);
    htlb(&["pool", "2M", &PAGES.to_string(), "--device"]);
}

#[test]
fn a_program_finds_the_file_in_a_buffer_of_the_module() {
    use std::os::fd::FromRawFd;
    let test = "a_program_finds_the_file_in_a_buffer_of_the_module";
    let content: Vec<u8> = (0..3 * MIB2 + 77).map(|at| (at % 241) as u8).collect();
    if let Ok(fd) = std::env::var("HTLB_FD") {
        let len: usize = std::env::var("HTLB_LEN").unwrap().parse().unwrap();
        // SAFETY: the command passed this descriptor on to this process, which uses it here alone.
        let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd.parse().unwrap()) };
        let buffer = htlb_user::device::DeviceBuffer::attach(fd).unwrap();
        let mapping = buffer.map(0, len, htlb_user::device::How::READ).unwrap();
        let mut bytes = vec![0; len];
        mapping.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, content);
        let mut padding = vec![1; mapping.len() - len];
        mapping.read_at(len, &mut padding).unwrap();
        assert!(padding.iter().all(|byte| *byte == 0));
        println!("{} holds", std::env::var("HTLB_NAME").unwrap());
        return;
    }
    let Some(ground) = Ground::new(test) else {
        return;
    };
    let file = std::env::temp_dir().join(format!("htlb-command-{}", std::process::id()));
    std::fs::write(&file, &content).unwrap();
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    let path = file.to_str().unwrap();
    let loaded = htlb(&[
        "load",
        path,
        "--name",
        "it",
        "--device",
        "--verify",
        "--json",
        "--",
        own,
        "--exact",
        test,
        "--nocapture",
    ]);
    std::fs::remove_file(&file).unwrap();
    let output = text(&loaded.stdout);
    assert!(loaded.status.success(), "{output}{}", text(&loaded.stderr));
    assert!(output.contains("it holds"), "{output}");
    let told = json(&loaded.stderr);
    let share = &told["receipt"]["shares"][0];
    assert_eq!(
        (&share["giver"], &share["rung"], &share["pages"]),
        (
            &"device".into(),
            &"pool".into(),
            &(content.len() as u64).div_ceil(MIB2).into()
        ),
        "{told}"
    );
    assert_eq!(told["receipt"]["home"]["kind"], "device");
    assert_eq!(
        (&told["verified"], &told["bytes"]),
        (&true.into(), &content.len().into())
    );
    assert_eq!(ground.free(), PAGES, "it ends with the program");
}
