// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Parts of a huge page are unmapped, moved and protected.

use anyhow::{ensure, Result};

use super::super::area::{expect_errno, Area, BASE, HUGE, RW};
use super::super::child::dies_of;
use super::super::quiet::quiet_cases;
use super::super::Case;
use super::mapped;

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        the_rest_of_a_huge_page_stays_when_a_part_is_unmapped,
        an_area_moves_with_its_huge_entries,
        an_area_moves_to_where_huge_entries_cannot_be,
        a_part_of_a_huge_page_moves,
        an_area_shrinks_but_does_not_grow,
        a_part_of_a_huge_page_is_protected,
        everything_is_protected,
    ]
}

/// Not at an edge of anything.
const PART: usize = 16 * BASE;

fn the_rest_of_a_huge_page_stays_when_a_part_is_unmapped() -> Result<()> {
    for gone in [
        HUGE..HUGE + PART,
        HUGE + PART..2 * HUGE - PART,
        2 * HUGE - PART..2 * HUGE,
    ] {
        let (buffer, area) = mapped(3, 21)?;
        area.unmap(gone.clone())?;
        // The pages to both sides are as they were.
        area.expect_huge(2 * HUGE)?;
        area.expect(0..gone.start, 21)?;
        area.expect(gone.end..3 * HUGE, 21)?;
        dies_of(libc::SIGSEGV, || area.read(gone.start))?;
        dies_of(libc::SIGSEGV, || area.write(gone.end - 8, 1))?;
        area.stamp(gone.end.min(2 * HUGE)..3 * HUGE, 22);
        let again = Area::shared(&buffer, 3 * HUGE)?;
        again.expect(0..gone.end, 21)?;
        again.expect(gone.end..3 * HUGE, 22)?;
        again.expect_huge(3 * HUGE)?;
    }
    Ok(())
}

fn an_area_moves_with_its_huge_entries() -> Result<()> {
    let (buffer, area) = mapped(2, 23)?;
    let room = Area::reservation(4 * HUGE)?;
    let to = room.start().next_multiple_of(HUGE);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let moved = area.remap(area.all(), 2 * HUGE, flags, to)?;
    ensure!(moved.start() == to);
    moved.expect(moved.all(), 23)?;
    moved.expect_huge(2 * HUGE)?;
    dies_of(libc::SIGSEGV, || area.read(0))?;
    buffer.punch(0, HUGE as u64)?;
    moved.expect_zeroes(0..HUGE)?;
    moved.expect(HUGE..2 * HUGE, 23)
}

fn an_area_moves_to_where_huge_entries_cannot_be() -> Result<()> {
    let (buffer, area) = mapped(2, 24)?;
    let room = Area::reservation(4 * HUGE)?;
    let to = room.start().next_multiple_of(HUGE) + BASE;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let moved = area.remap(area.all(), 2 * HUGE, flags, to)?;
    moved.expect(moved.all(), 24)?;
    moved.expect_huge(0)?;
    buffer.punch(HUGE as u64, HUGE as u64)?;
    moved.expect(0..HUGE, 24)?;
    moved.expect_zeroes(HUGE..2 * HUGE)
}

fn a_part_of_a_huge_page_moves() -> Result<()> {
    let (_buffer, area) = mapped(2, 25)?;
    let room = Area::reservation(2 * HUGE)?;
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let part = HUGE + PART..HUGE + 2 * PART;
    let moved = area.remap(part.clone(), PART, flags, room.start())?;
    moved.expect(moved.all(), 25)?;
    area.expect(0..part.start, 25)?;
    area.expect(part.end..2 * HUGE, 25)?;
    area.expect_huge(HUGE)?;
    dies_of(libc::SIGSEGV, || area.read(part.start))
}

fn an_area_shrinks_but_does_not_grow() -> Result<()> {
    let (_buffer, area) = mapped(3, 26)?;
    let small = area.remap(area.all(), HUGE + PART, 0, 0)?;
    ensure!(small.start() == area.start());
    small.expect(small.all(), 26)?;
    small.expect_huge(HUGE)?;
    dies_of(libc::SIGSEGV, || area.read(2 * HUGE))?;
    expect_errno(
        small.remap(small.all(), 3 * HUGE, libc::MREMAP_MAYMOVE, 0),
        libc::EFAULT,
    )?;
    expect_errno(small.remap(small.all(), 2 * HUGE, 0, 0), libc::EFAULT)?;
    // A second mapping of the same, by the length 0, would be one that grew.
    expect_errno(
        small.remap(0..0, HUGE, libc::MREMAP_MAYMOVE, 0),
        libc::EFAULT,
    )?;
    let keeps = libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP;
    expect_errno(
        small.remap(small.all(), HUGE + PART, keeps, 0),
        libc::EINVAL,
    )?;
    small.expect(small.all(), 26)
}

fn a_part_of_a_huge_page_is_protected() -> Result<()> {
    let (buffer, area) = mapped(2, 27)?;
    let part = PART..2 * PART;
    area.protect(part.clone(), libc::PROT_READ)?;
    area.expect(area.all(), 27)?;
    area.expect_huge(HUGE)?;
    dies_of(libc::SIGSEGV, || area.write(part.start, 1))?;
    area.stamp(0..part.start, 28);
    area.stamp(part.end..2 * HUGE, 28);
    area.protect(part.clone(), RW)?;
    area.expect(part.clone(), 27)?;
    area.stamp(part, 28);
    let again = Area::shared(&buffer, 2 * HUGE)?;
    again.expect(again.all(), 28)
}

fn everything_is_protected() -> Result<()> {
    let (buffer, area) = mapped(2, 29)?;
    area.protect(area.all(), libc::PROT_NONE)?;
    dies_of(libc::SIGSEGV, || area.read(HUGE))?;
    area.protect(area.all(), libc::PROT_READ)?;
    area.expect(area.all(), 29)?;
    area.expect_huge(2 * HUGE)?;
    dies_of(libc::SIGSEGV, || area.write(HUGE, 1))?;
    area.protect(area.all(), RW)?;
    area.stamp(area.all(), 30);
    let reader = Area::map(&buffer, 0, 2 * HUGE, libc::PROT_READ, libc::MAP_SHARED)?;
    reader.expect(reader.all(), 30)?;
    reader.expect_huge(2 * HUGE)?;
    dies_of(libc::SIGSEGV, || reader.write(0, 1))?;
    expect_errno(
        area.protect(area.all(), libc::PROT_READ | libc::PROT_EXEC),
        libc::EACCES,
    )
}
