// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Mappings of a buffer: how its pages get into page tables, and what comes of everything that a program can do to them
//! there. Each case begins with intact huge entries, and says what is left of them.

pub(super) mod access;
mod advice;
mod alone;
mod cut;
mod edges;
mod entries;
mod fork;

use anyhow::{ensure, Result};
use htlb_core::{ByteLen, Fallback, HugeSize, Request};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer};

use super::area::{Area, HUGE};
use super::{Group, Module};

pub(super) const GROUP: Group = Group {
    name: "mappings",
    modules: &[
        Module::new("htlb", "pages_2m=16 overcommit_2m=0"),
        Module::new("brd", "rd_nr=1 rd_size=16384"),
    ],
    cases: || {
        [
            entries::cases(),
            cut::cases(),
            fork::cases(),
            alone::cases(),
            advice::cases(),
            access::cases(),
            edges::cases(),
        ]
        .into_iter()
        .flatten()
        .collect()
    },
};

/// A buffer of so many huge pages, which are there.
pub(super) fn buffer(pages: usize) -> Result<DeviceBuffer> {
    sized(pages * HUGE, pages * HUGE, Populate::Now)
}

/// A buffer of huge pages only, that can grow.
pub(super) fn sized(bytes: usize, capacity: usize, populate: Populate) -> Result<DeviceBuffer> {
    let request = Request::builder(ByteLen::new(bytes as u64))
        .page_size(HugeSize::MIB2)
        .fallback(Fallback::STRICT)
        .build()
        .map_err(std::io::Error::from)?;
    Ok(Device::open()?.create(&request, ByteLen::new(capacity as u64), populate)?)
}

/// A stamped buffer of so many huge pages, mapped by as many entries.
pub(super) fn mapped(pages: usize, stamp: u64) -> Result<(DeviceBuffer, Area)> {
    let buffer = buffer(pages)?;
    let area = Area::shared(&buffer, pages * HUGE)?;
    ensure!(area.start() % HUGE == 0, "at {:#x}", area.start());
    area.stamp(area.all(), stamp);
    area.expect_huge(pages * HUGE)?;
    Ok((buffer, area))
}
