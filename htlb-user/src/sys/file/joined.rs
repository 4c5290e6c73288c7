// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Several files, mapped read-only one behind the other.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use htlb_core::HugeSize;

use crate::sys::address_space::reserve_aligned;

/// Whole files of whole pages, mapped for reading as one stretch of bytes.
///
/// # Invariants
/// `pointer` is a mapping of `len` readable bytes that belongs to this value, or dangles where `len` is zero.
#[derive(Debug)]
pub(crate) struct Joined {
    pointer: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is process-wide and belongs to this value alone; which thread uses it does not matter.
unsafe impl Send for Joined {}
// SAFETY: it only lends bytes for reading.
unsafe impl Sync for Joined {}

impl Joined {
    /// Maps the files in this order, the first at a multiple of `align`.
    ///
    /// # Errors
    /// `EINVAL`: a length that is zero, longer than its file, or leaves the next file unaligned. `ENOMEM`.
    pub(crate) fn readable(files: &[(&File, u64)], align: HugeSize) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let mut total = 0_usize;
        for (file, len) in files {
            // A mapping that reached past the end of the file would answer a touch there with SIGBUS.
            if *len == 0 || file.metadata()?.len() < *len {
                return Err(invalid());
            }
            let len = usize::try_from(*len).map_err(|_| invalid())?;
            total = total.checked_add(len).ok_or_else(invalid)?;
        }
        if total == 0 {
            return Ok(Self {
                pointer: NonNull::dangling(),
                len: 0,
            });
        }
        let align = usize::try_from(align.bytes()).map_err(|_| invalid())?;
        // INVARIANT: from here on the whole stretch belongs to `joined`, which unmaps it whatever lies there.
        let joined = Self {
            pointer: reserve_aligned(total, align)?,
            len: total,
        };
        let mut start = 0;
        for (file, len) in files {
            // CAST: the sum of all of them fits.
            let len = *len as usize;
            // SAFETY: the sum of the lengths is `total`, so what MAP_FIXED replaces lies in the stretch that has just been
            // reserved, to which nobody has a pointer.
            let got = unsafe {
                libc::mmap(
                    joined.pointer.as_ptr().add(start).cast(),
                    len,
                    libc::PROT_READ,
                    libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE,
                    file.as_raw_fd(),
                    0,
                )
            };
            if got == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            start += len;
        }
        Ok(joined)
    }

    /// The bytes. A peer of the same user that forces its way into a published file can change them meanwhile.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, readable and initialised by the kernel for as long as this value lives; or empty and aligned.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the stretch belongs to this value, and every borrow of it has ended.
            unsafe { libc::munmap(self.pointer.as_ptr().cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_lie_one_behind_the_other() {
        let folder = std::env::temp_dir();
        let file = |name: &str, byte: u8, len: usize| {
            let path = folder.join(format!("htlb-joined-{}-{name}", std::process::id()));
            let mut file = File::create_new(&path).unwrap();
            file.write_all(&vec![byte; len]).unwrap();
            let file = File::open(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            file
        };
        // Whole pages of every base page size.
        let (one, two) = (file("one", 1, 65_536), file("two", 2, 131_072));
        let joined = Joined::readable(&[(&one, 65_536), (&two, 131_072)], HugeSize::MIB2).unwrap();
        assert_eq!(joined.bytes().as_ptr().addr() % (2 << 20), 0);
        assert_eq!(joined.bytes()[..65_536], vec![1; 65_536]);
        assert_eq!(joined.bytes()[65_536..], vec![2; 131_072]);
        assert!(Joined::readable(&[], HugeSize::BASE)
            .unwrap()
            .bytes()
            .is_empty());
        for wrong in [0, 131_072, u64::MAX] {
            let got = Joined::readable(&[(&one, wrong)], HugeSize::BASE);
            assert_eq!(
                got.unwrap_err().raw_os_error(),
                Some(libc::EINVAL),
                "{wrong}"
            );
        }
    }
}
