// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A file system that is full: whichever step fails, it is an error, and nothing is left.
//!
//! Needs root, for a small tmpfs of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use htlb_user::load::{fill, LoadError, Options, Source};
use htlb_user::store::{Backing, Meta, Store, UnlinkedFiles};

use super::{in_own_namespace, publish, read, Root};

fn tmpfs(root: &Root, options: &str) {
    let mut command = Command::new("mount");
    command
        .args(["-t", "tmpfs", "-o", options, "none"])
        .arg(&root.0);
    assert!(command.status().unwrap().success());
}

/// The listing without the folders and the tag, which are made once and stay.
fn files(root: &Root) -> Vec<PathBuf> {
    root.listing()
        .into_iter()
        .filter(|path| path.is_file() && !path.ends_with("index/tag"))
        .collect()
}

#[test]
fn the_nth_file_cannot_be_made() {
    in_own_namespace("full::inodes_child");
}

#[test]
#[ignore = "the child of the_nth_file_cannot_be_made"]
fn inodes_child() {
    if std::env::var_os("HTLB_TEST_NAMESPACE").is_none() {
        return;
    }
    for unlinked_files in [UnlinkedFiles::WherePossible, UnlinkedFiles::Never] {
        let (mut failures, mut inodes) = (0, 1);
        loop {
            let root = Root::new("inodes");
            tmpfs(&root, &format!("mode=0700,nr_inodes={inodes}"));
            let done =
                htlb_user::store::Config::within(&root.0, Vec::new()).and_then(|mut config| {
                    config.unlinked_files = unlinked_files;
                    let store = Store::open(config)?;
                    publish(&store, "a", Backing::SharedMemory, 3)?;
                    assert_eq!(read(&store, "a")?, 3);
                    store.remove("a")
                });
            assert_eq!(
                files(&root),
                Vec::<PathBuf>::new(),
                "{inodes} inodes: {done:?}"
            );
            match done {
                Ok(reaped) => {
                    assert_eq!(reaped.files, 2);
                    break;
                }
                Err(_) => failures += 1,
            }
            inodes += 1;
        }
        // The root of the tmpfs, five folders, the tag, the intent, two files: each could not be made once.
        assert!(failures >= 9, "only {failures} failures");
    }
}

#[test]
fn memory_that_is_short_is_an_error_and_no_signal() {
    in_own_namespace("full::bytes_child");
}

#[test]
#[ignore = "the child of memory_that_is_short_is_an_error_and_no_signal"]
fn bytes_child() {
    if std::env::var_os("HTLB_TEST_NAMESPACE").is_none() {
        return;
    }
    let root = Root::new("bytes");
    tmpfs(&root, "mode=0700,size=1M");
    let store = root.store();
    let mut pending = store.create("a").unwrap();
    let part = pending.add(Backing::SharedMemory, 2 << 20).unwrap();
    let mut memory = pending.parts()[part].map().unwrap();
    assert_eq!(
        memory.populate().unwrap_err().raw_os_error(),
        Some(libc::ENOMEM)
    );
    // Without pages the reads in flight ask for them: an error too, no signal.
    let disk = std::env::temp_dir().join(format!("htlb-short-{}", std::process::id()));
    std::fs::write(&disk, vec![7; 2 << 20]).unwrap();
    for source in [disk.as_path(), Path::new("/proc/self/exe")] {
        let source = Source::open(source).unwrap();
        let mut pending = store.create("b").unwrap();
        let part = pending
            .add(Backing::SharedMemory, source.len().unwrap())
            .unwrap();
        let mut memory = pending.parts()[part].map().unwrap();
        let found = fill(
            &source,
            &mut [memory.span().unwrap()],
            &Options::default(),
            |_| {},
        );
        assert!(matches!(found, Err(LoadError::NoPage { .. })), "{found:?}");
    }
    std::fs::remove_file(disk).unwrap();
    // Not a byte is left for the record either.
    assert!(pending.publish(2 << 20, Meta::default()).is_err());
    drop(memory);
    assert_eq!(files(&root), Vec::<PathBuf>::new());
    publish(&store, "a", Backing::SharedMemory, 3).unwrap();
    assert_eq!(read(&store, "a").unwrap(), 3);
}
