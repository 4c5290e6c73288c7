// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Calls on files that `std` does not have, or has only since a newer compiler than this crate asks for.
//!
//! Used by [`crate::store`] (locks, links, mounts) and [`crate::load`] (direct reads into memory that nobody
//! else touches). [`Span`] and [`FileMapping`] are the two types that carry a proof about memory; all else here
//! is one call each.

mod joined;
mod mapping;
mod span;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use htlb_core::HugeSize;

pub(crate) use joined::Joined;
pub use mapping::FileMapping;
pub use span::Span;

/// `f_type` of a hugetlbfs.
pub(crate) const HUGETLBFS: i64 = 0x9584_58f6;
/// `f_type` of a tmpfs.
pub(crate) const TMPFS: i64 = 0x0102_1994;
/// `f_type` of a ramfs.
pub(crate) const RAMFS: i64 = 0x8584_58f6;
/// File systems whose files are made up while they are read: the size that they report means nothing.
pub(crate) const SYNTHETIC: [i64; 8] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x27_e0eb,   // cgroup
    0x6367_7270, // cgroup2
    0x6265_6570, // configfs
    0x7363_6673, // securityfs
];

/// The most pieces of memory that one read call takes (`UIO_MAXIOV`).
pub(crate) const MAX_PIECES: usize = 1024;

/// An advisory lock on an open file; closing the file gives it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Many holders, none exclusive.
    Shared,
    /// One holder.
    Exclusive,
}

/// The answer to an attempt to lock without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// The lock is held now.
    Ours,
    /// Somebody else holds it.
    Theirs,
}

/// What direct I/O on a file asks of memory addresses, and of offsets and lengths; bytes, powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Of the address of each piece of memory.
    pub(crate) memory: usize,
    /// Of the offset in the file, and of the length of each piece.
    pub(crate) offset: usize,
}

/// What the kernel says about direct I/O on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DirectIo {
    /// Possible, with this alignment.
    Aligned(Alignment),
    /// Refused, though the file could be opened for it.
    Refused,
    /// The kernel (before 6.1) or the file system does not say.
    Unknown,
}

/// What `statfs(2)` says of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileSystem {
    /// `f_type`.
    pub(crate) magic: i64,
    /// `f_bsize`: on a hugetlbfs, the page size in bytes.
    pub(crate) block_size: u64,
}

impl FileSystem {
    /// Whether the files have no device behind them, so that nothing can be read by direct I/O.
    pub(crate) fn is_memory(self) -> bool {
        matches!(self.magic, TMPFS | RAMFS | HUGETLBFS)
    }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a NUL byte"))
}

/// The user whose rights count when a file is opened.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // SAFETY: the rest of the array is writable, and its length is passed.
        let found = unsafe { libc::getrandom(bytes[filled..].as_mut_ptr().cast(), N - filled, 0) };
        match usize::try_from(found) {
            Ok(found) => filled += found,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(bytes)
}

/// Locks the open file, and waits as long as it takes.
pub(crate) fn lock(file: BorrowedFd<'_>, lock: Lock) -> io::Result<()> {
    let operation = match lock {
        Lock::Shared => libc::LOCK_SH,
        Lock::Exclusive => libc::LOCK_EX,
    };
    loop {
        // SAFETY: `file` is an open descriptor for the whole call; no memory is passed.
        match checked(unsafe { libc::flock(file.as_raw_fd(), operation) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Locks the open file exclusively unless somebody else holds a lock on it.
pub(crate) fn try_lock(file: BorrowedFd<'_>) -> io::Result<Locked> {
    // SAFETY: as in `lock`.
    match checked(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(()) => Ok(Locked::Ours),
        Err(error) if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(Locked::Theirs),
        Err(error) => Err(error),
    }
}

/// Gives an open file that was created with `O_TMPFILE` its first name.
pub(crate) fn link_open_file(file: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let to = c_path(path)?;
    let from = c_path(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())))?;
    // SAFETY: both strings end in NUL and live through the call.
    let by_proc = checked(unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    });
    match by_proc {
        // No /proc here. The other way asks for CAP_DAC_READ_SEARCH, or a kernel from 6.10 on.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // SAFETY: the empty string and `to` end in NUL and live through the call; `file` is open.
            checked(unsafe {
                libc::linkat(
                    file.as_raw_fd(),
                    c"".as_ptr(),
                    libc::AT_FDCWD,
                    to.as_ptr(),
                    libc::AT_EMPTY_PATH,
                )
            })
        }
        done => done,
    }
}

/// Mounts a hugetlbfs with pages of `size` on `path`, for its owner only.
pub(crate) fn mount_hugetlbfs(path: &Path, size: HugeSize) -> io::Result<()> {
    let target = c_path(path)?;
    let options = c_path(Path::new(&format!("pagesize={},mode=0700", size.bytes())))?;
    // SAFETY: every string ends in NUL and lives through the call.
    checked(unsafe {
        libc::mount(
            c"htlb".as_ptr(),
            target.as_ptr(),
            c"hugetlbfs".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            options.as_ptr().cast(),
        )
    })
}

/// The file system that the open file is on.
pub(crate) fn file_system(file: BorrowedFd<'_>) -> io::Result<FileSystem> {
    // SAFETY: a C structure of integers, for which all bits zero is a value.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a writable statfs, and `file` is open.
    checked(unsafe { libc::fstatfs(file.as_raw_fd(), &mut found) })?;
    // The width and sign of both fields differ between targets; magics are 32 bits.
    #[allow(clippy::unnecessary_cast)]
    Ok(FileSystem {
        magic: i64::from(found.f_type as u32),
        block_size: found.f_bsize as u64,
    })
}

/// What direct I/O on this open file asks for (`STATX_DIOALIGN`).
pub(crate) fn direct_io(file: BorrowedFd<'_>) -> DirectIo {
    // SAFETY: a C structure of integers, for which all bits zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the empty path ends in NUL, `found` is a writable statx, and `file` is open.
    let done = checked(unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut found,
        )
    });
    if done.is_err() || found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return DirectIo::Unknown;
    }
    let (memory, offset) = (
        found.stx_dio_mem_align as usize,
        found.stx_dio_offset_align as usize,
    );
    if memory.is_power_of_two() && offset.is_power_of_two() {
        DirectIo::Aligned(Alignment { memory, offset })
    } else {
        DirectIo::Refused
    }
}

/// Tells the kernel that the file will be read from front to back.
pub(crate) fn advise_sequential(file: BorrowedFd<'_>) {
    // SAFETY: `file` is open; advice that is refused changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_SEQUENTIAL) };
}

/// Drops the clean pages of the file from the page cache, so that the next read asks the device.
pub(crate) fn drop_cache(file: BorrowedFd<'_>) {
    // SAFETY: `file` is open; advice that is refused changes nothing.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Lets a pipe hold `bytes` bytes, where that is allowed.
pub(crate) fn widen_pipe(file: BorrowedFd<'_>, bytes: i32) {
    // SAFETY: `file` is open; anything but a pipe, or a limit in the way, is an error that changes nothing.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

/// Waits until a read would not block, or `timeout` has passed; says whether to read.
pub(crate) fn wait_readable(file: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: one writable pollfd is passed, and its length is 1.
    match unsafe { libc::poll(&mut poll, 1, millis) } {
        0 => Ok(false),
        n if n > 0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}

/// Reads once from `offset` of the file into the pieces, one after the other; the number of bytes that arrived.
pub(crate) fn read_at(file: impl AsFd, pieces: &mut [Span<'_>], offset: u64) -> io::Result<usize> {
    let offset =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    with_iovecs(pieces, |iovecs, count| {
        // SAFETY: each iovec is a span that the caller holds exclusively for the call; `count` of them exist.
        unsafe { libc::preadv(file.as_fd().as_raw_fd(), iovecs, count, offset) }
    })
}

/// Reads once from the current place of a stream into the pieces; the number of bytes that arrived.
pub(crate) fn read_next(file: impl AsFd, pieces: &mut [Span<'_>]) -> io::Result<usize> {
    with_iovecs(pieces, |iovecs, count| {
        // SAFETY: as in `read_at`.
        unsafe { libc::readv(file.as_fd().as_raw_fd(), iovecs, count) }
    })
}

fn with_iovecs(
    pieces: &mut [Span<'_>],
    call: impl Fn(*const libc::iovec, libc::c_int) -> libc::ssize_t,
) -> io::Result<usize> {
    let iovecs: Vec<libc::iovec> = pieces
        .iter_mut()
        .take(MAX_PIECES)
        .map(|piece| libc::iovec {
            iov_base: piece.as_mut_ptr().cast(),
            iov_len: piece.len(),
        })
        .collect();
    loop {
        // CAST: at most MAX_PIECES.
        let read = call(iovecs.as_ptr(), iovecs.len() as libc::c_int);
        if let Ok(bytes) = usize::try_from(read) {
            return Ok(bytes);
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn statfs_knows_proc() {
        let found = file_system(File::open("/proc/self/stat").unwrap().as_fd()).unwrap();
        assert_eq!(found.magic, SYNTHETIC[0]);
        assert!(!found.is_memory());
    }

    #[test]
    fn a_lock_is_seen_by_another_opening() {
        let path = std::env::temp_dir().join(format!("htlb-lock-{}", std::process::id()));
        let (one, two) = (File::create(&path).unwrap(), File::open(&path).unwrap());
        lock(one.as_fd(), Lock::Exclusive).unwrap();
        assert_eq!(try_lock(two.as_fd()).unwrap(), Locked::Theirs);
        drop(one);
        assert_eq!(try_lock(two.as_fd()).unwrap(), Locked::Ours);
        std::fs::remove_file(path).unwrap();
    }
}
