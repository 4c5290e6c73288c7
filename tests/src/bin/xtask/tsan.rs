// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Threads of one process at everything the library does, watched by the thread sanitizer.
//!
//! It needs the nightly compiler, and a target that is named, so that build scripts and macros do without it. std comes as it is,
//! without the sanitizer: what that leads to is in `tests/tsan.supp`, line by line.

use crate::loom::flags;
use crate::runner::{Context, Report};
use crate::steps::{Step, BUILD_LIMIT};
use crate::suite;
use std::env;
use std::io;
use std::time::Duration;

const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --cfg=tsan";
/// How long everything runs at once; the tests with threads beside it take a few seconds.
const SECONDS: &str = "15";
/// For all of them, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// The tests that are about threads.
const TESTS: [&str; 2] = ["--test=stress", "--test=buffer_threads"];

pub(crate) fn run(context: &mut Context) -> io::Result<Report> {
    let skipped = |why| Ok(Report::skipped(Step::Tsan.name(), why));
    if env::consts::ARCH != "x86_64" {
        return skipped("the thread sanitizer is used on x86_64 only");
    }
    let mut version = context.workspace.cargo();
    let found = version.args(["+nightly", "--version"]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        return skipped(htlb_tests::skip::NO_NIGHTLY);
    }
    let suppressions = context.workspace.root().join("tests/tsan.supp");
    let target = context.workspace.target().join("tsan");
    let cargo = |last: &[&str]| {
        let mut cargo = context.workspace.cargo();
        cargo
            .args([
                "+nightly",
                "test",
                "--package=htlb-user",
                "--no-default-features",
            ])
            .args(TESTS)
            .args(["--no-fail-fast", "--target", TARGET, "--target-dir"])
            .arg(&target)
            .args(last)
            .env("RUSTFLAGS", flags(FLAGS))
            .env("CARGO_INCREMENTAL", "0")
            .env("HTLB_STRESS_SECONDS", SECONDS)
            .env(
                "TSAN_OPTIONS",
                format!("suppressions={} history_size=7", suppressions.display()),
            );
        cargo
    };
    let (mut build, mut test) = (
        cargo(&["--no-run"]),
        cargo(&["--", "--nocapture", "--test-threads=1"]),
    );
    context.log.must(&mut build, BUILD_LIMIT)?;
    let ended = context.log.run(&mut test, LIMIT)?;
    let mut report = Report {
        counts: suite::judge(&ended.output, ended.verdict),
        ..Report::default()
    };
    let lines = ended.output.lines();
    report.remarks.extend(lines.clone().filter_map(stressed));
    let races = lines.filter(|line| line.starts_with(REPORT)).count();
    report.remarks.push(format!("{races} reports"));
    Ok(report)
}

/// How a report of the sanitizer begins.
const REPORT: &str = "WARNING: ThreadSanitizer:";

/// What the stress says it did; libtest may have begun the line.
fn stressed(line: &str) -> Option<String> {
    let (_, said) = line.split_once("stress: ")?;
    Some(said.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stress_says_what_it_did() {
        let line = "test everything ... stress: 4 threads, 15 s: populate 5";
        assert_eq!(
            stressed(line).as_deref(),
            Some("4 threads, 15 s: populate 5")
        );
        assert_eq!(stressed("test everything ... ok"), None);
    }
}
