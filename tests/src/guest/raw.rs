// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! System calls as no library makes them: with pointers to nothing, numbers that are nobody's, and as somebody else.

use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::ptr;

use anyhow::{bail, ensure, Context, Result};

/// A base page.
const PAGE: usize = 4096;
/// Pages of an [`Arena`]: two to write to, a hole, one to write to, two to read, a hole.
const PAGES: usize = 7;
const HOLE: usize = 2 * PAGE;
const READ_ONLY: usize = 4 * PAGE;

/// An errno.
pub type Errno = i32;

fn answered(value: i64) -> Result<i64, Errno> {
    match value {
        -1 => Err(io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)),
        value => Ok(value),
    }
}

/// Where a record lies that is passed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In memory, with nothing after it.
    Good,
    /// At address 0.
    Null,
    /// In the kernel.
    Kernel,
    /// Between user space and the kernel.
    NonCanonical,
    /// At the end of all addresses.
    Top,
    /// Where nothing is mapped.
    Unmapped,
    /// Its second half is not mapped.
    HalfMapped,
    /// Where nothing can be written to.
    ReadOnly,
    /// Its second half cannot be written to.
    HalfReadOnly,
}

/// Memory with borders.
#[derive(Debug)]
pub struct Arena {
    base: *mut u8,
}

impl Arena {
    /// A new one.
    pub fn new() -> Result<Self> {
        // SAFETY: new memory at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                PAGES * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        ensure!(base != libc::MAP_FAILED, "no memory");
        let arena = Self { base: base.cast() };
        for hole in [HOLE, (PAGES - 1) * PAGE] {
            arena.protect(hole, PAGE, libc::PROT_NONE)?;
        }
        Ok(arena)
    }

    fn protect(&self, at: usize, len: usize, protection: i32) -> Result<()> {
        ensure!(at + len <= PAGES * PAGE, "outside the arena");
        // SAFETY: inside the arena, of which no reference is held between calls.
        let done = unsafe { libc::mprotect(self.base.add(at).cast(), len, protection) };
        ensure!(done == 0, "mprotect: {}", io::Error::last_os_error());
        Ok(())
    }

    /// Where a record of so many bytes begins.
    fn offset(place: Place, len: usize) -> Option<usize> {
        match place {
            Place::Good => Some(HOLE - len),
            Place::HalfMapped => Some(HOLE - len / 2),
            Place::Unmapped => Some(HOLE),
            Place::ReadOnly => Some(READ_ONLY + PAGE),
            Place::HalfReadOnly => Some(READ_ONLY - len / 2),
            Place::Null | Place::Kernel | Place::NonCanonical | Place::Top => None,
        }
    }

    /// Passes `bytes`, at most a page, to the kernel by their address, and takes what is there afterwards.
    pub fn ioctl(
        &self,
        fd: RawFd,
        number: u32,
        place: Place,
        bytes: &mut [u8],
    ) -> Result<Result<i64, Errno>> {
        ensure!(bytes.len() <= PAGE, "longer than a page");
        let len = bytes.len();
        let address = match (place, Self::offset(place, len)) {
            (Place::Null, _) => 0,
            (Place::Kernel, _) => 0xffff_8880_0000_1000,
            (Place::NonCanonical, _) => 1 << 63,
            (Place::Top, _) => usize::MAX - 7,
            (_, Some(offset)) => self.base.addr() + offset,
            (_, None) => bail!("no address"),
        };
        // What of the record lies in memory.
        let there = match place {
            Place::Good | Place::ReadOnly | Place::HalfReadOnly => len,
            Place::HalfMapped => len / 2,
            _ => 0,
        };
        let start = Self::offset(place, len).unwrap_or(0);
        self.protect(READ_ONLY, 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: `there` bytes from `start` on are inside the arena and can be written to, and no reference to them is held.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(start), there) };
        self.protect(READ_ONLY, 2 * PAGE, libc::PROT_READ)?;
        // SAFETY: the kernel reads and writes at most a page from the address on: in the arena, or where this process has nothing.
        let done = answered(i64::from(unsafe {
            libc::ioctl(fd, number as libc::Ioctl, address)
        }));
        if place == Place::Good {
            // SAFETY: as for the copy there.
            unsafe { ptr::copy_nonoverlapping(self.base.add(start), bytes.as_mut_ptr(), len) };
        }
        Ok(done)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`; nobody has a reference into it.
        unsafe { libc::munmap(self.base.cast(), PAGES * PAGE) };
    }
}

/// Maps, and unmaps at once where that went well.
pub fn mmap(
    fd: RawFd,
    address: usize,
    len: usize,
    protection: i32,
    flags: i32,
    offset: i64,
) -> Result<(), Errno> {
    assert_eq!(
        flags & libc::MAP_FIXED,
        0,
        "that would replace what is there"
    );
    // SAFETY: at an address where nothing is, since `MAP_FIXED` is not set.
    let at = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(address),
            len,
            protection,
            flags,
            fd,
            offset,
        )
    };
    if at == libc::MAP_FAILED {
        return answered(-1).map(drop);
    }
    // SAFETY: just mapped, and nobody knows of it.
    unsafe { libc::munmap(at, len) };
    Ok(())
}

/// A file call that takes numbers only.
#[derive(Clone, Copy, Debug)]
pub enum FileCall {
    /// `read` of some bytes.
    Read,
    /// `write` of some bytes.
    Write,
    /// `lseek` to a place.
    Seek,
    /// `ftruncate` to no bytes.
    Truncate,
    /// `fallocate` of a page.
    Allocate,
    /// `fallocate` with `FALLOC_FL_PUNCH_HOLE`.
    Punch,
}

/// Makes that call.
pub fn call(fd: RawFd, call: FileCall) -> Result<i64, Errno> {
    let mut room = [0_u8; 16];
    // SAFETY: `room` has as many bytes as are said; the other calls take numbers only.
    let value = unsafe {
        match call {
            FileCall::Read => libc::read(fd, room.as_mut_ptr().cast(), room.len()) as i64,
            FileCall::Write => libc::write(fd, room.as_ptr().cast(), room.len()) as i64,
            FileCall::Seek => libc::lseek(fd, 4096, libc::SEEK_SET),
            FileCall::Truncate => i64::from(libc::ftruncate(fd, 0)),
            FileCall::Allocate => i64::from(libc::fallocate(fd, 0, 0, 4096)),
            FileCall::Punch => i64::from(libc::fallocate(
                fd,
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                0,
                2 << 20,
            )),
        }
    };
    answered(value)
}

/// Closes a descriptor that a call returned.
pub fn close(fd: i64) {
    if let Ok(fd) = RawFd::try_from(fd) {
        // SAFETY: the call said it is new, and nobody else knows of it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// A process that runs `body`; a case has one thread, so that it may go on where its parent was.
#[derive(Debug)]
pub struct Child {
    pid: libc::pid_t,
    said: UnixStream,
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It came to its end; the text says what went wrong, if anything did.
    Said(String),
    /// A signal.
    Signal(i32),
}

impl Child {
    /// Starts one.
    pub fn start(body: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (said, mut says) = UnixStream::pair()?;
        io::stdout().flush()?;
        // SAFETY: a case runs in a process with one thread, so that no lock is held by a thread that the child has not.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(io::Error::last_os_error()).context("fork"),
            0 => {
                drop(said);
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
                let text = match done {
                    Ok(Ok(())) => String::new(),
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(_) => "it panicked".to_owned(),
                };
                let written = says.write_all(text.as_bytes());
                process::exit(i32::from(written.is_err()));
            }
            pid => {
                drop(says);
                Ok(Self { pid, said })
            }
        }
    }

    /// Sends `SIGKILL`.
    pub fn kill(&self) {
        // SAFETY: our child, which nobody has waited for yet.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// The number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<End> {
        let mut text = String::new();
        self.said.read_to_string(&mut text)?;
        let mut status = 0;
        // SAFETY: our child; the status is ours to write to.
        let waited = unsafe { libc::waitpid(self.pid, &mut status, 0) };
        ensure!(
            waited == self.pid,
            "waitpid: {}",
            io::Error::last_os_error()
        );
        Ok(match libc::WIFSIGNALED(status) {
            true => End::Signal(libc::WTERMSIG(status)),
            false => End::Said(text),
        })
    }

    /// Waits for an end without complaint.
    pub fn well(self) -> Result<()> {
        match self.end()? {
            End::Said(text) if text.is_empty() => Ok(()),
            End::Said(text) => bail!("{text}"),
            End::Signal(signal) => bail!("signal {signal}"),
        }
    }
}

/// Runs `body` in a process of its own.
pub fn apart(body: impl FnOnce() -> Result<()>) -> Result<()> {
    Child::start(body)?.well()
}

/// Runs `body` in a process of this user and group, without any right.
pub fn as_user(user: u32, body: impl FnOnce() -> Result<()>) -> Result<()> {
    apart(|| {
        become_user(user)?;
        body()
    })
}

/// This process is that user's from now on.
pub fn become_user(user: u32) -> Result<()> {
    // SAFETY: takes rights away from this process; the group list is empty.
    let done = unsafe {
        libc::setgroups(0, ptr::null()) == 0
            && libc::setresgid(user, user, user) == 0
            && libc::setresuid(user, user, user) == 0
    };
    // Else its own files in /proc are root's.
    // SAFETY: a flag of this process.
    let done = done && unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) } == 0;
    ensure!(done, "becoming user {user}: {}", io::Error::last_os_error());
    Ok(())
}

/// This process gets a user namespace of its own, with every right in it.
pub fn own_user_namespace() -> Result<(), Errno> {
    // SAFETY: changes this process's credentials only; it has one thread.
    answered(i64::from(unsafe { libc::unshare(libc::CLONE_NEWUSER) })).map(drop)
}

/// Files are opened as this user from now on; 0 is oneself again.
pub fn open_as(user: u32) -> Result<()> {
    // SAFETY: changes this thread's credentials only, and back again since the real user stays.
    let done = unsafe { libc::seteuid(user) };
    ensure!(done == 0, "seteuid {user}: {}", io::Error::last_os_error());
    Ok(())
}

/// Maps the first bytes of a file, has the kernel write-fault every page of it, and unmaps: a fault that fails is an
/// error here, and no signal.
pub fn touch(fd: RawFd, len: usize) -> Result<(), Errno> {
    // SAFETY: new memory at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return answered(-1).map(drop);
    }
    // SAFETY: just mapped; faults change nothing that this process knows of.
    let done = answered(i64::from(unsafe {
        libc::madvise(at, len, libc::MADV_POPULATE_WRITE)
    }));
    // SAFETY: just mapped, and nobody knows of it.
    unsafe { libc::munmap(at, len) };
    done.map(drop)
}

/// Puts the first bytes of a file's page into a pipe by reference: whoever has the pipe holds the page.
pub fn hold(fd: RawFd, len: usize) -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    answered(i64::from(unsafe {
        libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC)
    }))?;
    // SAFETY: both are new, and nobody else knows of them.
    let (from, to) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: new memory at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(answered(-1).err().unwrap_or(libc::ENOMEM));
    }
    let bytes = libc::iovec {
        iov_base: at,
        iov_len: 64,
    };
    // SAFETY: the bytes are mapped, and only read.
    let done = answered(unsafe { libc::vmsplice(ends[1], &bytes, 1, 0) } as i64);
    // SAFETY: just mapped, and nobody knows of it.
    unsafe { libc::munmap(at, len) };
    done.map(|_| (from, to))
}
