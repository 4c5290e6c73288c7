// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The dma-heaps, as programs know them that were written for the kernel's own.

mod pages;
mod records;

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread;

use anyhow::{ensure, Context, Result};
use htlb_user::device::{How, Mapping};
use rustix::io::Errno;
use rustix::system::delete_module;

use pages::{
    a_32_bit_device_can_use_all_of_its_heap, a_size_is_rounded_up_to_base_pages,
    the_largest_pages_or_an_error, the_pages_are_huge_for_programs_and_devices,
    what_is_too_much_leaves_nothing_behind,
};
use records::{
    access_modes_are_those_asked_for, arguments_are_checked,
    programs_of_other_versions_are_understood,
};

use super::{cases, rest, Group, Module};
use crate::dma_buf::{self, Access};
use crate::kmod::importer::{Direction, Entry, Importer, View};

pub(super) const GROUP: Group = Group {
    name: "heap",
    modules: &[
        Module::new("htlb", "pages_2m=4"),
        Module::new("htlb_heap", ""),
        Module::new("htlb_importer", ""),
        Module::new("htlb_leaves", ""),
    ],
    cases: || {
        cases![
            every_heap_has_its_node,
            a_program_maps_and_reads_what_it_wrote,
            memory_is_zeroed_whoever_had_it_before,
            a_size_is_rounded_up_to_base_pages,
            the_pages_are_huge_for_programs_and_devices,
            a_32_bit_device_can_use_all_of_its_heap,
            the_largest_pages_or_an_error,
            what_is_too_much_leaves_nothing_behind,
            arguments_are_checked,
            access_modes_are_those_asked_for,
            programs_of_other_versions_are_understood,
            threads_allocate_at_the_same_time,
            neither_module_can_leave,
        ]
    },
};

const HEAP: &str = "/dev/dma_heap/htlb-2m";
const DMA32: &str = "/dev/dma_heap/htlb-2m-dma32";
const GIANT: &str = "/dev/dma_heap/htlb-1g";
const SYSTEM: &str = "/dev/dma_heap/system";

const PAGE: u64 = 2 << 20;
const BASE: u64 = 4096;
const GIB: u64 = 1 << 30;

/// `struct dma_heap_allocation_data`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Allocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
    /// No field of the kernel's: what a later version might have.
    later: [u64; 2],
}

const WRITABLE: u32 = (libc::O_RDWR | libc::O_CLOEXEC).unsigned_abs();

/// Asks a heap with a record that is `bytes` long.
fn ask(heap: &str, allocation: &mut Allocation, bytes: usize) -> io::Result<()> {
    assert!(bytes <= size_of::<Allocation>());
    let heap = File::options().read(true).write(true).open(heap)?;
    // `_IOWR('H', 0, …)` of that size.
    let number = (3 << 30) | (bytes << 16) | (usize::from(b'H') << 8);
    let number = libc::Ioctl::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the call reads and writes as many bytes as its number says, at most those of the record.
    let answer = unsafe {
        libc::ioctl(
            heap.as_raw_fd(),
            number,
            std::ptr::from_mut(allocation).cast::<c_void>(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The length of the kernel's own record.
const WHOLE: usize = 24;

fn allocate(heap: &str, len: u64, fd_flags: u32) -> io::Result<OwnedFd> {
    let mut allocation = Allocation {
        len,
        fd_flags,
        ..Allocation::default()
    };
    ask(heap, &mut allocation, WHOLE)?;
    Ok(taken(&allocation))
}

fn taken(allocation: &Allocation) -> OwnedFd {
    // SAFETY: a call succeeded that put a descriptor there, which is new and nobody else's.
    // CAST: descriptors are not negative.
    unsafe { OwnedFd::from_raw_fd(allocation.fd as i32) }
}

fn errno<T: std::fmt::Debug>(answer: io::Result<T>) -> Option<i32> {
    answer.expect_err("it is refused").raw_os_error()
}

fn map(dma_buf: &OwnedFd, len: u64, alignment: u64) -> Result<Mapping> {
    let (len, alignment) = (usize::try_from(len)?, usize::try_from(alignment)?);
    Mapping::new(dma_buf.as_fd(), 0, len, How::SHARED, alignment).context("mapping a dma-buf")
}

fn bytes_of(mapping: &Mapping) -> Result<Vec<u8>> {
    let mut bytes = vec![1; mapping.len()];
    mapping.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Where a device finds a dma-buf.
fn entries(device: &Importer, dma_buf: &OwnedFd) -> Result<Vec<Entry>> {
    let attachment = device.attach(dma_buf.as_fd())?;
    let table = device.map(&attachment, Direction::Bidirectional)?;
    let entries = device.entries(&attachment, &table)?;
    device.detach(attachment)?;
    Ok(entries)
}

fn every_heap_has_its_node() -> Result<()> {
    for heap in [HEAP, DMA32, GIANT] {
        File::options()
            .read(true)
            .write(true)
            .open(heap)
            .with_context(|| format!("opening {heap}"))?;
        ensure!(fs::metadata(heap)?.len() == 0);
    }
    Ok(())
}

/// The same program on the kernel's own heap.
fn a_program_maps_and_reads_what_it_wrote() -> Result<()> {
    for heap in [SYSTEM, HEAP, DMA32] {
        let dma_buf = dma_buf::from_heap(heap, 4 << 20).with_context(|| heap.to_owned())?;
        let mut mapping = map(&dma_buf, 4 << 20, BASE)?;
        dma_buf::begin_cpu_access(dma_buf.as_fd(), Access::ReadWrite)?;
        ensure!(
            bytes_of(&mapping)?.iter().all(|byte| *byte == 0),
            "{heap}: not zeroed"
        );
        // CAST: the low byte is what is meant.
        let bytes: Vec<u8> = (0..mapping.len()).map(|at| (at >> 10) as u8).collect();
        mapping.write_at(0, &bytes)?;
        dma_buf::end_cpu_access(dma_buf.as_fd(), Access::ReadWrite)?;
        drop(mapping);

        let device = Importer::open()?;
        let attachment = device.attach(dma_buf.as_fd())?;
        device.map(&attachment, Direction::Bidirectional)?;
        device.select(&attachment, View::Device)?;
        let mut seen = vec![0; bytes.len()];
        ensure!(device.read_at(&mut seen, 0)? == seen.len());
        ensure!(seen == bytes, "{heap}: the device sees something else");
        device.detach(attachment)?;

        let mapping = map(&dma_buf, 4 << 20, BASE)?;
        dma_buf::begin_cpu_access(dma_buf.as_fd(), Access::Read)?;
        ensure!(bytes_of(&mapping)? == bytes, "{heap}: not what was written");
        dma_buf::end_cpu_access(dma_buf.as_fd(), Access::Read)?;
    }
    Ok(())
}

fn memory_is_zeroed_whoever_had_it_before() -> Result<()> {
    let mut again = 0;
    let device = Importer::open()?;
    let mut before: Vec<u64> = Vec::new();
    for round in 0..8 {
        let dma_buf = allocate(HEAP, 2 * PAGE, WRITABLE)?;
        let mut mapping = map(&dma_buf, 2 * PAGE, PAGE)?;
        let seen = bytes_of(&mapping)?;
        ensure!(
            seen.iter().all(|byte| *byte == 0),
            "round {round}: somebody's bytes"
        );
        mapping.write_at(0, &vec![0xa5; seen.len()])?;
        let now: Vec<u64> = entries(&device, &dma_buf)?
            .iter()
            .map(|entry| entry.address)
            .collect();
        again += usize::from(now.iter().any(|address| before.contains(address)));
        before = now;
    }
    ensure!(again > 0, "no page was used twice: nothing was tested");
    Ok(())
}

fn threads_allocate_at_the_same_time() -> Result<()> {
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = [HEAP, HEAP, DMA32, DMA32]
            .into_iter()
            .zip(1_u8..)
            .map(|(heap, seed)| {
                scope.spawn(move || -> Result<()> {
                    for pages in [1, 2, 3, 2, 1] {
                        let dma_buf = allocate(heap, pages * PAGE, WRITABLE)?;
                        let mut mapping = map(&dma_buf, pages * PAGE, PAGE)?;
                        mapping.write_at(0, &vec![seed; mapping.len()])?;
                        let seen = bytes_of(&mapping)?;
                        ensure!(
                            seen.iter().all(|byte| *byte == seed),
                            "two have the same page"
                        );
                    }
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("it does not panic")?;
        }
        Ok(())
    })?;
    rest::wait()
}

fn neither_module_can_leave() -> Result<()> {
    let answer = delete_module(c"htlb_heap", libc::O_NONBLOCK);
    ensure!(answer == Err(Errno::BUSY), "{answer:?}");
    let answer = delete_module(c"htlb", libc::O_NONBLOCK);
    ensure!(
        matches!(answer, Err(Errno::AGAIN | Errno::BUSY)),
        "{answer:?}"
    );
    allocate(HEAP, BASE, WRITABLE)?;
    Ok(())
}
