// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Programs for the guest: built by cargo for this machine's own target, but statically linked, since the guest
//! has no libraries.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{ensure, Result};
use serde_json::Value;

use crate::kernel::command::answer;
use crate::kernel::workspace;

/// Runs `cargo` with `arguments` (`["build", "-p", "htlb-user", "--bin", "htlb"]`, `["test", "--no-run", …]`) so that
/// what it makes is static; returns the programs it made.
///
/// # Errors
///
/// The build fails, or makes no program.
pub fn build(arguments: &[&str]) -> Result<Vec<PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(arguments)
        // With the target spelled out, the flag does not reach build scripts and procedural macros, which must not be
        // static.
        .args([
            "--target",
            "x86_64-unknown-linux-gnu",
            "--target-dir",
            "target/guest",
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // The guest's processor is slow, and what is not stripped of its debug information fills its memory.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_STRIP", "debuginfo");
    let programs = executables(&answer(&mut command)?);
    ensure!(
        !programs.is_empty(),
        "cargo {} made no program",
        arguments.join(" ")
    );
    Ok(programs)
}

/// The programs that cargo's messages name.
fn executables(messages: &str) -> Vec<PathBuf> {
    let path = |message: &str| {
        let message: Value = serde_json::from_str(message).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    };
    messages.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken_from_cargos_messages() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                        {\"reason\":\"compiler-artifact\",\"executable\":\"/t/guest/htlb\",\"fresh\":true}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executables(messages), [PathBuf::from("/t/guest/htlb")]);
    }
}
