// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The steps that need a kernel of their own: preparing it, and testing the module in a guest that runs it.
//!
//! Each is this program once more, so that its output is in the step's log and a signal ends it.

use crate::child::{Ended, Verdict};
use crate::counts::Counts;
use crate::runner::{Context, Report};
use crate::skips::Skip;
use crate::steps::{Step, BUILD_LIMIT};
use htlb_tests::kernel::{Route, CANNOT_BE_HAD};
use htlb_tests::skip::SKIP_LOG;
use std::fs;
use std::io;
use std::process::Command;
use std::time::Duration;

/// The longest that the guests of one kernel may take, and the builds for them.
const GUEST_LIMIT: Duration = Duration::from_secs(60 * 60);

/// This program, also where a step has built it anew meanwhile and its file is another one.
const SELF: &str = "/proc/self/exe";

/// Under which the skips of both kernels are noted: a test need not run on each.
const PROGRAM: &str = "vm";

/// Prepares a kernel, or finds it prepared.
pub(crate) fn prepare(context: &mut Context, step: Step, route: Route) -> io::Result<Report> {
    let mut xtask = Command::new(SELF);
    xtask.args(["kernel", "prepare", &route.to_string()]);
    let ended = context.log.run(&mut xtask, BUILD_LIMIT)?;
    if let Some(report) = not_here(step, &ended) {
        return Ok(report);
    }
    if ended.verdict.success() {
        Ok(Report::passed())
    } else {
        Err(io::Error::other(last_line(&ended.output)))
    }
}

/// Runs a command whose last line is `N passed, M failed`.
pub(crate) fn test(context: &mut Context, step: Step, arguments: &[&str]) -> io::Result<Report> {
    let skip_log = context
        .workspace
        .logs()
        .join(format!("{}.skips", step.name()));
    match fs::remove_file(&skip_log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut xtask = Command::new(SELF);
    xtask.args(arguments).env(SKIP_LOG, &skip_log);
    let ended = context.log.run(&mut xtask, GUEST_LIMIT)?;
    if let Some(report) = not_here(step, &ended) {
        return Ok(report);
    }
    let mut counts = totals(&ended.output).unwrap_or_default();
    if counts.failed == 0 && !ended.verdict.success() {
        counts += Counts::FAILED;
    }
    Ok(Report {
        counts,
        skips: Skip::of_log(PROGRAM, &skip_log)?,
        ran: vec![PROGRAM.to_owned()],
        remarks: match counts.failed {
            0 => Vec::new(),
            _ => failures(&ended.output),
        },
    })
}

/// The step as skipped, if this machine is not one on which kernels can be prepared.
fn not_here(step: Step, ended: &Ended) -> Option<Report> {
    match ended.verdict {
        Verdict::Exited(status) if status.code() == Some(i32::from(CANNOT_BE_HAD)) => {
            Some(Report::skipped(step.name(), last_line(&ended.output)))
        }
        _ => None,
    }
}

fn last_line(output: &str) -> &str {
    let mut lines = output.lines().rev().map(str::trim);
    lines.find(|line| !line.is_empty()).unwrap_or("no output")
}

/// `12 passed, 0 failed, 1 skipped`, the last such line.
fn totals(output: &str) -> Option<Counts> {
    let line = output.lines().rev().find_map(|line| {
        let counts: Vec<&str> = line.split(", ").collect();
        let named = |index: usize, name: &str| -> Option<u64> {
            counts.get(index)?.strip_suffix(name)?.trim().parse().ok()
        };
        Some(Counts::new(
            named(0, "passed")?,
            named(1, "failed")?,
            named(2, "skipped").unwrap_or(0),
        ))
    });
    line
}

/// What failed, as the outcome of a guest names it.
fn failures(output: &str) -> Vec<String> {
    let is_failure = |line: &&str| {
        ["failed: ", "FAILED  ", "kernel log: "]
            .iter()
            .any(|mark| line.starts_with(mark))
    };
    output
        .lines()
        .filter(is_failure)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_has_the_totals() {
        let output = "stock\n3 passed, 1 failed (2.0 s)\nfailed: group: case\n13 passed, 1 failed, 2 skipped\nxtask: tests failed\n";
        assert_eq!(totals(output), Some(Counts::new(13, 1, 2)));
        assert_eq!(totals("4 passed, 0 failed\n"), Some(Counts::new(4, 0, 0)));
        assert_eq!(totals("no kernel\n"), None);
        assert_eq!(failures(output), ["failed: group: case"]);
        assert_eq!(last_line(output), "xtask: tests failed");
    }
}
