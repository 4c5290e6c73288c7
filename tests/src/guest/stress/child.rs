// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Children of a process with many threads: they make system calls only, since a lock may be held by a thread that they have not.

use std::io;

use htlb_core::uapi::{Punch, Record};

use super::super::area::done;
use super::view::{BASE, HUGE};

/// Starts a child that touches these addresses, punches a page of this buffer, and ends, or waits to be killed.
pub(super) fn start(addresses: &[usize], buffer: i32, waits: bool) -> io::Result<libc::pid_t> {
    // SAFETY: a call without arguments.
    let parent = unsafe { libc::getpid() };
    // SAFETY: the child makes nothing but system calls, and touches nothing else that another thread may have changed.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // Nobody else ends a child that waits, where the parent is killed.
            // SAFETY: numbers only; ends the child where the parent has gone before it was asked for.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() != parent {
                    libc::_exit(0);
                }
            }
            touch(addresses);
            punch(buffer);
            if waits {
                // Only the signal that kills comes.
                // SAFETY: a call without arguments.
                unsafe { libc::pause() };
            }
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(pid),
    }
}

fn touch(addresses: &[usize]) {
    for start in addresses {
        for page in [0, BASE, HUGE] {
            // SAFETY: brings pages in, where there is a mapping.
            unsafe {
                libc::madvise(
                    std::ptr::with_exposed_provenance_mut(start + page),
                    BASE,
                    libc::MADV_POPULATE_WRITE,
                )
            };
        }
    }
}

fn punch(buffer: i32) {
    let record = Punch {
        size: Punch::SIZE,
        len: HUGE as u64,
        ..Punch::default()
    };
    let mut bytes = [0_u8; 64];
    record.encode(&mut bytes);
    // SAFETY: the kernel reads and writes as many bytes as the record says, of which there is room for.
    unsafe { libc::ioctl(buffer, Punch::IOCTL as libc::Ioctl, bytes.as_mut_ptr()) };
}

/// Waits for the child's end, by a signal of ours if it waits for one.
pub(super) fn end(child: io::Result<libc::pid_t>, waits: bool) -> io::Result<()> {
    let pid = child?;
    if waits {
        // SAFETY: our child, which nobody has waited for.
        done(unsafe { libc::kill(pid, libc::SIGKILL) })?;
    }
    let mut status = 0;
    // SAFETY: our child, and a number of ours.
    match unsafe { libc::waitpid(pid, &mut status, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
