// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the page tables say about a window: frame numbers, presence, huge entries.
//!
//! Frame numbers are shown to `CAP_SYS_ADMIN` only; others read zeroes there, which this module gives as [`None`], never as frame 0.

use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use htlb_core::{ByteLen, ByteRange, PageCount, Pfn};

use super::window::{Window, WindowError};
use super::{base_page_bytes, check, Failure};

/// What the page tables say about one base page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// Whether a page is mapped here.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 >> 63 & 1 != 0
    }

    /// Whether it is mapped only here, in this process.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        self.0 >> 56 & 1 != 0
    }

    /// Whether it belongs to a file or to shared memory.
    #[must_use]
    pub const fn is_file(self) -> bool {
        self.0 >> 61 & 1 != 0
    }

    /// The frame number, in 4 KiB units; `None` where nothing is present or the kernel hides it.
    #[must_use]
    pub fn pfn(self) -> Option<Pfn> {
        let units = base_page_bytes() as u64 / 4096;
        match self.0 & ((1 << 55) - 1) {
            pfn if self.is_present() && pfn != 0 => pfn.checked_mul(units).map(Pfn::new),
            _ => None,
        }
    }
}

/// The entry at the start of each page of the window's size in `range`.
///
/// ```
/// # use std::sync::Arc;
/// # use htlb_core::{ByteLen, HugeSize};
/// # use htlb_user::sys::{pagemap, window::{Backing, Fork, Window}};
/// let window = Window::reserve(Backing::Private, ByteLen::new(8192), HugeSize::BASE, Fork::Exclude)?;
/// window.map(window.whole())?;
/// assert!(pagemap::entries(&window, window.whole())?.iter().all(|entry| !entry.is_present()));
/// window.populate_write(window.whole())?;
/// assert!(pagemap::entries(&window, window.whole())?.iter().all(|entry| entry.is_present()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`WindowError::Range`], [`WindowError::Mapping`]; `ENOENT` without `/proc`.
pub fn entries(window: &Window, range: ByteRange) -> Result<Vec<Entry>, WindowError> {
    let (start, len) = window.mapped(range)?;
    let map = open("/proc/self/pagemap")?;
    let step = len / window.count(len).max(1);
    let dense = step == base_page_bytes();
    let position = |at: usize| (window.address(at).as_ptr().addr() / base_page_bytes()) as u64 * 8;
    let mut bytes = vec![0; window.count(len) * 8];
    if dense {
        read(&map, &mut bytes, position(start))?;
    } else {
        for (word, at) in bytes.chunks_mut(8).zip((start..start + len).step_by(step)) {
            read(&map, word, position(at))?;
        }
    }
    Ok(bytes
        .chunks_exact(8)
        .map(|word| Entry(word_of(word)))
        .collect())
}

/// How many pages of the window's size are populated in `range`.
///
/// # Errors
/// As [`entries`].
pub fn present(window: &Window, range: ByteRange) -> Result<PageCount, WindowError> {
    let count = entries(window, range)?
        .iter()
        .filter(|e| e.is_present())
        .count();
    // CAST: usize is at most 64 bits wide on Linux.
    Ok(PageCount::new(count as u64))
}

/// What the kernel says about a page frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameFlags(u64);

impl FrameFlags {
    /// Part of a hugetlb page.
    #[must_use]
    pub const fn is_hugetlb(self) -> bool {
        self.0 >> 17 & 1 != 0
    }

    /// Part of a transparent huge page.
    #[must_use]
    pub const fn is_thp(self) -> bool {
        self.0 >> 22 & 1 != 0
    }

    /// It has a memory error.
    #[must_use]
    pub const fn is_poisoned(self) -> bool {
        self.0 >> 19 & 1 != 0
    }

    /// The first frame of a page of several.
    #[must_use]
    pub const fn is_head(self) -> bool {
        self.0 >> 15 & 1 != 0
    }
}

/// The flags of a frame, by root only.
///
/// # Errors
/// `EACCES` or `EPERM` for others, `ENOENT` where the kernel was built without.
#[doc(alias = "kpageflags")]
pub fn frame_flags(pfn: Pfn) -> Result<FrameFlags, Failure> {
    let units = base_page_bytes() as u64 / 4096;
    let position = (pfn.raw() / units).checked_mul(8);
    let position = position.ok_or(Failure::new("pread", libc::EINVAL))?;
    let mut word = [0; 8];
    read(&open("/proc/kpageflags")?, &mut word, position)?;
    Ok(FrameFlags(word_of(&word)))
}

/// How many bytes of a range are mapped by huge entries, and how that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugeMapped {
    /// The bytes. Of the whole areas that touch the range where `by` is [`HugeSource::AreasWider`].
    pub bytes: ByteLen,
    /// How it is known.
    pub by: HugeSource,
}

/// Where [`HugeMapped`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugeSource {
    /// The page tables (Linux 6.7), exactly the range.
    #[doc(alias = "PAGEMAP_SCAN")]
    PageTables,
    /// `smaps`: the areas are exactly the range.
    Areas,
    /// `smaps`: the kernel merged the range with neighbours, and counts them together.
    AreasWider,
}

/// How much of `range` really is mapped by huge entries: hugetlb, or transparent huge pages of any kind.
///
/// # Errors
/// [`WindowError::Range`], [`WindowError::Mapping`]; `ENOENT` without `/proc`.
#[doc(alias = "AnonHugePages")]
#[doc(alias = "ShmemPmdMapped")]
pub fn huge_mapped(window: &Window, range: ByteRange) -> Result<HugeMapped, WindowError> {
    let (start, len) = window.mapped(range)?;
    let first = window.address(start).as_ptr().addr() as u64;
    let end = first + len as u64;
    match scan(first, end) {
        Ok(bytes) => Ok(HugeMapped {
            bytes: ByteLen::new(bytes),
            by: HugeSource::PageTables,
        }),
        // Before 6.7 the ioctl does not exist; filters answer EPERM.
        Err(_) => {
            let smaps = io::BufReader::new(open("/proc/self/smaps")?);
            let found = huge_in_smaps(smaps, first, end);
            Ok(found.map_err(|e| WindowError::Kernel(Failure::of_io("read", &e)))?)
        }
    }
}

/// `struct page_region`: a run of pages of one kind.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

static_assertions::const_assert_eq!(size_of::<ScanArg>(), 96);
static_assertions::const_assert_eq!(size_of::<Region>(), 24);

/// `_IOWR('f', 16, struct pm_scan_arg)` where the direction bits are the common ones.
const PAGEMAP_SCAN: u64 = 3 << 30 | 96 << 16 | (b'f' as u64) << 8 | 16;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_HUGE: u64 = 1 << 6;

fn scan(start: u64, end: u64) -> Result<u64, Failure> {
    let map = open("/proc/self/pagemap")?;
    let mut regions = [Region::default(); 64];
    let mut bytes = 0;
    let mut from = start;
    while from < end {
        let mut arg = ScanArg {
            size: 96,
            flags: 0,
            start: from,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr().expose_provenance() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: 0,
            category_mask: PAGE_IS_HUGE | PAGE_IS_PRESENT,
            category_anyof_mask: 0,
            return_mask: PAGE_IS_HUGE,
        };
        // SAFETY: `arg` is the record that this ioctl takes (96 bytes, asserted), live and exclusively ours; `vec` names as many
        // live regions as it says, whose address was exposed for this. The kernel writes only these two, and scanning changes no page.
        let answer = unsafe { libc::ioctl(map.as_raw_fd(), PAGEMAP_SCAN as _, &mut arg) };
        let found = check("ioctl(PAGEMAP_SCAN)", answer.into())?;
        let found = usize::try_from(found).unwrap_or(0);
        bytes += regions
            .iter()
            .take(found)
            .map(|r| r.end.saturating_sub(r.start))
            .sum::<u64>();
        if arg.walk_end <= from {
            return Err(Failure::new("ioctl(PAGEMAP_SCAN)", libc::EPROTO));
        }
        from = arg.walk_end;
    }
    Ok(bytes)
}

/// Adds up the huge entries of the areas that touch `first..end`.
pub(crate) fn huge_in_smaps(smaps: impl BufRead, first: u64, end: u64) -> io::Result<HugeMapped> {
    const HUGE: [&str; 5] = [
        "AnonHugePages",
        "ShmemPmdMapped",
        "FilePmdMapped",
        "Shared_Hugetlb",
        "Private_Hugetlb",
    ];
    let (mut inside, mut wider, mut kib) = (false, false, 0_u64);
    for line in smaps.split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if let Some((low, high)) = area(&line) {
            inside = low < end && high > first;
            wider |= inside && (low < first || high > end);
        } else if let Some((name, value)) = line.split_once(':').filter(|_| inside) {
            if HUGE.contains(&name) {
                let value = value.trim().trim_end_matches("kB").trim_end();
                let value = value.parse::<u64>().map_err(|_| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("smaps: {line}"))
                })?;
                kib = kib.saturating_add(value);
            }
        }
    }
    Ok(HugeMapped {
        bytes: ByteLen::new(kib.saturating_mul(1024)),
        by: if wider {
            HugeSource::AreasWider
        } else {
            HugeSource::Areas
        },
    })
}

/// The addresses of an area's first line: `7f00-7f10 rw-p …`.
fn area(line: &str) -> Option<(u64, u64)> {
    let (low, high) = line.split_ascii_whitespace().next()?.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some((hex(low)?, hex(high)?))
}

fn open(path: &str) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::of_io("open", &error))
}

fn read(file: &File, bytes: &mut [u8], position: u64) -> Result<(), Failure> {
    file.read_exact_at(bytes, position)
        .map_err(|error| Failure::of_io("pread", &error))
}

fn word_of(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-p 00000000 00:00 0 \nAnonHugePages:      8 kB\nRss: 99 kB\nVmFlags: rd wr\n\
3000-5000 rw-s 00000000 00:05 77 /a b: c-d (deleted)\nShmemPmdMapped: 4 kB\nPrivate_Hugetlb: 2 kB\n\
5000-6000 rw-p 00000000 00:00 0 [heap]\nAnonHugePages: 1 kB\n";

    #[test]
    fn smaps_counts_the_range_and_says_when_it_is_wider() {
        let got = huge_in_smaps(SMAPS.as_bytes(), 0x1000, 0x5000).unwrap();
        assert_eq!((got.bytes.raw(), got.by), (14 << 10, HugeSource::Areas));
        let got = huge_in_smaps(SMAPS.as_bytes(), 0x2000, 0x3000).unwrap();
        assert_eq!((got.bytes.raw(), got.by), (8 << 10, HugeSource::AreasWider));
        let got = huge_in_smaps(SMAPS.as_bytes(), 0x9000, 0xa000).unwrap();
        assert_eq!((got.bytes.raw(), got.by), (0, HugeSource::Areas));
        let odd = "1000-2000 rw-p\nAnonHugePages: many kB\n";
        assert!(huge_in_smaps(odd.as_bytes(), 0x1000, 0x2000).is_err());
    }

    #[test]
    fn a_hidden_frame_is_not_frame_zero() {
        assert_eq!(Entry(1 << 63).pfn(), None);
        assert_eq!(Entry(5).pfn(), None, "not present");
        assert!(Entry(1 << 63 | 5).pfn().is_some());
    }
}
