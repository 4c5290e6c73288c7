// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `cargo xtask`: everything that is more than `cargo test`.
//!
//! `test` runs the steps of [`steps`] in order; `fuzz` and `msrv` run one of them alone. Every command a step starts
//! writes to that step's log under `target/xtask/`; [`counts`] reads the totals from there. `kernel` and `vm` are
//! [`htlb_tests::kernel`] and [`htlb_tests::vm`], which the steps of [`guests`] run.

mod child;
mod counts;
mod coverage;
mod deny;
mod evidence;
mod features;
mod freestanding;
mod fuzz;
mod guests;
mod loom;
mod modes;
mod msrv;
mod programs;
mod repository;
mod runner;
mod skips;
mod steps;
mod suite;
mod tsan;
mod workspace;

use clap::{Parser, Subcommand};
use htlb_tests::kernel::{CannotBeHad, CANNOT_BE_HAD};
use runner::{Options, Output, Scope, Strictness};
use std::process::ExitCode;
use steps::Step;
use workspace::Workspace;

/// Build, test and check htlb.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every check and every test; the last line is `N passed, M failed, K skipped`
    ///
    /// Exits with 0 only if something ran and nothing failed. Each step's output is kept in target/xtask/STEP.log.
    /// Run it as root to have the huge-page pool sized, and the tests repeated with an empty pool, as an
    /// unprivileged user and in a container; the pool is given back as it was found.
    Test(TestArguments),
    /// Run every fuzz target
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 20, value_name = "N")]
        seconds: u32,
    },
    /// Build the core with the oldest supported compiler
    ///
    /// The compiler is Debian's package, unpacked below $XDG_CACHE_HOME/htlb/kernel; nothing is installed.
    Msrv,
    /// Prepare Debian's kernel and a debug kernel, and build modules against them
    ///
    /// All of it is made from Debian's packages below $XDG_CACHE_HOME/htlb/kernel; nothing is installed.
    Kernel(htlb_tests::kernel::Arguments),
    /// Boot a prepared kernel in QEMU, with modules and programs, and judge what came of it
    Vm(htlb_tests::vm::Arguments),
}

#[derive(Debug, clap::Args)]
struct TestArguments {
    /// Only what is quick: formatting, lints, repository rules and one run of the tests
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Only this step; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// List the steps and stop
    #[arg(long)]
    list: bool,
    /// Count a test that nothing could run as failed (the default where CI is set)
    #[arg(long)]
    deny_skips: bool,
    /// Print one JSON object instead of lines, the progress to standard error
    #[arg(long)]
    json: bool,
    /// Seconds for each fuzz target
    #[arg(long, default_value_t = 20, value_name = "N")]
    fuzz_seconds: u32,
    /// Millions of steps instead of a hundred thousand, where a test can take any number (HTLB_LONG=1 for the tests)
    #[arg(long)]
    long: bool,
}

impl TestArguments {
    fn steps(&self) -> Vec<Step> {
        Step::ALL
            .into_iter()
            .filter(|step| match (self.quick, self.only.is_empty()) {
                (true, _) => step.scope() == Scope::Quick,
                (false, true) => true,
                (false, false) => self.only.contains(step),
            })
            .collect()
    }

    fn options(&self) -> Options {
        let in_ci =
            std::env::var_os("CI").is_some_and(|ci| !ci.is_empty() && ci != "false" && ci != "0");
        Options {
            strictness: if self.deny_skips || in_ci {
                Strictness::DenySkips
            } else {
                Strictness::AllowSkips
            },
            output: if self.json {
                Output::Json
            } else {
                Output::Lines
            },
            fuzz_seconds: self.fuzz_seconds,
        }
    }
}

fn main() -> ExitCode {
    let (steps, options) = match Arguments::parse().command {
        Command::Test(test) if test.list => {
            for step in test.steps() {
                println!("{:<20} {}", step.name(), step.about());
            }
            return ExitCode::SUCCESS;
        }
        Command::Test(test) => {
            if test.long {
                // No other thread runs yet; every test inherits it.
                std::env::set_var(htlb_tests::LONG, "1");
            }
            (test.steps(), test.options())
        }
        Command::Fuzz { seconds } => (vec![Step::Fuzz], Options::lines(seconds)),
        Command::Msrv => (vec![Step::Msrv], Options::lines(0)),
        Command::Kernel(kernel) => return ended(htlb_tests::kernel::run(kernel)),
        Command::Vm(vm) => return ended(htlb_tests::vm::run(vm)),
    };
    match Workspace::find().and_then(|workspace| runner::run(workspace, &steps, options)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn ended(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            match error.is::<CannotBeHad>() {
                true => ExitCode::from(CANNOT_BE_HAD),
                false => ExitCode::FAILURE,
            }
        }
    }
}
