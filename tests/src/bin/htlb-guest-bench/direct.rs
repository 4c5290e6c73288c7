// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Direct I/O between a block device and a mapping: the kernel pins the mapping's pages, or says that it cannot.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{ensure, Context, Result};
use htlb_tests::vm::bench::sample::DirectIo;
use htlb_user::device::Mapping;

use crate::sys;

/// A disk in memory, of Debian's module `brd`.
const DISK: &str = "/dev/ram0";

/// Half before the border between two huge pages, half behind it.
const AT: usize = (2 << 20) - LEN / 2;
const LEN: usize = 1 << 20;

/// Reads from the disk into the mapping, and writes from the mapping to the disk.
pub(crate) fn both_ways(mapping: &mut Mapping) -> Result<DirectIo> {
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(DISK)
        .with_context(|| format!("opening {DISK} for direct I/O"))?;
    let buffered = File::options().read(true).write(true).open(DISK)?;
    let pattern = |seed: usize| -> Vec<u8> {
        // CAST: the low byte is what is meant.
        (0..LEN)
            .map(|at| (at.wrapping_mul(seed) >> 4) as u8)
            .collect()
    };

    let wanted = pattern(7);
    buffered.write_all_at(&wanted, 0)?;
    buffered.sync_all()?;
    let mut got = vec![0; LEN];
    match sys::read_into(direct.as_fd(), mapping, AT, LEN) {
        Ok(done) => ensure!(done == LEN, "direct I/O read {done} bytes of {LEN}"),
        Err(error) => return refused(error),
    }
    mapping.read_at(AT, &mut got)?;
    ensure!(
        got == wanted,
        "direct I/O read something else into the mapping"
    );

    let wanted = pattern(11);
    mapping.write_at(AT, &wanted)?;
    match sys::write_from(direct.as_fd(), mapping, AT, LEN) {
        Ok(done) => ensure!(done == LEN, "direct I/O wrote {done} bytes of {LEN}"),
        Err(error) => return refused(error),
    }
    buffered.read_exact_at(&mut got, 0)?;
    ensure!(
        got == wanted,
        "direct I/O wrote something else from the mapping"
    );
    Ok(DirectIo::Works)
}

fn refused(error: io::Error) -> Result<DirectIo> {
    let number = error.raw_os_error().context("an error of the kernel")?;
    Ok(DirectIo::Refused(number))
}
