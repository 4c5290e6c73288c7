// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages of 1 GiB: one entry each, of frames that are no folio.

use anyhow::{ensure, Context, Result};
use htlb_core::{ByteLen, HugeSize, Request};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer, DeviceError};

use super::drivers::Caller;
use super::span::{faults, in_child, Span, HUGE};
use super::{cases, skip, Group, Module};

pub(super) const GROUP: Group = Group {
    name: "giant",
    modules: &[
        Module::new("htlb_leaves", ""),
        Module::new("htlb", "pages_1g=1 overcommit_1g=0"),
        Module::new("htlb_caller", ""),
    ],
    cases: || {
        cases![
            one_fault_maps_it,
            private_copies_and_pins_are_refused,
            a_page_cannot_be_cut,
            a_punch_revokes_it,
            a_child_shares_it,
            it_comes_home,
            a_driver_gets_it_as_one_entry,
        ]
    },
};

const GIB: usize = 1 << 30;

/// A buffer of one such page; a reason to skip where memory has none.
fn giant(populate: Populate) -> Result<DeviceBuffer> {
    let device = Device::open()?;
    if device.stats(HugeSize::GIB1, None)?.total == 0
        && device
            .resize(HugeSize::GIB1, None, ByteLen::new(GIB as u64))?
            .raw()
            == 0
    {
        return skip(crate::skip::NO_FREE_GIB);
    }
    let request = Request::builder(ByteLen::new(GIB as u64))
        .page_size(HugeSize::GIB1)
        .strict();
    Ok(device.create(&request.build()?, ByteLen::ZERO, populate)?)
}

fn number<T: std::fmt::Debug>(answer: Result<T, DeviceError>) -> i32 {
    answer.expect_err("it is refused").errno()
}

fn one_fault_maps_it() -> Result<()> {
    let buffer = giant(Populate::Now)?;
    let view = Span::shared(&buffer, GIB)?;
    ensure!(view.address() % GIB == 0, "at {:#x}", view.address());
    let before = faults();
    for at in (0..GIB).step_by(4096) {
        ensure!(view.word(at) == 0, "byte {at} is not zero");
    }
    view.stamp(1);
    // One, and what the code of this program takes.
    let took = faults() - before;
    ensure!(took <= 4, "{took} faults");
    let leaves = view.leaves()?;
    ensure!(
        (leaves.pud, leaves.pmd, leaves.pte) == (1, 0, 0),
        "{leaves:?}"
    );
    let place = buffer.lookup(GIB as u64 - 1)?;
    ensure!(
        place.size == HugeSize::GIB1 && place.physical % GIB as u64 == GIB as u64 - 1,
        "{place:?}"
    );
    let node = place.node.context("no node")?;
    let stats = Device::open()?.stats(HugeSize::GIB1, Some(node))?;
    ensure!(stats.total == GIB as u64 && stats.free == 0, "{stats:?}");
    ensure!(view.has_stamp(1, GIB));
    Ok(())
}

fn private_copies_and_pins_are_refused() -> Result<()> {
    let buffer = giant(Populate::Later)?;
    let refused = Span::private(&buffer, GIB).expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    let view = Span::shared(&buffer, GIB)?;
    view.write(0, 1);
    let refused = view.hold().expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EFAULT), "{refused}");
    Ok(())
}

fn a_page_cannot_be_cut() -> Result<()> {
    let buffer = giant(Populate::Later)?;
    let view = Span::shared(&buffer, GIB)?;
    // What the page holds must never be taken for a page table.
    for at in (0..GIB).step_by(8) {
        view.write(at, 0x67);
    }
    for (at, len) in [
        (GIB / 2 + HUGE / 2, GIB / 2 - HUGE / 2),
        (HUGE, GIB - HUGE),
        (0, HUGE),
        (GIB / 2, HUGE),
        (4096, 4096),
    ] {
        let refused = view.unmap(at, len).expect_err("a part of a page");
        ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
        let refused = view
            .advise(at, len, libc::MADV_DONTFORK)
            .expect_err("as above");
        ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    }
    ensure!(view.leaves()?.pud == 1, "{:?}", view.leaves()?);
    ensure!((0..GIB).step_by(4096).all(|at| view.word(at) == 0x67));
    view.unmap(0, GIB)?;
    let again = Span::shared(&buffer, GIB)?;
    ensure!((0..GIB).step_by(4096).all(|at| again.word(at) == 0x67));
    Ok(())
}

fn a_punch_revokes_it() -> Result<()> {
    let buffer = giant(Populate::Now)?;
    let view = Span::shared(&buffer, GIB)?;
    let (first, last) = (0, GIB - 8);
    view.write(first, 2);
    view.write(last, 3);
    ensure!(
        number(buffer.punch(0, HUGE as u64)) == libc::EINVAL,
        "a part of a page"
    );
    ensure!(view.word(first) == 2);
    ensure!(buffer.punch(0, GIB as u64)?.removed == GIB as u64);
    ensure!(view.leaves()?.total() == 0, "{:?}", view.leaves()?);
    ensure!(buffer.info()?.populated == 0);
    // The next touch has a page again, if one is free; it is the same one here, and holds nothing any more.
    ensure!(view.word(first) == 0 && view.word(last) == 0);
    Ok(())
}

fn a_child_shares_it() -> Result<()> {
    let buffer = giant(Populate::Now)?;
    let view = Span::shared(&buffer, GIB)?;
    view.write(HUGE, 4);
    let seen = in_child(|| {
        view.write(2 * HUGE, 5);
        view.word(HUGE) == 4
    })?;
    ensure!(seen && view.word(2 * HUGE) == 5);
    let refused = view
        .advise(0, GIB, libc::MADV_DONTNEED)
        .expect_err("they are frames");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    ensure!(view.word(HUGE) == 4);
    Ok(())
}

fn it_comes_home() -> Result<()> {
    drop(giant(Populate::Now)?);
    super::rest::wait()?;
    let device = Device::open()?;
    let stats = device.stats(HugeSize::GIB1, None)?;
    ensure!(
        stats.total == GIB as u64 && stats.free == stats.total,
        "{stats:?}"
    );
    ensure!(device.resize(HugeSize::GIB1, None, ByteLen::ZERO)?.raw() == 0);
    ensure!(device.stats(HugeSize::GIB1, None)?.total == 0);
    Ok(())
}

/// From the pool, and from the system with a mask that has more to say than `alloc_contig_pages` wants to hear.
fn a_driver_gets_it_as_one_entry() -> Result<()> {
    drop(giant(Populate::Later)?);
    let caller = Caller::open()?;
    let entries = caller.run("a_giant_page", 0)?;
    ensure!(entries == 1, "{entries} entries");
    let device = Device::open()?;
    let page = ByteLen::new(GIB as u64);
    super::rest::wait()?;
    device.resize(HugeSize::GIB1, None, ByteLen::ZERO)?;
    device.allow_surplus(HugeSize::GIB1, page)?;
    let entries = caller.run("a_giant_page", 1);
    device.allow_surplus(HugeSize::GIB1, ByteLen::ZERO)?;
    ensure!(entries? == 1);
    Ok(())
}
