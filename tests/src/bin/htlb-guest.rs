// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Tests the modules from inside a guest; `cargo xtask vm test` builds it, boots the guest, and reads what it prints.

use std::process::ExitCode;

fn main() -> ExitCode {
    htlb_tests::guest::main()
}
