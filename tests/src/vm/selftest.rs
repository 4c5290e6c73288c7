// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `cargo xtask vm selftest`: boots Debian's kernel with scripts whose end is known, and sees that each [`Outcome`]
//! says so. A machine that took a panic or a hang for a success would make every later test worthless.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::findings::Kind;
use super::init::TAINTED_AT_BOOT;
use super::{program, Ended, Guest, Outcome};
use crate::kernel::{self, Prepared, Route};

/// A name, and what must hold.
type Check = (&'static str, fn(&Prepared) -> Result<()>);

const CHECKS: [Check; 5] = [
    ("a guest reports what its script reports", reports),
    (
        "a static program sees two nodes, a script sees the device",
        sees_the_machine,
    ),
    ("a panic is found", panics),
    ("a hang is killed", hangs),
    (
        "nothing is run on a kernel that was tainted before",
        tainted,
    ),
];

/// Runs every check; the last line is `N passed, M failed`.
///
/// # Errors
///
/// The kernel cannot be prepared, or a check failed.
pub fn run() -> Result<()> {
    let kernel = kernel::prepare(Route::Stock)?;
    let mut failed: usize = 0;
    for (name, check) in CHECKS {
        let started = Instant::now();
        let verdict = check(&kernel);
        let took = started.elapsed().as_secs_f64();
        match verdict {
            Ok(()) => println!("ok      {name} ({took:.1} s)"),
            Err(error) => {
                failed = failed.saturating_add(1);
                println!("FAILED  {name} ({took:.1} s)\n{error:#}");
            }
        }
    }
    println!(
        "{} passed, {failed} failed",
        CHECKS.len().saturating_sub(failed)
    );
    ensure!(failed == 0, "the guests' outcomes cannot be trusted");
    Ok(())
}

/// Debian's module `brd` loads and unloads; one test passes, one fails; a provoked complaint is no finding.
fn reports(kernel: &Prepared) -> Result<()> {
    let run = Guest::new(kernel, "selftest-reports")?
        .kernel_module("brd", "rd_nr=1")?
        .script(
            "echo 'WARNING: provoked' >/dev/kmsg\necho KTAP version 1\necho 1..2\n\
             test -b /dev/ram0 && echo ok 1 - module\necho not ok 2 - wrong",
        )
        .expect("provoked")
        .run()?;
    came_to(&run, &Ended::Status(0), (1, 1))?;
    ensure!(
        run.tests.failures == ["wrong"] && run.findings.is_empty(),
        "another failure than the script's:\n{run}"
    );
    Ok(())
}

/// `htlb` itself, and the number of QEMU's `edu` device; the script's own status comes out.
fn sees_the_machine(kernel: &Prepared) -> Result<()> {
    let programs = program::build(&["build", "-p", "htlb-user", "--bin", "htlb"])?;
    let htlb = programs.first().context("cargo made no htlb")?;
    let run = Guest::new(kernel, "selftest-machine")?
        .copy("/bin/htlb", htlb)?
        .script(
            "set -e\nhtlb info >/tmp/info\ngrep -q ' 2 nodes' /tmp/info\n\
             grep -q 0x11e8 /sys/bus/pci/devices/*/device\nexit 5",
        )
        .run()?;
    came_to(&run, &Ended::Status(5), (0, 1))
}

/// The panic is the one finding, and the guest's end is missing.
fn panics(kernel: &Prepared) -> Result<()> {
    let run = Guest::new(kernel, "selftest-panic")?
        .script("echo c >/proc/sysrq-trigger")
        .run()?;
    ensure!(run.ended == Ended::Died, "it went on:\n{run}");
    let kind = run.findings.first().map(|finding| finding.kind);
    ensure!(kind == Some(Kind::Oops), "found {kind:?}:\n{run}");
    ensure!(!run.is_success(), "a success:\n{run}");
    Ok(())
}

/// What the guest said before it hung is told.
fn hangs(kernel: &Prepared) -> Result<()> {
    let limit = Duration::from_secs(40);
    let run = Guest::new(kernel, "selftest-hang")?
        .script("echo before; sleep 1000")
        .timeout(limit)
        .run()?;
    came_to(&run, &Ended::TimedOut(limit), (0, 1))?;
    ensure!(
        run.to_string().contains("before"),
        "its last words are lost:\n{run}"
    );
    Ok(())
}

/// As after a complaint of the kernel's while it booted.
fn tainted(kernel: &Prepared) -> Result<()> {
    let run = Guest::new(kernel, "selftest-tainted")?
        .command_line("sysctl.kernel.tainted=32")
        .script("echo KTAP version 1; echo 1..1; echo ok 1 - run")
        .run()?;
    let (passed, failed) = run.totals();
    ensure!(
        run.ended == Ended::Status(TAINTED_AT_BOOT) && passed == 0 && failed > 0,
        "it was run:\n{run}"
    );
    Ok(())
}

fn came_to(run: &Outcome, ended: &Ended, totals: (u64, u64)) -> Result<()> {
    ensure!(
        run.ended == *ended && run.totals() == totals,
        "expected {ended:?} with {totals:?}, passed and failed, not {:?} with {:?}:\n{run}",
        run.ended,
        run.totals()
    );
    Ok(())
}
