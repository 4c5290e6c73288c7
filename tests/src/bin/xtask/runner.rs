// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Runs steps in order, prints a line for each, and adds everything up.

use crate::child::Log;
use crate::counts::Counts;
use crate::programs::Programs;
use crate::skips::{never_ran, Skip};
use crate::steps::Step;
use crate::workspace::Workspace;
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When a step runs without being named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Always.
    Quick,
    /// Not with `--quick`.
    Full,
}

/// Whether a test that nothing ran is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    AllowSkips,
    DenySkips,
}

/// Who reads the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Lines,
    Json,
}

/// How to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) strictness: Strictness,
    pub(crate) output: Output,
    pub(crate) fuzz_seconds: u32,
}

impl Options {
    /// For a command that is one step.
    pub(crate) const fn lines(fuzz_seconds: u32) -> Self {
        Self {
            strictness: Strictness::AllowSkips,
            output: Output::Lines,
            fuzz_seconds,
        }
    }
}

/// What a step has to work with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) workspace: Workspace,
    pub(crate) options: Options,
    pub(crate) log: Log,
    /// The test programs, once a step has built them.
    pub(crate) programs: Option<Rc<Programs>>,
}

/// What a step found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) skips: Vec<Skip>,
    /// The test programs that were run.
    pub(crate) ran: Vec<String>,
    /// One line each, printed under the step.
    pub(crate) remarks: Vec<String>,
}

impl Report {
    /// A check that is one thing and went well.
    pub(crate) fn passed() -> Self {
        Self {
            counts: Counts::PASSED,
            ..Self::default()
        }
    }

    /// A step that cannot run here.
    pub(crate) fn skipped(step: &str, why: &str) -> Self {
        Self {
            counts: Counts::SKIPPED,
            skips: vec![Skip::new(step, step, why)],
            ..Self::default()
        }
    }

    /// Counts one more check of this step.
    pub(crate) fn check(&mut self, what: &str, result: io::Result<()>) -> io::Result<()> {
        match result {
            Ok(()) => self.counts += Counts::PASSED,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.counts += Counts::FAILED;
                self.remarks.push(format!("{what}: {error}"));
            }
        }
        Ok(())
    }
}

/// A step, run.
struct Done {
    step: Step,
    report: Report,
    /// What the commands that failed have said about it.
    evidence: Vec<String>,
    log: PathBuf,
    took: Duration,
}

/// Runs `steps`; the exit status says whether something ran and nothing failed.
pub(crate) fn run(workspace: Workspace, steps: &[Step], options: Options) -> io::Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The first signal ends the running command and gives the pools back; a second one ends us.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    fs::create_dir_all(workspace.logs())?;
    let path = |step: &Step| format!("{}.log", step.name());
    let Some(first) = steps.first() else {
        return Err(io::Error::other("no step to run"));
    };
    let mut context = Context {
        log: Log::create(workspace.logs().join(path(first)), Arc::clone(&interrupted))?,
        workspace,
        options,
        programs: None,
    };
    let began = Instant::now();
    let mut all: Vec<Done> = Vec::new();
    for step in steps {
        context.log = Log::create(
            context.workspace.logs().join(path(step)),
            Arc::clone(&interrupted),
        )?;
        let start = Instant::now();
        announce(&options, &format!("{:<20} ", step.name()))?;
        let report = match step.run(&mut context) {
            Ok(report) => report,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                announce(&options, "interrupted\n")?;
                return Ok(ExitCode::from(130));
            }
            Err(error) => Report {
                counts: Counts::FAILED,
                remarks: vec![error.to_string()],
                ..Report::default()
            },
        };
        let done = Done {
            step: *step,
            report,
            evidence: context.log.evidence(),
            log: context.log.path().to_owned(),
            took: start.elapsed(),
        };
        announce(&options, &line(&done))?;
        all.push(done);
        if interrupted.load(Ordering::Relaxed) {
            return Ok(ExitCode::from(130));
        }
    }
    finish(&context, &all, began.elapsed())
}

/// Progress goes where the result does not.
fn announce(options: &Options, text: &str) -> io::Result<()> {
    match options.output {
        Output::Lines => {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()
        }
        Output::Json => io::stderr().write_all(text.as_bytes()),
    }
}

fn line(done: &Done) -> String {
    let Report {
        counts, remarks, ..
    } = &done.report;
    let verdict = match counts {
        Counts { failed: 1.., .. } => "FAILED",
        Counts { passed: 0, .. } => "skipped",
        _ => "ok",
    };
    let seconds = done.took.as_secs_f64();
    let mut text = format!("{verdict:<8} {seconds:>7.1} s   {counts}\n");
    for remark in remarks {
        text.push_str(&format!("    {remark}\n"));
    }
    text
}

/// Why a step failed.
fn reasons(done: &Done) -> String {
    let mut text = format!("FAILED {}, {}:\n", done.step.name(), done.log.display());
    for remark in &done.report.remarks {
        text.push_str(&format!("    {remark}\n"));
    }
    for line in &done.evidence {
        text.push_str(&format!("    | {line}\n"));
    }
    text
}

/// Prints what was skipped and the totals.
fn finish(context: &Context, all: &[Done], took: Duration) -> io::Result<ExitCode> {
    let mut totals = Counts::default();
    let mut runs: BTreeMap<String, usize> = BTreeMap::new();
    let mut skips = Vec::new();
    for done in all {
        totals += done.report.counts;
        skips.extend_from_slice(&done.report.skips);
        for program in &done.report.ran {
            *runs.entry(program.clone()).or_default() += 1;
        }
    }
    let never = never_ran(&skips, &runs);
    if context.options.strictness == Strictness::DenySkips {
        let denied = never.len() as u64;
        totals.skipped = totals.skipped.saturating_sub(denied);
        totals.failed += denied;
    }
    let succeeded = totals.failed == 0 && totals.ran() > 0;
    let result = match context.options.output {
        Output::Json => report_json(&totals, all, &never, took, succeeded),
        Output::Lines => {
            let failed = all.iter().filter(|done| done.report.counts.failed > 0);
            let failed: String = failed.map(reasons).collect();
            failed + &report_lines(context.options, &totals, &skips, &never, took)
        }
    };
    println!("{result}");
    Ok(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn report_lines(
    options: Options,
    totals: &Counts,
    skips: &[Skip],
    never: &[&Skip],
    took: Duration,
) -> String {
    let mut text = String::new();
    for Skip { program, name, why } in never {
        text.push_str(&format!("SKIPPED {program}: {name}: {why}\n"));
    }
    let elsewhere = skips.iter().filter(|skip| {
        !never
            .iter()
            .any(|other| (&other.program, &other.name) == (&skip.program, &skip.name))
    });
    let mut others: BTreeMap<&str, u64> = BTreeMap::new();
    for skip in elsewhere {
        *others.entry(&skip.why).or_default() += 1;
    }
    for (why, times) in others {
        text.push_str(&format!(
            "skipped in some runs only, or for good reason, {times}: {why}\n"
        ));
    }
    if options.strictness == Strictness::DenySkips && !never.is_empty() {
        text.push_str("What nothing ran counts as failed here.\n");
    }
    if totals.ran() == 0 {
        text.push_str("Nothing ran, so nothing is shown.\n");
    }
    text.push_str(&format!("{:.0} s in all\n{totals}", took.as_secs_f64()));
    text
}

fn report_json(
    totals: &Counts,
    all: &[Done],
    never: &[&Skip],
    took: Duration,
    succeeded: bool,
) -> String {
    let skip = |skip: &Skip| json!({"program": skip.program, "name": skip.name, "why": skip.why});
    let steps: Vec<_> = all
        .iter()
        .map(|done| {
            json!({
                "name": done.step.name(),
                "seconds": done.took.as_secs_f64(),
                "passed": done.report.counts.passed,
                "failed": done.report.counts.failed,
                "skipped": done.report.counts.skipped,
                "remarks": done.report.remarks,
                "evidence": done.evidence,
                "skips": done.report.skips.iter().map(skip).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({
        "steps": steps,
        "never_ran": never.iter().map(|it| skip(it)).collect::<Vec<_>>(),
        "passed": totals.passed,
        "failed": totals.failed,
        "skipped": totals.skipped,
        "seconds": took.as_secs_f64(),
        "succeeded": succeeded,
    })
    .to_string()
}
