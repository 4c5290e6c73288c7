// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How the pool grows and shrinks, what it keeps meanwhile, and who may not ask for it.

use std::io;

use anyhow::{ensure, Result};
use htlb_core::{ByteLen, HugeSize, NodeId, NodePolicy, Rung};
use htlb_user::buffer::Populate;
use htlb_user::device::Device;

use super::super::rest;
use super::super::span::HUGE;
use super::low::without_surplus;
use super::{bytes, create, nodes, refusal, request, resize, size, LOADED, MIB2, SURPLUS};

pub(super) fn it_grows_and_shrinks() -> Result<()> {
    let device = Device::open()?;
    for target in [20, 3, 0, 1, LOADED] {
        ensure!(resize(&device, None, target)? == target);
        let stats = device.stats(MIB2, None)?;
        ensure!(
            stats.total == bytes(target) && stats.free == stats.total,
            "{stats:?}"
        );
        rest::check().map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

pub(super) fn it_grows_and_shrinks_on_one_node() -> Result<()> {
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

pub(super) fn what_cannot_be_had_is_not_promised() -> Result<()> {
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

pub(super) fn it_never_breaks_a_promise() -> Result<()> {
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

pub(super) fn surplus_comes_and_goes() -> Result<()> {
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

pub(super) fn others_may_not_resize() -> Result<()> {
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

pub(super) fn it_refuses_nonsense() -> Result<()> {
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
