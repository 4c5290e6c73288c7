// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The fuzz targets: built with the address sanitizer by cargo-fuzz, each run for a while.

use crate::child::Log;
use crate::runner::{Context, Report};
use crate::steps::BUILD_LIMIT;
use crate::workspace::Workspace;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
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
    for (target, log, result) in fuzzer.run_all(context, &targets)? {
        let result = result.map(|figures| {
            report.remarks.push(format!("{target}: {figures}"));
        });
        context.log.add_evidence(log);
        report.check(target, result)?;
    }
    Ok(report)
}

/// How many targets run at a time: one has one thread.
const AT_A_TIME: usize = 2;

type Run<'a> = (&'a str, Log, io::Result<Figures>);

/// How far a target came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    executions: u64,
    /// Edges of the control flow, as libFuzzer counts them.
    edges: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, edges } = self;
        write!(f, "{executions} executions, {edges} edges")
    }
}

impl Figures {
    /// From the fuzzer's last words; one that said nothing has not run.
    fn of(output: &str) -> io::Result<Self> {
        let executions = statistic(output, "stat::number_of_executed_units:");
        let edges = output.lines().rev().find_map(coverage);
        match (executions.and_then(|number| number.parse().ok()), edges) {
            (Some(executions), Some(edges)) if executions > 0 => Ok(Self { executions, edges }),
            _ => Err(io::Error::other("it ended without saying what it ran")),
        }
    }
}

/// The edges in a line such as `#524288 pulse  cov: 345 ft: 678 corp: 9/10b`.
fn coverage(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" cov: ")?;
    rest.split_ascii_whitespace().next()?.parse().ok()
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

    /// Every target, as many at a time as is good, in the order of the list.
    fn run_all<'a>(&self, context: &Context, targets: &[&'a str]) -> io::Result<Vec<Run<'a>>> {
        let seconds = context.options.fuzz_seconds;
        let mut logs = Vec::new();
        for target in targets {
            logs.push((*target, context.log.beside(target)?));
        }
        let waiting = Mutex::new(logs.into_iter());
        let next = || {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.next()
        };
        let worker = || {
            let mut done = Vec::new();
            while let Some((target, mut log)) = next() {
                let result = self.run_one(&mut log, target, seconds);
                done.push((target, log, result));
            }
            done
        };
        let mut runs: Vec<Run<'a>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(worker)).collect();
            let done = workers.into_iter().map(|worker| worker.join());
            done.map(|done| done.map_err(|_| io::Error::other("a worker panicked")))
                .collect::<io::Result<Vec<_>>>()
        })?
        .into_iter()
        .flatten()
        .collect();
        runs.sort_by_key(|(target, ..)| targets.iter().position(|other| other == target));
        Ok(runs)
    }

    fn run_one(&self, log: &mut Log, target: &str, seconds: u32) -> io::Result<Figures> {
        let time = format!("-max_total_time={seconds}");
        // Long inputs from the beginning: there is no time to grow to them.
        let mut arguments = vec![
            "run",
            target,
            "--",
            &time,
            "-len_control=0",
            "-print_final_stats=1",
        ];
        let dictionary = format!("fuzz/dictionaries/{target}");
        let option = format!("-dict={dictionary}");
        if self.root.join(dictionary).exists() {
            arguments.push(&option);
        }
        let limit = Duration::from_secs(u64::from(seconds) + 300);
        Figures::of(&log.must(&mut self.command(&arguments), limit)?)
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
    fn the_figures_are_the_last_that_were_said() {
        let output = "#2 INITED cov: 12 ft: 13 corp: 1/1b\n#12345 DONE   cov: 345 ft: 678 corp: 9/1Kb lim: 4\n\
                      stat::number_of_executed_units: 12345\nstat::average_exec_per_sec: 7\n";
        let figures = Figures::of(output).unwrap();
        assert_eq!(figures.to_string(), "12345 executions, 345 edges");
        for nothing in [
            "",
            "stat::number_of_executed_units: 5\n",
            "#1 DONE cov: 5 ft: 1",
        ] {
            assert!(Figures::of(nothing).is_err(), "{nothing}");
        }
    }
}
