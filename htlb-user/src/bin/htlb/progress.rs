// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A bar on standard error, where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

const BYTES: &str = "{msg:>8} [{bar:32}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
const STREAM: &str = "{msg:>8} {spinner} {binary_bytes}, {binary_bytes_per_sec}";

/// How far a load is, in bytes.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `total` bytes, or for as many as come.
    pub(crate) fn new(what: &'static str, total: Option<u64>) -> Self {
        let (bar, template) = match total {
            Some(total) => (ProgressBar::new(total), BYTES),
            None => (ProgressBar::new_spinner(), STREAM),
        };
        let style = ProgressStyle::with_template(template);
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.set_message(what);
        Self(bar)
    }

    /// A bar of `total` steps.
    pub(crate) fn steps(total: u64) -> Self {
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template("[{bar:32}] {pos}/{len} {msg}");
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        Self(bar)
    }

    /// What is under way.
    pub(crate) fn say(&self, what: &'static str) {
        self.0.set_message(what);
    }

    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.0.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
