// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What comes with the crates that are depended upon, here and in the fuzzers' workspace: licences, sources, bans, and
//! advisories where somebody has a copy of their database.

use crate::child::Log;
use crate::counts::Counts;
use crate::runner::{Context, Report};
use crate::skips::Skip;
use crate::steps::{Step, BUILD_LIMIT};
use htlb_tests::skip::{NO_ADVISORIES, NO_CARGO_DENY};
use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The environment variable that names a clone of the RustSec advisory database.
const ADVISORIES: &str = "HTLB_ADVISORIES";
/// The folders of the two workspaces.
const WORKSPACES: [&str; 2] = [".", "fuzz"];

/// Checks both workspaces.
pub(crate) fn run(context: &mut Context) -> io::Result<Report> {
    let mut version = context.workspace.cargo();
    let installed = version.args(["deny", "--version"]).output()?;
    if !installed.status.success() {
        return Ok(Report::skipped(Step::Deny.name(), NO_CARGO_DENY));
    }
    let mut report = Report::default();
    let root = context.workspace.root().to_owned();
    let rules = root.join("deny.toml");
    for folder in WORKSPACES {
        let mut cargo = deny(context, &root.join(folder), &rules);
        cargo.args(["check", "bans", "licenses", "sources"]);
        let result = context.log.must(&mut cargo, BUILD_LIMIT).map(drop);
        report.check(folder, result)?;
    }
    let Some(database) = env::var_os(ADVISORIES) else {
        let why = format!("{NO_ADVISORIES} ({ADVISORIES} names a copy)");
        report.counts += Counts::SKIPPED;
        report
            .skips
            .push(Skip::new(Step::Deny.name(), "advisories", &why));
        return Ok(report);
    };
    let rules = advisories(context, &PathBuf::from(database))?;
    for folder in WORKSPACES {
        let mut cargo = deny(context, &root.join(folder), &rules);
        cargo.args(["--offline", "check", "advisories"]);
        let result = context.log.must(&mut cargo, BUILD_LIMIT).map(drop);
        report.check(&format!("advisories for {folder}"), result)?;
    }
    Ok(report)
}

fn deny(context: &Context, folder: &Path, rules: &Path) -> Command {
    let mut cargo = context.workspace.cargo();
    cargo
        .args(["deny", "--workspace", "--config"])
        .arg(rules)
        .current_dir(folder);
    cargo
}

/// Rules that look for advisories in a copy that is here already.
fn advisories(context: &mut Context, database: &Path) -> io::Result<PathBuf> {
    let database = fs::canonicalize(database).map_err(|error| {
        let path = database.display();
        io::Error::new(error.kind(), format!("{ADVISORIES}={path}: {error}"))
    })?;
    let copies = context.workspace.logs().join("advisories");
    match fs::remove_dir_all(&copies) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => fs::create_dir_all(&copies)?,
    }
    let rules = copies.join("deny.toml");
    fs::write(
        &rules,
        format!(
            "[advisories]\ndb-path = {:?}\n",
            copies.display().to_string()
        ),
    )?;
    let root = context.workspace.root().to_owned();
    let mut cargo = deny(context, &root, &rules);
    cargo.args(["--offline", "check", "advisories"]);
    let name = name_asked_for(&mut context.log, &mut cargo)?;
    symlink(database, copies.join(name))?;
    Ok(rules)
}

/// The folder that cargo-deny looks for, whose name has a hash of where the database comes from: it says so where there is none.
fn name_asked_for(log: &mut Log, cargo: &mut Command) -> io::Result<String> {
    let output = cargo.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    log.note(&said)?;
    name_in(&said)
        .ok_or_else(|| io::Error::other("cargo deny does not say where it looks for its database"))
}

fn name_in(said: &str) -> Option<String> {
    const START: &str = "advisory-db-";
    let rest = &said[said.find(START)? + START.len()..];
    let hash: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
    (!hash.is_empty()).then(|| format!("{START}{hash}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_in_the_complaint() {
        let said = "fatal: cannot change to '/t/advisory-db-3157b0e258782691': No such file";
        assert_eq!(
            name_in(said).as_deref(),
            Some("advisory-db-3157b0e258782691")
        );
        assert_eq!(name_in("advisory-db is locked"), None);
        assert_eq!(name_in(""), None);
    }
}
