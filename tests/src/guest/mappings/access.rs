// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The kernel and other processes reach the pages through a mapping.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::ptr;

use anyhow::{ensure, Context, Result};

use super::super::area::{done, expect_errno, Area, BASE, HUGE};
use super::super::child::{Child, Ended};
use super::super::quiet::quiet_cases;
use super::super::uring::Ring;
use super::super::{skip, Case};
use super::mapped;

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        pages_are_locked_counted_and_written_back_by_nothing,
        another_process_reads_and_writes_the_memory,
        a_debugger_reads_and_writes_the_memory,
        direct_input_and_output_go_to_the_pages,
        pages_are_registered_with_a_ring_for_long,
        pages_go_into_a_pipe_without_a_copy,
        a_futex_between_processes_is_refused,
        a_core_dump_has_none_of_it,
    ]
}

fn pages_are_locked_counted_and_written_back_by_nothing() -> Result<()> {
    let (_buffer, area) = mapped(2, 101)?;
    let at = |at: usize| area.pointer(at).cast::<libc::c_void>();
    // SAFETY: calls on parts of the area, which change no byte.
    unsafe {
        done(libc::mlock(at(BASE), 3 * BASE))?;
        done(libc::mlock(at(0), 2 * HUGE))?;
        done(libc::munlock(at(HUGE), BASE))?;
        done(libc::munlock(at(0), 2 * HUGE))?;
        done(libc::mlock2(at(0), 2 * HUGE, 1))?;
        done(libc::munlock(at(0), 2 * HUGE))?;
        for flags in [
            libc::MS_SYNC,
            libc::MS_ASYNC,
            libc::MS_SYNC | libc::MS_INVALIDATE,
        ] {
            done(libc::msync(at(BASE), HUGE, flags)).context("msync")?;
        }
    }
    area.expect_huge(2 * HUGE)?;
    area.expect(area.all(), 101)?;
    let mut present = vec![0_u8; 2 * HUGE / BASE];
    // SAFETY: a byte for each base page of the area.
    done(unsafe { libc::mincore(at(0), 2 * HUGE, present.as_mut_ptr()) })?;
    ensure!(
        present.iter().all(|byte| byte & 1 == 1),
        "mincore finds pages missing"
    );
    let locked = area.smaps("Locked:")?;
    ensure!(
        locked.iter().all(|line| line.contains(" 0 kB")),
        "{locked:?}"
    );
    Ok(())
}

fn vector(area: &Area, at: usize, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: area.pointer(at).cast(),
        iov_len: len,
    }
}

fn another_process_reads_and_writes_the_memory() -> Result<()> {
    let (_buffer, area) = mapped(2, 102)?;
    let parent = std::process::id() as libc::pid_t;
    Child::start(|| {
        let copy = Area::anonymous(2 * HUGE)?;
        let (here, there) = (vector(&copy, 0, 2 * HUGE), vector(&area, 0, 2 * HUGE));
        // SAFETY: the one is memory of this process alone, the other is the parent's.
        let got = unsafe { libc::process_vm_readv(parent, &here, 1, &there, 1, 0) };
        ensure!(
            got == 2 * HUGE as isize,
            "{got}: {}",
            io::Error::last_os_error()
        );
        copy.expect(copy.all(), 102)?;
        copy.stamp(0..HUGE, 103);
        // SAFETY: as above.
        let put = unsafe { libc::process_vm_writev(parent, &here, 1, &there, 1, 0) };
        ensure!(
            put == 2 * HUGE as isize,
            "{put}: {}",
            io::Error::last_os_error()
        );
        Ok(())
    })?
    .succeeds()?;
    area.expect(0..HUGE, 103)?;
    area.expect(HUGE..2 * HUGE, 102)?;
    area.expect_huge(2 * HUGE)
}

fn a_debugger_reads_and_writes_the_memory() -> Result<()> {
    let (_buffer, area) = mapped(1, 104)?;
    let child = Child::start(|| loop {
        std::thread::sleep(std::time::Duration::from_millis(10));
    })?;
    let place = area.pointer(3 * BASE).cast::<libc::c_void>();
    let nothing = ptr::null_mut::<libc::c_void>();
    let mut status = 0;
    // SAFETY: a child of ours, stopped before it is looked into; the place is one of its mapping too.
    unsafe {
        ensure!(libc::ptrace(libc::PTRACE_ATTACH, child.pid(), nothing, nothing) == 0);
        ensure!(libc::waitpid(child.pid(), &mut status, 0) == child.pid());
        let found = libc::ptrace(libc::PTRACE_PEEKDATA, child.pid(), place, nothing);
        ensure!(found as u64 == area.read(3 * BASE), "{found:#x}");
        ensure!(
            libc::ptrace(
                libc::PTRACE_POKEDATA,
                child.pid(),
                place,
                ptr::without_provenance_mut::<libc::c_void>(77)
            ) == 0
        );
        ensure!(libc::ptrace(libc::PTRACE_DETACH, child.pid(), nothing, nothing) == 0);
    }
    ensure!(area.read(3 * BASE) == 77);
    child.signal(libc::SIGKILL)?;
    ensure!(child.wait()? == Ended::Signal(libc::SIGKILL));
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/proc/self/mem")?;
    memory.write_all_at(&78_u64.to_ne_bytes(), place.addr() as u64)?;
    ensure!(area.read(3 * BASE) == 78);
    area.expect(4 * BASE..HUGE, 104)?;
    area.expect_huge(HUGE)
}

/// A disk in memory, for direct input and output.
pub(in super::super) fn disk() -> Result<Option<File>> {
    const DISK: &str = "/dev/ram0";
    if !Path::new(DISK).exists() {
        return Ok(None);
    }
    let options = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(DISK);
    Ok(Some(options.context("opening the disk")?))
}

/// Reads or writes at an offset of a file, from or to a place in an area.
pub(in super::super) fn transfer(
    file: &File,
    area: &Area,
    at: usize,
    len: usize,
    offset: u64,
    write: bool,
) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    let (fd, place) = (file.as_raw_fd(), area.pointer(at).cast::<libc::c_void>());
    // SAFETY: `len` bytes of the area, or the call fails; they may change at any time.
    let moved = unsafe {
        if write {
            libc::pwrite(fd, place, len, offset as i64)
        } else {
            libc::pread(fd, place, len, offset as i64)
        }
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

/// Reads from a pipe to a place in an area.
pub(in super::super) fn receive(
    pipe: &File,
    area: &Area,
    at: usize,
    len: usize,
) -> io::Result<usize> {
    use std::os::fd::AsRawFd;
    // SAFETY: `len` bytes of the area, or the call fails; they may change at any time.
    let moved = unsafe { libc::read(pipe.as_raw_fd(), area.pointer(at).cast(), len) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}

fn direct_input_and_output_go_to_the_pages() -> Result<()> {
    let Some(disk) = disk()? else {
        return skip("this guest has no disk in memory");
    };
    let (buffer, area) = mapped(2, 105)?;
    ensure!(transfer(&disk, &area, 0, 2 * HUGE, 0, true)? == 2 * HUGE);
    area.stamp(area.all(), 106);
    ensure!(transfer(&disk, &area, BASE, HUGE, BASE as u64, false)? == HUGE);
    area.expect(0..BASE, 106)?;
    area.expect(BASE..HUGE + BASE, 105)?;
    area.expect(HUGE + BASE..2 * HUGE, 106)?;
    area.expect_huge(2 * HUGE)?;
    // Into pages that the transfer itself faults in.
    let fresh = Area::shared(&buffer, 2 * HUGE)?;
    ensure!(transfer(&disk, &fresh, 0, 2 * HUGE, 0, false)? == 2 * HUGE);
    area.expect(area.all(), 105)?;
    fresh.expect_huge(2 * HUGE)?;
    let copies = Area::private(&buffer, 2 * HUGE)?;
    area.stamp(area.all(), 107);
    ensure!(transfer(&disk, &copies, 0, HUGE, 0, false)? == HUGE);
    copies.expect(0..HUGE, 105)?;
    area.expect(area.all(), 107)
}

fn pages_are_registered_with_a_ring_for_long() -> Result<()> {
    let Some(mut ring) = Ring::new()? else {
        return skip("this kernel has no io_uring");
    };
    let (_buffer, area) = mapped(2, 108)?;
    ring.register(&area, area.all())?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open("/tmp/htlb-ring")?;
    ensure!(ring.write_fixed(file.as_fd(), &area, HUGE - BASE..HUGE + BASE)? == 2 * BASE);
    let copy = Area::anonymous(2 * HUGE)?;
    transfer(&file, &copy, HUGE - BASE, 2 * BASE, 0, false)?;
    copy.expect(HUGE - BASE..HUGE + BASE, 108)?;
    area.expect_huge(2 * HUGE)?;
    ring.unregister()?;
    fs::remove_file("/tmp/htlb-ring")?;
    Ok(())
}

fn pages_go_into_a_pipe_without_a_copy() -> Result<()> {
    let (_buffer, area) = mapped(1, 109)?;
    let (mut reader, writer) = super::super::holders::pipe()?;
    ensure!(super::super::holders::splice(&writer, &area, BASE..3 * BASE)? == 2 * BASE);
    // Written after it went into the pipe, and before it came out.
    area.stamp(BASE..3 * BASE, 110);
    let mut bytes = vec![0_u8; 2 * BASE];
    io::Read::read_exact(&mut reader, &mut bytes)?;
    let first = u64::from_ne_bytes(bytes[..8].try_into()?);
    ensure!(first == area.read(BASE), "the pipe has a copy");
    area.expect_huge(HUGE)
}

fn a_futex_between_processes_is_refused() -> Result<()> {
    let (_buffer, area) = mapped(1, 111)?;
    area.write(0, 0);
    let word = area.pointer(0).cast::<u32>();
    let futex = |operation: i32| {
        // SAFETY: a word of the area; there is nobody to wait for or to wake.
        let answer =
            unsafe { libc::syscall(libc::SYS_futex, word, operation, 1, ptr::null::<u8>()) };
        done(answer as i32)
    };
    // What keeps processes apart there is the page's place in a file, which these pages do not have.
    expect_errno(futex(libc::FUTEX_WAKE), libc::EFAULT)?;
    expect_errno(futex(libc::FUTEX_WAIT), libc::EFAULT)?;
    // Within a process, it is the address.
    futex(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG)?;
    area.expect(BASE..HUGE, 111)
}

fn a_core_dump_has_none_of_it() -> Result<()> {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";
    const CORE: &str = "/tmp/htlb-core";
    let (_buffer, area) = mapped(4, 112)?;
    let flags = area.smaps("VmFlags:")?;
    ensure!(flags.iter().all(|line| line.contains(" dd")), "{flags:?}");
    if !Path::new(PATTERN).exists() {
        return Ok(());
    }
    let before = fs::read_to_string(PATTERN)?;
    fs::write(PATTERN, CORE)?;
    let ended = Child::start(|| {
        let limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: a record of ours.
        done(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &limit) })?;
        area.expect(area.all(), 112)?;
        // SAFETY: ends the child, as it is to.
        unsafe { libc::abort() }
    })?
    .wait();
    fs::write(PATTERN, before)?;
    ensure!(ended? == Ended::Signal(libc::SIGABRT));
    // With or without the process number behind it.
    let cores = fs::read_dir("/tmp")?.filter_map(Result::ok);
    let core = cores
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().starts_with(CORE));
    let core = core.context("no core was dumped")?;
    let bytes = fs::read(&core)?;
    fs::remove_file(&core)?;
    for page in (HUGE..4 * HUGE).step_by(64 * BASE) {
        let mark = area.read(page).to_ne_bytes();
        let found = bytes.chunks_exact(8).any(|word| word == mark);
        ensure!(!found, "the core has the page at {page:#x}");
    }
    Ok(())
}
