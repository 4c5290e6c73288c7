// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What came of a guest.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::findings::{scan, unexpected_taint, Finding};
use super::init::{END, EXIT_BASE, TAINTED_AT_BOOT};
use super::ktap::Totals;
use super::qemu::{self, PowerOff, Run};
use crate::kernel::command::last_lines;

/// How the guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It reached its end with this exit status of the test: 96, the kernel was tainted before; 97, a module did not load; 98, one did not unload.
    Status(i32),
    /// It went off before: a panic, or QEMU failed.
    Died,
    /// It was killed, since it took longer than this.
    TimedOut(Duration),
}

/// What came of a guest.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// What the tests reported, on the results' port and in the kernel's log.
    pub tests: Totals,
    /// What the kernel complained about.
    pub findings: Vec<Finding>,
    /// From power-on to the end.
    pub took: Duration,
    /// The kernel's log.
    pub console: PathBuf,
    /// What the test printed.
    pub results: PathBuf,
    folder: PathBuf,
}

impl Outcome {
    /// Reads what a run left in its folder.
    ///
    /// # Errors
    ///
    /// The logs cannot be read.
    pub fn new(run: Run, folder: &Path, expected: &[String]) -> Result<Self> {
        let (console, results) = (folder.join(qemu::CONSOLE), folder.join(qemu::RESULTS));
        let read = |path: &Path| -> Result<String> {
            let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (kernel_log, printed) = (read(&console)?, read(&results)?);
        let end = End::parse(&printed);
        let ended = match (run.power_off, &end) {
            (PowerOff::Killed(after), _) => Ended::TimedOut(after),
            (PowerOff::Exit(Some(code)), Some(end)) if code == end.exit_code() => {
                Ended::Status(end.status)
            }
            _ => Ended::Died,
        };
        let mut findings = scan(&kernel_log, expected);
        findings.extend(end.and_then(|end| unexpected_taint(end.taint)));
        let mut tests = Totals::parse(&printed);
        let in_kernel = Totals::parse(&kernel_log);
        tests.passed = tests.passed.saturating_add(in_kernel.passed);
        for (name, why) in in_kernel.skips {
            tests.skip(name, why);
        }
        in_kernel
            .failures
            .into_iter()
            .for_each(|failure| tests.fail(failure));
        Ok(Self {
            ended,
            tests,
            findings,
            took: run.took,
            console,
            results,
            folder: folder.to_owned(),
        })
    }

    /// Whether the guest reached its end, nothing failed, and the kernel did not complain.
    pub fn is_success(&self) -> bool {
        self.totals().1 == 0
    }

    /// Passed and failed: tests, findings, and the end of the guest.
    ///
    /// A test script without KTAP is one test. A guest that failed in a way that no test and no finding shows is one
    /// failure.
    pub fn totals(&self) -> (u64, u64) {
        let findings = u64::try_from(self.findings.len()).unwrap_or(u64::MAX);
        let reached_end = self.ended == Ended::Status(0);
        let silent = self.tests.reported() == 0;
        let passed = self
            .tests
            .passed
            .saturating_add(u64::from(silent && reached_end));
        let hidden = match self.ended {
            Ended::Status(0) => 0,
            Ended::Status(_) => u64::from(self.tests.failed == 0),
            Ended::Died | Ended::TimedOut(_) => 1,
        };
        (
            passed,
            self.tests
                .failed
                .saturating_add(findings)
                .saturating_add(hidden),
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.tests.failures {
            writeln!(f, "failed: {failure}")?;
        }
        for finding in &self.findings {
            writeln!(f, "kernel log: {finding}")?;
        }
        match &self.ended {
            Ended::Status(0) => {}
            Ended::Status(TAINTED_AT_BOOT) => {
                writeln!(f, "the kernel was tainted before any module was loaded")?
            }
            Ended::Status(97) => writeln!(f, "a module did not load")?,
            Ended::Status(98) => writeln!(f, "a module did not unload")?,
            Ended::Status(status) => writeln!(f, "the test ended with status {status}")?,
            Ended::Died => writeln!(f, "the guest went off before its end")?,
            Ended::TimedOut(after) => {
                writeln!(f, "the guest was killed after {} s", after.as_secs())?
            }
        }
        if !self.is_success() {
            let read = |path: &Path| {
                String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
            };
            for (name, text, lines) in [
                ("QEMU said", qemu::own_log(&self.folder), 10),
                ("the test's last words", read(&self.results), 15),
                ("the kernel's last words", read(&self.console), 40),
            ] {
                if !text.trim().is_empty() {
                    writeln!(
                        f,
                        "--- {name}:\n{}",
                        last_lines(&text.replace('\r', ""), lines)
                    )?;
                }
            }
            writeln!(
                f,
                "--- whole logs: {} {}",
                self.console.display(),
                self.results.display()
            )?;
        }
        let (passed, failed) = self.totals();
        write!(f, "{passed} passed, {failed} failed")?;
        if self.tests.skipped > 0 {
            write!(f, ", {} skipped", self.tests.skipped)?;
        }
        writeln!(f, " ({:.1} s)", self.took.as_secs_f64())
    }
}

/// The guest's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    status: i32,
    taint: u64,
}

impl End {
    fn parse(printed: &str) -> Option<Self> {
        let line = printed
            .lines()
            .rev()
            .find_map(|line| line.trim_end().strip_prefix(END))?;
        let field = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name))
        };
        Some(Self {
            status: field("status=")?.parse().ok()?,
            taint: field("taint=")?.parse().ok()?,
        })
    }

    /// What `isa-debug-exit` makes of the byte that the guest writes.
    fn exit_code(self) -> i32 {
        self.status
            .min(100)
            .saturating_add(EXIT_BASE)
            .saturating_mul(2)
            .saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, console: &str, results: &str, power_off: PowerOff) -> Outcome {
        let folder =
            std::env::temp_dir().join(format!("htlb-outcome-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(qemu::CONSOLE), console).expect("a log");
        fs::write(folder.join(qemu::RESULTS), results).expect("a log");
        let run = Run {
            power_off,
            took: Duration::from_secs(2),
        };
        let outcome = Outcome::new(run, &folder, &[]).expect("both logs are there");
        let _ = outcome.to_string();
        fs::remove_dir_all(&folder).expect("cleaning up");
        outcome
    }

    const KTAP: &str = "KTAP version 1\n1..2\nok 1 a\nok 2 b\n";

    #[test]
    fn a_calm_run_is_a_success() {
        let done = format!("{KTAP}{END} status=0 taint=12288\r\n");
        let good = outcome("calm", "[ 0.1] fine\n", &done, PowerOff::Exit(Some(33)));
        assert_eq!(
            (good.is_success(), good.totals(), good.ended),
            (true, (2, 0), Ended::Status(0))
        );
        let silent = outcome(
            "silent",
            "",
            &format!("{END} status=0 taint=0\n"),
            PowerOff::Exit(Some(33)),
        );
        assert_eq!((silent.is_success(), silent.totals()), (true, (1, 0)));
    }

    #[test]
    fn everything_that_can_go_wrong_fails() {
        let end = |status: i32, taint: u64| format!("{KTAP}{END} status={status} taint={taint}\n");
        let cases = [
            (
                "panic",
                "[ 1.0] Kernel panic - not syncing\n",
                KTAP.to_owned(),
                PowerOff::Exit(Some(0)),
                Ended::Died,
            ),
            ("lied", "", end(0, 0), PowerOff::Exit(Some(0)), Ended::Died),
            (
                "hang",
                "",
                end(0, 0),
                PowerOff::Killed(Duration::from_secs(9)),
                Ended::TimedOut(Duration::from_secs(9)),
            ),
            (
                "status",
                "",
                end(3, 0),
                PowerOff::Exit(Some(39)),
                Ended::Status(3),
            ),
            (
                "large",
                "",
                end(127, 0),
                PowerOff::Exit(Some(233)),
                Ended::Status(127),
            ),
            (
                "taint",
                "",
                end(0, 512),
                PowerOff::Exit(Some(33)),
                Ended::Status(0),
            ),
            (
                "warn",
                "[ 1.0] WARNING: mm/x.c:1\n",
                end(0, 0),
                PowerOff::Exit(Some(33)),
                Ended::Status(0),
            ),
            (
                "kunit",
                "[ 1.0] KTAP version 1\n[ 1.0] 1..1\n[ 1.0] not ok 1 x\n",
                end(0, 0),
                PowerOff::Exit(Some(33)),
                Ended::Status(0),
            ),
            (
                "short",
                "",
                format!("KTAP version 1\n1..2\nok 1 a\n{END} status=0 taint=0\n"),
                PowerOff::Exit(Some(33)),
                Ended::Status(0),
            ),
        ];
        for (name, console, results, power_off, ended) in cases {
            let bad = outcome(name, console, &results, power_off);
            assert!(!bad.is_success(), "{name}");
            assert_eq!(bad.ended, ended, "{name}");
        }
    }
}
