// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Private mappings: writes go to copies, and to nobody else.

use anyhow::Result;

use super::super::area::{Area, BASE, HUGE, RW};
use super::super::child::Child;
use super::super::quiet::quiet_cases;
use super::super::Case;
use super::mapped;

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        a_private_write_changes_no_shared_page,
        a_private_reader_sees_what_others_write_later,
        a_first_touch_that_writes_copies_too,
        a_fork_shares_copies_until_one_writes,
        copies_outlive_the_buffers_file,
        advice_drops_copies_and_shows_the_buffer_again,
    ]
}

fn a_private_write_changes_no_shared_page() -> Result<()> {
    let (buffer, shared) = mapped(2, 61)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    private.expect(private.all(), 61)?;
    private.expect_huge(2 * HUGE)?;
    private.stamp(HUGE..HUGE + BASE, 62);
    private.expect(0..HUGE, 61)?;
    private.expect(HUGE..HUGE + BASE, 62)?;
    private.expect(HUGE + BASE..2 * HUGE, 61)?;
    // The huge page with the copy is reached by base entries now, the other one as before.
    private.expect_huge(HUGE)?;
    shared.expect(shared.all(), 61)?;
    shared.expect_huge(2 * HUGE)?;
    let again = Area::private(&buffer, 2 * HUGE)?;
    again.expect(again.all(), 61)
}

fn a_private_reader_sees_what_others_write_later() -> Result<()> {
    let (buffer, shared) = mapped(2, 63)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    private.expect(private.all(), 63)?;
    private.stamp(0..BASE, 64);
    shared.stamp(shared.all(), 65);
    private.expect(0..BASE, 64)?;
    private.expect(BASE..2 * HUGE, 65)?;
    let reader = Area::map(&buffer, 0, 2 * HUGE, libc::PROT_READ, libc::MAP_PRIVATE)?;
    reader.expect(reader.all(), 65)?;
    reader.expect_huge(2 * HUGE)
}

fn a_first_touch_that_writes_copies_too() -> Result<()> {
    let (buffer, shared) = mapped(2, 66)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    private.stamp(private.all(), 67);
    private.expect(private.all(), 67)?;
    private.expect_huge(0)?;
    shared.expect(shared.all(), 66)?;
    shared.expect_huge(2 * HUGE)?;
    // Made to write at once, by the kernel.
    let ahead = Area::map(
        &buffer,
        0,
        2 * HUGE,
        RW,
        libc::MAP_PRIVATE | libc::MAP_POPULATE,
    )?;
    ahead.expect(ahead.all(), 66)?;
    ahead.stamp(ahead.all(), 68);
    shared.expect(shared.all(), 66)
}

fn a_fork_shares_copies_until_one_writes() -> Result<()> {
    let (buffer, shared) = mapped(2, 69)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    private.expect(private.all(), 69)?;
    private.stamp(0..2 * BASE, 70);
    Child::start(|| {
        private.expect(0..2 * BASE, 70)?;
        private.expect(2 * BASE..2 * HUGE, 69)?;
        private.stamp(BASE..3 * BASE, 71);
        private.stamp(HUGE..HUGE + BASE, 71);
        private.expect(0..BASE, 70)?;
        private.expect(BASE..3 * BASE, 71)?;
        shared.expect(shared.all(), 69)
    })?
    .succeeds()?;
    private.expect(0..2 * BASE, 70)?;
    private.expect(2 * BASE..2 * HUGE, 69)?;
    private.stamp(0..BASE, 72);
    shared.expect(shared.all(), 69)
}

fn copies_outlive_the_buffers_file() -> Result<()> {
    let (buffer, shared) = mapped(1, 73)?;
    let private = Area::private(&buffer, HUGE)?;
    private.stamp(0..BASE, 74);
    drop(shared);
    drop(buffer);
    private.expect(0..BASE, 74)?;
    private.expect(BASE..HUGE, 73)
}

fn advice_drops_copies_and_shows_the_buffer_again() -> Result<()> {
    let (buffer, shared) = mapped(1, 75)?;
    let private = Area::private(&buffer, HUGE)?;
    private.stamp(private.all(), 76);
    private.advise(0..HUGE, libc::MADV_DONTNEED)?;
    private.expect(private.all(), 75)?;
    shared.expect_huge(HUGE)
}
