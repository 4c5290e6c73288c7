// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where `/sys` and `/proc` are, and how their files are read.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use htlb_core::{ByteLen, HugeSize, NodeId};

use super::Error;

/// The longest file that is read: a `mountinfo` of some ten thousand mounts.
const LONGEST: u64 = 16 << 20;

/// The directory that `sys` and `proc` are in.
///
/// ```
/// use htlb_user::system::{pools, Root};
/// for pool in pools::read(&Root::host())? {
///     println!("{} pages of {}", pool.counts.total, pool.size);
/// }
/// assert!(pools::read(&Root::at("/nonexistent"))?.is_empty());
/// # Ok::<(), htlb_user::system::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Root {
    path: PathBuf,
    /// The files, where they are in no file system.
    #[cfg(fuzzing)]
    files: Option<std::sync::Arc<std::collections::BTreeMap<PathBuf, Vec<u8>>>>,
}

impl Root {
    /// The machine this runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::at("/")
    }

    /// A directory with a copy of some of the files.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            #[cfg(fuzzing)]
            files: None,
        }
    }

    /// These files, by their absolute paths.
    #[cfg(fuzzing)]
    #[doc(hidden)]
    pub fn of_files(files: std::collections::BTreeMap<PathBuf, Vec<u8>>) -> Self {
        Self {
            path: PathBuf::from("/"),
            files: Some(files.into()),
        }
    }

    /// The place of `path` under this root. An absolute path means the same as a relative one.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The bytes of a file; `None` where it, or a directory on the way, does not exist.
    pub(super) fn bytes(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(path);
        #[cfg(fuzzing)]
        if let Some(files) = &self.files {
            return Ok(files.get(&path).cloned());
        }
        let read = |path: &Path| {
            let mut bytes = Vec::new();
            let file = File::open(path)?;
            file.take(LONGEST + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read(&path) {
            // CAST: a Vec is at most isize::MAX long.
            Ok(bytes) if bytes.len() as u64 > LONGEST => {
                Err(Error::found(&path, "at most 16 MiB", "a longer file"))
            }
            Ok(bytes) => Ok(Some(bytes)),
            Err(source) if is_absent(&source) => Ok(None),
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// The text of a file. What is not UTF-8 is replaced, and then fails to parse where it matters.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Result<Option<String>, Error> {
        let bytes = self.bytes(path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The number that is all of a file.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Result<Option<u64>, Error> {
        let path = path.as_ref();
        let Some(text) = self.text(path)? else {
            return Ok(None);
        };
        match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Error::found(&self.path(path), "a number", &text)),
        }
    }

    /// Whether there is such a file or directory.
    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        let path = self.path(path);
        #[cfg(fuzzing)]
        if let Some(files) = &self.files {
            return files.keys().any(|file| file.starts_with(&path));
        }
        path.exists()
    }

    /// The names in a directory, sorted; none where it does not exist.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Result<Vec<String>, Error> {
        let path = self.path(path);
        #[cfg(fuzzing)]
        if let Some(files) = &self.files {
            let inside = files
                .keys()
                .filter_map(|file| file.strip_prefix(&path).ok());
            let first = inside.filter_map(|tail| tail.components().next());
            let mut names: Vec<String> = first
                .map(|name| name.as_os_str().to_string_lossy().into_owned())
                .collect();
            names.dedup();
            return Ok(names);
        }
        let listed = fs::read_dir(&path).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<std::io::Result<Vec<_>>>()
        });
        match listed {
            Ok(mut names) => {
                names.sort();
                Ok(names)
            }
            Err(source) if is_absent(&source) => Ok(Vec::new()),
            Err(source) => Err(Error::Read { path, source }),
        }
    }
}

/// `ENODEV` is what sysfs answers for a pool that has just gone.
fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(libc::ENODEV)
}

/// Appends `tail`, a path from a file, to `base`; `None` where it tries to leave it.
pub(super) fn below(base: &Path, tail: &Path) -> Option<PathBuf> {
    let mut path = base.to_owned();
    for part in tail.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// The page size in `hugepages-2048kB`; `None` for other names and for what is no page size.
pub(super) fn size_of_directory(name: &str) -> Option<HugeSize> {
    let kib: u64 = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    HugeSize::from_bytes(kib.checked_mul(1024)?).ok()
}

/// The node in `node3`. Nodes above 63 are none of ours.
pub(super) fn node_of_directory(name: &str) -> Option<NodeId> {
    let digits = name.strip_prefix("node")?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    NodeId::new(digits.parse().ok().filter(|_| plain)?).ok()
}

/// Bytes with an optional suffix, `2M`, `1G`, `65536`, as mount options have them.
pub(super) fn bytes_with_suffix(text: &str) -> Option<ByteLen> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (text.get(..text.len() - 1)?, 10),
        b'm' | b'M' => (text.get(..text.len() - 1)?, 20),
        b'g' | b'G' => (text.get(..text.len() - 1)?, 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(1 << shift).map(ByteLen::new)
}

/// The numbers of the kernel's list form, `0-3,8`: ascending ranges, each number below `limit`.
pub(super) fn list(text: &str, limit: u32) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= limit || numbers.last().is_some_and(|old| *old >= first) {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}
