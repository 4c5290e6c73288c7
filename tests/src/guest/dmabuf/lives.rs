// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who keeps whom, and what happens to all of it at once.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};
use htlb_user::buffer::Populate;
use htlb_user::device::{Export, How};
use rustix::io::Errno;
use rustix::system::delete_module;

use super::super::rest;
use super::{buffer, bytes_of, map, pattern, whole, PAGE};
use crate::dma_buf::{self, Access};
use crate::kmod::importer::{Direction, Importer};

pub(super) fn the_dma_buf_outlives_the_buffers_descriptor() -> Result<()> {
    let buffer = buffer(2 * PAGE, Populate::Now)?;
    buffer
        .map(0, usize::try_from(2 * PAGE)?, How::SHARED)?
        .write_at(0, &pattern(9, 2 * PAGE))?;
    let dma_buf = whole(&buffer)?;
    drop(buffer);
    let bytes = usize::try_from(2 * PAGE)?;
    ensure!(bytes_of(&map(&dma_buf, 0, 2 * PAGE)?, 0, bytes)? == pattern(9, 2 * PAGE));
    let device = Importer::open()?;
    let attachment = device.attach(dma_buf.as_fd())?;
    ensure!(device.map(&attachment, Direction::Bidirectional)?.bytes == 2 * PAGE);
    drop(dma_buf);
    // The attachment keeps the dma-buf, that the buffer, and that its pages.
    ensure!(
        rest::busy()?.iter().any(|what| what.contains("in use")),
        "{:?}",
        rest::busy()?
    );
    drop(device);
    rest::wait()
}

pub(super) fn the_mapping_outlives_the_dma_buf() -> Result<()> {
    let buffer = buffer(PAGE, Populate::Now)?;
    let dma_buf = whole(&buffer)?;
    let mut mapping = map(&dma_buf, 0, PAGE)?;
    mapping.write_at(0, b"first")?;
    drop(dma_buf);
    mapping.write_at(usize::try_from(PAGE)? - 4, b"last")?;
    buffer.punch(0, PAGE)?;
    ensure!(
        bytes_of(&mapping, 0, 5)? == [0; 5],
        "it is still the buffer's"
    );
    drop(buffer);
    mapping.write_at(0, b"alone")?;
    ensure!(bytes_of(&mapping, 0, 5)? == b"alone");
    drop(mapping);
    rest::wait()
}

pub(super) fn the_module_stays_for_a_dma_buf() -> Result<()> {
    let dma_buf = whole(&buffer(PAGE, Populate::Later)?)?;
    let answer = delete_module(c"htlb", libc::O_NONBLOCK);
    ensure!(answer == Err(Errno::AGAIN), "{answer:?}");
    // It is still there for the next one too.
    drop(map(&dma_buf, 0, PAGE)?);
    Ok(())
}

pub(super) fn attach_punch_and_touch_at_the_same_time() -> Result<()> {
    const PAGES: u64 = 4;
    let buffer = buffer(PAGES * PAGE, Populate::Now)?;
    let dma_buf = whole(&buffer)?;
    let over = AtomicBool::new(false);
    let (attached, punched, sealed) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let until_over = |step: &dyn Fn(u64) -> Result<()>| -> Result<()> {
        for round in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            step(round)?;
        }
        Ok(())
    };
    let attach = |round: u64| -> Result<()> {
        let device = Importer::open()?;
        let attachment = device.attach(dma_buf.as_fd())?;
        let table = device.map(&attachment, Direction::Bidirectional)?;
        ensure!(table.bytes == PAGES * PAGE);
        if round % 3 == 0 {
            device.vmap(&attachment)?;
        }
        attached.fetch_add(1, Ordering::Relaxed);
        drop(device);
        // A moment without one.
        thread::sleep(Duration::from_millis(1));
        Ok(())
    };
    let punch = |round: u64| -> Result<()> {
        match buffer.punch(round % PAGES * PAGE, PAGE) {
            Ok(_) => punched.fetch_add(1, Ordering::Relaxed),
            Err(error) if error.errno() == libc::EPERM => sealed.fetch_add(1, Ordering::Relaxed),
            Err(error) => return Err(error.into()),
        };
        Ok(())
    };
    let touch = |round: u64| -> Result<()> {
        let range = buffer.export(round % 2 * PAGE, 2 * PAGE, Export::Writable)?;
        dma_buf::begin_cpu_access(range.as_fd(), Access::ReadWrite)?;
        let mut mapping = map(&range, 0, 2 * PAGE)?;
        mapping.write_at(0, &[1; 100])?;
        mapping.write_at(usize::try_from(PAGE)?, &[2; 100])?;
        dma_buf::end_cpu_access(range.as_fd(), Access::ReadWrite)?;
        Ok(())
    };
    let steps: [&(dyn Fn(u64) -> Result<()> + Sync); 4] = [&attach, &attach, &punch, &touch];
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = steps
            .into_iter()
            .map(|step| scope.spawn(|| until_over(&|round| step(round))))
            .collect();
        let began = Instant::now();
        let enough = |count: &AtomicU32| count.load(Ordering::Relaxed) >= 20;
        while !(enough(&attached) && enough(&punched) && enough(&sealed))
            && began.elapsed() < Duration::from_secs(60)
            && !threads.iter().any(thread::ScopedJoinHandle::is_finished)
        {
            thread::sleep(Duration::from_millis(50));
        }
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("it does not panic")?;
        }
        Ok(())
    })?;
    let counts = [&attached, &punched, &sealed].map(|count| count.load(Ordering::Relaxed));
    ensure!(counts.iter().all(|count| *count >= 20), "{counts:?}");
    // Nobody is left who would refuse it.
    buffer.punch(0, PAGES * PAGE)?;
    Ok(())
}
