// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers of several pages that are one piece of memory.

use anyhow::{ensure, Result};
use htlb_core::{Contiguity, NodeMask, NodePolicy};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer};

use super::super::rest;
use super::super::span::{Span, HUGE};
use super::{bits, bytes, create, nodes, places, refusal, request, LOADED, MIB2, SURPLUS};

/// Whether the pages of a buffer lie one after the other.
fn is_one_piece(buffer: &DeviceBuffer, pages: u64) -> Result<bool> {
    let places = places(buffer, pages)?;
    Ok(places.windows(2).all(|pair| pair[0] + bytes(1) == pair[1]))
}

pub(super) fn a_run_is_one_piece() -> Result<()> {
    const RUN: u64 = 8;
    let device = Device::open()?;
    for round in 0..3 {
        for node in nodes()? {
            let whole = request(RUN)
                .contiguity(Contiguity::Whole)
                .alignment(bytes(4))
                .nodes(NodePolicy::Bind(NodeMask::from_bits(1 << node.raw())));
            let buffer = create(&device, whole, Populate::Now)?;
            ensure!(is_one_piece(&buffer, RUN)?, "{:x?}", places(&buffer, RUN)?);
            let first = buffer.lookup(0)?;
            ensure!(first.physical % bytes(4) == 0, "at {:#x}", first.physical);
            ensure!(
                first.node == Some(node),
                "on {:?}, not {node:?}",
                first.node
            );
            let len = HUGE * RUN as usize;
            let view = Span::shared(&buffer, len)?;
            ensure!(
                (0..len).step_by(512).all(|at| view.word(at) == 0),
                "round {round}: not zero"
            );
            view.stamp(2);
            ensure!(view.leaves()?.pmd == RUN, "{:?}", view.leaves()?);
            // One of its pages is held when all of them go.
            let held = view.hold()?;
            drop((view, buffer));
            drop(held);
            rest::wait()?;
        }
    }
    Ok(())
}

pub(super) fn a_run_comes_from_low_memory() -> Result<()> {
    let device = Device::open()?;
    let whole = request(2).contiguity(Contiguity::Whole).dma_mask(bits(28)?);
    let buffer = create(&device, whole, Populate::Now)?;
    let places = places(&buffer, 2)?;
    ensure!(
        places[0] + bytes(1) == places[1] && places[1] + bytes(1) <= 1 << 28,
        "{places:x?}"
    );
    Ok(())
}

pub(super) fn a_run_is_refused_beyond_the_limit() -> Result<()> {
    let device = Device::open()?;
    let long = request(LOADED + SURPLUS + 1).contiguity(Contiguity::Whole);
    ensure!(refusal(create(&device, long, Populate::Now))? == libc::ENOMEM);
    let stats = device.stats(MIB2, None)?;
    ensure!(
        stats.surplus == 0 && stats.free == bytes(LOADED) && stats.reserved == 0,
        "{stats:?}"
    );
    rest::check().map_err(anyhow::Error::msg)
}
