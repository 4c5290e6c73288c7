// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why the store said no: what was asked, what was found, what to do next.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use htlb_core::HugeSize;

/// Why a named buffer cannot be made, found or removed.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// A name that breaks a rule.
    NameInvalid {
        /// The name.
        name: String,
        /// The rule.
        broken: &'static str,
    },
    /// Text that is no id.
    IdInvalid,
    /// No buffer has that name.
    NotFound {
        /// The name.
        name: String,
    },
    /// The record is there, but the files that it names are not.
    Lost {
        /// The name.
        name: String,
        /// The first file that is missing.
        missing: PathBuf,
    },
    /// The name was replaced again and again while it was opened.
    Busy {
        /// The name.
        name: String,
    },
    /// A record, or a file that it names, is not what this program writes.
    RecordInvalid {
        /// The name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A folder that somebody else could write, or that is none.
    FolderRefused {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No hugetlbfs with pages of that size can be used.
    NoHugetlbfs {
        /// The page size.
        size: HugeSize,
        /// What was tried, and why it did not do.
        tried: Vec<String>,
    },
    /// No folder for shared memory can be used.
    NoSharedMemory {
        /// What was tried, and why it did not do.
        tried: Vec<String>,
    },
    /// The parts cannot hold a buffer of that length, or are not laid out one after the other.
    LengthInvalid {
        /// The length of the content, in bytes.
        len: u64,
        /// The length of all parts, in bytes.
        parts: u64,
    },
    /// A system call failed.
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl StoreError {
    /// For `map_err`.
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { what, path, error }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameInvalid { name, broken } => {
                write!(f, "{name:?} cannot be the name of a buffer: {broken}. Choose another with --name")
            }
            Self::IdInvalid => f.write_str("not an id of 32 hexadecimal digits"),
            Self::NotFound { name } => write!(f, "no buffer is called {name:?}: `htlb ls` lists those of this user"),
            Self::Lost { name, missing } => write!(
                f,
                "the memory of {name:?} is gone: {} is missing (removed by hand, or mounted elsewhere). \
                 `htlb rm` forgets the name",
                missing.display()
            ),
            Self::Busy { name } => write!(f, "{name:?} is being replaced without a pause: try again"),
            Self::RecordInvalid { name, reason } => {
                write!(f, "the record of {name:?} cannot be used: {reason}. `htlb rm` forgets the name")
            }
            Self::FolderRefused { path, reason } => {
                write!(f, "{} cannot be used: {reason}. Remove it, or correct its owner and mode", path.display())
            }
            Self::NoHugetlbfs { size, tried } => {
                write!(f, "no hugetlbfs with {size} pages can be used")?;
                list(f, tried)?;
                write!(f, ". Root can make one: mount -t hugetlbfs -o pagesize={},mode=1777 none DIR", size.bytes())
            }
            Self::NoSharedMemory { tried } => {
                f.write_str("no folder for shared memory can be used")?;
                list(f, tried)?;
                f.write_str(". Mount a tmpfs on /dev/shm, or set XDG_RUNTIME_DIR")
            }
            Self::LengthInvalid { len, parts } => {
                write!(f, "parts of {parts} bytes cannot hold a buffer of {len} bytes")
            }
            Self::Io { what, path, error } => write!(f, "cannot {what} {}: {error}", path.display()),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, tried: &[String]) -> fmt::Result {
    for (place, reason) in tried.iter().enumerate() {
        write!(f, "{}{reason}", if place == 0 { ": " } else { "; " })?;
    }
    Ok(())
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}
