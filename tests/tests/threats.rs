// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every test that `htlb-kmod/SECURITY.md` names exists, and is run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../htlb-kmod/SECURITY.md");
/// Where tests are.
const FOLDERS: [&str; 5] = [
    "htlb-core/src",
    "htlb-core/tests",
    "htlb-user/src",
    "htlb-user/tests",
    "tests",
];

/// The source files below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            found.push(path);
        }
    }
}

/// The words of a text that can be names.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
}

/// Functions that are run as tests: those with the attribute, and those that a list of cases names.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&root.join(folder), &mut files);
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("it can be read");
        let mut is_marked = false;
        for line in text.lines().map(str::trim) {
            if let Some(function) = line.strip_prefix("fn ") {
                let name = words(function).next().unwrap_or_default();
                // A property test's functions take arguments.
                if is_marked {
                    found.insert(name.to_owned());
                }
                is_marked = false;
            } else if line == "#[test]" {
                is_marked = true;
            }
        }
        for (begin, end) in [("cases![", ']'), ("Case::new(", ')')] {
            for list in text.split(begin).skip(1) {
                let (list, _) = list.split_once(end).unwrap_or((list, ""));
                found.extend(words(list).map(str::to_owned));
            }
        }
        if file.ends_with("conformance/table.rs") {
            found.extend(words(&text).map(str::to_owned));
        }
    }
    found
}

/// The rows of the tables of threats, each as its cells.
fn rows() -> Vec<Vec<&'static str>> {
    TABLE
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains('`'))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .filter(|cells: &Vec<&str>| cells.len() == 3 && cells[2].starts_with('`'))
        .collect()
}

#[test]
fn every_threat_has_a_test_that_exists() {
    let tests = tests();
    assert!(tests.len() > 500, "only {} tests were found", tests.len());
    let (mut named, mut missing) = (0, Vec::new());
    for cells in rows() {
        for name in cells[2]
            .split('`')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            named += 1;
            if !tests.contains(name) {
                missing.push(name);
            }
        }
    }
    assert!(missing.is_empty(), "nobody runs {missing:?}");
    assert!(named > 80, "only {named} tests are named");
}

#[test]
fn every_row_of_threats_names_a_test() {
    let threats = TABLE.split("\n## ").skip(2);
    let wanted: usize = threats
        .map(|section| {
            let rows = section.lines().filter(|line| line.starts_with("| "));
            // The head of a table is no threat.
            rows.count().saturating_sub(1)
        })
        .sum();
    assert_eq!(rows().len(), wanted, "a row has no test");
}
