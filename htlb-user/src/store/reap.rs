// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Removes what dead loaders, replaced names and removed names left.
//!
//! A file `ID.n` lives if a living loader holds the lock on `loading/ID`, or a record in `names` refers to the
//! id. Nothing else says so, and no count is kept.
//!
//! # Why no living file is taken
//! The order is: list the files, then look at the locks, then read the names. A file that was listed had its
//! `loading/ID` made and locked before. If that lock is no longer seen, the record was renamed into `names`
//! before the names are read, or the loader is dead and never will publish. If it is seen, the file lives. So a
//! publication that runs at the same time is seen in one of the two places.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::name::{Id, Name};
use super::record::Record;
use super::Store;
use crate::sys::file::{self, Locked};

/// What [`Store::reap`] found and removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reaped {
    /// Loads that had died.
    pub loads: u64,
    /// Files without a name that were removed.
    pub files: u64,
    /// Their length, in bytes.
    pub bytes: u64,
    /// Names from before the last boot, whose memory is gone: forgotten.
    pub names: Vec<Name>,
    /// Names whose record cannot be read. While there are any, no file is removed: one might be theirs.
    pub unreadable: Vec<Name>,
    /// Folders of this user that belong to another index, such as that of an ended session, and are not empty.
    pub others: Vec<PathBuf>,
}

pub(super) fn reap(store: &Store) -> Result<Reaped, StoreError> {
    let mut reaped = Reaped::default();
    // ORDER: files, then locks, then names: see the module.
    let (folders, others) = store.places().existing(file::effective_uid());
    reaped.others = others;
    let mut files = Vec::new();
    for folder in folders {
        for name in folder.entries()? {
            if let Some(id) = Id::of_part(&name) {
                files.push((id, folder.join(name)));
            }
        }
    }
    let mut living = locked_loads(store, &mut reaped)?;
    for name in store.list_names()? {
        let path = store.names().join(name.as_str());
        match Record::read(&path, &name) {
            Ok(None) => {}
            Ok(Some(record)) if record.is_from_another_boot() && record.missing().is_some() => {
                forget(store, &name, record.id, &path, &mut reaped)?;
            }
            Ok(Some(record)) => {
                living.insert(record.id);
            }
            Err(_) => reaped.unreadable.push(name),
        }
    }
    if reaped.unreadable.is_empty() {
        for (id, path) in files {
            if !living.contains(&id) {
                let bytes = fs::symlink_metadata(&path).map_or(0, |found| found.len());
                if remove(&path)? {
                    reaped.files += 1;
                    reaped.bytes += bytes;
                }
            }
        }
    }
    Ok(reaped)
}

/// The ids of loads in progress; what dead ones left in `loading` is removed.
fn locked_loads(store: &Store, reaped: &mut Reaped) -> Result<BTreeSet<Id>, StoreError> {
    let mut living = BTreeSet::new();
    for name in store.loading().entries()? {
        let path = store.loading().join(&name);
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&path);
        let intent = match opened {
            // Published, given up, or reaped by somebody else meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(StoreError::io("open the file", &path))?,
        };
        match file::try_lock(intent.as_fd()).map_err(StoreError::io("lock the file", &path))? {
            Locked::Theirs => living.extend(name.parse::<Id>()),
            // The path is this file's for ever, or nobody's: ids are not used twice. A loader that just published
            // has renamed it away, and finds nothing amiss.
            Locked::Ours => {
                if remove(&path)? {
                    reaped.loads += 1;
                }
            }
        }
    }
    Ok(living)
}

/// Removes the record of a boot that is over, unless it was replaced meanwhile.
fn forget(
    store: &Store,
    name: &Name,
    id: Id,
    path: &Path,
    reaped: &mut Reaped,
) -> Result<(), StoreError> {
    // ORDER: names, exclusively: no publication between the second look and the removal. While there is one, the
    // name waits for a later command; a stopped publisher must not stop this one too.
    let Some(lock) = store.names().try_lock()? else {
        return Ok(());
    };
    if Record::read(path, name)?.is_some_and(|record| record.id == id) && remove(path)? {
        reaped.names.push(name.clone());
    }
    drop(lock);
    Ok(())
}

/// Whether it was this call that removed the file.
fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("remove the file", path)(error)),
    }
}
