// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What everybody sees after a punch and after a truncate.

use anyhow::{ensure, Result};
use htlb_user::buffer::Populate;

use super::super::area::{Area, BASE, HUGE};
use super::super::child::{dies_of, Child};
use super::super::mappings::{mapped, sized};
use super::super::quiet::quiet_cases;
use super::super::Case;

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        a_punch_is_seen_by_every_process,
        private_copies_stay_when_a_page_is_punched,
        private_copies_go_when_a_buffer_is_truncated,
        a_truncate_ends_every_mapping_at_the_new_end,
        a_buffer_that_grew_again_shows_zeroes,
        a_punched_promise_is_given_up,
    ]
}

fn a_punch_is_seen_by_every_process() -> Result<()> {
    let (buffer, area) = mapped(4, 121)?;
    let signal = Area::anonymous(BASE)?;
    let children: Vec<Child> = (0..3)
        .map(|number: usize| {
            Ok(Child::start(|| {
                area.expect(area.all(), 121)?;
                signal.write(8 * (number + 1), 1);
                while signal.read(0) == 0 {
                    std::thread::yield_now();
                }
                area.expect(0..HUGE, 121)?;
                area.expect_zeroes(HUGE..3 * HUGE)?;
                area.expect(3 * HUGE..4 * HUGE, 121)
            })?)
        })
        .collect::<Result<_>>()?;
    while (1..4).any(|number| signal.read(8 * number) == 0) {
        std::thread::yield_now();
    }
    let again = Area::shared(&buffer, 4 * HUGE)?;
    again.expect(again.all(), 121)?;
    let cut = buffer.punch(HUGE as u64, 2 * HUGE as u64)?;
    ensure!(cut.removed == 2 * HUGE as u64, "{cut:?}");
    area.expect_huge(2 * HUGE)?;
    again.expect_huge(2 * HUGE)?;
    signal.write(0, 1);
    for child in children {
        child.succeeds()?;
    }
    area.expect_zeroes(HUGE..3 * HUGE)?;
    again.expect_zeroes(HUGE..3 * HUGE)?;
    area.expect_huge(4 * HUGE)
}

fn private_copies_stay_when_a_page_is_punched() -> Result<()> {
    let (buffer, shared) = mapped(2, 122)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    private.expect(private.all(), 122)?;
    private.stamp(0..4 * BASE, 123);
    buffer.punch(0, 2 * HUGE as u64)?;
    private.expect(0..4 * BASE, 123)?;
    private.expect_zeroes(4 * BASE..2 * HUGE)?;
    shared.expect_zeroes(shared.all())
}

fn private_copies_go_when_a_buffer_is_truncated() -> Result<()> {
    let (buffer, _shared) = mapped(2, 124)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    private.stamp(private.all(), 125);
    buffer.truncate((HUGE + 2 * BASE) as u64)?;
    private.expect(0..HUGE + 2 * BASE, 125)?;
    dies_of(libc::SIGBUS, || private.read(HUGE + 2 * BASE))?;
    buffer.truncate(HUGE as u64)?;
    dies_of(libc::SIGBUS, || private.read(HUGE))?;
    dies_of(libc::SIGBUS, || private.write(2 * HUGE - 8, 1))?;
    buffer.truncate(2 * HUGE as u64)?;
    private.expect_zeroes(HUGE..2 * HUGE)?;
    private.expect(0..HUGE, 125)
}

fn a_truncate_ends_every_mapping_at_the_new_end() -> Result<()> {
    let (buffer, area) = mapped(3, 126)?;
    let before = super::pool()?.free;
    let end = HUGE + 3 * BASE;
    let cut = buffer.truncate(end as u64)?;
    ensure!(cut.removed == HUGE as u64, "{cut:?}");
    ensure!(buffer.size()? == end as u64);
    ensure!(super::pool()?.free == before + HUGE as u64);
    area.expect(0..end, 126)?;
    // The page that is cut is reached by base entries from now on.
    area.expect_huge(HUGE)?;
    for at in [end, 2 * HUGE - 8, 2 * HUGE, 3 * HUGE - 8] {
        dies_of(libc::SIGBUS, || area.read(at))?;
        dies_of(libc::SIGBUS, || area.write(at, 1))?;
    }
    area.stamp(0..end, 127);
    buffer.truncate(0)?;
    dies_of(libc::SIGBUS, || area.read(0))?;
    area.expect_huge(0)
}

fn a_buffer_that_grew_again_shows_zeroes() -> Result<()> {
    let (buffer, area) = mapped(3, 128)?;
    let inside = 100;
    let end = HUGE + 3 * BASE + inside;
    buffer.truncate(end as u64)?;
    // The base page with the end can be written to, beyond the end too.
    let last = end.next_multiple_of(BASE);
    area.write(last - 8, 0x1234);
    let first = area.read(HUGE + 3 * BASE);
    buffer.truncate(3 * HUGE as u64)?;
    area.expect(0..HUGE + 3 * BASE, 128)?;
    ensure!(area.read(HUGE + 3 * BASE) == first && first != 0);
    for at in (end.next_multiple_of(8)..last).step_by(8) {
        ensure!(area.read(at) == 0, "byte {at:#x} is {:#x}", area.read(at));
    }
    area.expect_zeroes(last..3 * HUGE)?;
    // A buffer whose size was never whole pages is the same.
    let odd = sized(HUGE + inside, 2 * HUGE, Populate::Now)?;
    let of_odd = Area::shared(&odd, 2 * HUGE)?;
    of_odd.write(HUGE + BASE - 8, 5);
    odd.truncate(2 * HUGE as u64)?;
    of_odd.expect_zeroes(HUGE..2 * HUGE)
}

fn a_punched_promise_is_given_up() -> Result<()> {
    let before = super::pool()?;
    let buffer = sized(4 * HUGE, 0, Populate::Later)?;
    let area = Area::shared(&buffer, 4 * HUGE)?;
    area.stamp(0..HUGE, 129);
    ensure!(super::pool()?.available == before.available - 4 * HUGE as u64);
    let cut = buffer.punch(0, 3 * HUGE as u64)?;
    ensure!(
        (cut.removed, cut.unpromised) == (HUGE as u64, 2 * HUGE as u64),
        "{cut:?}"
    );
    ensure!(super::pool()?.available == before.available - HUGE as u64);
    area.expect_zeroes(area.all())
}
