// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The built `htlb` command, end to end, each test in a world of its own.

mod ending;
mod errors;
mod json;
mod ladder;
mod limits;
mod pages;
mod race;
mod round_trip;
mod world;

/// Bytes that no mistake in offsets reproduces.
pub(crate) fn content(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 4);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
