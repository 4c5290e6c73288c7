// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where the bytes of named buffers can live, in order of preference.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use htlb_core::HugeSize;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::folder::{self, Folder};
use crate::sys::file::{self, Lock};

/// A hugetlbfs that is mounted here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The size of its pages.
    pub page_size: HugeSize,
}

/// What a part of a buffer is to be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Pages of this size from the kernel's pool, by a hugetlbfs.
    Hugetlb(HugeSize),
    /// Shared memory of base pages, or of transparent huge pages where the system gives them.
    SharedMemory,
}

impl Backing {
    /// The size that the length of a file is rounded up to.
    #[must_use]
    pub const fn page_size(self) -> HugeSize {
        match self {
            Self::Hugetlb(size) => size,
            Self::SharedMemory => HugeSize::BASE,
        }
    }
}

/// What kind of memory a place turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PlaceKind {
    /// A hugetlbfs that was mounted already.
    Hugetlbfs,
    /// A hugetlbfs that root had this program mount.
    OwnHugetlbfs,
    /// Shared memory on a tmpfs.
    Tmpfs,
    /// A file system on a disk: the page cache is the memory. The last resort.
    Disk,
}

/// A folder of this user for the files of buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The folder.
    pub folder: PathBuf,
    /// What kind of memory its files are.
    pub kind: PlaceKind,
    /// The size of its pages.
    pub page_size: HugeSize,
}

/// Where to look for places.
#[derive(Debug)]
pub(super) struct Places<'a> {
    pub(super) mounts: &'a [Mount],
    pub(super) own_mounts: Option<&'a Path>,
    pub(super) shared_memory: &'a [PathBuf],
    /// What our folder is called in each of them: it belongs to one user and one index.
    pub(super) folder_name: &'a str,
    /// Locked while a hugetlbfs is mounted.
    pub(super) index: &'a Folder,
}

impl Places<'_> {
    /// The first place that will do for `backing`, made where it can be.
    pub(super) fn find(&self, backing: Backing) -> Result<Place, StoreError> {
        let mut tried = Vec::new();
        match backing {
            Backing::Hugetlb(size) => {
                for mount in self.mounts.iter().filter(|mount| mount.page_size == size) {
                    match self.within(&mount.path, size, PlaceKind::Hugetlbfs) {
                        Ok(place) => return Ok(place),
                        Err(error) => tried.push(error.to_string()),
                    }
                }
                if let Some(own) = self.own_mounts {
                    match self.mount(own, size) {
                        Ok(place) => return Ok(place),
                        Err(error) => tried.push(error.to_string()),
                    }
                }
                Err(StoreError::NoHugetlbfs { size, tried })
            }
            Backing::SharedMemory => {
                for path in self.shared_memory {
                    match self.within(path, HugeSize::BASE, PlaceKind::Tmpfs) {
                        Ok(place) => return Ok(place),
                        Err(error) => tried.push(error.to_string()),
                    }
                }
                Err(StoreError::NoSharedMemory { tried })
            }
        }
    }

    /// Our folder in `path`, after a look at what `path` really is.
    fn within(&self, path: &Path, size: HugeSize, kind: PlaceKind) -> Result<Place, StoreError> {
        let refused = |reason: &str| StoreError::FolderRefused {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        // The record names the folder, and JSON is UTF-8.
        if path.to_str().is_none() {
            return Err(refused("its name is not UTF-8"));
        }
        let system = File::open(path)
            .and_then(|folder| file::file_system(folder.as_fd()))
            .map_err(StoreError::io("open the folder", path))?;
        let is_hugetlbfs = system.magic == file::HUGETLBFS;
        let kind = match kind {
            PlaceKind::Hugetlbfs | PlaceKind::OwnHugetlbfs => {
                if !is_hugetlbfs || system.block_size != size.bytes() {
                    return Err(refused(&format!("it is no hugetlbfs with {size} pages")));
                }
                kind
            }
            PlaceKind::Tmpfs | PlaceKind::Disk if is_hugetlbfs => {
                return Err(refused("it is a hugetlbfs, not shared memory"))
            }
            PlaceKind::Tmpfs | PlaceKind::Disk if system.is_memory() => PlaceKind::Tmpfs,
            PlaceKind::Tmpfs | PlaceKind::Disk => PlaceKind::Disk,
        };
        let folder = Folder::make(&path.join(self.folder_name))?;
        Ok(Place {
            folder: folder.path().to_owned(),
            kind,
            page_size: size,
        })
    }

    /// The hugetlbfs that is, or will be, mounted in `own`.
    fn mount(&self, own: &Path, size: HugeSize) -> Result<Place, StoreError> {
        let path = Folder::make(own)?.join(size.to_string());
        // ORDER: of two processes the second finds the mount of the first. Another mount on top of it would hide
        // the files below.
        let lock = self.index.lock(Lock::Exclusive)?;
        let mount_point = Folder::make(&path)?;
        if let Ok(place) = self.within(&path, size, PlaceKind::OwnHugetlbfs) {
            return Ok(place);
        }
        file::mount_hugetlbfs(mount_point.path(), size)
            .map_err(StoreError::io("mount a hugetlbfs on", &path))?;
        drop(lock);
        self.within(&path, size, PlaceKind::OwnHugetlbfs)
    }

    /// The folders that exist: ours, and those that this user has for another index.
    pub(super) fn existing(&self, uid: u32) -> (Vec<Folder>, Vec<PathBuf>) {
        let own = self
            .own_mounts
            .and_then(|own| folder::entries(own).ok().map(|names| (own, names)));
        let own = own
            .into_iter()
            .flat_map(|(own, names)| names.into_iter().map(|name| own.join(name)));
        let mut roots: Vec<PathBuf> = self.mounts.iter().map(|mount| mount.path.clone()).collect();
        roots.extend(own);
        roots.extend(self.shared_memory.iter().cloned());
        roots.sort();
        roots.dedup();

        let (mut ours, mut others) = (Vec::new(), Vec::new());
        for root in roots {
            if let Ok(Some(folder)) = Folder::find(&root.join(self.folder_name)) {
                ours.push(folder);
            }
            let others_name = |name: &String| {
                name.starts_with(&format!("htlb-{uid}-")) && name != self.folder_name
            };
            let names = folder::entries(&root).unwrap_or_default();
            others.extend(
                names
                    .into_iter()
                    .filter(others_name)
                    .map(|name| root.join(name))
                    .filter(|path| {
                        fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
                    }),
            );
        }
        (ours, others)
    }
}
