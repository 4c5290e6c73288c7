// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a path may lead to besides a file: folders, files without a size, block devices.

use std::path::Path;
use std::process::Command;

use htlb_user::load::{fill, LoadError, Source};

use super::memory::{pattern, Pages};
use super::scratch::Scratch;
use super::{load, small};

#[test]
fn what_is_no_file_is_told_apart() {
    let folder = Source::open(Path::new("/")).unwrap_err();
    assert!(matches!(
        folder,
        LoadError::NotReadable {
            kind: "directory",
            ..
        }
    ));
    let missing = Source::open(Path::new("/no/such/file")).unwrap_err();
    assert!(missing.to_string().contains("/no/such/file"), "{missing}");
    // A size that means nothing: 0 in /proc, a whole page in /sys.
    assert_eq!(
        Source::open(Path::new("/proc/self/status")).unwrap().len(),
        None
    );
    let stream = fill(
        &Source::open(Path::new("/proc/version")).unwrap(),
        &mut [],
        &small(),
        |_| {},
    )
    .unwrap_err();
    assert!(matches!(stream, LoadError::Unsized { .. }));
}

/// A loop device whose size is no multiple of 4096. Needs root and a free loop device.
#[test]
fn a_block_device_is_a_source() {
    let scratch = Scratch::new("block");
    let content = pattern((1 << 20) + 512);
    let image = scratch.file("image", &content);
    let made = Command::new("losetup")
        .args(["--read-only", "--find", "--show"])
        .arg(&image)
        .output();
    let device = match made {
        Ok(made) if made.status.success() => {
            String::from_utf8(made.stdout).unwrap().trim().to_owned()
        }
        _ => {
            eprintln!("SKIPPED a_block_device_is_a_source: no loop device can be made here");
            return;
        }
    };
    let mut memory = Pages::new(2 << 20);
    let report = load(Path::new(&device), &mut memory);
    let detached = Command::new("losetup")
        .args(["--detach", &device])
        .status()
        .unwrap();
    let report = report.unwrap();
    assert_eq!(report.bytes, content.len() as u64);
    assert!(report.direct_bytes > 0, "{report:?}");
    assert_eq!(memory.bytes()[..content.len()], content);
    assert!(detached.success());
}
