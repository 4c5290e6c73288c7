// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What every file of the repository must be like, whatever is in it.

use crate::runner::{Context, Report};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files longer than this are worth a look.
const LONG: usize = 400;

/// Files that are given, so that no line can be added at their top.
const WITHOUT_LICENCE_LINE: &[&str] = &["Cargo.lock", "fuzz/Cargo.lock"];

/// Folders that are someone's own.
const PRIVATE_FOLDERS: &[&str] = &["/root/", "/home/", "/work/", "/Users/"];

/// Hosts, with those below them, that a file may refer to.
const PUBLIC_HOSTS: &[&str] = &[
    "apache.org",
    "crates.io",
    "debian.org",
    "docs.rs",
    "example",
    "example.com",
    "example.org",
    "github.com",
    "github.io",
    "gnu.org",
    "kernel.org",
    "keepachangelog.com",
    "lwn.net",
    "opensource.org",
    "rust-lang.org",
    "semver.org",
    "spdx.org",
];

/// This file, whose tests contain what it looks for.
const ITSELF: &str = "tests/src/bin/xtask/repository.rs";

/// The only place that third-party code comes from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks all of them; long files are only remarked on.
pub(crate) fn check(context: &mut Context) -> io::Result<Report> {
    let root = context.workspace.root().to_owned();
    let files = tracked(&root)?;
    let (mut licences, mut places, mut long) = (Vec::new(), Vec::new(), Vec::new());
    for file in &files {
        // A binary file, such as a fuzzer's seed, has no lines.
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        let name = file.to_string_lossy();
        if needs_licence_line(file) && !has_licence_line(&text) {
            licences.push(name.to_string());
        }
        let searched = if file == Path::new(ITSELF) { "" } else { &text };
        for (number, line) in searched.lines().enumerate() {
            if let Some(place) = place_of_one_machine(line) {
                places.push(format!("{name}:{}: {place}", number + 1));
            }
        }
        let lines = text.lines().count();
        if lines > LONG && is_source(file) {
            long.push(format!("{name} has {lines} lines"));
        }
    }
    let mut report = Report::default();
    report.check("no SPDX-License-Identifier in", none(&licences))?;
    report.check("a place of one machine in", none(&places))?;
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    report.check(
        "Cargo.lock has a source besides crates.io",
        none(&foreign_sources(&lock)),
    )?;
    let texts = ["LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL-2.0"];
    let missing: Vec<String> = texts
        .iter()
        .filter(|text| !root.join(text).is_file())
        .map(|text| (*text).to_owned())
        .collect();
    report.check("licence texts missing", none(&missing))?;
    report.remarks.extend(long);
    Ok(report)
}

fn none(found: &[String]) -> io::Result<()> {
    if found.is_empty() {
        Ok(())
    } else {
        Err(io::Error::other(found.join(", ")))
    }
}

/// The files git knows or would add; all of them where there is no git.
fn tracked(root: &Path) -> io::Result<Vec<PathBuf>> {
    let git = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output();
    match git {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout)
            .split_terminator('\0')
            .map(PathBuf::from)
            .filter(|file| root.join(file).is_file())
            .collect()),
        _ => {
            let mut files = Vec::new();
            walk(root, Path::new(""), &mut files)?;
            Ok(files)
        }
    }
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != ".git" && entry.file_name() != "target" {
                walk(root, &path, files)?;
            }
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn is_source(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| extension == "rs" || extension == "c" || extension == "h")
}

fn needs_licence_line(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with("LICENSE-")
        && !file.starts_with("fuzz/corpus")
        && !WITHOUT_LICENCE_LINE
            .iter()
            .any(|given| file == Path::new(given))
        && file.extension().is_none_or(|extension| extension != "json")
}

/// In the first line, or below a `#!` line.
fn has_licence_line(text: &str) -> bool {
    text.lines()
        .take(2)
        .any(|line| line.contains("SPDX-License-Identifier: "))
}

/// A folder that exists on one machine only, or a host that nobody else may know.
fn place_of_one_machine(line: &str) -> Option<&str> {
    let folder = PRIVATE_FOLDERS.iter().find_map(|folder| {
        let start = line.find(folder)?;
        let before = line[..start].chars().next_back();
        // `target/work/` is nobody's home.
        let is_absolute = !before.is_some_and(|c| c.is_alphanumeric() || "._-/}$".contains(c));
        is_absolute.then(|| &line[start..])
    });
    folder.or_else(|| {
        line.match_indices("://")
            .map(|(at, _)| &line[at + 3..])
            .find(|rest| host_is_unknown(rest))
    })
}

fn host_is_unknown(rest: &str) -> bool {
    let host: &str = rest
        .split(|c: char| !(c.is_ascii_alphanumeric() || "-._@".contains(c)))
        .next()
        .unwrap_or_default();
    let host = host.trim_end_matches('.');
    !host.is_empty()
        && !PUBLIC_HOSTS.iter().any(|public| {
            host.strip_suffix(public)
                .is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
        })
}

/// Every `source = "…"` of a lock file that is not crates.io.
fn foreign_sources(lock: &str) -> Vec<String> {
    lock.lines()
        .filter_map(|line| line.strip_prefix("source = \"")?.strip_suffix('"'))
        .filter(|source| *source != REGISTRY)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_licence_line_may_follow_an_interpreter() {
        assert!(has_licence_line("// SPDX-License-Identifier: MIT\n"));
        assert!(has_licence_line(
            "#!/bin/sh\n# SPDX-License-Identifier: MIT\n"
        ));
        assert!(!has_licence_line("a\nb\n// SPDX-License-Identifier: MIT\n"));
    }

    #[test]
    fn given_files_need_no_licence_line() {
        assert!(!needs_licence_line(Path::new("Cargo.lock")));
        assert!(!needs_licence_line(Path::new("LICENSE-MIT")));
        assert!(!needs_licence_line(Path::new("fuzz/corpus/a/seed-1")));
        assert!(needs_licence_line(Path::new("README.md")));
        assert!(needs_licence_line(Path::new(".ci/run")));
    }

    #[test]
    fn only_crates_io_is_a_source() {
        let lock = format!("source = \"{REGISTRY}\"\nsource = \"git+https://example.org/x#1\"\n");
        assert_eq!(foreign_sources(&lock), ["git+https://example.org/x#1"]);
    }

    #[test]
    fn a_place_of_one_machine_is_found() {
        for line in ["let x = \"/home/someone/x\";", "cd /work/main", "# /root/x"] {
            assert!(place_of_one_machine(line).is_some(), "{line}");
        }
        for line in ["/usr/share, /run/htlb", "target/work/x", "${W}/work/x"] {
            assert_eq!(place_of_one_machine(line), None);
        }
    }

    #[test]
    fn a_host_is_public_or_reported() {
        for line in ["see https://docs.rs/clap.", "http://deb.debian.org/debian"] {
            assert_eq!(place_of_one_machine(line), None);
        }
        for line in [
            "http://mirror.lan/debian",
            "https://notgithub.com",
            "http://10.0.0.1:80/",
        ] {
            assert!(place_of_one_machine(line).is_some(), "{line}");
        }
    }
}
