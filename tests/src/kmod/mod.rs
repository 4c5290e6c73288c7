// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The test modules of `tests/kmod`, as programs in a guest use them.

pub mod importer;
pub mod leaves;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{ioctl, opcode, Updater};

/// A record of integers, without padding, as it is in the module's header.
///
/// # Safety
///
/// `repr(C)`, nothing but integers, no padding.
unsafe trait Record {}

/// Hands a record to a module and has the answer in its place.
fn exchange<const OPCODE: u32, R: Record>(file: &File, record: &mut R) -> io::Result<()> {
    // SAFETY: the callers' operation codes are made from the size of `R`, and the modules read and write that many
    // bytes at most, none of which is a pointer; any bits are integers.
    let call = unsafe { Updater::<OPCODE, R>::new(record) };
    // SAFETY: `file` is one of the modules' nodes, or the type byte is unknown to it.
    Ok(unsafe { ioctl(file.as_fd(), call) }?)
}

/// `_IOWR`
const fn read_write<R>(group: u8, number: u8) -> u32 {
    opcode::read_write::<R>(group, number)
}

/// `_IOW`
const fn write<R>(group: u8, number: u8) -> u32 {
    opcode::write::<R>(group, number)
}
