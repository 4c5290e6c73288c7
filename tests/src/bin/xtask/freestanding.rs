// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The proof that `htlb-core` is `no_std` with no `alloc`, and that its `spin` locks work without an operating system.
//!
//! `#![no_std]` says nothing about dependencies, and a target without std is not always installed. So a program
//! with its own panic handler is linked against the core with neither std nor libc: had anything below pulled in
//! std, the panic handler would be there twice; alloc, and the allocator would be missing. Then it is run.

use crate::runner::{Context, Report};
use crate::steps::BUILD_LIMIT;
use serde_json::Value;
use std::env;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The program, which is no cargo target: cargo would link it with libc.
pub(crate) const SOURCE: &str = "tests/freestanding/main.rs";

/// Builds, links and runs it.
pub(crate) fn run(context: &mut Context) -> io::Result<Report> {
    if env::consts::ARCH != "x86_64" {
        let why = "the freestanding program is written for x86-64";
        return Ok(Report::skipped("freestanding", why));
    }
    let target = context.workspace.logs().join("freestanding");
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["build", "--package=htlb-core", "--lib", "--release"])
        .args(["--no-default-features", "--features=spin"])
        .args(["--config", r#"profile.release.panic="abort""#])
        .args(["--config", "profile.release.overflow-checks=true"])
        .args(["--message-format=json-render-diagnostics", "--target-dir"])
        .arg(&target);
    let messages = context.log.messages(&mut cargo, BUILD_LIMIT)?;

    let program = target.join("freestanding");
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc
        .current_dir(context.workspace.root())
        .args([
            "--edition=2021",
            "--deny=warnings",
            "--crate-name=freestanding",
        ])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Coverflow-checks=yes"])
        .args(["-Crelocation-model=static", "-Clink-arg=-static"])
        .args(["-Clink-arg=-nostdlib", "-Clink-arg=-nostartfiles"])
        // `core` itself is built to unwind and names the function; with panic=abort nothing calls it.
        .arg("-Clink-arg=-Wl,--defsym=rust_eh_personality=0")
        .arg("-L")
        .arg(format!(
            "dependency={}",
            target.join("release/deps").display()
        ));
    for name in ["htlb_core", "spin"] {
        let library = library(&messages, name)?;
        rustc
            .arg("--extern")
            .arg(format!("{name}={}", library.display()));
    }
    rustc.arg("-o").arg(&program).arg(SOURCE);
    context.log.must(&mut rustc, BUILD_LIMIT)?;
    context
        .log
        .must(&mut Command::new(&program), Duration::from_secs(60))?;
    Ok(Report::passed())
}

/// The `.rlib` that cargo says it made of the library `name`.
fn library(messages: &str, name: &str) -> io::Result<PathBuf> {
    messages
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .filter_map(|message| {
            let mut files = message["filenames"].as_array()?.iter();
            files
                .find_map(|file| file.as_str().filter(|file| file.ends_with(".rlib")))
                .map(PathBuf::from)
        })
        .next_back()
        .ok_or_else(|| io::Error::other(format!("cargo built no library {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_among_the_files_of_its_target() {
        let messages = concat!(
            "noise\n",
            r#"{"target":{"name":"spin"},"filenames":["/t/libspin-1.rmeta","/t/libspin-1.rlib"]}"#,
        );
        let library = library(messages, "spin").unwrap();
        assert_eq!(library, PathBuf::from("/t/libspin-1.rlib"));
        assert!(super::library(messages, "htlb_core").is_err());
    }
}
