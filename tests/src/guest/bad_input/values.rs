// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Numbers that cannot be meant.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{ensure, Result};
use htlb_core::uapi::{
    Create, CreateFlags, Import, Limit, LimitFlags, Lookup, Populate, Punch, Reserve, Resize,
    ResizeFlags, Seal, SealFlags, Stats, Truncate, NODE_ANY, NO_LIMIT,
};
use htlb_core::{ByteLen, Error as Reason, Gfp, HugeSize};
use htlb_user::device::{Account, Device};

use super::{bytes_of, create, in_order, Bench, Call, CAPACITY, GIB1, MIB2, SIZE};
use crate::guest::raw::{Errno, Place};

/// Numbers at which something usually goes wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    4095,
    4096,
    MIB2 - 1,
    SIZE + 1,
    1 << 40,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 4095,
    u64::MAX,
];

fn of(bench: &Bench, name: &str) -> Call {
    let mut calls = bench.calls();
    calls.retain(|call| call.name == name);
    calls.remove(0)
}

/// What the device answers to a request, whatever it is.
fn answer(bench: &Bench, create: &Create) -> Result<Result<(), Errno>> {
    bench.make(&of(bench, "CREATE"), Place::Good, &bytes_of(create))
}

pub(super) fn buffers_that_cannot_be() -> Result<()> {
    let bench = Bench::new()?;
    let call = of(&bench, "CREATE");
    let good = create();
    let lenient = Create {
        flags: CreateFlags::NORESERVE.bits(),
        ..good
    };
    let wrong = [
        (Create { bytes: 0, ..good }, Reason::SizeZero),
        (
            Create {
                bytes: u64::MAX,
                capacity: 0,
                ..good
            },
            Reason::SizeTooLarge,
        ),
        (
            Create {
                bytes: 1 << 63,
                capacity: 0,
                ..good
            },
            Reason::SizeTooLarge,
        ),
        (
            Create {
                bytes: i64::MAX as u64,
                capacity: 0,
                ..good
            },
            Reason::SizeTooLarge,
        ),
        (
            Create {
                capacity: SIZE - 1,
                ..good
            },
            Reason::BeyondCapacity,
        ),
        (
            Create {
                capacity: 1,
                ..good
            },
            Reason::BeyondCapacity,
        ),
        (
            Create {
                page_bytes: 1,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 4095,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 3 << 20,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 32 << 30,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 1 << 63,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: u64::MAX,
                ..good
            },
            Reason::PageSizeInvalid,
        ),
        (
            Create {
                page_bytes: 64 << 10,
                ..good
            },
            Reason::PageSizeUnsupported,
        ),
        (
            Create {
                page_bytes: 16 << 30,
                ..good
            },
            Reason::PageSizeUnsupported,
        ),
        (
            Create {
                alignment: 1,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: 2048,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: MIB2 + 1,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: u64::MAX,
                ..good
            },
            Reason::AlignmentInvalid,
        ),
        (
            Create {
                alignment: 1 << 40,
                ..good
            },
            Reason::AlignmentUnreachable,
        ),
        (
            Create {
                contiguous: SIZE + MIB2,
                ..good
            },
            Reason::ContiguityInvalid,
        ),
        (
            Create {
                contiguous: u64::MAX,
                ..good
            },
            Reason::ContiguityInvalid,
        ),
        (
            Create {
                flags: good.flags | 1 << 2,
                contiguous: MIB2,
                ..good
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                fallback: 1,
                ..good
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                fallback: 8,
                ..lenient
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                fallback: 0x101,
                ..lenient
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                node_policy: 4,
                ..good
            },
            Reason::RecordFlags,
        ),
        (
            Create {
                node_policy: u32::MAX,
                ..good
            },
            Reason::RecordFlags,
        ),
        (Create { nodes: 1, ..good }, Reason::RecordFlags),
        (
            Create {
                node_policy: Create::NODES_BIND,
                ..good
            },
            Reason::NodeMaskEmpty,
        ),
        (
            Create {
                node_policy: Create::NODES_PREFERRED,
                ..good
            },
            Reason::NodeMaskEmpty,
        ),
        (
            Create {
                node_policy: Create::NODES_INTERLEAVE,
                ..good
            },
            Reason::NodeMaskEmpty,
        ),
        (
            Create {
                node_policy: Create::NODES_BIND,
                nodes: 1 << 2,
                ..good
            },
            Reason::NodeMaskOffline,
        ),
        (
            Create {
                node_policy: Create::NODES_BIND,
                nodes: 1 << 63,
                ..good
            },
            Reason::NodeMaskOffline,
        ),
        (
            Create {
                node_policy: Create::NODES_INTERLEAVE,
                nodes: 0xff00,
                ..good
            },
            Reason::NodeMaskOffline,
        ),
        // More pages than there are, promised.
        (
            Create {
                bytes: 1 << 40,
                capacity: 0,
                flags: CreateFlags::STRICT.bits(),
                ..good
            },
            Reason::NoRoom,
        ),
        (
            Create {
                bytes: 1 << 62,
                capacity: 0,
                flags: CreateFlags::STRICT.bits(),
                ..good
            },
            Reason::CounterOverflow,
        ),
    ];
    for (record, reason) in wrong {
        bench.wrong(&call, &record, reason)?;
        // The core alone says the same, where it has a say.
        if let Err(said) = record.to_request() {
            ensure!(
                said == reason,
                "the core says {said:?} of {record:?}, the table {reason:?}"
            );
        }
    }
    // These pages never move.
    let moving = Create {
        flags: good.flags | CreateFlags::MOVABLE.bits(),
        ..good
    };
    bench.refused(
        "MOVABLE",
        &call,
        &bytes_of(&moving),
        Place::Good,
        libc::EOPNOTSUPP,
    )?;
    in_order("wrong buffers")
}

pub(super) fn every_dma_mask() -> Result<()> {
    let bench = Bench::new()?;
    let call = of(&bench, "CREATE");
    for page_bytes in [MIB2, GIB1] {
        for dma_bits in (0..=70).chain([255, 256, 1 << 16, u32::MAX]) {
            let record = Create {
                dma_bits,
                page_bytes,
                ..create()
            };
            let expected = match (dma_bits, page_bytes) {
                (0, _) => None,
                (1..=23 | 65.., _) => Some(Reason::DmaMaskInvalid),
                (24..=29, GIB1) => Some(Reason::DmaMaskTooNarrow),
                _ => None,
            };
            match expected {
                Some(reason) => bench.wrong(&call, &record, reason)?,
                // Nothing is promised, so that there need not be such a page.
                None => bench.unchanged(&format!("a mask of {dma_bits} bits"), || {
                    let done = answer(&bench, &record)?;
                    ensure!(done == Ok(()), "{done:?}");
                    Ok(())
                })?,
            }
        }
    }
    Ok(())
}

pub(super) fn every_bit_of_the_gfp_mask() -> Result<()> {
    let bench = Bench::new()?;
    let call = of(&bench, "CREATE");
    let good = create();
    for bit in (0..32).map(|bit| 1_u32 << bit) {
        let record = Create { gfp: bit, ..good };
        let allowed = Gfp::from_bits(bit).is_some_and(|gfp| Create::GFP_ALLOWED.contains(gfp));
        if !allowed {
            bench.wrong(&call, &record, Reason::RecordFlags)?;
            continue;
        }
        // Together with what is allowed it is as wrong or right as the core says.
        let before = bench.books()?;
        let done = answer(&bench, &record)?;
        let said = record.to_request().map(drop).map_err(Reason::errno);
        ensure!(
            done == said,
            "GFP {bit:#x}: {done:?}, the core says {said:?}"
        );
        ensure!(before == bench.books()?, "GFP {bit:#x} changed the books");
    }
    let mask = |gfp: Gfp| Create {
        gfp: gfp.bits(),
        ..good
    };
    for (record, reason) in [
        (mask(Gfp::DMA | Gfp::DMA32), Reason::GfpZoneConflict),
        (mask(Gfp::DMA32 | Gfp::HIGHMEM), Reason::GfpZoneConflict),
        (
            mask(Gfp::NORETRY | Gfp::RETRY_MAYFAIL),
            Reason::GfpRetryConflict,
        ),
        (mask(Gfp::THISNODE), Reason::GfpThisNodeWithoutNode),
        (
            Create {
                dma_bits: 32,
                ..mask(Gfp::HIGHMEM)
            },
            Reason::GfpZoneExceedsDmaMask,
        ),
        (mask(Gfp::NOFAIL | Gfp::THISNODE), Reason::RecordFlags),
        (
            Create {
                gfp: u32::MAX,
                ..good
            },
            Reason::RecordFlags,
        ),
    ] {
        bench.wrong(&call, &record, reason)?;
    }
    in_order("wrong GFP masks")
}

/// Ranges, and why they are none.
const RANGES: &[(u64, u64, Reason)] = &[
    (0, 0, Reason::RangeEmpty),
    (SIZE, 0, Reason::RangeEmpty),
    (u64::MAX, 0, Reason::RangeOverflow),
    (u64::MAX, 1, Reason::RangeOverflow),
    (u64::MAX, u64::MAX, Reason::RangeOverflow),
    (1, u64::MAX, Reason::RangeOverflow),
    (0, u64::MAX, Reason::RangeOverflow),
    (1 << 63, MIB2, Reason::RangeOverflow),
    (0, 1 << 63, Reason::RangeOverflow),
    (i64::MAX as u64, 1, Reason::RangeOverflow),
    (1, MIB2, Reason::RangeUnaligned),
    (4096, MIB2, Reason::RangeUnaligned),
    (0, 1, Reason::RangeUnaligned),
    (0, MIB2 - 4096, Reason::RangeUnaligned),
    (MIB2, MIB2 + 4096, Reason::RangeUnaligned),
    (SIZE, MIB2, Reason::RangeBeyondEnd),
    (SIZE - MIB2, 2 * MIB2, Reason::RangeBeyondEnd),
    (0, SIZE + MIB2, Reason::RangeBeyondEnd),
    (CAPACITY, MIB2, Reason::RangeBeyondEnd),
    (1 << 40, MIB2, Reason::RangeBeyondEnd),
    (0, 1 << 62, Reason::RangeBeyondEnd),
];

pub(super) fn ranges_that_are_none() -> Result<()> {
    let bench = Bench::new()?;
    for &(offset, len, reason) in RANGES {
        bench.wrong(
            &of(&bench, "RESERVE"),
            &Reserve {
                offset,
                len,
                ..Reserve::default()
            },
            reason,
        )?;
        bench.wrong(
            &of(&bench, "POPULATE"),
            &Populate {
                offset,
                len,
                ..Populate::default()
            },
            reason,
        )?;
        bench.wrong(
            &of(&bench, "PUNCH"),
            &Punch {
                offset,
                len,
                ..Punch::default()
            },
            reason,
        )?;
    }
    for offset in EDGES.into_iter().chain([SIZE, SIZE - 1, CAPACITY]) {
        let record = Lookup {
            offset,
            ..Lookup::default()
        };
        let reason = match offset {
            0..MIB2 => continue,
            MIB2..SIZE => Reason::NotPresent,
            _ => Reason::RangeBeyondEnd,
        };
        bench.wrong(&of(&bench, "LOOKUP"), &record, reason)?;
    }
    in_order("wrong ranges")
}

pub(super) fn sizes_and_seals_that_cannot_be() -> Result<()> {
    let bench = Bench::new()?;
    let truncate = of(&bench, "TRUNCATE");
    for bytes in EDGES {
        if bytes > CAPACITY {
            bench.wrong(
                &truncate,
                &Truncate {
                    bytes,
                    ..Truncate::default()
                },
                Reason::BeyondCapacity,
            )?;
        }
    }
    let seal = of(&bench, "SEAL");
    for flags in [0, 3] {
        bench.wrong(
            &seal,
            &Seal {
                flags,
                ..Seal::default()
            },
            Reason::RecordFlags,
        )?;
    }
    let remove = Seal {
        flags: SealFlags::REMOVE.bits(),
        ..Seal::default()
    };
    bench.wrong(&seal, &remove, Reason::NotPresent)?;
    bench.buffer.seal()?;
    let punch = Punch {
        len: MIB2,
        ..Punch::default()
    };
    bench.wrong(&of(&bench, "PUNCH"), &punch, Reason::Sealed)?;
    bench.wrong(
        &truncate,
        &Truncate {
            bytes: MIB2,
            ..Truncate::default()
        },
        Reason::Sealed,
    )?;
    bench.buffer.unseal()?;
    in_order("wrong sizes")
}

pub(super) fn pools_and_limits_that_cannot_be() -> Result<()> {
    let bench = Bench::new()?;
    let stats = of(&bench, "STATS");
    let resize = of(&bench, "RESIZE");
    let limit = of(&bench, "LIMIT");
    for (page_bytes, reason) in [
        (0, Reason::PageSizeInvalid),
        (1, Reason::PageSizeInvalid),
        (MIB2 + 1, Reason::PageSizeInvalid),
        (u64::MAX, Reason::PageSizeInvalid),
        (4096, Reason::PageSizeUnsupported),
        (64 << 10, Reason::PageSizeUnsupported),
        (16 << 30, Reason::PageSizeUnsupported),
    ] {
        bench.wrong(
            &stats,
            &Stats {
                page_bytes,
                node: NODE_ANY,
                ..Stats::default()
            },
            reason,
        )?;
        bench.wrong(
            &resize,
            &Resize {
                page_bytes,
                node: NODE_ANY,
                ..Resize::default()
            },
            reason,
        )?;
        bench.wrong(
            &limit,
            &Limit {
                page_bytes,
                max: NO_LIMIT,
                ..Limit::default()
            },
            reason,
        )?;
    }
    for (node, reason) in [
        (2, Reason::NodeMaskOffline),
        (63, Reason::NodeMaskOffline),
        (64, Reason::NodeInvalid),
        (i32::MAX, Reason::NodeInvalid),
        (-2, Reason::NodeInvalid),
        (i32::MIN, Reason::NodeInvalid),
    ] {
        bench.wrong(
            &stats,
            &Stats {
                page_bytes: MIB2,
                node,
                ..Stats::default()
            },
            reason,
        )?;
        bench.wrong(
            &resize,
            &Resize {
                page_bytes: MIB2,
                target: MIB2,
                node,
                ..Resize::default()
            },
            reason,
        )?;
    }
    for target in [1, 4096, MIB2 - 1, MIB2 + 1, u64::MAX] {
        for flags in [0, ResizeFlags::OVERCOMMIT.bits()] {
            let record = Resize {
                flags,
                page_bytes: MIB2,
                target,
                node: NODE_ANY,
                ..Resize::default()
            };
            bench.wrong(&resize, &record, Reason::RangeUnaligned)?;
        }
    }
    let good = Limit {
        page_bytes: MIB2,
        max: NO_LIMIT,
        ..Limit::default()
    };
    let user = LimitFlags::USER.bits();
    for (record, reason) in [
        (Limit { uid: 1, ..good }, Reason::RecordFlags),
        (
            Limit {
                flags: user,
                min: MIB2,
                ..good
            },
            Reason::RecordFlags,
        ),
        (Limit { max: 1, ..good }, Reason::RangeUnaligned),
        (Limit { min: 4096, ..good }, Reason::RangeUnaligned),
        (
            Limit {
                min: u64::MAX,
                ..good
            },
            Reason::RangeUnaligned,
        ),
        (
            Limit {
                max: 2 * MIB2,
                min: 3 * MIB2,
                ..good
            },
            Reason::AccountBusy,
        ),
        // The buffer has one page, and a promise of another.
        (Limit { max: MIB2, ..good }, Reason::AccountBusy),
        (Limit { max: 0, ..good }, Reason::AccountBusy),
    ] {
        bench.wrong(&limit, &record, reason)?;
    }
    let idle = Device::open()?;
    let done = idle.limit(
        Account::ThisFile,
        HugeSize::MIB2,
        Some(ByteLen::new(2 * MIB2)),
        ByteLen::new(3 * MIB2),
    );
    let errno = done.err().map(|error| error.errno());
    ensure!(
        errno == Some(Reason::AccountMinimumAboveMaximum.errno()),
        "more is guaranteed than allowed: {errno:?}"
    );
    in_order("wrong pools")
}

pub(super) fn donations_that_are_none() -> Result<()> {
    let bench = Bench::new()?;
    let call = of(&bench, "IMPORT");
    let memfd = bench.memfd.as_raw_fd();
    let good = Import {
        len: MIB2,
        memfd,
        ..Import::default()
    };
    let null = std::fs::File::open("/dev/null")?;
    let closed = 1 << 20;
    for (memfd, errno) in [
        (-1, libc::EBADF),
        (closed, libc::EBADF),
        (i32::MIN, libc::EBADF),
    ] {
        let bytes = bytes_of(&Import { memfd, ..good });
        bench.refused(&format!("of {memfd}"), &call, &bytes, Place::Good, errno)?;
    }
    let buffer = bench.buffer.as_fd().as_raw_fd();
    let device = bench.device.as_fd().as_raw_fd();
    for memfd in [null.as_raw_fd(), buffer, device] {
        let bytes = bytes_of(&Import { memfd, ..good });
        let before = bench.books()?;
        let done = bench.make(&call, Place::Good, &bytes)?;
        ensure!(done.is_err(), "descriptor {memfd} was imported");
        ensure!(
            before == bench.books()?,
            "importing descriptor {memfd} changed the books"
        );
    }
    for &(offset, len, _) in RANGES {
        let bytes = bytes_of(&Import {
            offset,
            len,
            ..good
        });
        let before = bench.books()?;
        let done = bench.make(&call, Place::Good, &bytes)?;
        ensure!(done.is_err(), "{len} bytes from {offset} on were imported");
        ensure!(
            before == bench.books()?,
            "{len} bytes from {offset} on changed the books"
        );
    }
    in_order("wrong donations")
}

/// A table of slots may not fit; nobody is to be killed for it.
pub(super) fn capacities_of_any_size() -> Result<()> {
    let bench = Bench::new()?;
    for page_bytes in [4096, MIB2, GIB1] {
        for bit in [24, 30, 34, 37, 41, 48, 52, 56, 60, 62, 63] {
            for capacity in [1 << bit, (1 << bit) - 1, (1 << bit) + 1] {
                let record = Create {
                    capacity,
                    bytes: page_bytes,
                    page_bytes,
                    ..create()
                };
                bench.unchanged(
                    &format!("a capacity of {capacity} in pages of {page_bytes}"),
                    || {
                        let done = answer(&bench, &record)?;
                        let possible = [libc::ENOMEM, libc::EFBIG, libc::EOVERFLOW, libc::EINVAL];
                        ensure!(
                            done.map_or_else(|errno| possible.contains(&errno), |()| true),
                            "{done:?}"
                        );
                        Ok(())
                    },
                )?;
            }
        }
    }
    Ok(())
}
