// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The part of `cargo xtask vm bench` that runs in the guest: one measurement per process, told in one line.
//!
//! It needs `htlb_importer.ko` and `htlb_leaves.ko` of `tests/kmod`, Debian's `brd`, and a hugetlb pool of
//! [`htlb_tests::vm::bench::POOL_PAGES`] pages that nobody else uses.

mod direct;
mod exporter;
mod importing;
mod round;
mod shared;
mod sys;

use anyhow::{ensure, Context, Result};
use clap::{Parser, Subcommand};
use htlb_core::{ByteLen, HugeSize};
use htlb_tests::vm::bench::sample::{Exporter, Sample, SIZE};
use htlb_user::device::Device;
use shared::Layout;

/// One measurement in the guest of `cargo xtask vm bench`
#[derive(Debug, Parser)]
#[command(name = "htlb-guest-bench")]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Give htlb's pool its pages
    Prepare,
    /// /dev/htlb
    #[command(name = "htlb")]
    Htlb,
    /// /dev/udmabuf over a hugetlb memfd
    #[command(name = "udmabuf")]
    Udmabuf,
    /// /dev/dma_heap/system
    #[command(name = "system_heap")]
    SystemHeap,
    /// One memfd through udmabuf and through htlb
    Shared,
    /// The same, with no two of its pages neighbours in memory
    Scattered,
}

fn main() -> Result<()> {
    let round = |exporter: Exporter| round::measure(exporter).map(Sample::Round);
    let shared = |layout| shared::measure(layout).map(Sample::Shared);
    let sample = match Arguments::parse().measurement {
        Measurement::Prepare => return prepare(),
        Measurement::Htlb => round(Exporter::Htlb)?,
        Measurement::Udmabuf => round(Exporter::Udmabuf)?,
        Measurement::SystemHeap => round(Exporter::SystemHeap)?,
        Measurement::Shared => shared(Layout::AsGiven)?,
        Measurement::Scattered => shared(Layout::Scattered)?,
    };
    println!("{}", sample.to_line()?);
    Ok(())
}

fn prepare() -> Result<()> {
    let device = Device::open().context("opening /dev/htlb")?;
    let wanted = ByteLen::new(SIZE as u64);
    let reached = device.resize(HugeSize::MIB2, None, wanted)?;
    ensure!(
        reached == wanted,
        "htlb's pool has {reached} of the {wanted} that were asked for"
    );
    Ok(())
}
