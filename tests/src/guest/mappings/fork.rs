// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Processes that share mappings, and their ends.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Result};

use super::super::area::{Area, HUGE};
use super::super::child::{Child, Ended};
use super::super::quiet::quiet_cases;
use super::super::Case;
use super::mapped;

pub(super) fn cases() -> Vec<Case> {
    quiet_cases![
        a_child_reads_and_writes_what_its_parent_mapped,
        a_child_outlives_its_parents_mapping_and_file,
        a_process_ends_with_mappings,
        a_killed_process_leaves_nothing,
        a_program_is_replaced_with_mappings,
    ]
}

/// Waits until a number is there.
fn until(area: &Area, at: usize, number: u64) -> Result<()> {
    let began = Instant::now();
    while area.read(at) != number {
        if began.elapsed() > Duration::from_secs(50) {
            bail!("{:#x} at {at:#x} instead of {number:#x}", area.read(at));
        }
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn a_child_reads_and_writes_what_its_parent_mapped() -> Result<()> {
    let (buffer, area) = mapped(3, 41)?;
    let child = Child::start(|| {
        area.expect(area.all(), 41)?;
        // A file's entries are not copied by fork: each is a fault of the child's, and a huge entry again.
        area.expect_huge(3 * HUGE)?;
        area.stamp(HUGE..2 * HUGE, 42);
        area.write(0, 1);
        until(&area, 8, 2)?;
        area.expect(2 * HUGE..3 * HUGE, 43)
    })?;
    until(&area, 0, 1)?;
    area.expect(HUGE..2 * HUGE, 42)?;
    area.stamp(2 * HUGE..3 * HUGE, 43);
    area.write(8, 2);
    child.succeeds()?;
    area.expect_huge(3 * HUGE)?;
    area.expect(HUGE..2 * HUGE, 42)?;
    area.expect(2 * HUGE..3 * HUGE, 43)?;
    buffer.punch(0, 3 * HUGE as u64)?;
    area.expect_zeroes(area.all())
}

fn a_child_outlives_its_parents_mapping_and_file() -> Result<()> {
    let (buffer, area) = mapped(2, 44)?;
    let signal = Area::anonymous(4096)?;
    let child = Child::start(|| {
        until(&signal, 0, 1)?;
        area.expect(area.all(), 44)?;
        area.stamp(area.all(), 45);
        area.expect(area.all(), 45)
    })?;
    drop(area);
    drop(buffer);
    signal.write(0, 1);
    child.succeeds()
}

fn a_process_ends_with_mappings() -> Result<()> {
    let (_buffer, area) = mapped(2, 46)?;
    for _ in 0..3 {
        Child::start(|| {
            let (mine, of_mine) = mapped(2, 47)?;
            let copies = Area::private(&mine, 2 * HUGE)?;
            copies.stamp(0..HUGE, 48);
            area.expect(area.all(), 46)?;
            // What the process has is the kernel's to clear away.
            std::mem::forget((mine, of_mine, copies));
            Ok(())
        })?
        .succeeds()?;
    }
    area.expect(area.all(), 46)?;
    area.expect_huge(2 * HUGE)
}

fn a_killed_process_leaves_nothing() -> Result<()> {
    let signal = Area::anonymous(4096)?;
    let child = Child::start(|| {
        let (_buffer, area) = mapped(4, 49)?;
        signal.write(0, 1);
        loop {
            area.stamp(area.all(), 50);
        }
    })?;
    until(&signal, 0, 1)?;
    child.signal(libc::SIGKILL)?;
    ensure!(child.wait()? == Ended::Signal(libc::SIGKILL));
    Ok(())
}

fn a_program_is_replaced_with_mappings() -> Result<()> {
    let (buffer, area) = mapped(2, 51)?;
    Child::start(|| {
        area.expect(area.all(), 51)?;
        let copies = Area::private(&buffer, 2 * HUGE)?;
        copies.stamp(0..HUGE, 52);
        // A program that ends at once, without what it had mapped.
        Err(Command::new("/proc/self/exe").arg("list").exec().into())
    })?
    .succeeds()?;
    area.expect(area.all(), 51)
}
