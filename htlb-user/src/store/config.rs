// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which folders a store uses.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::folder::Folder;
use super::name::Id;
use super::pending::Stage;
use super::place::Mount;
use crate::sys::file;

/// Which folders a store uses.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Where the records are. The folder above must exist.
    pub index: PathBuf,
    /// The hugetlbfs mounts to try, in this order.
    pub mounts: Vec<Mount>,
    /// Where root has hugetlbfs mounts made if none of those will do; `None`: nowhere.
    pub own_mounts: Option<PathBuf>,
    /// The folders for shared memory to try, in this order.
    pub shared_memory: Vec<PathBuf>,
    /// Called at each [`Stage`]: for tests that die there.
    pub on_stage: fn(Stage),
    /// Whether unlinked files may be used.
    pub unlinked_files: UnlinkedFiles,
}

/// Whether a load may use files that have no name (`O_TMPFILE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnlinkedFiles {
    /// Where the file system has them.
    #[default]
    WherePossible,
    /// Nowhere: what happens on a file system without them.
    Never,
}

impl Config {
    /// The folders of this system and this user, with the hugetlbfs mounts that were found.
    ///
    /// Root's index is `/run/htlb/index`, with mounts made beside it. Others have `$XDG_RUNTIME_DIR/htlb`, else
    /// `/tmp/htlb-UID`; root too, where `/run` cannot be written.
    ///
    /// # Errors
    /// [`StoreError::FolderRefused`] or [`StoreError::Io`] for the last folder that was tried.
    pub fn system(mounts: Vec<Mount>) -> Result<Self, StoreError> {
        let uid = file::effective_uid();
        let runtime = env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|path| {
                path.is_absolute() && path.metadata().is_ok_and(|found| found.uid() == uid)
            });
        let shared_memory = [
            Some("/dev/shm".into()),
            runtime.clone(),
            Some("/tmp".into()),
        ];
        let mut config = Self {
            index: PathBuf::new(),
            mounts,
            own_mounts: None,
            shared_memory: shared_memory.into_iter().flatten().collect(),
            on_stage: |_| {},
            unlinked_files: UnlinkedFiles::default(),
        };
        if uid == 0 {
            if let Ok(folder) = Folder::make(Path::new("/run/htlb")) {
                config.index = folder.join("index");
                config.own_mounts = Some(folder.join("mounts"));
                return Ok(config);
            }
        }
        config.index = match runtime.map(|runtime| Folder::make(&runtime.join("htlb"))) {
            Some(Ok(folder)) => folder,
            _ => Folder::make(Path::new(&format!("/tmp/htlb-{uid}")))?,
        }
        .path()
        .to_owned();
        Ok(config)
    }

    /// A store of its own in `root`, which is made: for tests, and for programs that share nothing.
    ///
    /// # Errors
    /// [`StoreError::FolderRefused`], [`StoreError::Io`].
    pub fn within(root: &Path, mounts: Vec<Mount>) -> Result<Self, StoreError> {
        let root = Folder::make(root)?;
        Ok(Self {
            index: root.join("index"),
            mounts,
            own_mounts: None,
            shared_memory: vec![Folder::make(&root.join("memory"))?.path().to_owned()],
            on_stage: |_| {},
            unlinked_files: UnlinkedFiles::default(),
        })
    }
}

/// What tells this index from every other, also from one at the same path in another mount namespace or session:
/// two of them may share `/dev/shm`, and must not take each other's files for garbage.
pub(super) fn tag(index: &Folder, loading: &Folder) -> Result<String, StoreError> {
    let path = index.join("tag");
    loop {
        match fs::read_to_string(&path) {
            Ok(text) => {
                let tag = text.trim_end();
                if tag.parse::<Id>().is_ok() {
                    return Ok(tag[..16].to_owned());
                }
                return Err(StoreError::FolderRefused {
                    path: index.path().to_owned(),
                    reason: "the file `tag` in it was damaged".to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("read the file", &path)(error)),
        }
        // Whole before it has its name, and the first one stays. Who dies in between leaves a file in `loading`
        // that nobody has locked.
        let fresh = Id::random().map_err(StoreError::io("name", index.path()))?;
        let draft = loading.join(fresh.to_string());
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| writeln!(file, "{fresh}").and_then(|()| file.sync_all()))
            .and_then(|()| fs::hard_link(&draft, &path));
        let _: io::Result<()> = fs::remove_file(&draft);
        match written {
            // A reaper may have taken the draft: once more.
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) =>
            {
                return Err(StoreError::io("write the file", &path)(error))
            }
            _ => {}
        }
    }
}
