// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The `htlb` command: files in huge pages, by name, and the pools they come from.
//!
//! One file per subcommand. All policy is the library's; here are words, tables, progress and exit codes.
#![forbid(unsafe_code)]

mod bench;
mod cat;
mod exit;
mod info;
mod interrupt;
mod load;
mod ls;
mod manual;
mod output;
mod pool;
mod progress;
mod rm;
mod run;

use std::process::ExitCode;

use clap::Parser;

use htlb_user::cli::{args, size};

use args::{Args, Command};
use output::Format;

fn main() -> ExitCode {
    let args = Args::parse();
    let json = Format::of(args.command.wants_json());
    let done = match &args.command {
        Command::Load(args) => load::run(args),
        Command::Cat(args) => cat::run(args),
        Command::Ls(args) => ls::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Info(args) => info::run(args),
        Command::Pool(args) => pool::run(args),
        Command::Run(args) => run::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
        Command::Json => manual::json(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
