// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Imports: a hugetlb memfd and a buffer that share their pages, and what the one may do to the other.

mod buffer;
mod donor;
mod refused;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::Info;
use htlb_core::HugeSize;
use htlb_user::device::{Device, DeviceBuffer, DeviceError};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};

use buffer::{
    a_mapping_is_cut_and_inherited, an_import_is_exported, pages_cannot_be_given_back_one_by_one,
    private_copies_and_pins_are_refused, two_imports_share_a_file,
};
use donor::{
    the_donor_cannot_forbid_writing_meanwhile, the_donor_goes, the_donor_punches_the_file,
    the_donor_shrinks_the_file,
};
use refused::{
    hugetlb_without_pages_is_an_error_that_changes_nothing, what_cannot_be_imported_is_refused,
};

use super::span::{faults, HugetlbPool, Span, HUGE};
use super::{cases, skip, Group, Module};

pub(super) const GROUP: Group = Group {
    name: "import",
    modules: &[
        Module::new("htlb_importer", ""),
        Module::new("htlb_leaves", ""),
        Module::new("htlb", "pages_2m=2"),
    ],
    cases: || {
        cases![
            both_files_share_their_pages,
            one_entry_and_one_fault_a_page,
            holes_of_the_file_get_pages,
            a_part_of_a_file_can_be_imported,
            what_cannot_be_imported_is_refused,
            hugetlb_without_pages_is_an_error_that_changes_nothing,
            the_donor_shrinks_the_file,
            the_donor_punches_the_file,
            the_donor_cannot_forbid_writing_meanwhile,
            the_donor_goes,
            pages_cannot_be_given_back_one_by_one,
            private_copies_and_pins_are_refused,
            two_imports_share_a_file,
            a_mapping_is_cut_and_inherited,
            an_import_is_exported,
            a_gibibyte_page_is_imported,
        ]
    },
};

const PAGES: u64 = 4;
const LEN: usize = PAGES as usize * HUGE;

/// A memfd of so many bytes in huge pages, none of them populated.
fn memfd(bytes: u64, size: MemfdFlags) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING | size;
    let fd = memfd_create("donated", flags)?;
    ftruncate(&fd, bytes)?;
    Ok(fd)
}

/// Hugetlb's pool with twice what a file takes, and a file.
fn donor() -> Result<(HugetlbPool, OwnedFd)> {
    let pool = HugetlbPool::of(HugeSize::MIB2, 2 * PAGES)?;
    ensure!(pool.total()? == 2 * PAGES, "hugetlb has {}", pool.total()?);
    Ok((pool, memfd(LEN as u64, MemfdFlags::HUGE_2MB)?))
}

fn import_all(device: &Device, file: &OwnedFd) -> Result<DeviceBuffer, DeviceError> {
    device.import(file.as_fd(), 0, LEN as u64)
}

fn donated(device: &Device) -> Result<u64> {
    Ok(device.stats(HugeSize::MIB2, None)?.donated)
}

fn number<T: std::fmt::Debug>(answer: Result<T, DeviceError>) -> i32 {
    answer.expect_err("it is refused").errno()
}

fn both_files_share_their_pages() -> Result<()> {
    let (pool, file) = donor()?;
    let device = Device::open()?;
    let before = device.stats(HugeSize::MIB2, None)?;
    let donor = Span::shared(&file, LEN)?;
    donor.stamp(1);
    let buffer = import_all(&device, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    ensure!(
        view.has_stamp(1, LEN),
        "the buffer has not what the donor wrote"
    );
    view.stamp(2);
    ensure!(
        donor.has_stamp(2, LEN),
        "the donor has not what came through the buffer"
    );

    let info = buffer.info()?;
    ensure!(
        info.bytes == LEN as u64 && info.capacity == LEN as u64 && info.populated == LEN as u64,
        "{info:?}"
    );
    ensure!(
        info.promised == 0 && info.rungs == u64::from(Info::RUNG_DONATED),
        "{info:?}"
    );
    let place = buffer.lookup(HUGE as u64 + 12)?;
    ensure!(
        place.size == HugeSize::MIB2 && place.physical % HUGE as u64 == 12,
        "{place:?}"
    );
    let after = device.stats(HugeSize::MIB2, None)?;
    ensure!(
        after.donated == LEN as u64,
        "{} bytes are donated",
        after.donated
    );
    let nodes = place.node.context("no node")?;
    ensure!(
        device.stats(HugeSize::MIB2, Some(nodes))?.donated > 0,
        "none of them on {nodes:?}"
    );
    ensure!(
        after.total == before.total && after.free == before.free,
        "they are no pool's: {after:?}"
    );
    super::rest::check().map_err(anyhow::Error::msg)?;

    drop((donor, file));
    ensure!(pool.free()? == PAGES, "the buffer holds them");
    drop((view, buffer));
    ensure!(pool.free()? == 2 * PAGES, "{} are free", pool.free()?);
    ensure!(donated(&device)? == 0);
    Ok(())
}

fn one_entry_and_one_fault_a_page() -> Result<()> {
    let (_pool, file) = donor()?;
    let buffer = import_all(&Device::open()?, &file)?;
    let view = Span::shared(&buffer, LEN)?;
    ensure!(view.address() % HUGE == 0, "at {:#x}", view.address());
    let before = faults();
    for at in (0..LEN).step_by(4096) {
        view.write(at, 1);
    }
    let took = faults() - before;
    // One each, and what the code of this program takes.
    ensure!(took <= PAGES as i64 + 4, "{took} faults");
    let leaves = view.leaves()?;
    ensure!(
        (leaves.pud, leaves.pmd, leaves.pte) == (0, PAGES, 0),
        "{leaves:?}"
    );
    Ok(())
}

fn holes_of_the_file_get_pages() -> Result<()> {
    let (pool, file) = donor()?;
    ensure!(pool.free()? == 2 * PAGES);
    let buffer = import_all(&Device::open()?, &file)?;
    ensure!(pool.free()? == PAGES, "{} are free", pool.free()?);
    let view = Span::shared(&buffer, LEN)?;
    ensure!((0..LEN).step_by(8).all(|at| view.word(at) == 0), "not zero");
    view.stamp(3);
    ensure!(Span::shared(&file, LEN)?.has_stamp(3, LEN));
    Ok(())
}

fn a_part_of_a_file_can_be_imported() -> Result<()> {
    let (_pool, file) = donor()?;
    let donor = Span::shared(&file, LEN)?;
    donor.stamp(4);
    let device = Device::open()?;
    let buffer = device.import(file.as_fd(), HUGE as u64, 2 * HUGE as u64)?;
    ensure!(buffer.size()? == 2 * HUGE as u64);
    let view = Span::shared(&buffer, 2 * HUGE)?;
    for at in (0..2 * HUGE).step_by(4096) {
        ensure!(
            view.word(at) == 4 ^ (at + HUGE) as u64,
            "byte {at} is another's"
        );
    }
    Ok(())
}

fn a_gibibyte_page_is_imported() -> Result<()> {
    const GIB: usize = 1 << 30;
    if !fs::exists("/sys/kernel/mm/hugepages/hugepages-1048576kB")? {
        return skip("this processor has no 1 GiB pages");
    }
    let pool = HugetlbPool::of(HugeSize::GIB1, 1)?;
    if pool.total()? == 0 {
        return skip(crate::skip::NO_FREE_GIB);
    }
    let file = memfd(GIB as u64, MemfdFlags::HUGE_1GB)?;
    let buffer = Device::open()?.import(file.as_fd(), 0, GIB as u64)?;
    let view = Span::shared(&buffer, GIB)?;
    ensure!(view.address() % GIB == 0, "at {:#x}", view.address());
    let before = faults();
    for at in (0..GIB).step_by(HUGE) {
        view.write(at, at as u64);
    }
    // One, and what the code of this program takes.
    let took = faults() - before;
    ensure!(took <= 4, "{took} faults");
    let leaves = view.leaves()?;
    ensure!(
        (leaves.pud, leaves.pmd, leaves.pte) == (1, 0, 0),
        "{leaves:?}"
    );
    let refused = view.unmap(HUGE / 2, HUGE).expect_err("a part of a page");
    ensure!(refused.raw_os_error() == Some(libc::EINVAL), "{refused}");
    let donor = Span::shared(&file, GIB)?;
    ensure!((0..GIB).step_by(HUGE).all(|at| donor.word(at) == at as u64));
    drop((donor, view, buffer, file));
    ensure!(pool.free()? == 1, "it is hugetlb's again");
    Ok(())
}
