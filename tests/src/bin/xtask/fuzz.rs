// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The fuzz targets: built with the address sanitizer by cargo-fuzz, each run for a while.

use crate::runner::{Context, Report};
use crate::steps::BUILD_LIMIT;
use crate::workspace::Workspace;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Runs every target; one that is missing from cargo-fuzz's list would not be run by anyone.
pub(crate) fn run(context: &mut Context) -> io::Result<Report> {
    let folder = context.workspace.root().join("fuzz");
    if !folder.join("Cargo.toml").exists() {
        return Ok(Report::skipped("fuzz", "there is no fuzz target"));
    }
    let fuzzer = Fuzzer::find(context)?;
    let list = context
        .log
        .must(&mut fuzzer.command(&["list"]), BUILD_LIMIT)?;
    let targets: Vec<&str> = list
        .lines()
        .map(str::trim)
        .filter(|line| is_name(line))
        .collect();
    if targets.is_empty() {
        return Err(io::Error::other("fuzz/Cargo.toml declares no target"));
    }
    context
        .log
        .must(&mut fuzzer.command(&["build"]), BUILD_LIMIT)?;

    let mut report = Report::default();
    let seconds = context.options.fuzz_seconds;
    let time = format!("-max_total_time={seconds}");
    let limit = Duration::from_secs(u64::from(seconds) + 300);
    for target in targets {
        let mut command = fuzzer.command(&["run", target, "--", &time, "-print_final_stats=1"]);
        let result = context.log.must(&mut command, limit);
        if let Ok(output) = &result {
            let executions = statistic(output, "stat::number_of_executed_units:");
            let executions = executions.unwrap_or("an unknown number of");
            report
                .remarks
                .push(format!("{target}: {executions} executions"));
        }
        report.check(target, result.map(drop))?;
    }
    Ok(report)
}

/// cargo-fuzz on the nightly toolchain, the system's or one of our own.
struct Fuzzer {
    root: PathBuf,
    path: OsString,
}

impl Fuzzer {
    fn find(context: &mut Context) -> io::Result<Self> {
        let tools = context.workspace.logs().join("tools");
        let old = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(tools.join("bin")).chain(env::split_paths(&old));
        let fuzzer = Self {
            root: context.workspace.root().to_owned(),
            path: env::join_paths(folders).map_err(io::Error::other)?,
        };
        let installed = fuzzer.command(&["--version"]).output()?;
        if !installed.status.success() {
            context.log.must(
                Workspace::cargo(&context.workspace)
                    .args(["install", "cargo-fuzz", "--locked", "--root"])
                    .arg(&tools),
                BUILD_LIMIT,
            )?;
        }
        Ok(fuzzer)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command
            .args(["+nightly", "fuzz"])
            .args(arguments)
            .current_dir(&self.root)
            .env("PATH", &self.path);
        command
    }
}

/// cargo may warn beside the list.
fn is_name(line: &str) -> bool {
    !line.is_empty()
        && line
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn statistic<'a>(output: &'a str, key: &str) -> Option<&'a str> {
    output
        .lines()
        .find_map(|line| Some(line.strip_prefix(key)?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_not_targets() {
        assert!(is_name("page_map"));
        assert!(!is_name("warning: unused key"));
        assert!(!is_name(""));
    }

    #[test]
    fn the_number_of_executions_is_found() {
        let output = "stat::number_of_executed_units: 12345\nstat::average_exec_per_sec: 7\n";
        assert_eq!(
            statistic(output, "stat::number_of_executed_units:"),
            Some("12345")
        );
        assert_eq!(statistic("", "stat::x:"), None);
    }
}
