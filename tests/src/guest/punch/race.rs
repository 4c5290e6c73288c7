// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Punches while others read, write, fault and transfer: what is seen is the buffer's own, old or zero, and never another's.
//!
//! Two buffers take turns with the pages of a small pool, each with a stamp of its own, so that a page that is reached by an entry
//! too many has the wrong stamp at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};
use htlb_user::buffer::Populate;
use htlb_user::device::DeviceBuffer;

use super::super::area::{number, Area, BASE, HUGE};
use super::super::child::Child;
use super::super::holders::{pipe, splice};
use super::super::mappings::access::{disk, transfer};
use super::super::mappings::sized;
use super::super::quiet::quiet_cases;
use super::super::{skip, Case};

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        readers_and_writers_never_see_anothers_page.within(90),
        faults_of_many_threads_race_punches.within(90),
        direct_transfers_race_punches.within(90),
        pipes_race_punches.within(90),
        mappings_race_truncates.within(90),
        two_that_populate_the_same_get_one_page,
        books_are_looked_at_while_everybody_is_busy.within(90),
    ]
}

const PAGES: usize = 4;
const LEN: usize = PAGES * HUGE;
const RACE: Duration = Duration::from_secs(4);

/// A sequence that looks random enough to choose pages by.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Reads and stamps base pages of an area until told to stop; every number is the stamp's or zero.
fn hammer(area: &Area, stamp: u64, seed: u64, go_on: &dyn Fn() -> bool) -> Result<u64> {
    let mut dice = Dice(seed);
    let mut touched = 0;
    while go_on() {
        let page = dice.roll(LEN / BASE) * BASE;
        let found = area.read(page);
        let expected = number(stamp, page as u64);
        ensure!(
            found == 0 || found == expected,
            "{found:#x} at {page:#x} instead of {expected:#x}"
        );
        if dice.roll(2) == 0 {
            area.write(page, expected);
        }
        touched += 1;
    }
    Ok(touched)
}

/// Punches pages of a buffer until told to stop; one that is pinned for a moment is left alone.
fn punch(buffer: &DeviceBuffer, seed: u64, go_on: &dyn Fn() -> bool) -> Result<u64> {
    let mut dice = Dice(seed);
    let mut punched = 0;
    while go_on() {
        let first = dice.roll(PAGES);
        let pages = 1 + dice.roll(PAGES - first);
        buffer.punch((first * HUGE) as u64, (pages * HUGE) as u64)?;
        punched += 1;
    }
    Ok(punched)
}

/// Does something again and again while it is told to go on; says how often it did.
type Actor<'a> = dyn Fn(&dyn Fn() -> bool) -> Result<u64> + Sync + 'a;

/// Runs all of these at once for a while; the first error of one ends the others.
fn together(actors: &[&Actor<'_>]) -> Result<Vec<u64>> {
    let failed = AtomicBool::new(false);
    let began = Instant::now();
    let go_on = || began.elapsed() < RACE && !failed.load(Ordering::Relaxed);
    let (go_on, failed) = (&go_on, &failed);
    thread::scope(|scope| {
        let running: Vec<_> = actors
            .iter()
            .map(|actor| {
                scope.spawn(move || {
                    let done = actor(go_on);
                    if done.is_err() {
                        failed.store(true, Ordering::Relaxed);
                    }
                    done
                })
            })
            .collect();
        let done: Vec<_> = running
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        done.into_iter()
            .map(|done| done.unwrap_or_else(|_| bail!("an actor panicked")))
            .collect()
    })
}

/// Two buffers, one for each stamp, on pages that are too few for both to have all: both are promised nothing.
fn pair() -> Result<[(DeviceBuffer, Area); 2]> {
    let one = || -> Result<(DeviceBuffer, Area)> {
        let buffer = sized(LEN, 0, Populate::Later)?;
        let area = Area::shared(&buffer, LEN)?;
        Ok((buffer, area))
    };
    Ok([one()?, one()?])
}

fn readers_and_writers_never_see_anothers_page() -> Result<()> {
    let [(first, of_first), (second, of_second)] = pair()?;
    let stop = Area::anonymous(BASE)?;
    let go_on = || stop.read(0) == 0;
    let children = [(&of_first, 161_u64), (&of_second, 162), (&of_first, 161)]
        .into_iter()
        .enumerate()
        .map(|(seed, (area, stamp))| {
            Ok(Child::start(|| {
                hammer(area, stamp, seed as u64, &go_on).map(drop)
            })?)
        })
        .collect::<Result<Vec<Child>>>()?;
    let done = together(&[
        &|go_on| hammer(&of_first, 161, 7, go_on),
        &|go_on| hammer(&of_second, 162, 8, go_on),
        &|go_on| punch(&first, 9, go_on),
        &|go_on| punch(&second, 10, go_on),
    ]);
    stop.write(0, 1);
    for child in children {
        child.succeeds()?;
    }
    let done = done?;
    ensure!(done.iter().all(|times| *times > 10), "{done:?}");
    Ok(())
}

fn faults_of_many_threads_race_punches() -> Result<()> {
    let [(first, of_first), (second, of_second)] = pair()?;
    // A fresh mapping each time: every touch is a fault, of both kinds of entries.
    let refault =
        |buffer: &DeviceBuffer, stamp: u64, seed: u64, go_on: &dyn Fn() -> bool| -> Result<u64> {
            let mut dice = Dice(seed);
            let mut faulted = 0;
            while go_on() {
                let private = dice.roll(3) == 0;
                let flags = if private {
                    libc::MAP_PRIVATE
                } else {
                    libc::MAP_SHARED
                };
                let offset = dice.roll(2) * BASE;
                let area = Area::map(
                    buffer,
                    offset as u64,
                    LEN - HUGE,
                    super::super::area::RW,
                    flags,
                )?;
                for _ in 0..8 {
                    let page = dice.roll((LEN - HUGE) / BASE) * BASE;
                    let (found, expected) =
                        (area.read(page), number(stamp, (offset + page) as u64));
                    ensure!(
                        found == 0 || found == expected,
                        "{found:#x} at {page:#x} instead of {expected:#x}"
                    );
                    area.write(page, expected);
                    faulted += 1;
                }
            }
            Ok(faulted)
        };
    let done = together(&[
        &|go_on| refault(&first, 163, 1, go_on),
        &|go_on| refault(&first, 163, 2, go_on),
        &|go_on| refault(&second, 164, 3, go_on),
        &|go_on| hammer(&of_first, 163, 4, go_on),
        &|go_on| hammer(&of_second, 164, 5, go_on),
        &|go_on| punch(&first, 6, go_on),
        &|go_on| punch(&second, 7, go_on),
    ])?;
    ensure!(done.iter().all(|times| *times > 10), "{done:?}");
    Ok(())
}

fn direct_transfers_race_punches() -> Result<()> {
    let Some(disk) = disk()? else {
        return skip("this guest has no disk in memory");
    };
    let [(first, of_first), (second, of_second)] = pair()?;
    // The disk has what the first buffer's stamps are.
    of_first.stamp(0..LEN, 165);
    ensure!(transfer(&disk, &of_first, 0, LEN, 0, true)? == LEN);
    let read = |seed: u64, go_on: &dyn Fn() -> bool| -> Result<u64> {
        let mut dice = Dice(seed);
        let mut times = 0;
        while go_on() {
            let page = dice.roll(LEN / BASE - 16) * BASE;
            let moved = transfer(&disk, &of_first, page, 16 * BASE, page as u64, false)?;
            ensure!(moved == 16 * BASE, "{moved}");
            times += 1;
        }
        Ok(times)
    };
    let done = together(&[
        &|go_on| read(1, go_on),
        &|go_on| read(2, go_on),
        &|go_on| hammer(&of_first, 165, 3, go_on),
        &|go_on| hammer(&of_second, 166, 4, go_on),
        &|go_on| punch(&first, 5, go_on),
        &|go_on| punch(&second, 6, go_on),
    ])?;
    ensure!(done.iter().all(|times| *times > 10), "{done:?}");
    Ok(())
}

fn pipes_race_punches() -> Result<()> {
    let [(first, of_first), (second, of_second)] = pair()?;
    let splices = |go_on: &dyn Fn() -> bool| -> Result<u64> {
        let mut dice = Dice(1);
        let mut times = 0;
        let mut bytes = vec![0_u8; BASE];
        while go_on() {
            let (mut reader, writer) = pipe()?;
            let page = dice.roll(LEN / BASE) * BASE;
            let expected = number(167, page as u64);
            of_first.write(page, expected);
            ensure!(splice(&writer, &of_first, page..page + BASE)? == BASE);
            for _ in 0..dice.roll(4) {
                thread::yield_now();
            }
            // What the pipe got is the page that was there then: nobody stamps it for another buffer now.
            std::io::Read::read_exact(&mut reader, &mut bytes)?;
            let found = u64::from_ne_bytes(bytes[..8].try_into()?);
            ensure!(
                found == 0 || found == expected,
                "{found:#x} instead of {expected:#x}"
            );
            times += 1;
        }
        Ok(times)
    };
    let done = together(&[
        &splices,
        &|go_on| hammer(&of_first, 167, 2, go_on),
        &|go_on| hammer(&of_second, 168, 3, go_on),
        &|go_on| punch(&first, 4, go_on),
        &|go_on| punch(&second, 5, go_on),
    ])?;
    ensure!(done.iter().all(|times| *times > 10), "{done:?}");
    Ok(())
}

fn mappings_race_truncates() -> Result<()> {
    let buffer = sized(LEN, 0, Populate::Later)?;
    let area = Area::shared(&buffer, LEN)?;
    let truncate = |seed: u64, go_on: &dyn Fn() -> bool| -> Result<u64> {
        let mut dice = Dice(seed);
        let mut times = 0;
        while go_on() {
            // The first page always stays.
            buffer.truncate((HUGE + dice.roll(LEN - HUGE)) as u64)?;
            times += 1;
        }
        Ok(times)
    };
    let map = |go_on: &dyn Fn() -> bool| -> Result<u64> {
        let mut times = 0;
        while go_on() {
            let fresh = Area::map(&buffer, 0, LEN, super::super::area::RW, libc::MAP_SHARED)?;
            // What lies beyond the end at that moment is refused, and not a signal.
            match fresh.advise(0..LEN, libc::MADV_POPULATE_WRITE) {
                Err(error) if error.raw_os_error() != Some(libc::EFAULT) => {
                    return Err(error.into())
                }
                _ => times += 1,
            }
        }
        Ok(times)
    };
    let inside = |go_on: &dyn Fn() -> bool| -> Result<u64> {
        let mut times = 0;
        while go_on() {
            area.stamp(0..HUGE, 169);
            area.expect(0..HUGE, 169)?;
            times += 1;
        }
        Ok(times)
    };
    let done = together(&[
        &|go_on| truncate(1, go_on),
        &|go_on| truncate(2, go_on),
        &map,
        &inside,
    ])?;
    ensure!(done.iter().all(|times| *times > 3), "{done:?}");
    buffer.truncate(LEN as u64)?;
    // The kernel's own record of the size has followed: huge entries reach to the end.
    area.stamp(0..LEN, 170);
    let fresh = Area::shared(&buffer, LEN)?;
    fresh.expect(0..LEN, 170)?;
    fresh.expect_huge(LEN)
}

fn two_that_populate_the_same_get_one_page() -> Result<()> {
    let before = super::pool()?.free;
    for round in 0..40_u64 {
        let buffer = sized(LEN, 0, Populate::Later)?;
        let area = Area::shared(&buffer, LEN)?;
        let ready = AtomicU64::new(0);
        let meet = || {
            ready.fetch_add(1, Ordering::SeqCst);
            while ready.load(Ordering::SeqCst) < 4 {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            let by_call = || -> Result<()> {
                meet();
                buffer.populate(0, LEN as u64)?;
                Ok(())
            };
            let by_touch = || -> Result<()> {
                meet();
                for page in (0..LEN).step_by(HUGE) {
                    area.write(page, number(round, page as u64));
                }
                Ok(())
            };
            let running = [
                scope.spawn(by_call),
                scope.spawn(by_call),
                scope.spawn(by_touch),
                scope.spawn(by_touch),
            ];
            running
                .into_iter()
                .try_for_each(|one| one.join().unwrap_or_else(|_| bail!("it panicked")))
        })?;
        ensure!(buffer.info()?.populated == LEN as u64);
        ensure!(super::pool()?.free == before - LEN as u64);
        for page in (0..LEN).step_by(HUGE) {
            ensure!(
                area.read(page) == number(round, page as u64),
                "a write is lost"
            );
        }
    }
    Ok(())
}

fn books_are_looked_at_while_everybody_is_busy() -> Result<()> {
    let [(first, of_first), (second, of_second)] = pair()?;
    let look = |go_on: &dyn Fn() -> bool| -> Result<u64> {
        let mut times = 0;
        while go_on() {
            super::super::rest::check().map_err(|said| anyhow::anyhow!(said))?;
            times += 1;
        }
        Ok(times)
    };
    // Buffers come and go: each is in the books whenever it has something.
    let make = |go_on: &dyn Fn() -> bool| -> Result<u64> {
        let mut times = 0;
        while go_on() {
            let made = sized(
                HUGE,
                0,
                if times % 2 == 0 {
                    Populate::Now
                } else {
                    Populate::Later
                },
            )?;
            drop(made);
            times += 1;
        }
        Ok(times)
    };
    let done = together(&[
        &look,
        &make,
        &|go_on| hammer(&of_first, 171, 2, go_on),
        &|go_on| hammer(&of_second, 172, 3, go_on),
        &|go_on| punch(&first, 4, go_on),
        &|go_on| punch(&second, 5, go_on),
    ])?;
    ensure!(done.iter().all(|times| *times > 10), "{done:?}");
    Ok(())
}
