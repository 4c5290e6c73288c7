// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The safe API: a test driver in Rust runs its cases, and its file is mapped.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{ensure, Context, Result};

use super::view::{View, HUGE};
use crate::guest::{cases, Case};

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_rust_driver_says_what_it_wants,
        a_rust_driver_fills_and_keeps_pages,
        a_rust_driver_gives_and_takes_descriptors,
        a_rust_driver_maps_for_a_device,
        a_rust_driver_s_file_maps_its_buffer,
    ]
}

/// The driver's file.
fn open() -> Result<File> {
    let path = "/dev/htlb_rust";
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("opening {path}"))
}

fn run(number: u64) -> Result<()> {
    let file = open()?;
    // The lowest numbers are the kernel's own for every file.
    let number = 0xbd00 + number;
    // SAFETY: these calls take no argument.
    let line = unsafe { libc::ioctl(file.as_raw_fd(), number) };
    if line < 0 {
        return Err(io::Error::last_os_error()).context("a call that should not fail");
    }
    ensure!(
        line == 0,
        "rust_caller.rs:{line}: what was expected there was not so"
    );
    Ok(())
}

fn a_rust_driver_says_what_it_wants() -> Result<()> {
    run(0)
}

fn a_rust_driver_fills_and_keeps_pages() -> Result<()> {
    run(1)
}

fn a_rust_driver_gives_and_takes_descriptors() -> Result<()> {
    run(2)
}

fn a_rust_driver_maps_for_a_device() -> Result<()> {
    run(3)
}

fn a_rust_driver_s_file_maps_its_buffer() -> Result<()> {
    let file = open()?;
    let view = View::shared(&file, 2 * HUGE)?;
    drop(file);
    ensure!((view.byte(0), view.byte(HUGE), view.byte(1)) == (0xa0, 0xa1, 0));
    Ok(())
}
