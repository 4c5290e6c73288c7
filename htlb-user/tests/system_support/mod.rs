// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the tests on the real machine share: the pool's lock, its restoring, and saying why a test did not run.
#![allow(dead_code, unreachable_pub)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The lock that every test which changes the system's pool holds.
const LOCK: &str = "/run/htlb-test-pool.lock";

/// The 2 MiB pool's directory.
pub const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Prints why a test cannot run here.
pub fn skipped(test: &str, why: impl std::fmt::Display) {
    println!("SKIPPED {test}: {why}");
}

/// The system's 2 MiB pool, ours alone until dropped, and then as it was found.
pub struct PoolGuard {
    found: Vec<(PathBuf, String)>,
    _lock: File,
}

impl PoolGuard {
    /// Locks the pool and sets it to `pages`; `None`, and a line that says why, where that cannot be done.
    pub fn with_pages(test: &str, pages: u64) -> Option<Self> {
        let lock = match File::options().create(true).append(true).open(LOCK) {
            Ok(lock) => lock,
            Err(error) => {
                skipped(test, format!("{LOCK}: {error}"));
                return None;
            }
        };
        lock_exclusively(&lock);
        let mut found = Vec::new();
        for file in ["nr_hugepages", "nr_overcommit_hugepages"] {
            let path = Path::new(POOL).join(file);
            match fs::read_to_string(&path) {
                Ok(text) => found.push((path, text)),
                Err(error) => {
                    skipped(test, format!("{}: {error}", path.display()));
                    return None;
                }
            }
        }
        let guard = Self { found, _lock: lock };
        if let Err(error) = fs::write(Path::new(POOL).join("nr_hugepages"), pages.to_string()) {
            skipped(test, format!("cannot size the pool: {error}"));
            return None;
        }
        let got = number(&Path::new(POOL).join("nr_hugepages"));
        if got < pages {
            skipped(test, format!("the system gives {got} of {pages} pages"));
            return None;
        }
        Some(guard)
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        for (path, text) in &self.found {
            let _ = fs::write(path, text.trim());
        }
    }
}

/// A number in a one-line file.
pub fn number(path: &Path) -> u64 {
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

fn lock_exclusively(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: an open descriptor; no memory is passed.
    let answer = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    assert_eq!(answer, 0, "flock: {}", std::io::Error::last_os_error());
}
