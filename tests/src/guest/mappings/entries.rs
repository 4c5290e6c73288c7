// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How many faults and which entries a mapping takes.

use std::fs;

use anyhow::{ensure, Context, Result};
use htlb_core::{ByteLen, HugeSize, Request};
use htlb_user::buffer::Populate;
use htlb_user::device::Device;

use super::super::area::{faults, Area, BASE, HUGE, RW};
use super::super::quiet::quiet_cases;
use super::super::Case;
use super::{buffer, mapped, sized};

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        one_fault_for_each_huge_page_whatever_the_setting_for_transparent_ones,
        no_fault_where_both_were_populated_ahead,
        an_offset_inside_a_huge_page_leaves_whole_pages_their_entries,
        a_misaligned_demand_for_an_address_gets_base_entries,
        a_demand_for_an_aligned_address_gets_huge_entries,
        base_pages_are_mapped_where_huge_ones_are_short,
        a_size_inside_a_huge_page_is_mapped_up_to_it,
    ]
}

const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// A setting of the kernel's, restored at the end.
struct Setting {
    file: String,
    before: String,
}

impl Setting {
    fn set(name: &str, value: &str) -> Result<Self> {
        let file = format!("{SETTINGS}/{name}");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        let chosen = text.split(['[', ']']).nth(1).context("nothing is chosen")?;
        let setting = Self {
            before: chosen.to_owned(),
            file,
        };
        fs::write(&setting.file, value)
            .with_context(|| format!("writing {value} to {}", setting.file))?;
        Ok(setting)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.before) {
            eprintln!("{}: {error}", self.file);
        }
    }
}

/// Touches every base page, and says how many faults that took.
fn touch(area: &Area) -> i64 {
    let before = faults();
    area.stamp(area.all(), 3);
    faults() - before
}

fn one_fault_for_each_huge_page_whatever_the_setting_for_transparent_ones() -> Result<()> {
    // What this process faults in of itself is in place afterwards.
    drop(mapped(1, 1)?);
    for (all, shared) in [
        ("always", "always"),
        ("madvise", "advise"),
        ("never", "never"),
    ] {
        let _all = Setting::set("enabled", all)?;
        let _shared = Setting::set("shmem_enabled", shared)?;
        let _size = Setting::set("hugepages-2048kB/enabled", all)?;
        for populate in [Populate::Now, Populate::Later] {
            let buffer = sized(4 * HUGE, 0, populate)?;
            let area = Area::shared(&buffer, 4 * HUGE)?;
            let took = touch(&area);
            ensure!((1..=4).contains(&took), "{took} faults with {all}");
            area.expect_huge(4 * HUGE).context(all)?;
            area.expect(area.all(), 3)?;
        }
    }
    Ok(())
}

fn no_fault_where_both_were_populated_ahead() -> Result<()> {
    drop(mapped(1, 1)?);
    let buffer = sized(4 * HUGE, 0, Populate::Later)?;
    ensure!(buffer.populate(0, 4 * HUGE as u64)? == 4 * HUGE as u64);
    let area = Area::map(
        &buffer,
        0,
        4 * HUGE,
        RW,
        libc::MAP_SHARED | libc::MAP_POPULATE,
    )?;
    let took = touch(&area);
    ensure!(took == 0, "{took} faults");
    area.expect_huge(4 * HUGE)?;
    area.expect(area.all(), 3)
}

fn an_offset_inside_a_huge_page_leaves_whole_pages_their_entries() -> Result<()> {
    let (buffer, whole) = mapped(4, 5)?;
    let area = Area::map(&buffer, BASE as u64, 3 * HUGE, RW, libc::MAP_SHARED)?;
    ensure!(area.start() % HUGE == BASE, "at {:#x}", area.start());
    area.expect(area.all(), 5)?;
    area.expect_huge(2 * HUGE)?;
    area.stamp(area.all(), 6);
    whole.expect(BASE..3 * HUGE + BASE, 6)?;
    whole.expect(0..BASE, 5)
}

fn a_misaligned_demand_for_an_address_gets_base_entries() -> Result<()> {
    let (buffer, whole) = mapped(2, 7)?;
    let room = Area::reservation(4 * HUGE)?;
    let aligned = room.start().next_multiple_of(HUGE);
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let area = Area::map_at(aligned + BASE, &buffer, 0, 2 * HUGE, RW, flags)?;
    area.expect(area.all(), 7)?;
    area.expect_huge(0)?;
    area.stamp(HUGE - BASE..HUGE + BASE, 8);
    whole.expect(HUGE - BASE..HUGE + BASE, 8)?;
    whole.expect_huge(2 * HUGE)
}

fn a_demand_for_an_aligned_address_gets_huge_entries() -> Result<()> {
    let (buffer, _whole) = mapped(2, 9)?;
    let room = Area::reservation(4 * HUGE)?;
    let aligned = room.start().next_multiple_of(HUGE);
    let flags = libc::MAP_SHARED | libc::MAP_FIXED;
    let area = Area::map_at(aligned, &buffer, 0, 2 * HUGE, RW, flags)?;
    ensure!(area.start() == aligned);
    area.expect(area.all(), 9)?;
    area.expect_huge(2 * HUGE)
}

fn base_pages_are_mapped_where_huge_ones_are_short() -> Result<()> {
    let device = Device::open()?;
    let free = device.stats(HugeSize::MIB2, None)?.free as usize;
    let taken = buffer(free / HUGE - 2)?;
    let bytes = 2 * HUGE + 64 * BASE;
    let request = Request::builder(ByteLen::new(bytes as u64))
        .page_size(HugeSize::MIB2)
        .build()
        .map_err(std::io::Error::from)?;
    // Two huge pages and the rest in base pages; then base pages alone.
    for huge in [2, 0] {
        let _others = buffer(2 - huge).ok();
        let mixed = device.create(&request, ByteLen::ZERO, Populate::Later)?;
        let parts = mixed.parts()?;
        let of_huge = parts.iter().filter(|part| part.size == HugeSize::MIB2);
        let found: u64 = of_huge.map(|part| part.bytes).sum();
        ensure!(found as usize == huge * HUGE, "{parts:?}");
        let area = Area::shared(&mixed, bytes)?;
        area.stamp(area.all(), 11);
        area.expect_huge(huge * HUGE)?;
        let again = Area::shared(&mixed, bytes)?;
        again.expect(again.all(), 11)?;
        let copies = Area::private(&mixed, bytes)?;
        copies.stamp(copies.all(), 12);
        area.expect(area.all(), 11)?;
        mixed.punch(2 * HUGE as u64, 64 * BASE as u64)?;
        again.expect_zeroes(2 * HUGE..bytes)?;
        copies.expect(copies.all(), 12)?;
    }
    drop(taken);
    Ok(())
}

fn a_size_inside_a_huge_page_is_mapped_up_to_it() -> Result<()> {
    let bytes = HUGE + 3 * BASE;
    let buffer = sized(bytes, 0, Populate::Now)?;
    let area = Area::shared(&buffer, 2 * HUGE)?;
    area.stamp(0..bytes, 13);
    area.expect_huge(HUGE)?;
    super::super::child::dies_of(libc::SIGBUS, || area.read(bytes))?;
    super::super::child::dies_of(libc::SIGBUS, || area.write(2 * HUGE - 8, 1))?;
    area.expect(0..bytes, 13)
}
