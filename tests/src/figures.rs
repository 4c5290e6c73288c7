// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a test did, in numbers: `cargo xtask test` prints it as a remark.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;

/// The environment variable that names the file for figures.
pub const FIGURES_LOG: &str = "HTLB_FIGURES_LOG";

/// Says one line of figures.
///
/// # Panics
/// If the log cannot be written.
pub fn note(line: &str) {
    println!("{line}");
    if let Some(log) = env::var_os(FIGURES_LOG) {
        // One `write`, so that tests of one program do not mix their lines.
        let line = format!("{line}\n");
        let file = OpenOptions::new().append(true).create(true).open(&log);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("cannot write to {log:?}: {error}"));
    }
}
