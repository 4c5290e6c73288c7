// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! This machine's memory, ours and by hand.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::time::Instant;

use htlb_core::{ByteLen, HugeSize};

use super::core::Ranges;
use super::{interleaved, nanoseconds};
use crate::pools::{DeviceUse, PoolsBuilder};
use crate::sys::memfd::{Kind, Memfd};
use crate::sys::raw::{Mapping, Pages, Source};
use crate::{Buffer, Owner, Pools};

const MIB2: u64 = HugeSize::MIB2.bytes();

/// How often a short operation is repeated for one measurement.
const TIMES: usize = 64;

/// Pools of the pages that the peers have too: not of the kernel module's.
fn pools() -> PoolsBuilder {
    Pools::builder().device(DeviceUse::Never)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// Linux's time divided by ours: reserving and releasing one page where `ranges` disjoint ranges are reserved already.
///
/// Linux: `mmap` and `munmap` of one page of a hugetlb file. `munmap` leaves a shared reservation in place, so each turn takes a new
/// page and a hole is punched for it outside the time.
///
/// # Errors
/// Too few free huge pages: `ranges` and 65 more are needed.
pub fn reserve_vs_linux(ranges: u64) -> io::Result<f64> {
    let ours = Ranges::new(ranges).map_err(failed)?;
    let file = Memfd::new(Kind::Hugetlb(HugeSize::MIB2))?;
    file.set_len(ByteLen::new((2 * ranges + 2) * MIB2))?;
    let file = File::from(file.share());
    // Every other page: no two ranges touch.
    let page = |index: u64| {
        Mapping::new(
            Source::File(&file, index * MIB2),
            ByteLen::new(MIB2),
            Pages::Lazy,
        )
    };
    for index in 0..ranges {
        drop(page(2 * index)?);
    }
    let last = 2 * ranges;
    let rounds = interleaved([
        &mut || {
            nanoseconds(TIMES, || {
                for _ in 0..TIMES {
                    drop(black_box(page(last)?));
                }
                Ok(())
            })
        },
        &mut || ours.reserve_and_release(TIMES).map_err(failed),
    ])?;
    Ok(rounds.ratio(0, 1))
}

/// `mmap(MAP_HUGETLB)`, one touch and `munmap`, divided by a buffer of ours of 2 MiB, touched and dropped: with what the owner left in
/// it, and zeroed.
///
/// # Errors
/// No free huge page.
pub fn acquire_vs_mmap() -> io::Result<(f64, f64)> {
    let pools = pools().threads(1).build().map_err(failed)?;
    let owner = Owner::new(&pools);
    let one = |builder: crate::BufferBuilder| -> io::Result<()> {
        let mut buffer: Buffer = builder
            .page_size(HugeSize::MIB2)
            .strict()
            .create()
            .map_err(failed)?;
        if let Some(byte) = buffer.as_mut_slice().map_err(failed)?.first_mut() {
            *byte = 1;
        }
        black_box(&buffer);
        Ok(())
    };
    let repeat =
        |f: &dyn Fn() -> io::Result<()>| nanoseconds(TIMES, || (0..TIMES).try_for_each(|_| f()));
    let rounds = interleaved([
        &mut || {
            repeat(&|| {
                let mut mapping = Mapping::new(
                    Source::Hugetlb(HugeSize::MIB2),
                    ByteLen::new(MIB2),
                    Pages::Lazy,
                )?;
                mapping.touch(MIB2 as usize);
                drop(black_box(mapping));
                Ok(())
            })
        },
        &mut || repeat(&|| one(pools.buffer(MIB2).owner(&owner))),
        &mut || repeat(&|| one(pools.buffer(MIB2))),
    ])?;
    Ok((rounds.ratio(0, 1), rounds.ratio(0, 2)))
}

/// `MAP_POPULATE` of `bytes`, divided by our parallel populate of as much: with pages from the system's pool, and with pages that the
/// pool of the process owns already.
///
/// # Errors
/// Too few free huge pages.
pub fn populate_vs_map_populate(bytes: u64) -> io::Result<(f64, f64)> {
    let by_hand = |pages| Mapping::new(Source::Hugetlb(HugeSize::MIB2), ByteLen::new(bytes), pages);
    let buffer = |pools: &Pools| {
        pools
            .buffer(bytes)
            .page_size(HugeSize::MIB2)
            .strict()
            .create()
            .map_err(failed)
    };
    let cold = interleaved([
        &mut || {
            let start = Instant::now();
            let mapping = by_hand(Pages::Populate)?;
            let took = start.elapsed().as_nanos() as f64;
            drop(mapping);
            io::Result::Ok(took)
        },
        &mut || {
            let pools = pools().build().map_err(failed)?;
            let start = Instant::now();
            let buffer = buffer(&pools)?;
            let took = start.elapsed().as_nanos() as f64;
            drop(buffer);
            Ok(took)
        },
    ])?
    .ratio(0, 1);
    let pools = pools().build().map_err(failed)?;
    let warm = {
        drop(buffer(&pools)?);
        // The peer needs pages too: half of them are given back and taken again by each.
        interleaved([
            &mut || {
                let start = Instant::now();
                let mapping = by_hand(Pages::Populate)?;
                let took = start.elapsed().as_nanos() as f64;
                drop(mapping);
                io::Result::Ok(took)
            },
            &mut || {
                let start = Instant::now();
                let buffer = buffer(&pools)?;
                let took = start.elapsed().as_nanos() as f64;
                drop(buffer);
                Ok(took)
            },
        ])?
        .ratio(0, 1)
    };
    Ok((cold, warm))
}

/// Releasing a buffer among 60,000 other mappings of the process, divided by the same among none; the page is taken again each time, so
/// it really was free.
///
/// # Errors
/// No free huge page; too few mappings allowed (`vm.max_map_count`).
pub fn free_growth() -> io::Result<f64> {
    const OTHERS: usize = 60_000;
    let pools = pools().threads(1).build().map_err(failed)?;
    let owner = Owner::new(&pools);
    let release = || -> io::Result<f64> {
        let mut total = 0.0;
        for _ in 0..TIMES {
            let buffer = pools
                .buffer(MIB2)
                .page_size(HugeSize::MIB2)
                .strict()
                .owner(&owner)
                .create()
                .map_err(failed)?;
            let start = Instant::now();
            drop(black_box(buffer));
            total += start.elapsed().as_nanos() as f64;
        }
        Ok(total / TIMES as f64)
    };
    let zeroes = File::options().read(true).write(true).open("/dev/zero")?;
    let mut ratios = Vec::new();
    for _ in 0..super::ROUNDS {
        let alone = interleaved([&mut || release()])?.median(0);
        // Shared and private in turn, so that the kernel keeps every one apart.
        let others: Vec<Mapping> = (0..OTHERS)
            .map(|number| match number % 2 {
                0 => Mapping::new(Source::Base, ByteLen::new(4096), Pages::Lazy),
                _ => Mapping::new(Source::File(&zeroes, 0), ByteLen::new(4096), Pages::Lazy),
            })
            .collect::<Result<_, _>>()?;
        let among = interleaved([&mut || release()])?.median(0);
        drop(others);
        ratios.push(among / alone);
    }
    Ok(super::median(&mut ratios))
}

/// Random dependent loads over `bytes`, 4 KiB pages divided by a buffer of 2 MiB pages.
///
/// # Errors
/// Too few free huge pages, or too little memory.
pub fn random_read_2m_vs_4k(bytes: u64) -> io::Result<f64> {
    let pools = pools().build().map_err(failed)?;
    let mut huge = pools
        .buffer(bytes)
        .page_size(HugeSize::MIB2)
        .strict()
        .create()
        .map_err(failed)?;
    let mut base = Mapping::new(Source::Base, ByteLen::new(bytes), Pages::Populate)?;
    let lines = bytes as usize / 64;
    chain(base.bytes_mut(), lines);
    chain(&mut huge.as_mut_slice().map_err(failed)?, lines);
    let huge = huge.as_slice().map_err(failed)?;
    let rounds = interleaved([
        &mut || Ok::<_, io::Error>(chase(base.bytes_mut())),
        &mut || Ok(chase(&huge)),
    ])?;
    Ok(rounds.ratio(0, 1))
}

/// Writes one cycle through all cache lines, in an order that no prefetcher guesses: a full-period congruential one.
fn chain(memory: &mut [u8], lines: usize) {
    let mut at = 0usize;
    for _ in 0..lines {
        // Full period for a power of two: the multiplier is 1 modulo 4 and the increment odd.
        let next = (at.wrapping_mul(0x5851_F42D) + 0x3C6E_F35F) & (lines - 1);
        if let Some(line) = memory.get_mut(at * 64..at * 64 + 8) {
            line.copy_from_slice(&(next as u64).to_ne_bytes());
        }
        at = next;
    }
}

/// Follows the cycle for a while; nanoseconds per load.
fn chase(memory: &[u8]) -> f64 {
    const LOADS: usize = 1 << 18;
    let start = Instant::now();
    let mut at = 0usize;
    for _ in 0..LOADS {
        let mut word = [0; 8];
        word.copy_from_slice(memory.get(at * 64..at * 64 + 8).unwrap_or(&[0; 8]));
        at = u64::from_ne_bytes(word) as usize;
    }
    black_box(at);
    start.elapsed().as_nanos() as f64 / LOADS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_visits_every_line() {
        let lines = 1 << 10;
        let mut memory = vec![0; lines * 64];
        chain(&mut memory, lines);
        let mut seen = vec![false; lines];
        let mut at = 0;
        for _ in 0..lines {
            assert!(!std::mem::replace(&mut seen[at], true));
            at = u64::from_ne_bytes(memory[at * 64..at * 64 + 8].try_into().unwrap()) as usize;
        }
        assert_eq!(at, 0);
    }
}
