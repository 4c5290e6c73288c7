// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A page that somebody holds without a mapping: it goes to limbo, its content stays the holder's, and it comes back when the
//! last reference goes.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use htlb_user::buffer::Populate;
use rustix::io::Errno;
use rustix::system::delete_module;

use super::super::area::{Area, BASE, HUGE};
use super::super::holders::{pipe, splice};
use super::super::mappings::access::transfer;
use super::super::mappings::{mapped, sized};
use super::super::quiet::quiet_cases;
use super::super::uring::Ring;
use super::super::{skip, Case, Module};
use super::{expect_in_limbo, pool};

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        what_is_in_a_pipe_is_nobody_elses,
        what_a_ring_holds_is_nobody_elses,
        a_truncated_page_that_is_held_is_nobody_elses,
        a_buffer_can_end_while_its_pages_are_held,
        pages_come_back_though_nobody_asks_for_them,
        a_held_page_is_no_page_for_a_promise,
    ]
}

/// Unloading takes the module from the others.
pub(super) fn last_cases() -> Vec<Case> {
    vec![Case::new(
        "the_module_stays_while_something_of_it_lives",
        the_module_stays_while_something_of_it_lives,
    )]
}

/// Fills every page that the pool has left with other stamps, twice.
fn use_what_is_free(stamp: u64) -> Result<()> {
    for round in 0..2 {
        let free = pool()?.available as usize;
        if free > 0 {
            let others = sized(free, 0, Populate::Now)?;
            let area = Area::shared(&others, free)?;
            area.expect_zeroes(area.all())?;
            area.stamp(area.all(), stamp + round);
            area.expect(area.all(), stamp + round)?;
        }
    }
    Ok(())
}

/// The first numbers of two base pages, read from a pipe.
fn numbers(mut pipe: impl Read) -> Result<[u64; 2]> {
    let mut bytes = vec![0_u8; 2 * BASE];
    pipe.read_exact(&mut bytes)?;
    let number =
        |at: usize| -> Result<u64> { Ok(u64::from_ne_bytes(bytes[at..at + 8].try_into()?)) };
    Ok([number(0)?, number(BASE)?])
}

fn what_is_in_a_pipe_is_nobody_elses() -> Result<()> {
    let (buffer, area) = mapped(2, 141)?;
    let before = pool()?;
    let (reader, writer) = pipe()?;
    ensure!(splice(&writer, &area, HUGE + BASE..HUGE + 3 * BASE)? == 2 * BASE);
    let expected = [area.read(HUGE + BASE), area.read(HUGE + 2 * BASE)];
    let held = buffer.lookup(HUGE as u64)?.physical;
    buffer.punch(0, 2 * HUGE as u64)?;
    expect_in_limbo(1)?;
    ensure!(pool()?.free == before.free + HUGE as u64);
    area.expect_zeroes(area.all())?;
    ensure!(buffer.lookup(HUGE as u64)?.physical != held);
    area.stamp(area.all(), 142);
    use_what_is_free(143)?;
    expect_in_limbo(1)?;
    ensure!(
        numbers(reader)? == expected,
        "the pipe has another page's content"
    );
    drop(writer);
    drop((area, buffer));
    expect_in_limbo(0)
}

fn what_a_ring_holds_is_nobody_elses() -> Result<()> {
    let Some(mut ring) = Ring::new()? else {
        return skip("this kernel has no io_uring");
    };
    let (buffer, area) = mapped(3, 144)?;
    let expected = [area.read(BASE), area.read(2 * BASE)];
    ring.register(&area, 0..2 * HUGE)?;
    buffer.punch(0, 3 * HUGE as u64)?;
    expect_in_limbo(2)?;
    area.expect_zeroes(area.all())?;
    area.stamp(area.all(), 145);
    use_what_is_free(146)?;
    let path = "/tmp/htlb-held";
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    // The ring goes by the addresses that were registered, and by the pages that were behind them then.
    ensure!(ring.write_fixed(file.as_fd(), &area, BASE..3 * BASE)? == 2 * BASE);
    let copy = Area::anonymous(2 * BASE)?;
    ensure!(transfer(&file, &copy, 0, 2 * BASE, 0, false)? == 2 * BASE);
    ensure!(
        [copy.read(0), copy.read(BASE)] == expected,
        "the ring has another page's content"
    );
    fs::remove_file(path)?;
    expect_in_limbo(2)?;
    ring.unregister()?;
    come_back()?;
    area.expect(area.all(), 145)
}

/// Waits for what is in limbo; letting go of it may take the kernel a moment.
fn come_back() -> Result<()> {
    let began = Instant::now();
    while pool()?.limbo != 0 {
        if began.elapsed() > Duration::from_secs(10) {
            bail!("{} bytes are still in limbo", pool()?.limbo);
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn a_truncated_page_that_is_held_is_nobody_elses() -> Result<()> {
    let (buffer, area) = mapped(2, 147)?;
    let (reader, writer) = pipe()?;
    ensure!(splice(&writer, &area, HUGE..HUGE + 2 * BASE)? == 2 * BASE);
    let expected = [area.read(HUGE), area.read(HUGE + BASE)];
    buffer.truncate(HUGE as u64)?;
    expect_in_limbo(1)?;
    buffer.truncate(2 * HUGE as u64)?;
    area.expect_zeroes(HUGE..2 * HUGE)?;
    use_what_is_free(148)?;
    ensure!(numbers(reader)? == expected);
    come_back()
}

fn a_buffer_can_end_while_its_pages_are_held() -> Result<()> {
    let (reader, writer) = pipe()?;
    let expected = {
        let (_buffer, area) = mapped(2, 149)?;
        ensure!(splice(&writer, &area, 0..BASE)? == BASE);
        ensure!(splice(&writer, &area, HUGE..HUGE + BASE)? == BASE);
        [area.read(0), area.read(HUGE)]
    };
    expect_in_limbo(2)?;
    use_what_is_free(150)?;
    ensure!(numbers(reader)? == expected);
    drop(writer);
    come_back()
}

fn pages_come_back_though_nobody_asks_for_them() -> Result<()> {
    let (reader, writer) = pipe()?;
    {
        let (_buffer, area) = mapped(2, 151)?;
        ensure!(splice(&writer, &area, 0..BASE)? == BASE);
    }
    // The state for people does not look whether somebody has let go.
    let in_limbo = || -> Result<bool> {
        let state = fs::read_to_string(super::super::rest::STATE)?;
        let line = state.lines().find(|line| line.starts_with("2048 KiB"));
        Ok(!line.context("no line for 2 MiB")?.contains("0 in limbo"))
    };
    ensure!(in_limbo()?);
    drop((reader, writer));
    let began = Instant::now();
    while in_limbo()? {
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "it is in limbo for ever"
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn a_held_page_is_no_page_for_a_promise() -> Result<()> {
    let all = pool()?.available as usize;
    let (reader, writer) = pipe()?;
    {
        let (_buffer, area) = mapped(1, 152)?;
        ensure!(splice(&writer, &area, 0..BASE)? == BASE);
    }
    expect_in_limbo(1)?;
    ensure!(pool()?.available as usize == all - HUGE);
    ensure!(sized(all, 0, Populate::Later).is_err());
    drop(sized(all - HUGE, 0, Populate::Now)?);
    drop((reader, writer));
    // The last holder let go, and the first who asks gets the page.
    drop(sized(all, 0, Populate::Now)?);
    Ok(())
}

/// One attempt, without waiting.
fn unload() -> Result<(), Errno> {
    delete_module(c"htlb", libc::O_NONBLOCK)
}

fn the_module_stays_while_something_of_it_lives() -> Result<()> {
    let probe = Module::new("htlb_probe", "");
    let module = Module::new("htlb", "pages_2m=16 overcommit_2m=0");
    probe.unload()?;
    let (reader, writer) = pipe()?;
    let (buffer, area) = mapped(1, 153)?;
    ensure!(unload() == Err(Errno::AGAIN), "with a buffer and a mapping");
    drop(area);
    ensure!(unload() == Err(Errno::AGAIN), "with a buffer");
    let area = Area::shared(&buffer, HUGE)?;
    drop(buffer);
    ensure!(unload() == Err(Errno::AGAIN), "with a mapping");
    area.stamp(area.all(), 154);
    ensure!(splice(&writer, &area, 0..BASE)? == BASE);
    drop(area);
    for _ in 0..20 {
        ensure!(
            unload() == Err(Errno::AGAIN),
            "with a page that a pipe holds"
        );
        sleep(Duration::from_millis(50));
    }
    drop((reader, writer));
    // Nobody asks for the page, and yet it comes back.
    module.unload()?;
    module.load()?;
    probe.load()
}
