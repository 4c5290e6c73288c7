// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Whoever waits for a page that somebody else has in hand: to be woken, to be killed, to be refused.

use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer};

use super::super::area::{Area, BASE, HUGE};
use super::super::child::{Child, Ended};
use super::super::mappings::sized;
use super::super::probe::Probe;
use super::super::quiet::quiet_cases;
use super::super::{rest, Case};

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        those_who_wait_for_a_page_are_woken,
        those_who_wait_for_a_page_can_be_killed,
        a_page_that_was_not_filled_is_asked_for_again,
        a_producer_can_be_killed,
        the_books_are_looked_at_while_others_wait,
        a_file_closed_by_those_who_wait_stays_until_they_have_gone,
        processes_killed_anywhere_leave_nothing.within(90),
    ]
}

/// A producer, in a child, that has the first page of a buffer in hand.
fn in_hand(buffer: &DeviceBuffer) -> Result<(Probe, Child)> {
    let probe = Probe::open()?;
    let child = Child::start(|| Ok(probe.fill(buffer.as_fd(), 0, HUGE as u64)?))?;
    let page = probe.next()?.context("no page to fill")?;
    ensure!(page.offset == 0 && page.len == HUGE as u64, "{page:?}");
    Ok((probe, child))
}

/// Gives children the time to come to where they wait.
fn settle() {
    sleep(Duration::from_millis(300));
}

/// Everybody who can wait for the first page: a touch, a write, a copy of its own, the kernel on behalf of a call, and an ioctl.
fn waiters<'a>(
    buffer: &'a DeviceBuffer,
    area: &'a Area,
    private: &'a Area,
) -> Vec<Box<dyn Fn() -> Result<()> + 'a>> {
    vec![
        Box::new(|| {
            let _touched = area.read(2 * BASE);
            Ok(())
        }),
        Box::new(|| {
            area.write(3 * BASE, 3);
            Ok(())
        }),
        Box::new(|| {
            private.write(4 * BASE, 4);
            Ok(())
        }),
        Box::new(|| Ok(area.advise(0..HUGE, libc::MADV_POPULATE_WRITE)?)),
        Box::new(|| {
            // The kernel writes there, in the middle of a call.
            let (reader, writer) = super::super::holders::pipe()?;
            std::io::Write::write_all(&mut &writer, &[7; 8])?;
            ensure!(super::super::mappings::access::receive(&reader, area, 5 * BASE, 8)? == 8);
            Ok(())
        }),
        Box::new(|| {
            buffer.populate(0, HUGE as u64)?;
            Ok(())
        }),
    ]
}

fn those_who_wait_for_a_page_are_woken() -> Result<()> {
    let buffer = sized(2 * HUGE, 0, Populate::Later)?;
    let area = Area::shared(&buffer, 2 * HUGE)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    let (probe, producer) = in_hand(&buffer)?;
    let children = waiters(&buffer, &area, &private)
        .iter()
        .map(|wait| Ok(Child::start(wait)?))
        .collect::<Result<Vec<Child>>>()?;
    settle();
    // Nothing is left to promise where a page is coming.
    ensure!(buffer.reserve(0, HUGE as u64)? == 0);
    // Another page is nobody's to wait for.
    area.stamp(HUGE..2 * HUGE, 181);
    probe.write(0, &[1; 8])?;
    probe.answer(Ok(8))?;
    producer.succeeds()?;
    for child in children {
        child.succeeds()?;
    }
    ensure!(area.read(0) == u64::from_ne_bytes([1; 8]) && area.read(2 * BASE) == 0);
    ensure!(area.read(3 * BASE) == 3 && area.read(4 * BASE) == 0);
    ensure!(area.read(5 * BASE) == u64::from_ne_bytes([7; 8]));
    area.expect_huge(2 * HUGE)?;
    area.expect(HUGE..2 * HUGE, 181)
}

fn those_who_wait_for_a_page_can_be_killed() -> Result<()> {
    let buffer = sized(2 * HUGE, 0, Populate::Later)?;
    let area = Area::shared(&buffer, 2 * HUGE)?;
    let private = Area::private(&buffer, 2 * HUGE)?;
    let (probe, producer) = in_hand(&buffer)?;
    let waiters = waiters(&buffer, &area, &private);
    let punch = || {
        buffer.punch(0, HUGE as u64)?;
        Ok(())
    };
    let mut children = waiters
        .iter()
        .map(|wait| Ok(Child::start(wait)?))
        .collect::<Result<Vec<Child>>>()?;
    children.push(Child::start(punch)?);
    settle();
    let began = Instant::now();
    for child in children {
        child.signal(libc::SIGKILL)?;
        ensure!(child.wait()? == Ended::Signal(libc::SIGKILL));
    }
    ensure!(
        began.elapsed() < Duration::from_secs(20),
        "they took {:?} to die",
        began.elapsed()
    );
    // The books can be looked at only once the producer is done: it is in the middle of changing them.
    probe.answer(Ok(0))?;
    producer.succeeds()?;
    rest::check().map_err(|said| anyhow::anyhow!(said))?;
    area.expect_zeroes(0..HUGE)
}

fn a_page_that_was_not_filled_is_asked_for_again() -> Result<()> {
    let buffer = sized(HUGE, 0, Populate::Later)?;
    let area = Area::shared(&buffer, HUGE)?;
    let (probe, producer) = in_hand(&buffer)?;
    let waiting = Child::start(|| area.expect_zeroes(0..HUGE))?;
    settle();
    // Whatever the producer left there is not what others see.
    probe.write(0, &[9; 64])?;
    probe.answer(Err(libc::EIO))?;
    ensure!(producer.wait()? == Ended::Status(1));
    waiting.succeeds()?;
    area.expect_zeroes(0..HUGE)
}

fn a_producer_can_be_killed() -> Result<()> {
    let buffer = sized(HUGE, 0, Populate::Later)?;
    let (probe, producer) = in_hand(&buffer)?;
    producer.signal(libc::SIGKILL)?;
    ensure!(producer.wait()? == Ended::Signal(libc::SIGKILL));
    drop(probe);
    let info = buffer.info()?;
    ensure!(
        info.populated == 0 && info.promised == HUGE as u64,
        "{info:?}"
    );
    let area = Area::shared(&buffer, HUGE)?;
    area.expect_zeroes(0..HUGE)
}

fn the_books_are_looked_at_while_others_wait() -> Result<()> {
    let buffer = sized(HUGE, 0, Populate::Later)?;
    let area = Area::shared(&buffer, HUGE)?;
    let (probe, producer) = in_hand(&buffer)?;
    let waiting = Child::start(|| area.expect_zeroes(BASE..HUGE))?;
    let punching = Child::start(|| {
        buffer.punch(0, HUGE as u64)?;
        Ok(())
    })?;
    settle();
    // Looking waits for the producer, and whoever comes then waits for the look: nobody for ever.
    let looking = Child::start(|| rest::check().map_err(|said| anyhow::anyhow!(said)))?;
    settle();
    let late = Child::start(|| area.expect_zeroes(BASE..HUGE))?;
    let made = Child::start(|| {
        let other = sized(HUGE, 0, Populate::Now)?;
        let of_other = Area::shared(&other, HUGE)?;
        of_other.expect_zeroes(0..HUGE)
    })?;
    settle();
    probe.answer(Ok(0))?;
    for child in [producer, waiting, punching, looking, late, made] {
        child.succeeds()?;
    }
    Ok(())
}

fn a_file_closed_by_those_who_wait_stays_until_they_have_gone() -> Result<()> {
    let buffer = sized(HUGE, 0, Populate::Later)?;
    let area = Area::shared(&buffer, HUGE)?;
    let (probe, producer) = in_hand(&buffer)?;
    // A second thread unmaps what the first waits in: the fault keeps the file, and begins anew at nothing.
    let child = Child::start(|| {
        let (start, len) = (area.start(), HUGE);
        let touches = std::thread::spawn(move || {
            // SAFETY: the touch is to end this process by a signal, once the mapping is gone.
            unsafe { std::ptr::with_exposed_provenance::<u64>(start).read_volatile() }
        });
        settle();
        // SAFETY: all of the area, which is not used in this process any more but for the touch above.
        unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(start), len) };
        let _never = touches.join();
        Ok(())
    })?;
    settle();
    drop(area);
    drop(buffer);
    settle();
    probe.answer(Ok(0))?;
    producer.succeeds()?;
    ensure!(child.wait()? == Ended::Signal(libc::SIGSEGV));
    Ok(())
}

fn processes_killed_anywhere_leave_nothing() -> Result<()> {
    let total = super::pool()?.available as usize;
    for round in 0..60_u64 {
        let child = Child::start(|| loop {
            let device = Device::open()?;
            let buffer = sized(total, 0, Populate::Later)?;
            let area = Area::shared(&buffer, total)?;
            let half = total / HUGE / 2 * HUGE;
            buffer.populate(0, half as u64)?;
            area.stamp(area.all(), round);
            buffer.punch(0, half as u64)?;
            area.expect_zeroes(0..half)?;
            drop(device);
        })?;
        sleep(Duration::from_millis(5 + 7 * (round % 20)));
        child.signal(libc::SIGKILL)?;
        ensure!(child.wait()? == Ended::Signal(libc::SIGKILL));
        rest::wait().with_context(|| format!("round {round}"))?;
    }
    Ok(())
}
