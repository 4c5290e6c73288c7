// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why something about the system could not be read or changed.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use htlb_core::HugeSize;

/// The longest piece of a file that a message repeats.
const EXCERPT: usize = 80;

/// Why something about the system could not be read or changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The file is there but could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else than expected.
    Found {
        /// The file.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
        /// What is there, cut after 80 characters.
        found: String,
    },
    /// The file could not be written.
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: u64,
        /// Why.
        source: io::Error,
    },
    /// Only root may write the file, here or in the surrounding system.
    NotAllowed {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: u64,
    },
    /// The kernel has no pool of that page size, or not on that node.
    NoPool {
        /// The size.
        size: HugeSize,
        /// Those it has.
        supported: Vec<HugeSize>,
    },
    /// Pages of this size exist, but this kernel cannot get them while it runs.
    BootOnly {
        /// The size.
        size: HugeSize,
        /// How many were asked for.
        pages: u64,
    },
}

impl Error {
    pub(super) fn found(path: &Path, wanted: &'static str, found: &str) -> Self {
        Self::Found {
            path: path.to_owned(),
            wanted,
            found: found.chars().take(EXCERPT).collect(),
        }
    }

    /// The command that would do as root what was not allowed, if that is the trouble.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        match self {
            Self::NotAllowed { path, value } => {
                Some(format!("echo {value} | sudo tee {}", path.display()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Found {
                path,
                wanted,
                found,
            } => write!(f, "{}: found {found:?}, expected {wanted}", path.display()),
            Self::Write {
                path,
                value,
                source,
            } => write!(f, "{}: writing {value}: {source}", path.display()),
            Self::NotAllowed { path, value } => write!(
                f,
                "{}: only root of the host may write {value} here; run: echo {value} | sudo tee {}",
                path.display(),
                path.display()
            ),
            Self::NoPool { size, supported } => {
                write!(f, "no pool of {size} pages here; there are pools of: ")?;
                let names: Vec<String> = supported.iter().map(ToString::to_string).collect();
                match names.is_empty() {
                    true => f.write_str("none (no hugetlb in this kernel, or no /sys)"),
                    false => f.write_str(&names.join(", ")),
                }
            }
            Self::BootOnly { size, pages } => write!(
                f,
                "this kernel gets {size} pages only at boot; add to its command line: hugepagesz={} hugepages={pages}",
                boot_name(*size)
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } | Self::Write { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A page size as the kernel's command line wants it: `2M`, `1G`.
pub(crate) fn boot_name(size: HugeSize) -> String {
    match size.bytes() {
        bytes @ 0x4000_0000.. => format!("{}G", bytes >> 30),
        bytes @ 0x10_0000.. => format!("{}M", bytes >> 20),
        bytes => format!("{}K", bytes >> 10),
    }
}
