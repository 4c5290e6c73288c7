// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Memory runs out for devices: dma-bufs, donations, and what other drivers call.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;

use anyhow::Result;
use htlb_core::uapi::CreateFlags;
use htlb_user::device::Export;

use super::operations::{buffer, closed, strict, MIB2, NO_MEMORY};
use super::{watched, Errno, Trial};
use crate::guest::bad_input::{donation, HUGETLB_POOL};
use crate::guest::drivers::Caller;
use crate::guest::rest;
use crate::kmod::importer::{Direction, Importer};

pub(super) fn dma_bufs_and_donations() -> Result<()> {
    let (device, faults) = watched()?;
    let trial = |name| Trial {
        name,
        device: &device,
        faults: &faults,
        errors: NO_MEMORY,
    };
    let exported = buffer(&device, &strict(4 * MIB2, CreateFlags::POPULATE))?;
    trial("exporting").run(6, || exported.export(0, 0, Export::Writable), closed)?;

    let dma_buf = exported.export(0, 0, Export::Writable)?;
    let importer = Importer::open()?;
    let attach = || -> io::Result<()> {
        let attachment = importer.attach(dma_buf.as_fd())?;
        let mapped = importer.map(&attachment, Direction::Bidirectional);
        if mapped.is_ok() {
            importer.unmap(&attachment)?;
        }
        importer.detach(attachment)?;
        mapped.map(drop)
    };
    trial("attaching a device").run(3, attach, closed)?;
    // Mapping it for the kernel is not tried: where an exporter's vmap fails, for whatever reason, the kernel itself warns.
    drop((dma_buf, exported, importer));

    let memfd = donation()?;
    trial("importing").run(8, || device.import(memfd.as_fd(), 0, MIB2), closed)?;
    drop(memfd);
    fs::write(HUGETLB_POOL, "0")?;
    rest::wait()
}

/// What a case in the kernel did not expect, with no number of its own.
struct Unexpected(anyhow::Error);

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Errno for Unexpected {
    fn errno(&self) -> i32 {
        0
    }
}

/// The cases of the test driver: one that lacks memory ends early, and gives back what it has.
pub(super) fn what_drivers_call() -> Result<()> {
    let (device, faults) = watched()?;
    let caller = Caller::open()?;
    for (name, least) in [
        ("filled_by_the_driver", 10),
        ("kept_in_place", 10),
        ("a_table_has_an_entry_for_each_run", 10),
        ("entries_are_cut_where_the_device_says", 10),
    ] {
        let trial = Trial {
            name,
            device: &device,
            faults: &faults,
            errors: &[0],
        };
        trial.run(least, || caller.run(name, 0).map_err(Unexpected), closed)?;
    }
    drop(caller);
    rest::wait()
}
