// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How much of `htlb-core` its tests run: the share of lines, and whether each of its errors was met.
//!
//! The compiler's own counters, read by the LLVM tools of the kernels' toolchain. Tests' own lines do not count, nor do
//! tests that need a machine.

use crate::child::Log;
use crate::guests;
use crate::programs::Programs;
use crate::runner::{Context, Report};
use crate::steps::Step;
use crate::workspace::Workspace;
use htlb_core::Error;
use htlb_tests::kernel::toolchain::Bind;
use htlb_tests::kernel::{self, Prepared, Route};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The least share of lines, in percent.
const LEAST: f64 = 95.0;
/// What is measured.
const CORE: &str = "htlb-core/src";
/// A back end is part of some errors: what only a system can refuse, the simulated one does.
const BACK_END: &str = "tests/src/sim";
/// The programs of the package `htlb-tests` that test the core on the simulated machine: how their names begin.
const OF_THE_CORE: [&str; 5] = [
    "conformance_sim",
    "driver",
    "ledger_model",
    "machine",
    "small_scope",
];
/// Empty without `--cfg loom`.
const OF_LOOM: &str = "interleavings";
const TEST_LIMIT: Duration = Duration::from_secs(15 * 60);
const TOOL_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Builds the tests with counters, runs them, and judges the sums.
pub(crate) fn measure(context: &mut Context) -> io::Result<Report> {
    let ready = guests::prepare(context, Step::Coverage, Route::Stock)?;
    if ready.counts.passed == 0 {
        return Ok(ready);
    }
    let kernel = kernel::prepare(Route::Stock).map_err(|error| other(&error))?;
    let folder = context.workspace.target().join("coverage");
    let counters = folder.join("counters");
    match fs::remove_dir_all(&counters) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&counters)?,
    }
    let mut lines = Lines::default();
    for (program, counters) in run(&context.workspace, &mut context.log, &folder, &counters)? {
        lines.add(&export(context, &kernel, &program, &counters)?);
    }

    let mut report = Report::default();
    let core = context.workspace.root().join(CORE);
    let (all, missed) = lines.sum(&core);
    let share = percent(all.saturating_sub(missed), all);
    report
        .remarks
        .push(format!("{share:.2} % of {all} lines of the core"));
    let enough = if share >= LEAST {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{share:.2} % were run, less than {LEAST} %: {}",
            lines.worst(&core)
        )))
    };
    report.check("lines", enough)?;
    let never = lines.errors_never_met(context.workspace.root())?;
    let met = if never.is_empty() {
        let number = Error::ALL.len();
        report
            .remarks
            .push(format!("each of the core's {number} errors was met"));
        Ok(())
    } else {
        Err(io::Error::other(format!("never met: {never:?}")))
    };
    report.check("errors", met)?;
    Ok(report)
}

/// Builds the programs and runs them; returns each with the folder of its counters.
fn run(
    workspace: &Workspace,
    log: &mut Log,
    folder: &Path,
    counters: &Path,
) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut cargo = workspace.cargo();
    cargo
        .args([
            "test",
            "-p",
            "htlb-core",
            "-p",
            "htlb-tests",
            "--target-dir",
        ])
        .arg(folder)
        .env("RUSTFLAGS", "-Cinstrument-coverage")
        .env("CARGO_PROFILE_TEST_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0")
        // Build scripts and macros are counted as well.
        .env("LLVM_PROFILE_FILE", folder.join("build-%m.profraw"));
    let programs = Programs::of(cargo, log)?;
    let mut ran = Vec::new();
    for program in programs.tests {
        let Some((package, name)) = program.name.split_once('/') else {
            continue;
        };
        let is_of_core = match package {
            "tests" => OF_THE_CORE.iter().any(|start| name.starts_with(start)),
            _ => name != OF_LOOM,
        };
        if !is_of_core {
            continue;
        }
        let mut command = std::process::Command::new(&program.executable);
        let counters = counters.join(name);
        command
            .arg("--quiet")
            .current_dir(&program.folder)
            // Longer sequences reach no other lines, and threads that count in common are slow.
            .env("HTLB_SCOPE_LENGTH", "6")
            .env("LLVM_PROFILE_FILE", counters.join("%p.profraw"));
        log.must(&mut command, TEST_LIMIT)?;
        ran.push((program.executable, counters));
    }
    Ok(ran)
}

/// How often each line of a program was run, as an lcov file. Each program by itself: the same function may have come out
/// otherwise in another, and its counters would be dropped from a sum of both.
fn export(
    context: &mut Context,
    kernel: &Prepared,
    program: &Path,
    counters: &Path,
) -> io::Result<String> {
    let binds = [
        Bind::same(context.workspace.root()),
        Bind::same(context.workspace.target()),
    ];
    let sum = counters.join("sum.profdata");
    let mut merge = vec!["llvm-profdata-19".into(), "merge".into(), "--sparse".into()];
    for entry in fs::read_dir(counters)? {
        merge.push(entry?.path().into_os_string());
    }
    merge.extend(["--output".into(), sum.clone().into_os_string()]);
    context
        .log
        .must(&mut kernel.toolchain.enter(&binds, merge), TOOL_LIMIT)?;
    let mut export = vec![
        "llvm-cov-19".into(),
        "export".into(),
        "--format=lcov".into(),
    ];
    export.extend(["--instr-profile".into(), sum.into_os_string()]);
    export.push(program.as_os_str().to_owned());
    export.push("--sources".into());
    for folder in [CORE, BACK_END] {
        export.push(context.workspace.root().join(folder).into_os_string());
    }
    let mut export = kernel.toolchain.enter(&binds, export);
    context.log.messages(&mut export, TOOL_LIMIT)
}

/// How often each line of each file was run.
#[derive(Debug, Default)]
struct Lines {
    files: BTreeMap<PathBuf, BTreeMap<usize, u64>>,
}

impl Lines {
    /// Takes an lcov file in; a line counts as often as where it was run most.
    fn add(&mut self, lcov: &str) {
        let mut file = PathBuf::new();
        for line in lcov.lines() {
            if let Some(path) = line.strip_prefix("SF:") {
                file = PathBuf::from(path);
            } else if let Some((number, times)) = line
                .strip_prefix("DA:")
                .and_then(|rest| rest.split_once(','))
            {
                if let (Ok(number), Ok(times)) = (number.parse::<usize>(), times.parse::<u64>()) {
                    let file = self.files.entry(file.clone()).or_default();
                    let so_far = file.entry(number).or_insert(0);
                    *so_far = times.max(*so_far);
                }
            }
        }
        self.files.retain(|path, _| {
            !path.components().any(|part| part.as_os_str() == "tests.rs")
                && !path.to_string_lossy().contains("/src/ledger/tests/")
        });
    }

    fn below<'a>(
        &'a self,
        folder: &'a Path,
    ) -> impl Iterator<Item = (&'a PathBuf, &'a BTreeMap<usize, u64>)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.starts_with(folder))
    }

    /// Lines with code below a folder, and those of them that were never run.
    fn sum(&self, folder: &Path) -> (usize, usize) {
        self.below(folder)
            .fold((0, 0), |(all, missed), (_, lines)| {
                let never = lines.values().filter(|times| **times == 0).count();
                (
                    all.saturating_add(lines.len()),
                    missed.saturating_add(never),
                )
            })
    }

    /// The three files below a folder with the most lines that were never run.
    fn worst(&self, folder: &Path) -> String {
        let mut files: Vec<(usize, String)> = self
            .below(folder)
            .map(|(path, lines)| {
                let never = lines.values().filter(|times| **times == 0).count();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                (never, name.into_owned())
            })
            .collect();
        files.sort_unstable_by(|a, b| b.cmp(a));
        let named = files.iter().take(3);
        let named: Vec<String> = named
            .map(|(never, name)| format!("{never} lines of {name}"))
            .collect();
        named.join(", ")
    }

    /// The errors that no line that was run gives; a line that only recognises one does not count.
    fn errors_never_met(&self, root: &Path) -> io::Result<Vec<Error>> {
        let mut never: Vec<Error> = Error::ALL.to_vec();
        for (path, lines) in &self.files {
            if path.ends_with("htlb-core/src/error.rs") || !path.starts_with(root) {
                continue;
            }
            let text = fs::read_to_string(path)?;
            let run = text.lines().zip(1_usize..).filter_map(|(line, number)| {
                let times = lines.get(&number).copied().unwrap_or(0);
                (times > 0).then_some(line)
            });
            for line in run {
                never.retain(|error| !gives(line, *error));
            }
        }
        Ok(never)
    }
}

/// Whether a line of source names an error otherwise than in a pattern.
fn gives(line: &str, error: Error) -> bool {
    let name = format!("Error::{error:?}");
    line.match_indices(&name).any(|(at, _)| {
        let rest = &line[at + name.len()..];
        let ends = !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
        ends && !rest.contains("=>")
    })
}

/// CAST: a number of lines is far below 2^52.
fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn other(error: &anyhow::Error) -> io::Error {
    io::Error::other(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LCOV: &str = "SF:/w/htlb-core/src/a.rs\nDA:1,3\nDA:2,0\nDA:2,1\nDA:3,0\nend_of_record\n\
                        SF:/w/htlb-core/src/ledger/tests/x.rs\nDA:1,0\nend_of_record\n\
                        SF:/w/tests/src/sim/b.rs\nDA:9,0\n";

    #[test]
    fn a_line_was_run_if_any_copy_of_it_was() {
        let mut lines = Lines::default();
        lines.add(LCOV);
        lines.add("SF:/w/htlb-core/src/a.rs\nDA:1,0\nDA:2,0\n");
        assert_eq!(lines.sum(Path::new("/w/htlb-core/src")), (3, 1));
        assert_eq!(lines.sum(Path::new("/w")), (4, 2));
        assert!(lines.worst(Path::new("/w")).starts_with("1 lines of b.rs"));
        assert!((percent(2, 3) - 66.666).abs() < 0.001);
    }

    #[test]
    fn a_pattern_is_no_use_of_an_error() {
        assert!(gives("return Err(Error::NoRoom);", Error::NoRoom));
        assert!(gives("x => Err(Error::NoRoom),", Error::NoRoom));
        assert!(!gives("Err(Error::NoRoom) => retry(),", Error::NoRoom));
        assert!(!gives("Err(Error::PinnedDown)", Error::Pinned));
    }
}
