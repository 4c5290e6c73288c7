// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The module's own pool: what it has when it is loaded, how it grows and shrinks, and what it never gives away.

use std::fs;
use std::io;

use anyhow::{ensure, Context, Result};
use htlb_core::{
    AddressBits, ByteLen, Contiguity, HugeSize, NodeId, NodeMask, NodePolicy, Request,
    RequestBuilder, Rung,
};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer};
use rustix::io::Errno;
use rustix::system::delete_module;

use super::span::{in_child, Span, HUGE};
use super::{cases, expect_in_log, skip, Group, Module};

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
fn without_surplus<T>(device: &Device, f: impl FnOnce() -> Result<T>) -> Result<T> {
    device.allow_surplus(MIB2, ByteLen::ZERO)?;
    let outcome = f();
    device.allow_surplus(MIB2, ByteLen::new(bytes(SURPLUS)))?;
    outcome
}

fn low_pages_are_for_those_who_need_them() -> Result<()> {
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
        let others = size(&device, Some(first))? - low;
        if others == 0 {
            return skip("the first node has low pages only, by chance");
        }
        let there = request(others).nodes(NodePolicy::Bind(first.mask()));
        let wide = create(&device, there, Populate::Now)?;
        for place in places(&wide, others)? {
            ensure!(
                place + bytes(1) > 1 << 28,
                "a low page was taken, at {place:#x}"
            );
        }
        Ok(())
    })
}

fn a_narrow_mask_is_served_beyond_the_pool() -> Result<()> {
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
    super::rest::wait()
}

/// Whether the pages of a buffer lie one after the other.
fn is_one_piece(buffer: &DeviceBuffer, pages: u64) -> Result<bool> {
    let places = places(buffer, pages)?;
    Ok(places.windows(2).all(|pair| pair[0] + bytes(1) == pair[1]))
}

fn a_run_is_one_piece() -> Result<()> {
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
            super::rest::wait()?;
        }
    }
    Ok(())
}

fn a_run_comes_from_low_memory() -> Result<()> {
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

fn a_run_is_refused_beyond_the_limit() -> Result<()> {
    let device = Device::open()?;
    let long = request(LOADED + SURPLUS + 1).contiguity(Contiguity::Whole);
    ensure!(refusal(create(&device, long, Populate::Now))? == libc::ENOMEM);
    let stats = device.stats(MIB2, None)?;
    ensure!(
        stats.surplus == 0 && stats.free == bytes(LOADED) && stats.reserved == 0,
        "{stats:?}"
    );
    super::rest::check().map_err(anyhow::Error::msg)
}

fn it_grows_and_shrinks() -> Result<()> {
    let device = Device::open()?;
    for target in [20, 3, 0, 1, LOADED] {
        ensure!(resize(&device, None, target)? == target);
        let stats = device.stats(MIB2, None)?;
        ensure!(
            stats.total == bytes(target) && stats.free == stats.total,
            "{stats:?}"
        );
        super::rest::check().map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

fn it_grows_and_shrinks_on_one_node() -> Result<()> {
    let device = Device::open()?;
    let [first, second] = nodes()?;
    let (before, elsewhere) = (size(&device, Some(second))?, size(&device, Some(first))?);
    ensure!(resize(&device, Some(second), before + 5)? == before + 5);
    ensure!(size(&device, Some(second))? == before + 5 && size(&device, Some(first))? == elsewhere);
    // All of them are really there.
    let there = request(before + 5).nodes(NodePolicy::Bind(second.mask()));
    let buffer = create(&device, there, Populate::Now)?;
    for page in 0..before + 5 {
        let place = buffer.lookup(bytes(page))?;
        ensure!(
            place.node == Some(second),
            "page {page} is on {:?}",
            place.node
        );
    }
    drop(buffer);
    ensure!(resize(&device, Some(second), before)? == before);
    ensure!(size(&device, Some(second))? == before && size(&device, Some(first))? == elsewhere);
    Ok(())
}

fn what_cannot_be_had_is_not_promised() -> Result<()> {
    let device = Device::open()?;
    let [_, second] = nodes()?;
    let before = size(&device, Some(second))?;
    let everything = 4096;
    let reached = resize(&device, Some(second), everything)?;
    ensure!(
        reached > before && reached < everything,
        "{reached} pages on a node of 1 GiB"
    );
    ensure!(size(&device, Some(second))? == reached);
    ensure!(resize(&device, Some(second), before)? == before);
    Ok(())
}

fn it_never_breaks_a_promise() -> Result<()> {
    const KEPT: u64 = 6;
    let device = Device::open()?;
    let total = || -> Result<u64> { Ok(device.stats(MIB2, None)?.total / HUGE as u64) };
    without_surplus(&device, || {
        let buffer = create(&device, request(KEPT), Populate::Later)?;
        ensure!(
            resize(&device, None, 0)? == KEPT,
            "promised pages stay: {}",
            total()?
        );
        buffer.populate(0, bytes(2))?;
        // What is in use is surplus from now on, so that it leaves when it comes back.
        let reached = resize(&device, None, 0)?;
        ensure!(
            (reached, total()?) == (KEPT - 2, KEPT),
            "{reached} of {}",
            total()?
        );
        ensure!(
            buffer.populate(0, bytes(KEPT))? == bytes(KEPT - 2),
            "the promise is kept"
        );
        buffer.punch(0, bytes(1))?;
        ensure!(total()? == KEPT - 1, "{} are left", total()?);
        drop(buffer);
        ensure!(
            resize(&device, None, 0)? == 0 && total()? == 0,
            "{} are left",
            total()?
        );
        ensure!(resize(&device, None, LOADED)? == LOADED);
        Ok(())
    })
}

fn surplus_comes_and_goes() -> Result<()> {
    const MORE: u64 = 4;
    let device = Device::open()?;
    let buffer = create(&device, request(LOADED + MORE), Populate::Later)?;
    let stats = device.stats(MIB2, None)?;
    ensure!(
        stats.surplus == bytes(MORE) && stats.reserved == bytes(LOADED + MORE),
        "{stats:?}"
    );
    ensure!(
        buffer
            .parts()?
            .iter()
            .any(|part| part.rung == Some(Rung::System)),
        "{:?}",
        buffer.parts()?
    );
    ensure!(
        refusal(create(
            &device,
            request(SURPLUS - MORE + 1),
            Populate::Later
        ))? == libc::ENOMEM
    );
    let unchanged = device.stats(MIB2, None)?;
    ensure!(unchanged == stats, "{unchanged:?}");
    drop(buffer);
    let stats = device.stats(MIB2, None)?;
    ensure!(
        stats.surplus == 0 && stats.total == bytes(LOADED) && stats.free == stats.total,
        "{stats:?}"
    );
    Ok(())
}

fn others_may_not_resize() -> Result<()> {
    let device = Device::open()?;
    // SAFETY: plain numbers; this process ends with the case.
    let dropped = unsafe { libc::setresuid(1000, 1000, 1000) };
    ensure!(dropped == 0, "{}", io::Error::last_os_error());
    for pages in [0, LOADED, LOADED + 1] {
        ensure!(refusal(resize(&device, None, pages))? == libc::EPERM);
    }
    let limit = device.allow_surplus(MIB2, ByteLen::ZERO);
    ensure!(limit.expect_err("it is refused").errno() == libc::EPERM);
    let stats = device.stats(MIB2, None)?;
    ensure!(
        stats.total == bytes(LOADED) && stats.overcommit == bytes(SURPLUS),
        "{stats:?}"
    );
    Ok(())
}

fn it_refuses_nonsense() -> Result<()> {
    let device = Device::open()?;
    let resize = |size, node: Option<u32>, bytes| {
        let node = node.map(NodeId::new).transpose().expect("a node's number");
        let answer = device.resize(size, node, ByteLen::new(bytes));
        answer.expect_err("it is refused").errno()
    };
    ensure!(
        resize(MIB2, None, bytes(1) + 4096) == libc::EINVAL,
        "half a page"
    );
    ensure!(
        resize(MIB2, Some(5), 0) == libc::EINVAL,
        "a node without memory"
    );
    ensure!(
        resize(HugeSize::BASE, None, 0) == libc::EOPNOTSUPP,
        "base pages"
    );
    ensure!(size(&device, None)? == LOADED);
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

fn bad_memory_never_comes_back() -> Result<()> {
    let device = Device::open()?;
    device.allow_surplus(MIB2, ByteLen::ZERO)?;
    let buffer = create(&device, request(2), Populate::Now)?;
    let view = Span::shared(&buffer, 2 * HUGE)?;
    view.stamp(3);
    let bad = buffer.lookup(HUGE as u64)?.physical;
    expect_in_log("emory failure")?;
    expect_in_log("has a memory error")?;
    expect_in_log("njecting memory failure")?;
    if let Err(error) = view.advise(HUGE + 4096, 4096, libc::MADV_HWPOISON) {
        if error.raw_os_error() == Some(libc::EINVAL) {
            return skip("this kernel has no memory failures");
        }
        println!("    # MADV_HWPOISON: {error}");
    }
    drop(view);
    drop(buffer);
    super::rest::wait()?;
    let left = size(&device, None)?;
    ensure!(left == LOADED - 1, "{left} pages are left");
    let all = create(&device, request(left), Populate::Now)?;
    ensure!(
        !places(&all, left)?.contains(&(bad & !(HUGE as u64 - 1))),
        "it was given out again"
    );
    drop(all);
    ensure!(resize(&device, None, LOADED)? == LOADED);
    device.allow_surplus(MIB2, ByteLen::new(bytes(SURPLUS)))?;
    Ok(())
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
