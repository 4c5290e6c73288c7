// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Whether this is the process that made something, asked often and without a system call.

use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, Ordering};

use super::address_space::pointer;
use super::{base_page_bytes, check, Failure};

/// Says in the process that made it that this is so, and in every child that it is not.
///
/// A page that the kernel wipes in a child (Linux 4.14); where there is none, process numbers are compared.
///
/// ```
/// let birthplace = htlb_user::sys::fork::Birthplace::here();
/// assert!(birthplace.is_here());
/// ```
#[derive(Debug)]
pub struct Birthplace {
    /// The page, holding one byte that is not 0.
    marker: Option<NonNull<AtomicU8>>,
    maker: libc::pid_t,
}

// SAFETY: the pointer names a page of this value's own, which holds an atomic and lives until `drop`, in any thread.
unsafe impl Send for Birthplace {}
// SAFETY: as above; what is shared is read by atomic loads only.
unsafe impl Sync for Birthplace {}

impl Birthplace {
    /// The calling process.
    #[must_use]
    pub fn here() -> Self {
        Self {
            marker: marker().ok(),
            // SAFETY: getpid has no arguments and cannot fail.
            maker: unsafe { libc::getpid() },
        }
    }

    /// Whether the calling process made it.
    #[must_use]
    pub fn is_here(&self) -> bool {
        match self.marker {
            // SAFETY: mapped, readable, and only `drop` takes it away; in a child it is a page of zeroes.
            Some(marker) => unsafe { marker.as_ref() }.load(Ordering::Relaxed) != 0,
            // SAFETY: getpid has no arguments and cannot fail.
            None => self.maker == unsafe { libc::getpid() },
        }
    }
}

impl Drop for Birthplace {
    fn drop(&mut self) {
        if let Some(marker) = self.marker {
            // SAFETY: exactly what mmap gave, and no reference to it outlives a call of `is_here`. A child has a copy of its own.
            unsafe { libc::munmap(marker.as_ptr().cast(), base_page_bytes()) };
        }
    }
}

fn marker() -> Result<NonNull<AtomicU8>, Failure> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let len = base_page_bytes();
    // SAFETY: without an address the kernel picks free space.
    let page = pointer(unsafe { libc::mmap(ptr::null_mut(), len, access, kind, -1, 0) })?;
    // SAFETY: the fresh mapping, whole; the advice changes no byte of this process.
    let advised = unsafe { libc::madvise(page.as_ptr().cast(), len, libc::MADV_WIPEONFORK) };
    if let Err(failure) = check("madvise", advised.into()) {
        // SAFETY: as it was mapped, and nobody knows of it.
        unsafe { libc::munmap(page.as_ptr().cast(), len) };
        return Err(failure);
    }
    let page = page.cast::<AtomicU8>();
    // SAFETY: mapped, writable, and nobody else knows of it; zeroed memory is an AtomicU8.
    unsafe { page.as_ref() }.store(1, Ordering::Relaxed);
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_elsewhere() {
        let with_page = Birthplace::here();
        assert!(with_page.marker.is_some(), "Linux 4.14");
        let by_number = Birthplace {
            marker: None,
            ..Birthplace::here()
        };
        assert!(with_page.is_here() && by_number.is_here());
        // SAFETY: the child calls nothing but loads, getpid and _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let both = !with_page.is_here() && !by_number.is_here();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!both)) };
        }
        let mut status = -1;
        // SAFETY: a child of ours and a live integer.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0);
        assert!(with_page.is_here());
    }
}
