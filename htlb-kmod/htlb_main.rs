// SPDX-License-Identifier: GPL-2.0-only
//! Huge-page, DMA-able buffers that a device fills before any program maps them.
//!
//! All policy and all counting is in `htlb_core`, compiled from the very sources that user space uses. This module
//! asks it, fetches pages, and maps them:
//!
//! ```text
//!  /dev/htlb ─► ffi::device ─┐                        ┌─► supply ─► ffi::page    pages from the system
//!  its files ─► ffi::file  ──┼─► ioctl ─► buffer ─► host ─► limbo               pages that somebody holds
//!  a fault   ─► ffi::fault ──┴─► fault ──────┘   (htlb_core::driver runs in between)
//! ```
//!
//! A [`buffer`] belongs to its file, and has an address space of its own, so that taking its page-table entries away touches
//! nobody else's. Unsafe code is in [`ffi`] and in the C companion only.

mod accounts;
mod backing;
mod buffer;
mod debugfs;
mod dmabuf;
mod error;
mod exports;
mod fault;
mod ffi;
mod host;
mod import;
mod ioctl;
mod limbo;
mod machine;
mod mapping;
mod memory;
mod params;
mod range;
mod runs;
mod segments;
mod shrinker;
mod supply;

use kernel::miscdevice::{MiscDeviceOptions, MiscDeviceRegistration};
use kernel::prelude::*;

use ffi::device::Client;
use ffi::limbo::Watch;
use ffi::published::Published;
use ffi::shrinker::Shrinker;
use machine::Machine;

module! {
    type: Htlb,
    name: "htlb",
    authors: ["The htlb authors"],
    description: "Huge-page DMA buffers with reservations that are kept",
    license: "GPL",
    params: {
        pages_2m: u64 {
            default: 0,
            description: "2 MiB pages for the pool, over all nodes",
        },
        pages_1g: u64 {
            default: 0,
            description: "1 GiB pages for the pool, over all nodes",
        },
        low_2m: u64 {
            default: 0,
            description: "more 2 MiB pages, all below 2^low_bits, for devices with narrow masks",
        },
        low_bits: u8 {
            default: 28,
            description: "address bits of the pages of low_2m, 24 to 32",
        },
        overcommit_2m: i64 {
            default: -1,
            description: "2 MiB pages beyond the pool; -1 for half of the memory",
        },
        overcommit_1g: i64 {
            default: -1,
            description: "1 GiB pages beyond the pool; -1 for half of the memory",
        },
    },
}

/// The loaded module. Fields are dropped in this order: nobody can come in any more, then the pages go.
#[pin_data]
struct Htlb {
    #[pin]
    device: MiscDeviceRegistration<Client>,
    #[pin]
    files: debugfs::Files,
    shrinker: Shrinker,
    watch: Watch,
    published: Published,
}

impl kernel::InPlaceModule for Htlb {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let machine = Machine::new()?;
            params::apply(&machine).map_err(error::errno)?;
            let published = Published::new(machine.clone());
            let shrinker = Shrinker::new(machine.clone())?;
            Ok(try_pin_init!(Self {
                files <- debugfs::Files::new(machine),
                shrinker,
                watch: Watch::new(),
                published,
                device <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"htlb" }),
            }? Error))
        })
    }
}
