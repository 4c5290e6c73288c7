// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The tests themselves, in one mode, with the pool that mode wants.

use crate::child::{Log, Verdict};
use crate::counts::{ignored, parts_of_others, Counts};
use crate::modes::{Mode, Sandbox};
use crate::programs::{Programs, TestProgram};
use crate::runner::{Context, Report};
use crate::skips::Skip;
use crate::steps::{Step, BUILD_LIMIT};
use htlb_core::{HugeSize, PageCount};
use htlb_tests::figures::FIGURES_LOG;
use htlb_tests::host::{Counter, HugePools, Place, PoolLease};
use htlb_tests::is_long;
use htlb_tests::skip::SKIP_LOG;
use std::fs;
use std::io;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

/// The longest one test program may take.
const TEST_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The same with `--long`.
const LONG_LIMIT: Duration = Duration::from_secs(60 * 60);
/// The most memory the tests get as 2 MiB pages.
const POOL_BYTES: u64 = 3 << 30;

/// Runs every test program, or those that may behave differently there if this is not the plain run.
pub(crate) fn run(context: &mut Context, step: Step, mode: Mode) -> io::Result<Report> {
    let sandbox = Sandbox::new(&context.workspace, mode)?;
    if let Some(why) = mode.obstacle(&sandbox) {
        return Ok(Report::skipped(step.name(), &why));
    }
    let suite = Suite {
        mode,
        sandbox,
        programs: programs(context)?,
    };
    if mode == Mode::AsFound {
        return suite.run(context, step);
    }
    // ORDER: the lease outlives the tests, and gives the pools back whatever happens to them.
    let lease = PoolLease::take()?;
    size_pools(&lease, mode, &mut context.log)?;
    let before = lease.pools().picture()?;
    for line in before.lines() {
        context.log.note(line)?;
    }
    let mut report = suite.run(context, step)?;
    report.check("the pools", left_as_found(lease.pools(), &before))?;
    Ok(report)
}

/// The test programs, built by the first step that needs them.
fn programs(context: &mut Context) -> io::Result<Rc<Programs>> {
    if let Some(built) = &context.programs {
        return Ok(Rc::clone(built));
    }
    let built = Rc::new(Programs::build(&context.workspace, &mut context.log)?);
    context.programs = Some(Rc::clone(&built));
    Ok(built)
}

/// The test programs in one mode.
struct Suite {
    mode: Mode,
    sandbox: Sandbox,
    programs: Rc<Programs>,
}

impl Suite {
    fn run(&self, context: &mut Context, step: Step) -> io::Result<Report> {
        let mut report = Report::default();
        for program in &self.programs.tests {
            if step == Step::Tests || program.depends_on_the_machine() {
                self.run_one(&mut context.log, program, &mut report)?;
            }
        }
        Ok(report)
    }

    fn run_one(&self, log: &mut Log, program: &TestProgram, report: &mut Report) -> io::Result<()> {
        let skip_log = self.sandbox.skip_log(&program.name);
        let mut command = self.sandbox.command(self.mode, &program.executable);
        command
            .current_dir(&program.folder)
            .env("CARGO_MANIFEST_DIR", &program.folder)
            .env(SKIP_LOG, &skip_log);
        let figures = self.sandbox.figures_log(&program.name);
        command.env(FIGURES_LOG, &figures);
        for (name, path) in &self.programs.binaries {
            command.env(format!("CARGO_BIN_EXE_{name}"), path);
        }
        let limit = if is_long() { LONG_LIMIT } else { TEST_LIMIT };
        let ended = log.run(&mut command, limit)?;
        if let Ok(lines) = fs::read_to_string(&figures) {
            report.remarks.extend(lines.lines().map(str::to_owned));
        }
        let mut skips = Skip::of_log(&program.name, &skip_log)?;
        let counts = judge(&ended.output, ended.verdict).with_skips(skips.len() as u64);
        if counts.failed > 0 {
            let remark = format!("{}: {counts}; {}", program.name, ended.verdict);
            report.remarks.push(remark);
        }
        skips.extend(ignored(&ended.output).map(|(name, why)| Skip::new(&program.name, name, why)));
        report.counts += counts;
        report.skips.append(&mut skips);
        report.ran.push(program.name.clone());
        Ok(())
    }
}

/// What a program's output and exit status say together: one that dies without a failed test has failed, one
/// without libtest's harness is one test.
pub(crate) fn judge(output: &str, verdict: Verdict) -> Counts {
    let mut counts = match Counts::of_libtest(output) {
        Some(counts) => counts,
        None if verdict.success() => Counts::PASSED,
        None => Counts::FAILED,
    };
    if counts.failed == 0 && !verdict.success() {
        counts += Counts::FAILED;
    }
    counts.skipped = counts.skipped.saturating_sub(parts_of_others(output));
    counts
}

/// The examples in the documentation, as whoever calls.
pub(crate) fn doctests(context: &mut Context) -> io::Result<Report> {
    let skip_log = context.workspace.logs().join("doctests.skips");
    match fs::remove_file(&skip_log) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["test", "--workspace", "--doc", "--no-fail-fast"])
        .env(SKIP_LOG, &skip_log);
    let ended = context.log.run(&mut cargo, BUILD_LIMIT)?;
    let mut skips = Skip::of_log("doctests", &skip_log)?;
    let counts = judge(&ended.output, ended.verdict).with_skips(skips.len() as u64);
    skips.extend(ignored(&ended.output).map(|(name, why)| Skip::new("doctests", name, why)));
    Ok(Report {
        counts,
        skips,
        ..Report::default()
    })
}

fn size_pools(lease: &PoolLease, mode: Mode, log: &mut Log) -> io::Result<()> {
    for size in lease.pools().sizes()? {
        let wanted = if mode.has_pages() { wanted(size)? } else { 0 };
        let got = lease.make_available(size, PageCount::new(wanted))?;
        let kib = size.bytes() / 1024;
        log.note(&format!(
            "{kib} kB pages: {wanted} wanted, {} available",
            got.raw()
        ))?;
        if size == HugeSize::MIB2 && got.raw() < wanted {
            return Err(io::Error::other(format!(
                "the kernel gave {} of {wanted} huge pages of 2 MiB: free some memory",
                got.raw()
            )));
        }
        let surplus_allowed = lease
            .pools()
            .read(Place::Machine, size, Counter::Overcommit)?;
        if !surplus_allowed.is_zero() {
            lease.set_overcommit(size, PageCount::ZERO)?;
        }
    }
    Ok(())
}

/// A quarter of what is available, in 2 MiB pages, at most [`POOL_BYTES`]; one page of 1 GiB where that is little.
fn wanted(size: HugeSize) -> io::Result<u64> {
    let available = available_bytes()?;
    Ok(match size {
        HugeSize::MIB2 => (available / 4).min(POOL_BYTES) / size.bytes(),
        HugeSize::GIB1 if available > 8 << 30 => 1,
        _ => 0,
    })
}

fn available_bytes() -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    meminfo
        .lines()
        .find_map(|line| {
            let kib = line.strip_prefix("MemAvailable:")?.trim();
            kib.strip_suffix(" kB")?
                .parse::<u64>()
                .ok()?
                .checked_mul(1024)
        })
        .ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable"))
}

/// The last pages of a program that has just ended may still be on their way back.
fn left_as_found(pools: &HugePools, before: &str) -> io::Result<()> {
    let mut after = pools.picture()?;
    for _ in 0..20 {
        if after == before {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
        after = pools.picture()?;
    }
    Err(io::Error::other(format!(
        "the tests left them as\n{after}, not as\n{before}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    const RESULT: &str =
        "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";

    fn exited(code: i32) -> Verdict {
        Verdict::Exited(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn a_crash_after_the_last_result_is_a_failure() {
        assert_eq!(judge(RESULT, exited(0)), Counts::new(2, 0, 0));
        assert_eq!(judge(RESULT, exited(101)), Counts::new(2, 1, 0));
    }

    #[test]
    fn a_program_without_libtest_is_one_test() {
        assert_eq!(judge("fine\n", exited(0)), Counts::PASSED);
        assert_eq!(judge("not fine\n", exited(1)), Counts::FAILED);
        let hung = Verdict::TimedOut(Duration::from_secs(1));
        assert_eq!(judge("", hung), Counts::FAILED);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_bytes().is_ok_and(|bytes| bytes > 1 << 20));
    }
}
