// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages of low memory: who gets them from the pool, and beyond it.

use anyhow::{ensure, Result};
use htlb_core::{ByteLen, NodePolicy};
use htlb_user::buffer::Populate;
use htlb_user::device::Device;

use super::super::span::{Span, HUGE};
use super::super::{rest, skip};
use super::{
    bits, bytes, create, nodes, places, refusal, request, resize, size, LOADED, LOW, MIB2, SURPLUS,
};

/// How many low pages the pool has: those of the parameter, and what else came from there by luck. Nothing is allowed beyond the pool.
fn low_pages(device: &Device) -> Result<u64> {
    for pages in LOW..LOADED {
        let one_more = request(pages + 1).dma_mask(bits(28)?);
        if create(device, one_more, Populate::Later).is_err() {
            return Ok(pages);
        }
    }
    skip("all pages of the pool are low ones")
}

/// Runs `f` while nothing is allowed beyond the pool.
pub(super) fn without_surplus<T>(device: &Device, f: impl FnOnce() -> Result<T>) -> Result<T> {
    device.allow_surplus(MIB2, ByteLen::ZERO)?;
    let outcome = f();
    device.allow_surplus(MIB2, ByteLen::new(bytes(SURPLUS)))?;
    outcome
}

pub(super) fn low_pages_are_for_those_who_need_them() -> Result<()> {
    let device = Device::open()?;
    without_surplus(&device, || {
        let low = low_pages(&device)?;
        // They are promised, so that whoever can use any page does not get them.
        let narrow = create(&device, request(low).dma_mask(bits(28)?), Populate::Later)?;
        let wide = create(&device, request(LOADED - low), Populate::Now)?;
        ensure!(refusal(create(&device, request(1), Populate::Later))? == libc::ENOMEM);
        narrow.populate(0, bytes(low))?;
        for place in places(&narrow, low)? {
            ensure!(place + bytes(1) <= 1 << 28, "a page at {place:#x}");
        }
        ensure!(wide.info()?.populated == bytes(LOADED - low));
        drop((narrow, wide));
        // Nobody has promised them now: on their node, the scarce ones go last.
        let [first, _] = nodes()?;
        let before = size(&device, Some(first))?;
        let more = resize(&device, Some(first), before + 64)?;
        let there = |pages| request(pages).nodes(NodePolicy::Bind(first.mask()));
        let is_low = |place: &u64| place + bytes(1) <= 1 << 28;
        let all = create(&device, there(more), Populate::Now)?;
        let others = places(&all, more)?
            .iter()
            .filter(|place| !is_low(place))
            .count() as u64;
        drop(all);
        ensure!(
            others > 0 && others < more,
            "{others} of {more} pages are not low"
        );
        let wide = create(&device, there(others), Populate::Now)?;
        let taken = places(&wide, others)?
            .iter()
            .find(|place| is_low(place))
            .copied();
        ensure!(taken.is_none(), "a low page was taken: {taken:x?}");
        drop(wide);
        ensure!(resize(&device, Some(first), before)? == before);
        Ok(())
    })
}

pub(super) fn a_narrow_mask_is_served_beyond_the_pool() -> Result<()> {
    const MORE: u64 = 4;
    let device = Device::open()?;
    let low = without_surplus(&device, || low_pages(&device))?;
    let narrow = request(low + MORE).dma_mask(bits(28)?);
    let buffer = create(&device, narrow, Populate::Now)?;
    let mut places = places(&buffer, low + MORE)?;
    for place in &places {
        ensure!(place + bytes(1) <= 1 << 28, "a page at {place:#x}");
    }
    places.sort_unstable();
    places.dedup();
    ensure!(places.len() as u64 == low + MORE, "a page twice");
    let surplus = device.stats(MIB2, None)?.surplus;
    ensure!(surplus == bytes(MORE), "{surplus} bytes of surplus");
    // Pages like any other: folios, by one entry each, which can be held and come home.
    let len = HUGE * usize::try_from(low + MORE)?;
    let view = Span::shared(&buffer, len)?;
    view.stamp(1);
    ensure!(
        view.has_stamp(1, len) && view.leaves()?.pmd == low + MORE,
        "{:?}",
        view.leaves()?
    );
    drop(view.hold()?);
    drop((view, buffer));
    rest::wait()
}
