// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Tests that cannot run on this machine, said aloud.
//!
//! libtest knows no "skipped": a test that returns early counts as passed. So a skip is also appended to the
//! file that `HTLB_SKIP_LOG` names, and `cargo xtask test` takes it off the passed ones. In CI a test that was
//! skipped in every way it was run is a failure.

use std::env;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// The environment variable that names the skip log.
pub const SKIP_LOG: &str = "HTLB_SKIP_LOG";

/// A reason: the machine is not NUMA.
pub const ONE_NODE: &str = "this machine has only one memory node";
/// A reason: memory is too little or too fragmented for pages of 1 GiB.
pub const NO_GIB_PAGES: &str = "this machine gives no 1 GiB pages";
/// A reason: it cannot be fetched from everywhere.
pub const NO_ADVISORIES: &str = "the advisory database is not here";
/// A reason: only `.ci/run` installs it.
pub const NO_CARGO_DENY: &str = "cargo-deny is not installed";
/// A reason: the sanitizers are options of the nightly compiler alone.
pub const NO_NIGHTLY: &str = "there is no nightly toolchain";
/// A reason: some kernels and containers forbid it to everyone but root.
pub const NO_USER_NAMESPACES: &str = "user namespaces are forbidden here";
/// A reason: only the guest, and a machine whose owner loads it, have the kernel module.
pub const NO_DEVICE: &str = "the kernel module is not loaded here, or this is not root";
/// A reason: where a guest's kernel put what it needs itself is chance.
pub const NO_FREE_GIB: &str = "memory has no free GiB in one piece";
/// A reason: the same of some MiB, which one of two guests must have.
pub const NO_FREE_RUN: &str = "memory has no free run of huge pages";
/// A reason: the guest alone has one that a test may overwrite.
pub const NO_RAM_DISK: &str = "there is no empty /dev/ram0 (modprobe brd)";

/// The reasons that CI cannot remove either, so that a skip for one of them is never a failure.
pub const UNPROVIDABLE: &[&str] = &[
    ONE_NODE,
    NO_GIB_PAGES,
    NO_ADVISORIES,
    NO_USER_NAMESPACES,
    NO_DEVICE,
    NO_RAM_DISK,
    NO_FREE_GIB,
];

/// Says that the test `name` cannot run here, and `why`; the test then returns.
///
/// ```
/// if !std::path::Path::new("/sys/kernel/mm/hugepages").exists() {
///     htlb_tests::skip::skip("pool_grows", "this kernel has no huge pages");
///     return;
/// }
/// ```
///
/// # Panics
/// If the log cannot be written: the test would count as passed.
pub fn skip(name: &str, why: &str) {
    println!("SKIPPED {name}: {why}");
    if let Some(log) = env::var_os(SKIP_LOG) {
        if let Err(error) = append(&log, name, why) {
            panic!(
                "cannot log that {name} was skipped to {}: {error}",
                Path::new(&log).display()
            );
        }
    }
}

/// One `write`, so that tests of one program that skip at once do not mix their lines.
fn append(log: &OsStr, name: &str, why: &str) -> io::Result<()> {
    let line = format!("{}\t{}\n", one_line(name), one_line(why));
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)?
        .write_all(line.as_bytes())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_skip_is_one_line_whatever_the_reason_contains() {
        let log = env::temp_dir().join(format!("htlb-skip-{}", std::process::id()));
        append(log.as_os_str(), "a test", "no\tpages\nat all")
            .expect("the temporary folder is writable");
        append(log.as_os_str(), "b", "c").expect("the temporary folder is writable");
        let text = fs::read_to_string(&log).expect("it was just written");
        fs::remove_file(&log).expect("it was just read");
        assert_eq!(text, "a test\tno pages at all\nb\tc\n");
    }

    #[test]
    fn an_unwritable_log_is_an_error() {
        assert!(append(OsStr::new("/proc/no-such-folder/log"), "a", "b").is_err());
    }
}
