// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where the bytes come from, how it may be read, and whether it stayed the same.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::LoadError;
use crate::sys::file::{self, Alignment, DirectIo};

/// How long a time stamp of a file may lag behind a write: one tick of the slowest kernel clock, twice.
const TIMESTAMP_LAG: Duration = Duration::from_millis(20);

/// What direct I/O is asked for where the kernel does not say: the largest block of a common device, and a page.
const USUAL_ALIGNMENT: Alignment = Alignment {
    memory: 4096,
    offset: 4096,
};

/// An open source of bytes: a file, a block device, or a stream.
///
/// A file is opened twice, for reads by the device (`O_DIRECT`) and for reads through the page cache, and what
/// identifies it is remembered, so that [`Source::check_unchanged`] can tell whether it was touched.
///
/// ```
/// let source = htlb_user::load::Source::open("Cargo.toml".as_ref())?;
/// assert_eq!(source.len(), Some(std::fs::metadata("Cargo.toml").unwrap().len()));
/// # Ok::<(), htlb_user::load::LoadError>(())
/// ```
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    buffered: File,
    direct: Option<(File, Alignment)>,
    /// `None` for a stream.
    identity: Option<Identity>,
}

/// What must be the same before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    /// Seconds and nanoseconds. Of a block device's node the times say nothing about its bytes: zero.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Source {
    /// Opens a file, a block device or a pipe. Blocks on a named pipe until it has a writer.
    ///
    /// A file that was written less than 20 ms ago is waited for, so that the next write gets another time stamp.
    ///
    /// # Errors
    /// [`LoadError::Io`], [`LoadError::NotReadable`] for a directory.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let buffered = File::open(path).map_err(|error| failed("open", path, error))?;
        Self::from_file(buffered, path, path)
    }

    /// Standard input: as a file if it is one at its start, else as a stream.
    ///
    /// # Errors
    /// As [`Source::open`].
    pub fn stdin() -> Result<Self, LoadError> {
        let path = Path::new("standard input");
        let io_error = |error| failed("use", path, error);
        let mut buffered = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(io_error)?);
        // Half-read input continues where it is, and only a stream does that.
        if matches!(buffered.stream_position(), Ok(place) if place > 0) {
            return Ok(Self::stream(buffered, path));
        }
        Self::from_file(buffered, path, Path::new("/proc/self/fd/0"))
    }

    fn stream(buffered: File, path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            buffered,
            direct: None,
            identity: None,
        }
    }

    fn from_file(buffered: File, path: &Path, reopen: &Path) -> Result<Self, LoadError> {
        let io_error = |error| failed("ask about", path, error);
        let found = buffered.metadata().map_err(io_error)?;
        if found.is_dir() {
            return Err(LoadError::NotReadable {
                path: path.to_owned(),
                kind: "directory",
            });
        }
        let system = file::file_system(buffered.as_fd()).map_err(io_error)?;
        let made_up = file::SYNTHETIC.contains(&system.magic)
            // A file that claims no byte and has one is made up too, on whatever file system.
            || (found.is_file() && found.len() == 0 && matches!(buffered.read_at(&mut [0], 0), Ok(1)));
        if !(found.is_file() && !made_up || found.file_type().is_block_device()) {
            return Ok(Self::stream(buffered, path));
        }
        settle(&found);
        let identity = Identity::of(&buffered).map_err(io_error)?;
        // The node of a block device lies in memory; what the device is made of is another matter.
        let direct = if found.is_file() && system.is_memory() {
            None
        } else {
            open_direct(reopen, &found)
        };
        file::advise_sequential(buffered.as_fd());
        Ok(Self {
            path: path.to_owned(),
            buffered,
            direct,
            identity: Some(identity),
        })
    }

    /// The path as it was given, or `standard input`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length in bytes; `None` for a stream, whose end shows only when it comes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> Option<u64> {
        self.identity.map(|identity| identity.len)
    }

    /// Whether the device can write straight into memory.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    pub(super) fn direct(&self) -> Option<(BorrowedFd<'_>, Alignment)> {
        self.direct
            .as_ref()
            .map(|(file, alignment)| (file.as_fd(), *alignment))
    }

    pub(super) fn buffered(&self) -> BorrowedFd<'_> {
        self.buffered.as_fd()
    }

    /// Whether the source is what it was when it was opened: size, inode, and the times of the last change.
    ///
    /// Writes through a memory mapping change the time stamp only when a page is first dirtied, and writes to a
    /// block device never do: only [`verify`](super::verify) sees those. A stream has nothing to compare.
    ///
    /// # Errors
    /// [`LoadError::Changed`] with what differs.
    pub fn check_unchanged(&self) -> Result<(), LoadError> {
        let Some(before) = self.identity else {
            return Ok(());
        };
        let after =
            Identity::of(&self.buffered).map_err(|error| failed("ask about", &self.path, error))?;
        if before == after {
            return Ok(());
        }
        let what = if before.len != after.len {
            format!("size {} became {}", before.len, after.len)
        } else if before.modified != after.modified {
            "it was written".to_owned()
        } else {
            "its inode changed".to_owned()
        };
        Err(LoadError::Changed {
            path: self.path.clone(),
            what,
        })
    }
}

impl Identity {
    fn of(file: &File) -> io::Result<Self> {
        let found = file.metadata()?;
        let block = found.file_type().is_block_device();
        let len = if block {
            // The size of a block device is not in its inode. Nobody but a stream reads at the current place.
            let mut file = file;
            let len = file.seek(SeekFrom::End(0))?;
            file.rewind()?;
            len
        } else {
            found.len()
        };
        Ok(Self {
            device: if block { found.rdev() } else { found.dev() },
            inode: found.ino(),
            len,
            modified: if block {
                (0, 0)
            } else {
                (found.mtime(), found.mtime_nsec())
            },
            changed: if block {
                (0, 0)
            } else {
                (found.ctime(), found.ctime_nsec())
            },
        })
    }
}

/// Opens the same file once more, for direct I/O; `None` where its file system refuses.
fn open_direct(path: &Path, expected: &Metadata) -> Option<(File, Alignment)> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    // The path may name another file by now.
    if (found.dev(), found.ino(), found.rdev()) != (expected.dev(), expected.ino(), expected.rdev())
    {
        return None;
    }
    match file::direct_io(file.as_fd()) {
        DirectIo::Aligned(alignment) => Some((file, alignment)),
        DirectIo::Unknown => Some((file, USUAL_ALIGNMENT)),
        DirectIo::Refused => None,
    }
}

/// Waits until a write from now on gives the file another time stamp than it has.
fn settle(found: &Metadata) {
    let stamp = |seconds: i64, nanos: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).ok()?);
        SystemTime::UNIX_EPOCH
            .checked_add(seconds.checked_add(Duration::from_nanos(u64::try_from(nanos).ok()?))?)
    };
    let newest =
        stamp(found.mtime(), found.mtime_nsec()).max(stamp(found.ctime(), found.ctime_nsec()));
    let Some(age) = newest.and_then(|newest| SystemTime::now().duration_since(newest).ok()) else {
        return;
    };
    if let Some(rest) = TIMESTAMP_LAG.checked_sub(age) {
        std::thread::sleep(rest);
    }
}

pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> LoadError {
    LoadError::Io {
        what: what.to_owned(),
        path: path.to_owned(),
        error,
    }
}
