// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Folders for the files of a test.

use std::fs;
use std::path::{Path, PathBuf};

/// A folder on a disk file system, removed at the end.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        // On the disk where that is ours to write: direct I/O is to be had there.
        let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let probe = disk.join(format!("htlb-probe-{name}-{}", std::process::id()));
        let writable = fs::create_dir(&probe)
            .and_then(|()| fs::remove_dir(&probe))
            .is_ok();
        let fallback = std::env::temp_dir();
        Self::within(if writable { disk } else { &fallback }, name)
    }

    pub(super) fn within(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("htlb-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
