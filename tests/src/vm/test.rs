// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `cargo xtask vm test`: builds the modules and the program `htlb-guest`, boots, and lets it test them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::summary::Summary;
use super::{program, Guest, Outcome};
use crate::kernel::{self, module, workspace, Prepared, Route};
use crate::skip;

/// In these, each folder with a Kbuild file is a module that may use what the module exports.
const USERS: [&str; 2] = ["htlb-kmod/examples", "tests/kmod"];
/// The kernel's own modules that some group needs.
const OF_THE_KERNEL: [&str; 1] = ["brd"];

/// The tests of the library that want the device.
const OF_THE_LIBRARY: [&str; 4] = [
    "device_buffers",
    "device_command",
    "device_pools",
    "device_use",
];
/// Where they are in the guest; `htlb-guest` looks for them there.
pub const LIBRARY_TESTS: &str = "/lib/htlb-tests";

/// So many minutes more a guest may take where tests are to take their time.
const LONGER: u64 = 30;

/// Which tests are run, as options of `htlb-guest`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Selection {
    /// Only this group; may be given several times
    #[arg(long, value_name = "GROUP")]
    pub only: Vec<String>,
    /// Only tests with this in their name
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Tests that put the module under pressure go on for ten minutes in place of one
    #[arg(long, env = "HTLB_LONG", value_parser = clap::builder::FalseyValueParser::new())]
    pub long: bool,
    /// The choices of those tests come from this number: what a failure prints
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

/// Tests on these kernels, one after the other, each with what it came to; the last line is the sum of all.
///
/// # Errors
///
/// A guest could not be had, or something failed in one.
pub fn run(routes: &[Route], selection: &Selection) -> Result<()> {
    let (mut passed, mut failed, mut skipped) = (0_u64, 0_u64, 0_u64);
    for route in routes {
        let outcome = on(*route, selection)?;
        let (these_passed, these_failed) = outcome.totals();
        passed = passed.saturating_add(these_passed);
        failed = failed.saturating_add(these_failed);
        skipped = skipped.saturating_add(outcome.tests.skipped);
    }
    print!("{passed} passed, {failed} failed");
    if skipped > 0 {
        print!(", {skipped} skipped");
    }
    println!();
    anyhow::ensure!(failed == 0, "tests failed in a guest");
    Ok(())
}

fn on(route: Route, selection: &Selection) -> Result<Outcome> {
    let kernel = kernel::prepare(route)?;
    let began = Instant::now();
    let guest = guest(&kernel, selection)?;
    let built = began.elapsed();
    let outcome = guest.script(&script(selection)).run()?;
    let results = fs::read(&outcome.results)
        .with_context(|| format!("reading {}", outcome.results.display()))?;
    print!(
        "{route} kernel {}, modules and programs built in {:.1} s\n{}",
        kernel.release,
        built.as_secs_f64(),
        Summary::parse(&String::from_utf8_lossy(&results))
    );
    for (name, why) in &outcome.tests.skips {
        skip::skip(name, why);
    }
    print!("{outcome}");
    Ok(outcome)
}

/// A guest with the modules' files and the programs, but nothing loaded.
fn guest(kernel: &Prepared, selection: &Selection) -> Result<Guest> {
    let minutes = match kernel.route {
        Route::Stock => 10,
        Route::Debug => 30,
    };
    let longer = if selection.long { LONGER } else { 0 };
    let limit = Duration::from_secs(60 * (minutes + longer));
    let mut guest = Guest::new(kernel, "test")?
        .timeout(limit)
        // Every test has a line in the log, and more than a few in a second are not to be lost.
        .command_line("printk.devkmsg=on")
        // Where the kernel lies by chance decides whether a whole GiB is free.
        .command_line("nokaslr");
    for object in modules(kernel)? {
        guest = guest.copy(&place(&object)?, &object)?;
    }
    for name in OF_THE_KERNEL {
        if let Some(object) = guest.unpacked(name)? {
            guest = guest.copy(&place(&object)?, &object)?;
        }
    }
    for (name, program) in library_tests()? {
        guest = guest.copy(&format!("{LIBRARY_TESTS}/{name}"), &program)?;
    }
    programs(guest)
}

/// Builds the test programs of the library: by name, their files.
fn library_tests() -> Result<Vec<(&'static str, PathBuf)>> {
    let mut arguments = vec!["test", "--no-run", "-p", "htlb-user"];
    for name in OF_THE_LIBRARY {
        arguments.extend(["--test", name]);
    }
    // The commands that they may start are built with them. A test program's name goes on with a hash.
    let built = program::build(&arguments)?;
    let file = |name: &'static str| {
        let is_it = |program: &&PathBuf| {
            let file = program.file_name().unwrap_or_default().to_string_lossy();
            file.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'))
        };
        let program = built.iter().find(is_it);
        let program = program.with_context(|| format!("cargo made no test program {name}"))?;
        Ok((name, program.clone()))
    };
    OF_THE_LIBRARY.into_iter().map(file).collect()
}

/// Builds every module for this kernel; those that others use come first.
///
/// # Errors
///
/// One does not build.
pub fn modules(kernel: &Prepared) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for folder in USERS {
        folders.extend(module_folders(&workspace().join(folder))?);
    }
    module::build_all(kernel, &folders)
}

/// The folders in `folder` that have a Kbuild file, in the order of their names.
fn module_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    if folder.exists() {
        let entries =
            fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.join("Kbuild").exists() {
                folders.push(path);
            }
        }
    }
    folders.sort();
    Ok(folders)
}

/// The file's place in a guest, where `htlb-guest` looks for it.
fn place(object: &Path) -> Result<String> {
    let name = object
        .file_name()
        .with_context(|| format!("{} has no name", object.display()))?;
    Ok(format!("/lib/modules/{}", name.to_string_lossy()))
}

/// Puts `htlb` and `htlb-guest` into a guest's `/bin`.
///
/// # Errors
///
/// They do not build.
pub fn programs(mut guest: Guest) -> Result<Guest> {
    for arguments in [
        &["build", "-p", "htlb-user", "--bin", "htlb"][..],
        &[
            "build",
            "-p",
            "htlb-tests",
            "--features",
            "guest",
            "--bin",
            "htlb-guest",
        ],
    ] {
        for program in program::build(arguments)? {
            let name = program
                .file_name()
                .with_context(|| format!("{} has no name", program.display()))?;
            guest = guest.copy(&format!("/bin/{}", name.to_string_lossy()), &program)?;
        }
    }
    Ok(guest)
}

/// What the guest's shell is to do.
fn script(selection: &Selection) -> String {
    let mut words = "exec htlb-guest run".to_owned();
    let only = selection.only.iter().map(|group| ("--only", group));
    let filter = selection.filter.iter().map(|text| ("--filter", text));
    for (option, value) in only.chain(filter) {
        words.push_str(&format!(" {option} '{}'", value.replace('\'', r"'\''")));
    }
    if selection.long {
        words.push_str(" --long");
    }
    if let Some(seed) = selection.seed {
        words.push_str(&format!(" --seed {seed}"));
    }
    format!("#!/bin/sh\n{words}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_selected_reaches_the_guest_as_it_is() {
        let selection = Selection {
            only: vec!["a".to_owned(), "b c".to_owned()],
            filter: Some("it's".to_owned()),
            long: true,
            seed: Some(7),
        };
        assert_eq!(
            script(&selection),
            "#!/bin/sh\nexec htlb-guest run --only 'a' --only 'b c' --filter 'it'\\''s' --long --seed 7\n"
        );
    }
}
