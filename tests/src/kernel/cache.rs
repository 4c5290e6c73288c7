// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The cache: one folder per thing made, named for what it is and for the hash of what it was made from.
//!
//! A folder without the suffix `.partial` is complete. One process at a time writes (a lock on the cache folder).

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use rustix::fs::{flock, FlockOperation};

/// The folder that all clones of this repository share.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

/// The right to write into the cache; given up when dropped.
#[derive(Debug)]
pub struct CacheLock {
    _file: File,
}

impl Cache {
    /// Opens `$XDG_CACHE_HOME/htlb/kernel`, or the one under `~/.cache`.
    ///
    /// # Errors
    ///
    /// No home folder, or one that cannot be written.
    pub fn open() -> Result<Self> {
        // The specification of XDG base folders says to ignore a relative path.
        let base = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let base = match base
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        {
            Some(base) => base,
            None => bail!("neither XDG_CACHE_HOME nor HOME is set: nowhere to keep the kernel"),
        };
        Self::at(base.join("htlb/kernel"))
    }

    /// Opens a cache in a folder of the caller's choice.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn at(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
        Ok(Self {
            root: root.canonicalize()?,
        })
    }

    /// Waits until no other process writes.
    ///
    /// # Errors
    ///
    /// The lock file cannot be made.
    pub fn lock(&self) -> Result<CacheLock> {
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("another process prepares a kernel; waiting for it");
            flock(&file, FlockOperation::LockExclusive)?;
        }
        Ok(CacheLock { _file: file })
    }

    /// A file or folder that is no entry: package lists, downloaded packages.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The entry `name` made from `inputs`.
    pub fn entry<I: AsRef<str>>(&self, name: &str, inputs: impl IntoIterator<Item = I>) -> Entry {
        Entry {
            path: self
                .root
                .join(format!("{name}-{:016x}", fingerprint(inputs))),
        }
    }

    /// The complete entries of that name, whatever they were made from, the newest last.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn complete_entries(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let hash = file
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('-'));
            if hash.is_some_and(|hash| !hash.contains('.')) {
                found.push((entry.metadata()?.modified()?, entry.path()));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, path)| path).collect())
    }

    /// Removes every entry but `keep`, and every downloaded package whose file is not in `packages`.
    ///
    /// # Errors
    ///
    /// Something could not be removed.
    pub fn prune(&self, keep: &[Entry], packages: &[String]) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for found in fs::read_dir(&self.root)? {
            let path = found?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let is_entry = ["toolchain-", "source-", "stock-", "debug-"]
                .iter()
                .any(|kind| name.starts_with(kind));
            if is_entry
                && !keep
                    .iter()
                    .any(|entry| entry.path == path || entry.partial() == path)
            {
                fs::remove_dir_all(&path)
                    .with_context(|| format!("removing {}", path.display()))?;
                removed.push(path);
            }
        }
        for found in fs::read_dir(self.path("packages")).into_iter().flatten() {
            let path = found?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !packages.contains(&name) {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

/// One thing in the cache, made or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    path: PathBuf,
}

/// What to do with what an interrupted preparation left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// Throw it away: the work cannot tell a half-written file from a whole one.
    Discard,
    /// Go on in it: the work is `make`.
    Resume,
}

impl Entry {
    /// The kind and the hash, the same wherever the cache is.
    pub fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Where it is being made.
    pub fn partial(&self) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(".partial");
        PathBuf::from(name)
    }

    /// Whether it is there, whole.
    pub fn is_complete(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes the entry with `work`, which is given the folder to fill, unless it is complete already.
    ///
    /// # Errors
    ///
    /// Those of `work`; the partial folder is left for the next try and for the reader of its logs.
    pub fn complete(
        &self,
        leftover: Leftover,
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        if !self.is_complete() {
            let partial = self.partial();
            if leftover == Leftover::Discard && partial.exists() {
                fs::remove_dir_all(&partial)
                    .with_context(|| format!("removing {}", partial.display()))?;
            }
            fs::create_dir_all(&partial)
                .with_context(|| format!("creating {}", partial.display()))?;
            work(&partial)?;
            fs::rename(&partial, &self.path)
                .with_context(|| format!("renaming {}", partial.display()))?;
        }
        Ok(self.path.clone())
    }
}

/// FNV-1a over the strings, each closed by a NUL so that no two lists read alike. The inputs carry the SHA-256
/// of every package; this only has to name folders.
fn fingerprint<I: AsRef<str>>(inputs: impl IntoIterator<Item = I>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for input in inputs {
        for byte in input.as_ref().bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Cache {
        let root = env::temp_dir().join(format!("htlb-cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Cache::at(root).expect("a cache in the temporary folder")
    }

    #[test]
    fn the_name_depends_on_every_input_and_on_their_borders() {
        let names: Vec<u64> = [
            vec!["ab", "c"],
            vec!["a", "bc"],
            vec!["abc"],
            vec!["c", "ab"],
            vec!["ab", "c", ""],
        ]
        .into_iter()
        .map(fingerprint)
        .collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn a_failure_leaves_no_entry_and_the_next_try_completes() {
        let cache = scratch("retry");
        let entry = cache.entry("source", ["x"]);
        let failed = entry.complete(Leftover::Discard, |folder| {
            fs::write(folder.join("half"), "")?;
            bail!("interrupted")
        });
        assert!(failed.is_err() && !entry.is_complete());
        let complete = || cache.complete_entries("source").expect("a readable folder");
        assert!(complete().is_empty());

        let resumed = cache.entry("source", ["x"]);
        resumed
            .complete(Leftover::Resume, |folder| {
                assert!(folder.join("half").exists());
                bail!("interrupted again")
            })
            .expect_err("the work failed");
        resumed
            .complete(Leftover::Discard, |folder| {
                assert!(!folder.join("half").exists());
                Ok(fs::write(folder.join("whole"), "")?)
            })
            .expect("the work succeeded");
        assert!(
            entry.is_complete() && entry.path.join("whole").exists() && !entry.partial().exists()
        );
        assert_eq!(complete(), std::slice::from_ref(&entry.path));
        entry
            .complete(Leftover::Discard, |_| bail!("made twice"))
            .expect("nothing to do");
        fs::remove_dir_all(&cache.root).expect("cleaning up");
    }

    #[test]
    fn pruning_keeps_what_is_used() {
        let cache = scratch("prune");
        let (old, new) = (cache.entry("stock", ["1"]), cache.entry("stock", ["2"]));
        for entry in [&old, &new] {
            entry
                .complete(Leftover::Discard, |_| Ok(()))
                .expect("an empty entry");
        }
        fs::create_dir(cache.path("packages")).expect("a folder");
        for name in ["a.deb", "b.deb"] {
            fs::write(cache.path("packages").join(name), "").expect("a file");
        }
        let removed = cache
            .prune(std::slice::from_ref(&new), &["b.deb".to_owned()])
            .expect("pruning");
        assert_eq!(
            removed,
            [old.path.clone(), cache.path("packages").join("a.deb")]
        );
        assert!(new.is_complete() && cache.path("packages").join("b.deb").exists());
        fs::remove_dir_all(&cache.root).expect("cleaning up");
    }
}
