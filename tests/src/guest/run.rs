// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Runs groups and their cases, and prints what came of them as KTAP.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{kill_process_group, Pid, Signal};

use super::module::Loaded;
use super::{is_debug_kernel, log, Case, Group, Selection, Skip, BEGIN, LONG, SEED};

/// The exit status of a case that cannot be run here.
const SKIPPED: i32 = 77;
/// What its last line begins with.
const WHY: &str = "skipped: ";
/// Where a case's output goes.
const OUTPUT: &str = "/tmp/htlb-guest.output";
/// Who is killed for want of memory.
const KILLED_FIRST: &str = "/proc/self/oom_score_adj";
/// So many lines of it are shown.
const SHOWN: usize = 60;
/// And so many of a backtrace.
const SHOWN_OF_TRACE: usize = 20;
/// How much longer than on the stock kernel a case may take on the debug kernel.
const DEBUG_FACTOR: u32 = 4;
/// How much longer it may take where it is to take its time.
const LONG_FACTOR: u32 = 8;

/// What came of a case.
enum Verdict {
    Passed,
    Skipped(String),
    Failed(String),
    /// It does not even die.
    Stuck,
}

/// Runs these, and says whether all went well.
///
/// # Errors
/// What nothing can go on after: this program cannot be started again, or its output cannot be written.
pub(super) fn all(
    groups: &[(&'static Group, Vec<Case>)],
    selection: &Selection,
) -> Result<ExitCode> {
    // Where a case takes all memory, those who are killed for it are its own processes.
    fs::write(KILLED_FIRST, "-1000").context("staying alive")?;
    println!("KTAP version 1\n1..{}", groups.len());
    let mut failed = false;
    for (number, (group, cases)) in (1_usize..).zip(groups) {
        let began = Instant::now();
        let Some(passed) = run_group(group, cases, selection)? else {
            println!("Bail out! a case cannot be killed");
            // The stacks of those who wait go to the log.
            fs::write("/proc/sysrq-trigger", "w")?;
            return Ok(ExitCode::FAILURE);
        };
        let seconds = began.elapsed().as_secs_f64();
        println!("{} {number} {} # {seconds:.1} s", word(passed), group.name);
        failed |= !passed;
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// Runs a case in this process: what `all` starts once for each.
pub(super) fn here(case: &Case) -> ExitCode {
    if let Err(error) = fs::write(KILLED_FIRST, "0") {
        eprintln!("{KILLED_FIRST}: {error}");
        return ExitCode::FAILURE;
    }
    // What was printed before the result is where the panic's own message went already.
    let done = panic::catch_unwind(AssertUnwindSafe(|| (case.body)()));
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(Skip(why)) => {
                println!(
                    "{WHY}{}",
                    why.split_whitespace().collect::<Vec<_>>().join(" ")
                );
                ExitCode::from(SKIPPED.unsigned_abs().to_le_bytes()[0])
            }
            None => {
                eprintln!("{error:?}");
                ExitCode::FAILURE
            }
        },
        Err(_) => ExitCode::FAILURE,
    }
}

fn word(passed: bool) -> &'static str {
    if passed {
        "ok"
    } else {
        "not ok"
    }
}

/// The results of one group, at the second level.
struct Report {
    number: usize,
    failed: bool,
}

impl Report {
    fn line(&mut self, verdict: &Verdict, name: &str, took: Duration) {
        self.number = self.number.saturating_add(1);
        let number = self.number;
        let seconds = took.as_secs_f64();
        match verdict {
            Verdict::Passed => println!("    ok {number} {name} # {seconds:.2} s"),
            Verdict::Skipped(why) => println!("    ok {number} {name} # SKIP {why}"),
            Verdict::Failed(why) => {
                self.failed = true;
                println!("    # {name}: {why}\n    not ok {number} {name} # {seconds:.2} s");
            }
            Verdict::Stuck => {
                self.failed = true;
                println!("    not ok {number} {name} # cannot be killed");
            }
        }
    }

    /// A step of the runner's own; what it is about needs no process of its own.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> bool {
        let began = Instant::now();
        let verdict = match step() {
            Ok(()) => Verdict::Passed,
            Err(error) => Verdict::Failed(one_line(&format!("{error:#}"))),
        };
        self.line(&verdict, name, began.elapsed());
        matches!(verdict, Verdict::Passed)
    }
}

/// Whether it passed; `None` if a case of it does not die.
fn run_group(group: &'static Group, cases: &[Case], selection: &Selection) -> Result<Option<bool>> {
    let own_steps = if group.modules.is_empty() { 0 } else { 2 };
    println!(
        "    KTAP version 1\n    # Subtest: {}\n    1..{}",
        group.name,
        cases.len().saturating_add(own_steps)
    );
    let mut report = Report {
        number: 0,
        failed: false,
    };
    let mut loaded = None;
    if !group.modules.is_empty() {
        mark(group.name, "modules load")?;
        let loads = report.step("modules load", || {
            loaded = Some(Loaded::load(group.modules)?);
            Ok(())
        });
        if !loads {
            // What was planned and does not report counts as one failure more.
            return Ok(Some(false));
        }
    }
    for case in cases {
        mark(group.name, case.name)?;
        let began = Instant::now();
        let verdict = apart(group, case, selection)?;
        report.line(&verdict, case.name, began.elapsed());
        if matches!(verdict, Verdict::Stuck) {
            return Ok(None);
        }
    }
    if let Some(loaded) = loaded {
        mark(group.name, "nothing is left")?;
        report.step("nothing is left", || loaded.leave());
    }
    Ok(Some(!report.failed))
}

/// Says in the kernel's log whose the next lines are.
fn mark(group: &str, case: &str) -> Result<()> {
    log(&format!("{BEGIN} {group}: {case}")).context("writing to the kernel's log")
}

/// Runs a case in a process of its own.
fn apart(group: &Group, case: &Case, selection: &Selection) -> Result<Verdict> {
    let output = File::create(OUTPUT).with_context(|| format!("creating {OUTPUT}"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["case", group.name, case.name])
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0);
    if let Some(seed) = selection.seed {
        command.env(SEED, seed.to_string());
    }
    if selection.long {
        command.env(LONG, "1");
    }
    let child = command.spawn().context("starting a case")?;
    let mut limit = case.limit;
    for (is_slower, factor) in [
        (is_debug_kernel(), DEBUG_FACTOR),
        (selection.long, LONG_FACTOR),
    ] {
        if is_slower {
            limit = limit.saturating_mul(factor);
        }
    }
    let ended = wait(child, limit)?;
    let said = String::from_utf8_lossy(&fs::read(OUTPUT)?).into_owned();
    let verdict = match ended {
        Ended::Stuck => Verdict::Stuck,
        Ended::Killed => Verdict::Failed(format!("killed after {} s", limit.as_secs())),
        Ended::Exited(status) => match (status.code(), status.signal()) {
            (Some(0), _) => Verdict::Passed,
            (Some(SKIPPED), _) => {
                let why = said.lines().rev().find_map(|line| line.strip_prefix(WHY));
                Verdict::Skipped(why.unwrap_or("no reason given").to_owned())
            }
            (Some(code), _) => Verdict::Failed(format!("exit status {code}")),
            (None, signal) => Verdict::Failed(format!("signal {}", signal.unwrap_or_default())),
        },
    };
    let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with(WHY)).collect();
    let mut out = std::io::stdout().lock();
    // A backtrace is longer than what it belongs to.
    let is_trace = |line: &&str| line.eq_ignore_ascii_case("stack backtrace:");
    let (said, trace) = lines.split_at(lines.iter().rposition(is_trace).unwrap_or(lines.len()));
    let said = said.iter().skip(said.len().saturating_sub(SHOWN));
    for line in said.chain(trace.iter().take(SHOWN_OF_TRACE)) {
        writeln!(out, "    # {line}")?;
    }
    Ok(verdict)
}

enum Ended {
    Exited(ExitStatus),
    Killed,
    Stuck,
}

/// Waits for a case, and ends what it started.
fn wait(mut child: Child, limit: Duration) -> Result<Ended> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let kill = || {
        // The group may be empty already.
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    };
    let status = poll(&mut child, limit)?;
    kill();
    if let Some(status) = status {
        return Ok(Ended::Exited(status));
    }
    // Its memory may be much to give back.
    Ok(match poll(&mut child, Duration::from_secs(30))? {
        Some(_) => Ended::Killed,
        None => Ended::Stuck,
    })
}

fn poll(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() >= limit {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = pause.saturating_mul(2).min(Duration::from_millis(20));
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
