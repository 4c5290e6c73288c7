// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The example in C: a character device whose mappings are huge pages that it filled.

use std::fs::{File, OpenOptions};

use anyhow::{ensure, Context, Result};

use super::view::{View, HUGE};
use crate::guest::{cases, Case, Module};

const SIZE: usize = 8 << 20;
const CHARDEV: Module = Module::new("htlb_chardev", "size=8388608");

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_device_file_maps_what_the_driver_wrote,
        a_buffer_is_as_long_as_it_says
    ]
}

fn open() -> Result<File> {
    let path = "/dev/htlb_chardev";
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("opening {path}"))
}

fn a_device_file_maps_what_the_driver_wrote() -> Result<()> {
    CHARDEV.load()?;
    let file = open()?;
    let view = View::shared(&file, SIZE)?;
    for at in (0..SIZE).step_by(4096 - 8) {
        let (found, wanted) = (view.word(at), !(at as u64));
        ensure!(found == wanted, "byte {at}: {found:#x}, not {wanted:#x}");
    }
    ensure!(
        view.huge_bytes()? == SIZE as u64,
        "{} bytes by huge entries",
        view.huge_bytes()?
    );
    ensure!(view.address() % HUGE == 0);
    // The driver goes; what it wrote stays, for as long as it is mapped.
    drop(file);
    CHARDEV.unload()?;
    ensure!(open().is_err(), "the device file is still there");
    ensure!(view.word(SIZE - 8) == !(SIZE as u64 - 8));
    Ok(())
}

/// A size that no page size divides: what lies beyond is not mapped.
fn a_buffer_is_as_long_as_it_says() -> Result<()> {
    let odd = Module::new("htlb_chardev", "size=3145729");
    odd.load()?;
    let file = open()?;
    let view = View::shared(&file, 3 << 20)?;
    ensure!(view.word((3 << 20) - 8) == !((3u64 << 20) - 8));
    drop((view, file));
    odd.unload()?;
    let none = Module::new("htlb_chardev", "size=0");
    ensure!(none.load().is_err(), "a buffer of no bytes was made");
    Ok(())
}
