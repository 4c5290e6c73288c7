// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a mounted file system is and has.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{check, Failure};

/// What `statfs` says about a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its magic number.
    pub magic: u64,
    /// The block size in bytes: on hugetlbfs, the page size.
    pub block: u64,
    /// The blocks of its `size=` option, 0 where it has none.
    pub blocks: u64,
    /// Those that are free.
    pub free: u64,
    /// The inodes that are free.
    pub free_inodes: u64,
}

/// The magic number of hugetlbfs, that of hugetlb memfds too.
pub const HUGETLBFS_MAGIC: u64 = 0x958458f6;
/// The magic number of tmpfs, that of other memfds too.
pub const TMPFS_MAGIC: u64 = 0x0102_1994;

impl FileSystem {
    /// Whether its pages come from the hugetlb pool.
    #[must_use]
    pub const fn is_hugetlbfs(&self) -> bool {
        self.magic == HUGETLBFS_MAGIC
    }

    /// Whether its pages are ordinary shared memory.
    #[must_use]
    pub const fn is_tmpfs(&self) -> bool {
        self.magic == TMPFS_MAGIC
    }

    /// The file system of an open file.
    ///
    /// # Errors
    /// What `fstatfs` answers.
    pub fn of(file: BorrowedFd<'_>) -> Result<Self, Failure> {
        // SAFETY: all-zero bytes are a valid `statfs`, which is a record of integers.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open as long as it is borrowed; the record is live and of the right type.
        let answer = unsafe { libc::fstatfs(file.as_raw_fd(), &mut stat) };
        check("fstatfs", answer.into())?;
        Ok(Self::from_raw(&stat))
    }

    /// The file system at `path`.
    ///
    /// # Errors
    /// What `statfs` answers; `EINVAL` for a path with a NUL.
    pub fn at(path: &Path) -> Result<Self, Failure> {
        let path = c_path("statfs", path)?;
        // SAFETY: all-zero bytes are a valid `statfs`, which is a record of integers.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: a NUL-terminated path that lives over the call; the record is live and of the right type.
        let answer = unsafe { libc::statfs(path.as_ptr(), &mut stat) };
        check("statfs", answer.into())?;
        Ok(Self::from_raw(&stat))
    }

    fn from_raw(stat: &libc::statfs) -> Self {
        // CAST: the fields are signed or narrower on some targets; the magic is 32 bits, sign-extended where it is signed.
        #[allow(clippy::unnecessary_cast)]
        Self {
            magic: stat.f_type as u64 & 0xFFFF_FFFF,
            block: stat.f_bsize as u64,
            blocks: stat.f_blocks as u64,
            free: stat.f_bfree as u64,
            free_inodes: stat.f_ffree as u64,
        }
    }
}

/// Checks that this process may create files in the directory at `path`, by its effective ids.
///
/// # Errors
/// `EACCES`, `EROFS`, `ENOENT`.
pub fn check_writable(path: &Path) -> Result<(), Failure> {
    let path = c_path("faccessat", path)?;
    // SAFETY: a NUL-terminated path that lives over the call.
    let answer = unsafe {
        libc::faccessat(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::W_OK | libc::X_OK,
            libc::AT_EACCESS,
        )
    };
    check("faccessat", answer.into()).map(drop)
}

fn c_path(call: &'static str, path: &Path) -> Result<CString, Failure> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Failure::new(call, libc::EINVAL))
}
