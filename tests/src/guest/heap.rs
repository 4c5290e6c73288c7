// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The dma-heaps, as programs know them that were written for the kernel's own.

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use htlb_core::HugeSize;
use htlb_user::device::{Device, How, Mapping};
use rustix::fs::{seek, SeekFrom};
use rustix::io::{fcntl_getfd, Errno, FdFlags};
use rustix::system::delete_module;

use super::{cases, rest, Group, Module};
use crate::dma_buf::{self, Access};
use crate::kmod::importer::{Direction, Entry, Importer, View};
use crate::kmod::leaves::{self, Leaves};

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

fn a_size_is_rounded_up_to_base_pages() -> Result<()> {
    let device = Device::open()?;
    for (len, is, pages) in [
        (1, BASE, 1),
        (BASE, BASE, 1),
        (BASE + 1, 2 * BASE, 1),
        (PAGE - 1, PAGE, 1),
        (PAGE + 1, PAGE + BASE, 2),
        (3 * PAGE, 3 * PAGE, 3),
    ] {
        let free = device.stats(HugeSize::MIB2, None)?.free;
        let dma_buf = allocate(HEAP, len, WRITABLE)?;
        ensure!(seek(&dma_buf, SeekFrom::End(0))? == is, "{len} bytes");
        let taken = free - device.stats(HugeSize::MIB2, None)?.free;
        ensure!(taken == pages * PAGE, "{len} bytes took {taken}");
        drop(map(&dma_buf, is, BASE)?);
        let beyond = Mapping::new(dma_buf.as_fd(), is, 4096, How::READ, 4096);
        ensure!(errno(beyond) == Some(libc::EINVAL), "{len} bytes");
        drop(dma_buf);
        rest::wait()?;
    }
    Ok(())
}

fn the_pages_are_huge_for_programs_and_devices() -> Result<()> {
    let dma_buf = allocate(HEAP, 4 * PAGE, WRITABLE)?;
    let mut mapping = map(&dma_buf, 4 * PAGE, PAGE)?;
    for page in 0..4 {
        mapping.write_at(page * usize::try_from(PAGE)?, &[1])?;
    }
    let found = leaves::count(mapping.address(), mapping.len())?;
    let huge = Leaves {
        pmd: 4,
        ..Leaves::default()
    };
    ensure!(found == huge, "{found:?}");
    let device = Importer::open()?;
    for entry in entries(&device, &dma_buf)? {
        ensure!(
            entry.address % PAGE == 0 && entry.length % PAGE == 0,
            "{entry:x?}"
        );
    }
    Ok(())
}

/// Keeps this thread on one processor.
fn run_on(processor: usize) -> Result<()> {
    // SAFETY: an empty set is all zeroes.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the machine has fewer processors than the set has bits.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the kernel reads the set, whose size is told.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    ensure!(done == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// The second processor's memory lies above 4 GiB, and is what it is given first.
fn a_32_bit_device_can_use_all_of_its_heap() -> Result<()> {
    run_on(1)?;
    let device = Importer::open()?;
    let any = allocate(HEAP, 2 * PAGE, WRITABLE)?;
    let found = entries(&device, &any)?;
    ensure!(
        found.iter().any(|entry| entry.address >= 1 << 32),
        "all are low: {found:x?}"
    );
    let narrow = Importer::open()?;
    narrow.limit(32, u32::MAX)?;
    ensure!(errno(narrow.attach(any.as_fd())) == Some(libc::EFAULT));

    let low = allocate(DMA32, 16 * PAGE, WRITABLE)?;
    let found = entries(&narrow, &low)?;
    ensure!(found.iter().map(|entry| entry.length).sum::<u64>() == 16 * PAGE);
    for entry in found {
        ensure!(entry.address + entry.length <= 1 << 32, "{entry:x?}");
    }
    Ok(())
}

/// A GiB in one piece is not always to be had.
fn the_largest_pages_or_an_error() -> Result<()> {
    match allocate(GIANT, GIB, WRITABLE) {
        Ok(dma_buf) => {
            let mapping = map(&dma_buf, GIB, GIB)?;
            ensure!(mapping.byte(usize::try_from(GIB)? - 1)? == 0);
            let found = leaves::count(mapping.address(), mapping.len())?;
            let huge = Leaves {
                pud: 1,
                ..Leaves::default()
            };
            ensure!(found == huge, "{found:?}");
            let found = entries(&Importer::open()?, &dma_buf)?;
            ensure!(
                found.len() == 1 && found.iter().all(|entry| entry.length == GIB),
                "{found:x?}"
            );
        }
        Err(error) => ensure!(error.raw_os_error() == Some(libc::ENOMEM), "{error}"),
    }
    rest::wait()
}

fn what_is_too_much_leaves_nothing_behind() -> Result<()> {
    for heap in [HEAP, DMA32, GIANT] {
        // The machine has the least of these, but not to give away.
        for len in [3 << 30, 1 << 40, 1 << 50] {
            let began = Instant::now();
            let refused = errno(allocate(heap, len, WRITABLE));
            ensure!(
                refused == Some(libc::ENOMEM),
                "{heap}, {len} bytes: {refused:?}"
            );
            // Fetching all that there is before saying no takes many times as long, and everybody's memory.
            let took = began.elapsed();
            ensure!(
                heap == GIANT || took < Duration::from_secs(2),
                "{heap}, {len} bytes: refused after {took:?}"
            );
        }
    }
    rest::wait()
}

fn arguments_are_checked() -> Result<()> {
    for heap in [SYSTEM, HEAP] {
        for (what, wrong) in [
            (
                "no size",
                Allocation {
                    len: 0,
                    ..Allocation::default()
                },
            ),
            (
                "a size that overflows",
                Allocation {
                    len: u64::MAX,
                    ..Allocation::default()
                },
            ),
            (
                "a descriptor",
                Allocation {
                    len: BASE,
                    fd: 1,
                    ..Allocation::default()
                },
            ),
            (
                "flags",
                Allocation {
                    len: BASE,
                    heap_flags: 1,
                    ..Allocation::default()
                },
            ),
            (
                "flags of the file",
                Allocation {
                    len: BASE,
                    fd_flags: 1 << 28,
                    ..Allocation::default()
                },
            ),
            (
                "an unknown mode",
                Allocation {
                    len: BASE,
                    fd_flags: libc::O_NONBLOCK.unsigned_abs(),
                    ..Allocation::default()
                },
            ),
        ] {
            let refused = errno(ask(heap, &mut { wrong }, WHOLE));
            ensure!(refused == Some(libc::EINVAL), "{heap}: {what}: {refused:?}");
        }
    }
    rest::wait()
}

fn access_modes_are_those_asked_for() -> Result<()> {
    for heap in [SYSTEM, HEAP] {
        let reader = allocate(heap, BASE, 0)?;
        ensure!(fcntl_getfd(&reader)? == FdFlags::empty(), "{heap}");
        let attempt = Mapping::new(reader.as_fd(), 0, 4096, How::SHARED, 4096);
        ensure!(errno(attempt) == Some(libc::EACCES), "{heap}");
        Mapping::new(reader.as_fd(), 0, 4096, How::READ, 4096)?;
        let writer = allocate(heap, BASE, libc::O_WRONLY.unsigned_abs())?;
        let attempt = Mapping::new(writer.as_fd(), 0, 4096, How::READ, 4096);
        ensure!(errno(attempt) == Some(libc::EACCES), "{heap}");
        let closed = allocate(heap, BASE, WRITABLE)?;
        ensure!(fcntl_getfd(&closed)? == FdFlags::CLOEXEC, "{heap}");
    }
    Ok(())
}

/// A record without `heap_flags`, and one with more than the kernel knows.
fn programs_of_other_versions_are_understood() -> Result<()> {
    for heap in [SYSTEM, HEAP] {
        for bytes in [16, WHOLE, size_of::<Allocation>()] {
            let mut allocation = Allocation {
                len: BASE,
                fd_flags: WRITABLE,
                ..Allocation::default()
            };
            ask(heap, &mut allocation, bytes).with_context(|| format!("{heap}: {bytes} bytes"))?;
            drop(map(&taken(&allocation), BASE, BASE)?);
        }
    }
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
