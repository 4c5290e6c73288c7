// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Numbers that cannot be meant.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{ensure, Result};
use htlb_core::uapi::{
    Import, Limit, LimitFlags, Lookup, Populate, Punch, Reserve, Resize, ResizeFlags, Seal,
    SealFlags, Stats, Truncate, NODE_ANY, NO_LIMIT,
};
use htlb_core::{ByteLen, Error as Reason, HugeSize};
use htlb_user::device::{Account, Device};

use super::{bytes_of, in_order, Bench, Call, CAPACITY, MIB2, SIZE};
use crate::guest::raw::Place;

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

pub(super) fn of(bench: &Bench, name: &str) -> Call {
    let mut calls = bench.calls();
    calls.retain(|call| call.name == name);
    calls.remove(0)
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
