// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The same memory through both: a hugetlb memfd that udmabuf exports, and that htlb then imports and exports.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};
use htlb_tests::vm::bench::sample::{Shared, SIZE};
use htlb_user::device::{Device, How, Mapping};
use rustix::fs::{fallocate, FallocateFlags};

use crate::exporter::{huge_memfd, Memory};
use crate::importing::import;
use crate::sys;

const HUGE: usize = 2 << 20;

/// How the memfd's pages lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As the kernel gives them.
    AsGiven,
    /// No two are neighbours.
    Scattered,
}

/// Counts what a device gets of one memfd, from udmabuf and from htlb, where `/dev/htlb` is.
pub(crate) fn measure(layout: Layout) -> Result<Shared> {
    let (memfd, held) = match layout {
        Layout::AsGiven => (huge_memfd(SIZE)?, None),
        Layout::Scattered => {
            let held = hold_every_other_page()?;
            (huge_memfd(SIZE)?, Some(held))
        }
    };
    let frames = populate(memfd.as_fd(), SIZE)?;
    let runs = 1 + frames
        .windows(2)
        .filter(|pair| !are_neighbours(pair[0], pair[1]))
        .count();
    if layout == Layout::Scattered {
        ensure!(
            runs == frames.len(),
            "{} pages of the scattered memfd make {runs} runs",
            frames.len()
        );
    }
    let (udmabuf, _) = import(&Memory::udmabuf(memfd.try_clone()?)?)?;
    let htlb = match Device::open() {
        Ok(device) => {
            let buffer = device.import(memfd.as_fd(), 0, SIZE as u64)?;
            Some(import(&Memory::Htlb(buffer))?.0)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("opening /dev/htlb"),
    };
    drop(held);
    Ok(Shared {
        scattered: layout == Layout::Scattered,
        runs: runs as u64,
        udmabuf,
        htlb,
    })
}

/// Takes twice as much from the pool as is needed and gives every other page back, in the order of their addresses: what is
/// free then has no neighbours. The pool must have no other page.
fn hold_every_other_page() -> Result<OwnedFd> {
    let all = huge_memfd(2 * SIZE)?;
    let frames = populate(all.as_fd(), 2 * SIZE)?;
    let mut order: Vec<usize> = (0..frames.len()).collect();
    order.sort_by_key(|page| frames[*page]);
    for page in order.into_iter().skip(1).step_by(2) {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&all, mode, (page * HUGE) as u64, HUGE as u64).context("giving a page back")?;
    }
    Ok(all)
}

/// Has every page of a memfd there, and says which frames they are, counted in pages of 4 KiB.
fn populate(memfd: BorrowedFd<'_>, len: usize) -> Result<Vec<u64>> {
    let mapping = Mapping::new(memfd, 0, len, How::SHARED, HUGE).context("mapping a memfd")?;
    mapping.populate(0, len).context("populating a memfd")?;
    sys::touch(&mapping);
    let pagemap = File::open("/proc/self/pagemap").context("opening /proc/self/pagemap")?;
    (0..len / HUGE)
        .map(|page| {
            let mut entry = [0; 8];
            let address = mapping.address() + page * HUGE;
            pagemap.read_exact_at(&mut entry, (address / 4096 * 8) as u64)?;
            frame(u64::from_ne_bytes(entry)).context("no frame number in /proc/self/pagemap")
        })
        .collect()
}

/// The frame of a page that is there, where this process may know it.
fn frame(entry: u64) -> Option<u64> {
    const PRESENT: u64 = 1 << 63;
    let frame = entry & ((1 << 55) - 1);
    (entry & PRESENT != 0 && frame != 0).then_some(frame)
}

fn are_neighbours(first: u64, second: u64) -> bool {
    first.checked_add((HUGE / 4096) as u64) == Some(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_told_only_where_it_may_be_known() {
        assert_eq!(frame(1 << 63 | 0x1200), Some(0x1200));
        assert_eq!(frame(1 << 63 | 1 << 61 | 0x1200), Some(0x1200));
        assert_eq!(frame(1 << 63), None, "without privileges");
        assert_eq!(frame(0x1200), None, "swapped out");
    }

    #[test]
    fn neighbours_follow_each_other() {
        assert!(are_neighbours(512, 1024));
        assert!(!are_neighbours(1024, 512));
        assert!(!are_neighbours(u64::MAX, 511));
    }
}
