// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A buffer that is being filled: nobody can see it, and it leaves nothing behind.
//!
//! Neighbours: [`Stage`] names each point at which a process may die, and who cleans up then; `reap` does so.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use htlb_core::HugeSize;

use super::error::StoreError;
use super::name::{Id, Name};
use super::place::{Backing, Place, PlaceKind};
use super::record::{Meta, Part, Record};
use super::Store;
use crate::sys::file::{self, FileMapping, Lock};

/// How far a load or a removal is.
///
/// In this order, and a process may die at any of them:
///
/// | stage | what exists | who cleans up after SIGKILL |
/// |---|---|---|
/// | [`IntentMade`](Self::IntentMade) | `loading/ID`, unlocked | any reaper, since it gets the lock |
/// | [`IntentLocked`](Self::IntentLocked) | `loading/ID`, locked | the kernel drops the lock, then any reaper |
/// | [`FileMade`](Self::FileMade) | an unlinked file (where the file system has no `O_TMPFILE`: the file `ID.n`) | the kernel (any reaper) |
/// | [`Sealed`](Self::Sealed) | the same, read-only | as before |
/// | [`Linked`](Self::Linked) | the file `ID.n` | any reaper: `loading/ID` is unlocked and no name refers to the id |
/// | [`RecordWritten`](Self::RecordWritten) | the record, in `loading/ID` | any reaper |
/// | [`Published`](Self::Published) | `names/NAME`; the replaced buffer's files | nobody, it is published; any reaper for the replaced |
/// | [`Unpublished`](Self::Unpublished) | files without a name | any reaper |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Stage {
    IntentMade,
    IntentLocked,
    FileMade { part: usize },
    Sealed { part: usize },
    Linked { part: usize },
    RecordWritten,
    Published,
    Unpublished,
}

/// A buffer that is being filled. Dropped before [`Pending::publish`], it leaves nothing.
///
/// # Invariants
/// `intent` is `loading/ID`, and this process holds the lock on it: no reaper touches the id.
#[derive(Debug)]
#[must_use = "a pending buffer that is dropped is thrown away"]
pub struct Pending {
    store: Store,
    name: Name,
    id: Id,
    intent: File,
    intent_path: PathBuf,
    parts: Vec<PendingPart>,
    /// A fork's copy of this value must not undo what its parent does.
    process: u32,
}

/// One file of a buffer that is being filled.
#[derive(Debug)]
pub struct PendingPart {
    file: File,
    place: Place,
    len: u64,
    /// Where it is linked, if it is.
    path: Option<PathBuf>,
}

impl PendingPart {
    /// The file: readable, writable, as long as [`PendingPart::len`].
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// What kind of memory it is.
    #[must_use]
    pub const fn kind(&self) -> PlaceKind {
        self.place.kind
    }

    /// The folder that will hold it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// The size of its pages.
    #[must_use]
    pub const fn page_size(&self) -> HugeSize {
        self.place.page_size
    }

    /// Its length in bytes: whole pages.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Maps the whole file for filling. On a hugetlbfs the kernel reserves its pages now.
    ///
    /// # Errors
    /// [`StoreError::Io`]; `ENOMEM` if fewer huge pages are free.
    pub fn map(&self) -> Result<FileMapping, StoreError> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        FileMapping::writable(&self.file, len)
            .map_err(StoreError::io("map a file of", &self.place.folder))
    }
}

impl Pending {
    pub(super) fn new(store: &Store, name: Name) -> Result<Self, StoreError> {
        let loading = store.loading();
        loop {
            let id = Id::random().map_err(StoreError::io("name a file in", loading.path()))?;
            let intent_path = loading.join(id.to_string());
            let intent = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&intent_path)
                .map_err(StoreError::io("make the file", &intent_path))?;
            store.reached(Stage::IntentMade);
            // INVARIANT: from here the drop of `pending` removes what exists.
            let pending = Self {
                store: store.clone(),
                name: name.clone(),
                id,
                intent,
                intent_path,
                parts: Vec::new(),
                process: std::process::id(),
            };
            let locked = file::lock(pending.intent.as_fd(), Lock::Exclusive)
                .and_then(|()| pending.intent.metadata());
            let found = locked.map_err(StoreError::io("lock the file", &pending.intent_path))?;
            // ORDER: a reaper that came between the two calls above had the lock first, and removed the file.
            if found.nlink() > 0 {
                store.reached(Stage::IntentLocked);
                return Ok(pending);
            }
        }
    }

    /// The name that it will have.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The files so far, in the order of their bytes.
    #[must_use]
    pub fn parts(&self) -> &[PendingPart] {
        &self.parts
    }

    /// Adds a file behind those so far, of at least `len` bytes, and gives its number.
    ///
    /// The file has no pages yet: mapping and populating it gets them.
    ///
    /// # Errors
    /// [`StoreError::NoHugetlbfs`], [`StoreError::NoSharedMemory`], [`StoreError::Io`]; the parts so far stay.
    pub fn add(&mut self, backing: Backing, len: u64) -> Result<usize, StoreError> {
        let place = self.store.place(backing)?;
        let part = self.parts.len();
        let (file, path) = self.make_file(&place, part)?;
        self.parts.push(PendingPart {
            file,
            place,
            len: 0,
            path,
        });
        self.store.reached(Stage::FileMade { part });
        if let Err(error) = self.resize(part, len) {
            self.discard_last();
            return Err(error);
        }
        Ok(part)
    }

    /// Removes the last file, for example because no page could be had for it.
    pub fn discard_last(&mut self) {
        if let Some(part) = self.parts.pop() {
            unlink(&part);
        }
    }

    /// An unlinked file, or, where the file system has none, one with the name that it will have.
    fn make_file(&self, place: &Place, part: usize) -> Result<(File, Option<PathBuf>), StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        if !self.store.without_tmpfile() {
            match options
                .clone()
                .custom_flags(libc::O_TMPFILE)
                .open(&place.folder)
            {
                Ok(file) => return Ok((file, None)),
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
                    ) => {}
                Err(error) => return Err(StoreError::io("make a file in", &place.folder)(error)),
            }
        }
        let path = place.folder.join(self.id.part(part));
        let file = options
            .create_new(true)
            .open(&path)
            .map_err(StoreError::io("make the file", &path))?;
        Ok((file, Some(path)))
    }

    /// Makes a file longer or shorter: `len` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::LengthInvalid`] for a length that no file can have.
    pub fn resize(&mut self, part: usize, len: u64) -> Result<(), StoreError> {
        let Some(part) = self.parts.get_mut(part) else {
            return Err(StoreError::LengthInvalid { len, parts: 0 });
        };
        let whole = len
            .checked_next_multiple_of(part.place.page_size.bytes())
            .filter(|len| *len <= i64::MAX as u64)
            .ok_or(StoreError::LengthInvalid {
                len,
                parts: part.len,
            })?;
        part.file
            .set_len(whole)
            .map_err(StoreError::io("resize a file in", &part.place.folder))?;
        part.len = whole;
        Ok(())
    }

    /// Publishes the buffer under its name, in one step, in place of what had that name before.
    ///
    /// `len` is the exact length of the content. Whoever has the replaced buffer open keeps it.
    ///
    /// # Errors
    /// [`StoreError::LengthInvalid`], [`StoreError::RecordInvalid`], [`StoreError::Io`]; then nothing is published
    /// and nothing is left.
    pub fn publish(mut self, len: u64, meta: Meta) -> Result<Record, StoreError> {
        self.check_length(len)?;
        let mut offset = 0;
        let mut parts = Vec::new();
        for part in &self.parts {
            parts.push(Part {
                kind: part.place.kind,
                folder: part.place.folder.clone(),
                page_size: part.place.page_size,
                offset,
                len: part.len,
            });
            offset += part.len;
        }
        let record = Record::new(self.name.clone(), self.id, len, parts, meta)?;
        let text = record.to_text()?;

        for (number, part) in self.parts.iter_mut().enumerate() {
            let folder = &part.place.folder;
            part.file
                .set_permissions(Permissions::from_mode(0o400))
                .map_err(StoreError::io("make read-only a file in", folder))?;
            self.store.reached(Stage::Sealed { part: number });
            if part.path.is_none() {
                let path = folder.join(self.id.part(number));
                file::link_open_file(part.file.as_fd(), &path)
                    .map_err(StoreError::io("link the file", &path))?;
                part.path = Some(path);
            }
            self.store.reached(Stage::Linked { part: number });
        }
        self.intent
            .write_all(&text)
            // On a disk the record must not come back empty after a power failure, under a name that was fine.
            .and_then(|()| self.intent.sync_all())
            .map_err(StoreError::io("write the record", &self.intent_path))?;
        self.store.reached(Stage::RecordWritten);

        // ORDER: names, shared: a reaper that forgets a name of another boot holds it exclusively.
        let names = self.store.names().lock(Lock::Shared)?;
        let path = self.store.names().join(self.name.as_str());
        fs::rename(&self.intent_path, &path)
            .map_err(StoreError::io("publish the record", &path))?;
        drop(names);
        // INVARIANT: the files belong to the name now; dropping `self` must only close them.
        self.parts.clear();
        self.process = 0;
        self.store.reached(Stage::Published);
        // What this name had before is nobody's now. If that fails, a later command does it.
        let store = self.store.clone();
        drop(self);
        let _ = store.reap();
        Ok(record)
    }

    /// The files together must be what `add` and `resize` made them, and hold `len` bytes.
    fn check_length(&self, len: u64) -> Result<(), StoreError> {
        let parts = self
            .parts
            .iter()
            .map(|part| part.len)
            .fold(0, u64::saturating_add);
        let intact = self.parts.iter().all(|part| {
            part.len > 0
                && part
                    .file
                    .metadata()
                    .is_ok_and(|found| found.len() == part.len)
        });
        if intact && len <= parts {
            Ok(())
        } else {
            Err(StoreError::LengthInvalid { len, parts })
        }
    }
}

fn unlink(part: &PendingPart) {
    if let Some(path) = &part.path {
        // Whatever stays is without a name and without a lock: a later command removes it.
        let _: io::Result<()> = fs::remove_file(path);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.process == std::process::id() {
            self.parts.iter().for_each(unlink);
            // ORDER: last, since it is what keeps reapers off the files; it is unlocked when it is closed.
            let _: io::Result<()> = fs::remove_file(&self.intent_path);
        }
    }
}
