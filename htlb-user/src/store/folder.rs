// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Folders that only this user can have written.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use crate::sys::file::{self, Lock, Locked};

/// A folder of mode 0700 that belongs to this user: what is in it, this user put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`, made if there is none.
    ///
    /// `path` may lie in a folder that everybody can write, such as `/tmp`: whoever was there first is refused.
    pub(super) fn make(path: &Path) -> Result<Self, StoreError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreError::io("make the folder", path)(error))
            }
            _ => {}
        }
        Self::find(path)?.ok_or_else(|| refused(path, "it vanished"))
    }

    /// The folder at `path`, if there is one.
    pub(super) fn find(path: &Path) -> Result<Option<Self>, StoreError> {
        let folder = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR)) => {
                return Err(refused(path, "it is not a folder"))
            }
            opened => opened.map_err(StoreError::io("open the folder", path))?,
        };
        let found = folder
            .metadata()
            .map_err(StoreError::io("ask about the folder", path))?;
        let uid = file::effective_uid();
        if found.uid() != uid {
            return Err(refused(
                path,
                &format!("it belongs to user {}, not to {uid}", found.uid()),
            ));
        }
        if found.mode() & 0o077 != 0 {
            let mode = found.mode() & 0o7777;
            return Err(refused(
                path,
                &format!("others can use it (its mode is {mode:04o}, not 0700)"),
            ));
        }
        // In a folder that others can write, only the sticky bit keeps them from replacing ours by theirs.
        if let Some(parent) = path.parent() {
            let mode = parent
                .metadata()
                .map_err(StoreError::io("ask about the folder", parent))?
                .mode();
            if mode & 0o022 != 0 && mode & 0o1000 == 0 {
                return Err(refused(
                    path,
                    "others can replace it (the folder above is writable and not sticky)",
                ));
            }
        }
        Ok(Some(Self(path.to_owned())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Locks the folder itself until the result is dropped.
    pub(super) fn lock(&self, lock: Lock) -> Result<File, StoreError> {
        let folder = open(&self.0).map_err(StoreError::io("open the folder", &self.0))?;
        file::lock(folder.as_fd(), lock).map_err(StoreError::io("lock the folder", &self.0))?;
        Ok(folder)
    }

    /// Locks the folder itself exclusively until the result is dropped; `None` if somebody else has it.
    pub(super) fn try_lock(&self) -> Result<Option<File>, StoreError> {
        let folder = open(&self.0).map_err(StoreError::io("open the folder", &self.0))?;
        match file::try_lock(folder.as_fd()).map_err(StoreError::io("lock the folder", &self.0))? {
            Locked::Ours => Ok(Some(folder)),
            Locked::Theirs => Ok(None),
        }
    }

    /// The names of the entries that are UTF-8, which all of ours are.
    pub(super) fn entries(&self) -> Result<Vec<String>, StoreError> {
        entries(&self.0)
    }
}

/// The names of the entries that are UTF-8.
pub(super) fn entries(path: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in path
        .read_dir()
        .map_err(StoreError::io("list the folder", path))?
    {
        let entry = entry.map_err(StoreError::io("list the folder", path))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)
}

fn refused(path: &Path, reason: &str) -> StoreError {
    StoreError::FolderRefused {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{symlink, PermissionsExt};

    #[test]
    fn a_folder_of_others_or_a_link_is_refused() {
        let root = std::env::temp_dir().join(format!("htlb-folder-{}", std::process::id()));
        let root = Folder::make(&root).unwrap();
        let ours = Folder::make(&root.join("ours")).unwrap();
        assert_eq!(Folder::make(ours.path()).unwrap(), ours);
        assert_eq!(Folder::find(&root.join("none")).unwrap(), None);

        symlink(ours.path(), root.join("link")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        fs::create_dir(root.join("open")).unwrap();
        fs::set_permissions(root.join("open"), Permissions::from_mode(0o770)).unwrap();
        fs::create_dir(root.join("open/ours")).unwrap();
        fs::set_permissions(root.join("open/ours"), Permissions::from_mode(0o700)).unwrap();
        for bad in ["link", "file", "open", "open/ours"] {
            let error = Folder::make(&root.join(bad)).unwrap_err();
            assert!(
                matches!(error, StoreError::FolderRefused { .. }),
                "{bad}: {error}"
            );
        }
        fs::set_permissions(root.join("open"), Permissions::from_mode(0o1777)).unwrap();
        Folder::make(&root.join("open/ours")).unwrap();
        fs::remove_dir_all(root.path()).unwrap();
    }
}
