// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Calls the kernel and VM parts on their own.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Arguments {
    /// Prepare kernels, build modules against them.
    Kernel(htlb_tests::kernel::Arguments),
    /// Boot prepared kernels.
    Vm(htlb_tests::vm::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse() {
        Arguments::Kernel(arguments) => htlb_tests::kernel::run(arguments),
        Arguments::Vm(arguments) => htlb_tests::vm::run(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
