// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why a load stopped, in words for the person who asked for it.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why the memory does not hold the source.
///
/// After an error the memory holds some of the source, some of what it held before, and must not be published.
#[derive(Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// The source could not be opened, asked about or read.
    Io {
        /// What was tried: "open", "read at 4096".
        what: String,
        /// The source.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The source is a directory, or another thing that has no bytes.
    NotReadable {
        /// The source.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The source ended before its own length.
    Short {
        /// The source.
        path: PathBuf,
        /// The length it claimed, in bytes.
        expected: u64,
        /// Where it ended, in bytes.
        found: u64,
    },
    /// The source was written, cut, or grown while it was read.
    Changed {
        /// The source.
        path: PathBuf,
        /// What differs: "size 10 became 20".
        what: String,
    },
    /// The memory is smaller than the source.
    TooSmall {
        /// The length of the source, in bytes.
        needed: u64,
        /// The length of the memory, in bytes.
        found: u64,
    },
    /// The memory had no page there, and none could be had.
    NoPage {
        /// Where the read was to begin, in bytes.
        offset: u64,
    },
    /// A stream, where only a source with a known length will do.
    Unsized {
        /// The source.
        path: PathBuf,
    },
    /// The memory differs from the source.
    Mismatch {
        /// The source.
        path: PathBuf,
        /// The first byte that differs.
        offset: u64,
    },
    /// The sink of a stream had no more memory.
    Sink(io::Error),
    /// The caller's flag was raised.
    Cancelled,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, path, error } => write!(f, "cannot {what} {}: {error}", path.display()),
            Self::NotReadable { path, kind } => write!(f, "{} is a {kind}: name a file, a block device or a pipe", path.display()),
            Self::Short { path, expected, found } => write!(
                f,
                "{} ended at byte {found}, but its size was {expected}: was it cut while it was read? Load it again",
                path.display()
            ),
            Self::Changed { path, what } => write!(
                f,
                "{} changed while it was read ({what}): nothing was kept; load it again when its writer is done",
                path.display()
            ),
            Self::TooSmall { needed, found } => write!(f, "{needed} bytes do not fit {found} bytes of memory"),
            Self::NoPage { offset } => write!(
                f,
                "no page could be had for the memory at byte {offset}: free memory, raise the limit of the control \
                 group, or take smaller pages"
            ),
            Self::Unsized { path } => write!(f, "{} has no length in advance: read it as a stream", path.display()),
            Self::Mismatch { path, offset } => write!(
                f,
                "the memory differs from {} at byte {offset}: the source changed, or a device or memory is bad",
                path.display()
            ),
            Self::Sink(error) => write!(f, "no memory for the rest of the stream: {error}"),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { error, .. } | Self::Sink(error) => Some(error),
            _ => None,
        }
    }
}
