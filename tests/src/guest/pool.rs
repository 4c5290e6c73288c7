// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The module's own pool: what it has when it is loaded, how it grows and shrinks, and what it never gives away.

mod low;
mod pieces;
mod poisoned;
mod resizing;

use std::fs;

use anyhow::{ensure, Context, Result};
use htlb_core::{AddressBits, ByteLen, HugeSize, NodeId, Request, RequestBuilder};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer};
use rustix::io::Errno;
use rustix::system::delete_module;

use low::{a_narrow_mask_is_served_beyond_the_pool, low_pages_are_for_those_who_need_them};
use pieces::{a_run_comes_from_low_memory, a_run_is_one_piece, a_run_is_refused_beyond_the_limit};
use poisoned::{bad_memory_never_comes_back, memory_that_went_bad_while_it_was_free_is_never_used};
use resizing::{
    it_grows_and_shrinks, it_grows_and_shrinks_on_one_node, it_never_breaks_a_promise,
    it_refuses_nonsense, others_may_not_resize, surplus_comes_and_goes,
    what_cannot_be_had_is_not_promised,
};

use super::span::{in_child, Span, HUGE};
use super::{cases, expect_in_log, Group, Module};

/// Pages that the module gets when it is loaded; [`LOW`] of them below 2^28.
const LOADED: u64 = 12;
const LOW: u64 = 4;
/// What is allowed beyond.
const SURPLUS: u64 = 16;

pub(super) const GROUP: Group = Group {
    name: "pool",
    modules: &[
        Module::new("htlb_leaves", ""),
        Module::new("htlb", "pages_2m=8 low_2m=4 low_bits=28 overcommit_2m=16"),
    ],
    cases: || {
        cases![
            what_the_parameters_say_is_there,
            low_pages_are_for_those_who_need_them,
            a_narrow_mask_is_served_beyond_the_pool,
            a_run_is_one_piece,
            a_run_comes_from_low_memory,
            a_run_is_refused_beyond_the_limit,
            it_grows_and_shrinks,
            it_grows_and_shrinks_on_one_node,
            what_cannot_be_had_is_not_promised,
            it_never_breaks_a_promise,
            surplus_comes_and_goes,
            others_may_not_resize,
            it_refuses_nonsense,
            the_kernel_asks_for_memory_back,
            memory_is_short.within(240),
            a_held_page_keeps_the_module,
            bad_memory_never_comes_back,
            memory_that_went_bad_while_it_was_free_is_never_used,
            parameters_that_make_no_sense_are_refused,
        ]
    },
};

const MIB2: HugeSize = HugeSize::MIB2;

fn bytes(pages: u64) -> u64 {
    pages * HUGE as u64
}

fn request(pages: u64) -> RequestBuilder {
    Request::builder(ByteLen::new(bytes(pages)))
        .page_size(MIB2)
        .strict()
}

fn create(device: &Device, request: RequestBuilder, populate: Populate) -> Result<DeviceBuffer> {
    Ok(device.create(&request.build()?, ByteLen::ZERO, populate)?)
}

fn bits(bits: u32) -> Result<AddressBits> {
    Ok(AddressBits::new(bits)?)
}

fn refusal<T: std::fmt::Debug>(answer: Result<T>) -> Result<i32> {
    let error = answer.err().context("it is refused")?;
    let device = error.downcast_ref::<htlb_user::device::DeviceError>();
    Ok(device.with_context(|| format!("{error:#}"))?.errno())
}

/// The physical address of each page of a buffer.
fn places(buffer: &DeviceBuffer, pages: u64) -> Result<Vec<u64>> {
    let place = |page| Ok(buffer.lookup(bytes(page))?.physical);
    (0..pages).map(place).collect()
}

/// The pages of the pool, without surplus.
fn size(device: &Device, node: Option<NodeId>) -> Result<u64> {
    let stats = device.stats(MIB2, node)?;
    Ok((stats.total - stats.surplus) / HUGE as u64)
}

fn resize(device: &Device, node: Option<NodeId>, pages: u64) -> Result<u64> {
    Ok(device.resize(MIB2, node, ByteLen::new(bytes(pages)))?.raw() / HUGE as u64)
}

fn nodes() -> Result<[NodeId; 2]> {
    Ok([NodeId::new(0)?, NodeId::new(1)?])
}

fn what_the_parameters_say_is_there() -> Result<()> {
    let device = Device::open()?;
    let stats = device.stats(MIB2, None)?;
    ensure!(
        stats.total == bytes(LOADED) && stats.free == stats.total,
        "{stats:?}"
    );
    ensure!(
        stats.surplus == 0 && stats.overcommit == bytes(SURPLUS),
        "{stats:?}"
    );
    ensure!(stats.available == bytes(LOADED + SURPLUS), "{stats:?}");
    let mut on_nodes = 0;
    for node in nodes()? {
        on_nodes += device.stats(MIB2, Some(node))?.total;
    }
    ensure!(
        on_nodes == stats.total,
        "{on_nodes} bytes on the nodes together"
    );
    Ok(())
}

/// A page that left its buffer while a pipe holds it, and the pipe.
fn held_page(device: &Device) -> Result<[fs::File; 2]> {
    let buffer = create(device, request(1), Populate::Now)?;
    let view = Span::shared(&buffer, HUGE)?;
    view.write(0, 42);
    let pipe = view.hold()?;
    drop(view);
    drop(buffer);
    let limbo = device.stats(MIB2, None)?.limbo;
    ensure!(limbo == bytes(1), "{limbo} bytes in limbo");
    Ok(pipe)
}

fn the_kernel_asks_for_memory_back() -> Result<()> {
    let device = Device::open()?;
    device.allow_surplus(MIB2, ByteLen::new(bytes(SURPLUS)))?;
    ensure!(resize(&device, None, 0)? == 0);
    for _ in 0..4 {
        let pipe = held_page(&device)?;
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        let stats = device.stats(MIB2, None)?;
        ensure!(
            stats.limbo == bytes(1) && stats.surplus == bytes(1),
            "somebody holds it: {stats:?}"
        );
        drop(pipe);
        // Sooner than anybody else would look.
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        let stats = device.stats(MIB2, None)?;
        ensure!(
            stats.limbo == 0 && stats.surplus == 0 && stats.total == 0,
            "{stats:?}"
        );
    }
    ensure!(resize(&device, None, LOADED)? == LOADED);
    // What the pool has, it keeps, promised or not.
    let buffer = create(&device, request(2), Populate::Later)?;
    fs::write("/proc/sys/vm/drop_caches", "3")?;
    ensure!(size(&device, None)? == LOADED);
    ensure!(buffer.populate(0, bytes(2))? == bytes(2));
    Ok(())
}

fn memory_is_short() -> Result<()> {
    let device = Device::open()?;
    let buffer = create(&device, request(LOADED + 2), Populate::Later)?;
    let meminfo = super::meminfo::Memory::now()?;
    // More than is free, so that the kernel looks everywhere; less than there could be.
    let len = usize::try_from(meminfo.field("MemAvailable") / 100 * 95)?;
    let survived = in_child(|| {
        // SAFETY: a new mapping, where nothing is.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        start != libc::MAP_FAILED
    })?;
    ensure!(survived, "the child could not have {len} bytes");
    let stats = device.stats(MIB2, None)?;
    ensure!(
        stats.total == bytes(LOADED + 2) && stats.reserved == stats.total,
        "{stats:?}"
    );
    ensure!(buffer.populate(0, bytes(LOADED + 2))? == bytes(LOADED + 2));
    super::rest::check().map_err(anyhow::Error::msg)
}

fn a_held_page_keeps_the_module() -> Result<()> {
    let device = Device::open()?;
    let pipe = held_page(&device)?;
    drop(device);
    ensure!(
        delete_module(c"htlb", libc::O_NONBLOCK) == Err(Errno::AGAIN),
        "it could be unloaded"
    );
    drop(pipe);
    super::rest::wait()
}

fn parameters_that_make_no_sense_are_refused() -> Result<()> {
    let htlb = Module::new("htlb", "");
    htlb.unload()?;
    expect_in_log("low_bits is")?;
    for parameters in ["low_bits=23", "low_bits=33 low_2m=1"] {
        let refused = Module::new("htlb", parameters).load();
        ensure!(refused.is_err(), "it was loaded with {parameters}");
        ensure!(!htlb.is_loaded()?);
    }
    // Again as the runner left it, for the one who unloads it.
    Module::new("htlb", "pages_2m=1").load()
}
