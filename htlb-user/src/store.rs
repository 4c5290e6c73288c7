// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers with names, which outlive the process that filled them.
//!
//! ```text
//! index/names/NAME      the record, made visible by one rename          who reads a name starts here
//! index/loading/ID      the record to be, locked by its loader          who dies leaves the lock open
//! index/tag             ties the folders below to this index
//! MOUNT/htlb-UID-TAG/ID.0, ID.1, ...                                    the bytes, read-only once published
//! ```
//!
//! A hugetlbfs has no `write(2)` and no lengths but whole pages, so the bytes are in files of their own and all
//! else is in the record. Bytes are filled in an unlinked file, linked to an id that is never used again, and
//! published by renaming the record over the name.
//!
//! # Invariants
//! - Whoever opens a name gets all of one load's bytes, or an error; never half, never a mixture.
//! - A file whose id no name refers to, and whose load nobody holds the lock on, is garbage. [`Store::reap`]
//!   removes it; every publication and removal calls it. [`Stage`] lists where a process may die.
//! - A published buffer stays whole for those who have it open, whatever happens to its name.
//! - Every folder is of mode 0700 and of this user, or is not used.
//!
//! Neighbours: [`load`](crate::load) fills the files; who decides on page sizes asks for parts one by one.
//!
//! ```
//! use htlb_user::load::{fill, Options, Source};
//! use htlb_user::store::{Backing, Config, Meta, Store};
//! # let root = std::env::temp_dir().join(format!("htlb-doc-{}", std::process::id()));
//! let store = Store::open(Config::within(&root, Vec::new())?)?;
//! let source = Source::open("Cargo.toml".as_ref())?;
//! let len = source.len().unwrap();
//!
//! let mut pending = store.create("manifest")?;
//! let part = pending.add(Backing::SharedMemory, len)?;
//! let mut memory = pending.parts()[part].map()?;
//! fill(&source, &mut [memory.span().unwrap()], &Options::default(), |_| {})?;
//! pending.publish(len, Meta::default())?;
//!
//! let mut found = Vec::new();
//! store.open_name("manifest")?.copy_to(&mut found)?;
//! assert_eq!(found, std::fs::read("Cargo.toml")?);
//! store.remove("manifest")?;
//! # std::fs::remove_dir_all(root)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod error;
mod folder;
mod name;
mod opened;
mod pending;
mod place;
mod reap;
mod record;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::sys::file::FileMapping;
pub use config::{Config, UnlinkedFiles};
pub use error::StoreError;
pub use name::{Id, Name};
pub use opened::Opened;
pub use pending::{Pending, PendingPart, Stage};
pub use place::{Backing, Mount, Place, PlaceKind};
pub use reap::Reaped;
#[cfg(fuzzing)]
pub(crate) use record::start_time;
pub use record::{Meta, Owner, Part, Record};

use folder::Folder;
use opened::NotAttached;
use place::Places;

use crate::sys::file;

/// How often a name that is replaced while it is opened is looked up again: each time another load has finished
/// in a few microseconds.
const REPLACED_TRIES: usize = 1000;

/// The named buffers of this user. A clone is the same store.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    index: Folder,
    names: Folder,
    loading: Folder,
    folder_name: String,
}

/// One name in a listing.
#[derive(Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// What is behind it: the record, or why there is none that can be used. [`StoreError::Lost`] if the memory is
    /// gone.
    pub state: Result<Record, StoreError>,
}

impl Store {
    /// Opens the store, and makes its folders.
    ///
    /// # Errors
    /// [`StoreError::FolderRefused`] if somebody else could write the index; [`StoreError::Io`].
    pub fn open(config: Config) -> Result<Self, StoreError> {
        let index = Folder::make(&config.index)?;
        let names = Folder::make(&index.join("names"))?;
        let loading = Folder::make(&index.join("loading"))?;
        let tag = config::tag(&index, &loading)?;
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                index,
                names,
                loading,
                folder_name: format!("htlb-{}-{tag}", file::effective_uid()),
            }),
        })
    }

    /// Where a part of such a backing would live now: for reports, and to choose a page size that has a place.
    ///
    /// # Errors
    /// [`StoreError::NoHugetlbfs`], [`StoreError::NoSharedMemory`]: each with all that was tried.
    pub fn place(&self, backing: Backing) -> Result<Place, StoreError> {
        self.places().find(backing)
    }

    /// Begins a buffer that will be called `name`. Nobody sees it before it is published.
    ///
    /// # Errors
    /// [`StoreError::NameInvalid`], [`StoreError::Io`].
    pub fn create(&self, name: &str) -> Result<Pending, StoreError> {
        Pending::new(self, Name::new(name)?)
    }

    /// Opens the buffer called `name`, whole.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Lost`], [`StoreError::RecordInvalid`], [`StoreError::Busy`],
    /// [`StoreError::Io`].
    pub fn open_name(&self, name: &str) -> Result<Opened, StoreError> {
        let name = Name::new(name)?;
        let mut last = None;
        for _ in 0..REPLACED_TRIES {
            let record = self.record(&name)?;
            let id = record.id;
            match Opened::attach(record) {
                Ok(opened) => return Ok(opened),
                Err(NotAttached::Bad(error)) => return Err(error),
                // The files go after the record has gone. If the record is still the same, they went by themselves.
                Err(NotAttached::Missing(missing)) if last == Some(id) => {
                    return Err(StoreError::Lost {
                        name: name.to_string(),
                        missing,
                    })
                }
                Err(NotAttached::Missing(_)) => last = Some(id),
            }
        }
        Err(StoreError::Busy {
            name: name.to_string(),
        })
    }

    fn record(&self, name: &Name) -> Result<Record, StoreError> {
        Record::read(&self.names().join(name.as_str()), name)?.ok_or_else(|| StoreError::NotFound {
            name: name.to_string(),
        })
    }

    /// Every name, sorted, also those that cannot be used.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the index cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        for name in self.list_names()? {
            let state = match self.record(&name) {
                // Removed since the folder was listed.
                Err(StoreError::NotFound { .. }) => continue,
                Ok(record) => match record.missing() {
                    // Or removed or replaced since the record was read: then it is not lost.
                    Some(missing) => match self.record(&name) {
                        Err(StoreError::NotFound { .. }) => continue,
                        Ok(again) if again.id == record.id => Err(StoreError::Lost {
                            name: name.to_string(),
                            missing,
                        }),
                        again => again,
                    },
                    None => Ok(record),
                },
                Err(error) => Err(error),
            };
            entries.push(Entry { name, state });
        }
        Ok(entries)
    }

    /// Forgets the name, and frees its memory once nobody has it open; says what was freed.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Io`]. A failure after the name is gone is not an error: a later
    /// command frees the memory.
    pub fn remove(&self, name: &str) -> Result<Reaped, StoreError> {
        let name = Name::new(name)?;
        let path = self.names().join(name.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotFound {
                    name: name.to_string(),
                })
            }
            done => done.map_err(StoreError::io("remove the record", &path))?,
        }
        self.reached(Stage::Unpublished);
        Ok(self.reap().unwrap_or_default())
    }

    /// Removes what dead loads, and replaced and removed names, left behind.
    ///
    /// Any number of processes may do this at once, and while others load, read and remove.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was removed by then stays removed.
    pub fn reap(&self) -> Result<Reaped, StoreError> {
        reap::reap(self)
    }

    fn list_names(&self) -> Result<Vec<Name>, StoreError> {
        // What is no name was not put there by this program, and refers to none of its files.
        let mut names: Vec<Name> = self
            .names()
            .entries()?
            .iter()
            .filter_map(|name| Name::new(name).ok())
            .collect();
        names.sort();
        Ok(names)
    }

    fn places(&self) -> Places<'_> {
        let config = &self.shared.config;
        Places {
            mounts: &config.mounts,
            own_mounts: config.own_mounts.as_deref(),
            shared_memory: &config.shared_memory,
            folder_name: &self.shared.folder_name,
            index: &self.shared.index,
        }
    }

    /// The folder of the index, for messages.
    #[must_use]
    pub fn index(&self) -> PathBuf {
        self.shared.index.path().to_owned()
    }

    fn names(&self) -> &Folder {
        &self.shared.names
    }

    fn loading(&self) -> &Folder {
        &self.shared.loading
    }

    fn reached(&self, stage: Stage) {
        (self.shared.config.on_stage)(stage);
    }

    fn without_tmpfile(&self) -> bool {
        self.shared.config.unlinked_files == UnlinkedFiles::Never
    }
}
