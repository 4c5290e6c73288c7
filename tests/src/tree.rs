// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What lies below folders.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Every file and folder below `folders`, those left out. No link is followed.
///
/// ```
/// let folder = std::env::temp_dir().join(format!("htlb-tree-{}", std::process::id()));
/// std::fs::create_dir_all(folder.join("a/b")).unwrap();
/// let below = htlb_tests::tree::below([folder.clone()]);
/// assert_eq!(below.into_iter().collect::<Vec<_>>(), [folder.join("a"), folder.join("a/b")]);
/// std::fs::remove_dir_all(folder).unwrap();
/// ```
///
/// # Panics
/// If a folder cannot be read: a test would compare less than there is.
#[must_use]
pub fn below(folders: impl IntoIterator<Item = PathBuf>) -> BTreeSet<PathBuf> {
    let mut folders: Vec<PathBuf> = folders.into_iter().collect();
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder);
        for entry in entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            found.insert(entry.path());
        }
    }
    found
}
