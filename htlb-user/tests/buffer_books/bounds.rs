// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Ranges and sizes at which a buffer ends: each that makes no sense is an error of its own.

use htlb_core::Error as Cause;
use htlb_tests::host::PoolLease;
use htlb_user::buffer::Populate;
use htlb_user::pools::Pools;

use super::buffer_support::{base, cause, PAGE};

#[test]
fn ranges_and_sizes_that_make_no_sense() {
    let pools = Pools::new().unwrap();
    let mut buffer = pools.buffer(4 * PAGE).base_pages().create().unwrap();
    for (offset, len, expected) in [
        (1, PAGE, Cause::RangeUnaligned),
        (0, PAGE + 1, Cause::RangeUnaligned),
        (0, 0, Cause::RangeEmpty),
        (4 * PAGE, PAGE, Cause::RangeBeyondEnd),
        (0, 5 * PAGE, Cause::RangeBeyondEnd),
        (u64::MAX, PAGE, Cause::RangeOverflow),
        (PAGE, u64::MAX, Cause::RangeOverflow),
    ] {
        assert_eq!(
            cause(buffer.populate(offset, len)),
            expected,
            "{offset} {len}"
        );
        assert_eq!(
            cause(buffer.reserve(offset, len)),
            expected,
            "{offset} {len}"
        );
        assert_eq!(cause(buffer.punch(offset, len)), expected, "{offset} {len}");
    }
    assert_eq!(cause(buffer.slice(u64::MAX, 1)), Cause::RangeOverflow);
    assert_eq!(cause(buffer.slice(4 * PAGE, 1)), Cause::RangeBeyondEnd);
    assert_eq!(cause(buffer.slice(4 * PAGE + 1, 0)), Cause::RangeBeyondEnd);
    assert!(buffer.slice(4 * PAGE, 0).unwrap().is_empty());
    assert_eq!(cause(buffer.page_at(4 * PAGE)), Cause::RangeBeyondEnd);
    assert_eq!(cause(buffer.pin(u64::MAX)), Cause::RangeBeyondEnd);
    assert_eq!(
        cause(buffer.read_at(u64::MAX, &mut [0])),
        Cause::RangeOverflow
    );
    assert_eq!(
        cause(buffer.write_at(4 * PAGE - 1, b"xy")),
        Cause::RangeBeyondEnd
    );
    assert_eq!(cause(buffer.truncate(4 * PAGE + 1)), Cause::BeyondCapacity);
    assert_eq!(cause(pools.buffer(0).create()), Cause::SizeZero);
    let short = pools.buffer(2 * PAGE).base_pages().capacity(PAGE);
    assert_eq!(cause(short.create()), Cause::BeyondCapacity);
    pools.check().unwrap();
}

#[test]
fn sizes_beyond_any_memory_are_errors() {
    // What is asked for takes all of the system's pool for a moment.
    let _lease = PoolLease::take();
    let pools = Pools::new().unwrap();
    for bytes in [u64::MAX, 1 << 63, 1 << 62, 1 << 55, 1 << 46, 1 << 42] {
        for populate in [Populate::Now, Populate::Later] {
            let made = pools.buffer(bytes).populate(populate).create();
            assert!(made.is_err(), "{bytes:#x} {populate:?}");
            let made = pools.buffer(bytes).base_pages().populate(populate).create();
            assert!(made.is_err(), "{bytes:#x} {populate:?}");
        }
        assert!(pools.buffer(bytes).shareable().create().is_err());
        assert!(pools.buffer(PAGE).capacity(bytes).create().is_err());
        base(&pools);
    }
    // Address space for slots is all that holes cost, and there is an end to that too.
    for bytes in [u64::MAX, 1 << 62, 1 << 60] {
        let holes = pools
            .buffer(bytes)
            .base_pages()
            .populate(Populate::Unpromised);
        assert!(holes.create().is_err(), "{bytes:#x}");
    }
    let holes = pools
        .buffer(1 << 35)
        .base_pages()
        .populate(Populate::Unpromised)
        .create()
        .unwrap();
    assert_eq!(holes.populate((1 << 35) - PAGE, PAGE).unwrap(), PAGE);
    assert_eq!(
        holes.page_at((1 << 35) - 1).unwrap().offset,
        (1 << 35) - PAGE
    );
}
