// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb_leaves.ko`: what this process's page tables hold, level by level, whatever the kind of mapping.

use std::fs::File;
use std::io;

/// Its node.
pub const DEVICE: &str = "/dev/htlb_leaves";

/// Entries that map memory, by the size of what one maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaves {
    /// Of 1 GiB.
    pub pud: u64,
    /// Of 2 MiB.
    pub pmd: u64,
    /// Of 4 KiB.
    pub pte: u64,
}

impl Leaves {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.pud.saturating_add(self.pmd).saturating_add(self.pte)
    }
}

#[repr(C)]
#[derive(Default)]
struct Count {
    address: u64,
    len: u64,
    pud: u64,
    pmd: u64,
    pte: u64,
}

// SAFETY: five integers of the same size.
unsafe impl super::Record for Count {}

/// Counts the entries behind `len` bytes from `address`.
///
/// # Errors
///
/// The module is not loaded; `EINVAL` for what is no range of user space.
pub fn count(address: usize, len: usize) -> io::Result<Leaves> {
    let mut count = Count {
        address: address as u64,
        len: len as u64,
        ..Count::default()
    };
    let file = File::options().read(true).write(true).open(DEVICE)?;
    super::exchange::<{ super::read_write::<Count>(b'k', 1) }, _>(&file, &mut count)?;
    Ok(Leaves {
        pud: count.pud,
        pmd: count.pmd,
        pte: count.pte,
    })
}
