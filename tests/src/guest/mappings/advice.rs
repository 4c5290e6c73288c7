// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every advice that `madvise` knows, on a part of a huge page and on all of it: what it answers, what is left of the huge
//! entries, and that contents are as they were.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use htlb_core::HugeSize;
use htlb_user::device::Device;

use super::super::area::{expect_errno, Area, BASE, HUGE};
use super::super::child::{dies_of, Child};
use super::super::quiet::quiet_cases;
use super::super::{expect_in_log, skip, Case};
use super::mapped;

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        every_advice_is_taken_or_refused_and_changes_no_byte,
        every_advice_on_a_private_mapping_changes_no_shared_byte,
        what_is_not_to_be_forked_is_not_in_the_child,
        without_huge_pages_by_advice_the_entries_are_base_ones,
        a_memory_error_takes_one_page_out_for_good,
    ]
}

/// What is left of the huge entries of two pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Both.
    Both,
    /// None of what the advice was given on: a whole huge page where a part of it was meant.
    NotThere,
    /// Both, but for those of which only a part is an area of its own from now on.
    Split,
}
use Left::{Both, NotThere, Split};

const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

/// Advice on shared mappings, the number that it fails with, and what is left.
const ADVICE: &[(i32, i32, Left)] = &[
    (libc::MADV_NORMAL, 0, Both),
    (libc::MADV_RANDOM, 0, Split),
    (libc::MADV_SEQUENTIAL, 0, Split),
    (libc::MADV_WILLNEED, 0, Both),
    (libc::MADV_DONTNEED, 0, NotThere),
    (5, libc::EINVAL, Both),
    (6, libc::EINVAL, Both),
    (7, libc::EINVAL, Both),
    (libc::MADV_FREE, libc::EINVAL, Both),
    (libc::MADV_REMOVE, libc::ENODEV, Both),
    (libc::MADV_DONTFORK, 0, Split),
    (libc::MADV_DOFORK, libc::EINVAL, Both),
    (libc::MADV_HUGEPAGE, 0, Split),
    (libc::MADV_NOHUGEPAGE, 0, Split),
    (libc::MADV_DONTDUMP, 0, Both),
    (libc::MADV_DODUMP, libc::EINVAL, Both),
    (libc::MADV_WIPEONFORK, libc::EINVAL, Both),
    (libc::MADV_KEEPONFORK, 0, Both),
    (libc::MADV_COLD, 0, Both),
    (libc::MADV_PAGEOUT, 0, Both),
    (libc::MADV_POPULATE_READ, 0, Both),
    (libc::MADV_POPULATE_WRITE, 0, Both),
    (libc::MADV_DONTNEED_LOCKED, 0, NotThere),
    (libc::MADV_COLLAPSE, libc::EINVAL, Both),
    (26, libc::EINVAL, Both),
    (99, libc::EINVAL, Both),
    (GUARD_INSTALL, libc::EINVAL, Both),
    (GUARD_REMOVE, libc::EINVAL, Both),
    (104, libc::EINVAL, Both),
    (-1, libc::EINVAL, Both),
];

fn answers(area: &Area, range: std::ops::Range<usize>, advice: i32, errno: i32) -> Result<()> {
    let answer = area.advise(range, advice);
    match errno {
        0 => Ok(answer?),
        _ => expect_errno(answer, errno),
    }
}

fn every_advice_is_taken_or_refused_and_changes_no_byte() -> Result<()> {
    let same_pages_are_merged = Path::new("/sys/kernel/mm/ksm").exists();
    let merging = if same_pages_are_merged {
        0
    } else {
        libc::EINVAL
    };
    let more = [
        (libc::MADV_MERGEABLE, merging, Both),
        (libc::MADV_UNMERGEABLE, merging, Both),
    ];
    for (advice, errno, left) in ADVICE.iter().chain(&more) {
        for range in [8 * BASE..24 * BASE, 0..HUGE, 0..2 * HUGE] {
            let what = || format!("advice {advice} on {range:x?}");
            let (buffer, area) = mapped(2, 81)?;
            answers(&area, range.clone(), *advice, *errno).with_context(what)?;
            let gone = match left {
                Both => 0,
                NotThere => range.len().next_multiple_of(HUGE),
                Split if range.len() % HUGE != 0 => HUGE,
                Split => 0,
            };
            area.expect_huge(2 * HUGE - gone).with_context(what)?;
            area.expect(area.all(), 81).with_context(what)?;
            area.stamp(area.all(), 82);
            let again = Area::shared(&buffer, 2 * HUGE)?;
            again.expect(again.all(), 82).with_context(what)?;
            again.expect_huge(2 * HUGE).with_context(what)?;
            buffer.punch(0, 2 * HUGE as u64).with_context(what)?;
            area.expect_zeroes(area.all()).with_context(what)?;
        }
    }
    Ok(())
}

fn every_advice_on_a_private_mapping_changes_no_shared_byte() -> Result<()> {
    for (advice, _, _) in ADVICE {
        let (buffer, shared) = mapped(1, 83)?;
        let private = Area::private(&buffer, HUGE)?;
        private.expect(private.all(), 83)?;
        private.stamp(0..4 * BASE, 84);
        // Whether it is taken is the kernel's business; what it may lose is copies.
        let taken = private.advise(0..HUGE, *advice).is_ok();
        let drops = [libc::MADV_DONTNEED, libc::MADV_DONTNEED_LOCKED].contains(advice);
        let copies = if drops && taken { 83 } else { 84 };
        private
            .expect(0..4 * BASE, copies)
            .with_context(|| format!("advice {advice}"))?;
        private
            .expect(4 * BASE..HUGE, 83)
            .with_context(|| format!("advice {advice}"))?;
        shared
            .expect(shared.all(), 83)
            .with_context(|| format!("advice {advice}"))?;
        shared.expect_huge(HUGE)?;
    }
    Ok(())
}

fn what_is_not_to_be_forked_is_not_in_the_child() -> Result<()> {
    let (_buffer, area) = mapped(2, 85)?;
    area.advise(0..HUGE, libc::MADV_DONTFORK)?;
    Child::start(|| area.expect(HUGE..2 * HUGE, 85))?.succeeds()?;
    dies_of(libc::SIGSEGV, || area.read(0))?;
    area.expect(area.all(), 85)
}

fn without_huge_pages_by_advice_the_entries_are_base_ones() -> Result<()> {
    let (buffer, area) = mapped(2, 86)?;
    let other = Area::shared(&buffer, 2 * HUGE)?;
    other.advise(other.all(), libc::MADV_NOHUGEPAGE)?;
    other.expect(other.all(), 86)?;
    other.expect_huge(0)?;
    other.stamp(other.all(), 87);
    area.expect(area.all(), 87)?;
    buffer.punch(0, HUGE as u64)?;
    other.expect_zeroes(0..HUGE)?;
    other.expect(HUGE..2 * HUGE, 87)
}

fn a_memory_error_takes_one_page_out_for_good() -> Result<()> {
    if !Path::new("/proc/sys/vm/memory_failure_recovery").exists() {
        return skip("this kernel knows no memory errors");
    }
    expect_in_log("Memory failure")?;
    expect_in_log("Injecting memory failure")?;
    expect_in_log("has a memory error and is not used any more")?;
    let device = Device::open()?;
    let before = device.stats(HugeSize::MIB2, None)?;
    let (buffer, area) = mapped(2, 88)?;
    let bad = HUGE + 5 * BASE;
    // A page that only may go bad cannot be moved away: nothing changes.
    let moved = area.advise(bad..bad + BASE, libc::MADV_SOFT_OFFLINE);
    ensure!(moved.is_err(), "a page was moved away");
    area.expect(0..2 * HUGE, 88)?;
    let place = buffer.lookup(bad as u64)?;
    ensure!(place.size == HugeSize::MIB2, "{place:?}");
    // The page stays where it is, whatever the kernel says of its attempt to move it away.
    let _ = area.advise(bad..bad + BASE, libc::MADV_HWPOISON);
    area.expect(0..HUGE, 88)?;
    let again = Area::shared(&buffer, 2 * HUGE)?;
    again.expect(0..HUGE, 88)?;
    // A new entry for the bad page is a signal.
    let small = Area::map(&buffer, bad as u64, BASE, libc::PROT_READ, libc::MAP_SHARED)?;
    dies_of(libc::SIGBUS, || small.read(0))?;
    buffer.punch(HUGE as u64, HUGE as u64)?;
    again.expect_zeroes(HUGE..2 * HUGE)?;
    drop((small, again, area, buffer));
    let began = std::time::Instant::now();
    while began.elapsed().as_secs() < 5 {
        let after = device.stats(HugeSize::MIB2, None)?;
        if after.total + HUGE as u64 == before.total && after.free == after.total {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let state = fs::read_to_string(super::super::rest::STATE)?;
    ensure!(false, "the bad page is not out: {state}");
    Ok(())
}
