// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Bytes to load, and memory to load them into.

/// Bytes that differ at every place, so that a misplaced block shows.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1)
        .collect()
}

/// Memory that begins on a page.
pub(super) struct Pages(Vec<u8>, usize, usize);

impl Pages {
    pub(super) fn new(len: usize) -> Self {
        let memory = vec![0xee; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self(memory, start, len)
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..][..self.2]
    }
}
