// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The tests of `htlb-user` that want the device: ordinary test programs of its package, which skip everywhere else.
//!
//! `cargo xtask vm test` puts them into [`LIBRARY_TESTS`](crate::vm::test::LIBRARY_TESTS); each test of each program is a case here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

use super::{skip, Case, Group, Module};
use crate::skip::SKIP_LOG;
use crate::vm::test::LIBRARY_TESTS as FOLDER;

pub(super) const GROUP: Group = Group {
    name: "library",
    modules: &[
        Module::new("htlb", ""),
        // An empty disk, for direct I/O.
        Module::new("brd", "rd_nr=1 rd_size=65536"),
    ],
    cases,
};

fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("the_test_programs_are_there", are_there)];
    for program in programs().unwrap_or_default() {
        for test in tests(&program).unwrap_or_default() {
            let stem = program.file_name().unwrap_or_default().to_string_lossy();
            // A handful of names, as long as the program runs.
            let name: &'static str = Box::leak(format!("{stem}::{test}").into_boxed_str());
            let program = program.clone();
            cases.push(Case::new(name, move || run(&program, &test)).within(180));
        }
    }
    cases
}

fn are_there() -> Result<()> {
    let programs = programs()?;
    ensure!(!programs.is_empty(), "{FOLDER} is empty");
    for program in programs {
        let count = tests(&program)?.len();
        ensure!(count > 0, "{} has no test", program.display());
    }
    Ok(())
}

fn programs() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(FOLDER).with_context(|| format!("reading {FOLDER}"))?;
    let mut programs = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    programs.sort();
    Ok(programs)
}

/// What is about a machine without the module, and runs on others.
const WITHOUT_THE_MODULE: &str = "without_the_module_";

/// The names of a program's tests, without those that it ignores: they are parts of others.
fn tests(program: &Path) -> Result<Vec<String>> {
    let ignored = listed(program, &["--ignored"])?;
    let mut all = listed(program, &[])?;
    all.retain(|test| !ignored.contains(test) && !test.starts_with(WITHOUT_THE_MODULE));
    Ok(all)
}

fn listed(program: &Path, more: &[&str]) -> Result<Vec<String>> {
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .args(more)
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = |line: &str| line.strip_suffix(": test").map(str::to_owned);
    Ok(text.lines().filter_map(name).collect())
}

fn run(program: &Path, test: &str) -> Result<()> {
    let skips = PathBuf::from("/tmp/htlb-guest.skips");
    if skips.exists() {
        fs::remove_file(&skips)?;
    }
    let status = Command::new(program)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(SKIP_LOG, &skips)
        .status()
        .with_context(|| format!("running {}", program.display()))?;
    ensure!(status.success(), "{status}");
    if !skips.exists() {
        return Ok(());
    }
    let said = fs::read_to_string(&skips)?;
    let why: Vec<&str> = said
        .lines()
        .filter_map(|line| Some(line.split_once('\t')?.1))
        .collect();
    skip(why.join("; "))
}
