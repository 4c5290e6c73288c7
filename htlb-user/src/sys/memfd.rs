// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Files that live in memory and have no name: `memfd_create`.
//!
//! A [`Memfd`] is the sole handle of its file in this process until it is shared. [`super::window::Window`] consumes it,
//! which is what makes slices of the window sound; [`Memfd::share`] turns it into a plain descriptor for peers.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use htlb_core::{ByteLen, ByteRange, HugeSize};

use super::{check, Failure};

/// What the pages of a memory file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Pages of the system's hugetlb pool of this size.
    Hugetlb(HugeSize),
    /// Shared memory: base pages, or transparent huge pages where the system allows them.
    Shmem,
}

/// Seals: what can no longer be done to a file, by anyone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seals(libc::c_int);

impl Seals {
    /// None.
    pub const NONE: Self = Self(0);
    /// No further seals.
    pub const SEAL: Self = Self(libc::F_SEAL_SEAL);
    /// It cannot become shorter. Hole punching stays possible.
    pub const SHRINK: Self = Self(libc::F_SEAL_SHRINK);
    /// It cannot become longer.
    pub const GROW: Self = Self(libc::F_SEAL_GROW);
    /// No write, no hole, no new writable mapping; refused (`EBUSY`) while a writable mapping exists.
    pub const WRITE: Self = Self(libc::F_SEAL_WRITE);
    /// As `WRITE`, but existing writable mappings stay.
    pub const FUTURE_WRITE: Self = Self(0x0010);

    /// The seals in either set.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The sole handle of a file in memory.
///
/// ```
/// use htlb_core::ByteLen;
/// use htlb_user::sys::memfd::{Kind, Memfd};
/// let file = Memfd::new(Kind::Shmem)?;
/// file.set_len(ByteLen::new(8192))?;
/// assert_eq!(file.len()?.raw(), 8192);
/// # Ok::<(), htlb_user::sys::Failure>(())
/// ```
#[derive(Debug)]
pub struct Memfd {
    file: File,
    kind: Kind,
}

impl Memfd {
    /// A new file of no length that accepts seals and is closed on exec.
    ///
    /// # Errors
    /// `ENODEV` or `EINVAL` where the kernel has no pages of that size or no hugetlb; `EMFILE`, `ENOMEM`.
    #[doc(alias = "memfd_create")]
    #[doc(alias = "MFD_HUGETLB")]
    pub fn new(kind: Kind) -> Result<Self, Failure> {
        let size = match kind {
            Kind::Hugetlb(size) => libc::MFD_HUGETLB | (size.shift() << libc::MFD_HUGE_SHIFT),
            Kind::Shmem => 0,
        };
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | size;
        // SAFETY: the name is a NUL-terminated constant, which the kernel only reads.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_memfd_create,
                c"htlb".as_ptr(),
                libc::c_ulong::from(flags),
            )
        };
        let fd = check("memfd_create", answer)?;
        let fd = i32::try_from(fd).map_err(|_| Failure::new("memfd_create", libc::EMFILE))?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self { file, kind })
    }

    /// What its pages are.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its length.
    ///
    /// # Errors
    /// None known; what `fstat` answers.
    pub fn len(&self) -> Result<ByteLen, Failure> {
        len(self.descriptor())
    }

    /// Whether it has no length.
    ///
    /// # Errors
    /// As [`Memfd::len`].
    pub fn is_empty(&self) -> Result<bool, Failure> {
        Ok(self.len()?.is_zero())
    }

    /// Changes its length, for hugetlb in whole pages.
    ///
    /// # Errors
    /// `EINVAL` for a part of a huge page, `EPERM` against a seal, `EFBIG`.
    pub fn set_len(&self, len: ByteLen) -> Result<(), Failure> {
        set_len(self.descriptor(), len)
    }

    /// Adds seals.
    ///
    /// # Errors
    /// `EPERM` after [`Seals::SEAL`], `EBUSY` for [`Seals::WRITE`] while a writable mapping exists.
    pub fn add_seals(&self, seals: Seals) -> Result<(), Failure> {
        add_seals(self.descriptor(), seals)
    }

    /// The seals it has.
    ///
    /// # Errors
    /// None known; what `fcntl` answers.
    pub fn seals(&self) -> Result<Seals, Failure> {
        seals(self.descriptor())
    }

    /// Gives up being the sole handle, so that peers can have the file.
    #[must_use]
    pub fn share(self) -> OwnedFd {
        self.file.into()
    }

    /// For this module's siblings: a descriptor that they must not let out of the process or map a second time.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The length of an open file.
///
/// # Errors
/// What `fstat` answers.
pub fn len(file: BorrowedFd<'_>) -> Result<ByteLen, Failure> {
    // SAFETY: all-zero bytes are a valid `stat`, which is a record of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open as long as it is borrowed, and `stat` is a live record of the right type.
    check("fstat", unsafe {
        libc::fstat(file.as_raw_fd(), &mut stat).into()
    })?;
    Ok(ByteLen::new(u64::try_from(stat.st_size).unwrap_or(0)))
}

/// Changes the length of an open file.
///
/// # Errors
/// As [`Memfd::set_len`].
pub fn set_len(file: BorrowedFd<'_>, len: ByteLen) -> Result<(), Failure> {
    let len = i64::try_from(len.raw()).map_err(|_| Failure::new("ftruncate", libc::EFBIG))?;
    retry("ftruncate", || {
        // SAFETY: the descriptor is open as long as it is borrowed; no memory is passed. Slices of a mapping survive a
        // shorter file as addresses that signal, as they would if a peer did it.
        unsafe { libc::ftruncate(file.as_raw_fd(), len) }
    })
}

/// Gives the pages of `range` back, keeping the length.
///
/// Not for files that a window maps: [`super::window::Window::discard`] makes sure that nobody looks.
///
/// # Errors
/// `EPERM` against a seal, `EOPNOTSUPP` where the file system has no holes.
#[doc(alias = "FALLOC_FL_PUNCH_HOLE")]
pub fn punch(file: BorrowedFd<'_>, range: ByteRange) -> Result<(), Failure> {
    allocate(
        file,
        range,
        libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
    )
}

/// Puts pages under `range` without mapping them; on hugetlb it ignores memory policies and serialises.
///
/// # Errors
/// `ENOSPC` where there are too few pages.
pub fn fallocate(file: BorrowedFd<'_>, range: ByteRange) -> Result<(), Failure> {
    allocate(file, range, 0)
}

/// Adds seals to an open memory file.
///
/// # Errors
/// As [`Memfd::add_seals`]; `EINVAL` for files that have none.
#[doc(alias = "F_ADD_SEALS")]
pub fn add_seals(file: BorrowedFd<'_>, seals: Seals) -> Result<(), Failure> {
    // SAFETY: the descriptor is open as long as it is borrowed, and F_ADD_SEALS takes an integer.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals.0) };
    check("fcntl(F_ADD_SEALS)", answer.into()).map(drop)
}

/// The seals of an open memory file.
///
/// # Errors
/// `EINVAL` for files that have none.
#[doc(alias = "F_GET_SEALS")]
pub fn seals(file: BorrowedFd<'_>) -> Result<Seals, Failure> {
    // SAFETY: the descriptor is open as long as it is borrowed, and F_GET_SEALS takes nothing.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    check("fcntl(F_GET_SEALS)", answer.into())?;
    Ok(Seals(answer))
}

fn allocate(file: BorrowedFd<'_>, range: ByteRange, mode: libc::c_int) -> Result<(), Failure> {
    let overflow = |_| Failure::new("fallocate", libc::EFBIG);
    let start = i64::try_from(range.start().raw()).map_err(overflow)?;
    let len = i64::try_from(range.len().raw()).map_err(overflow)?;
    retry("fallocate", || {
        // SAFETY: the descriptor is open as long as it is borrowed; no memory is passed.
        unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) }
    })
}

fn retry(call: &'static str, mut attempt: impl FnMut() -> libc::c_int) -> Result<(), Failure> {
    loop {
        match check(call, attempt().into()) {
            Err(failure) if failure.is(libc::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use htlb_core::ByteOffset;

    #[test]
    fn seals_hold() {
        let file = Memfd::new(Kind::Shmem).unwrap();
        file.set_len(ByteLen::new(8192)).unwrap();
        assert_eq!(file.seals().unwrap(), Seals::NONE);
        file.add_seals(Seals::SHRINK.and(Seals::GROW)).unwrap();
        assert!(file.seals().unwrap().contains(Seals::GROW));
        assert!(file
            .set_len(ByteLen::new(4096))
            .unwrap_err()
            .is(libc::EPERM));
        assert!(file
            .set_len(ByteLen::new(12288))
            .unwrap_err()
            .is(libc::EPERM));
        file.add_seals(Seals::SEAL).unwrap();
        assert!(file.add_seals(Seals::WRITE).unwrap_err().is(libc::EPERM));
    }

    #[test]
    fn a_size_that_no_machine_has_is_a_value() {
        let size = HugeSize::from_bytes(8192).unwrap();
        let failure = Memfd::new(Kind::Hugetlb(size)).unwrap_err();
        assert_eq!(failure.call, "memfd_create");
        assert!(failure.is(libc::ENODEV) || failure.is(libc::EINVAL));
        assert!(failure.to_string().starts_with("memfd_create: "));
    }

    #[test]
    fn holes_read_as_zero() {
        use std::os::unix::fs::FileExt;
        let file = Memfd::new(Kind::Shmem).unwrap();
        file.set_len(ByteLen::new(8192)).unwrap();
        let file = File::from(file.share());
        file.write_all_at(&[7; 8192], 0).unwrap();
        let first = ByteRange::at(ByteOffset::ZERO, ByteLen::new(4096)).unwrap();
        punch(file.as_fd(), first).unwrap();
        let mut bytes = [1; 8192];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..4096].iter().all(|b| *b == 0) && bytes[4096..].iter().all(|b| *b == 7));
        assert_eq!(len(file.as_fd()).unwrap().raw(), 8192);
    }
}
