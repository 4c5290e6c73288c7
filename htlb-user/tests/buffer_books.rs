// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every count after every step, whatever went wrong.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};

use htlb_core::{ByteLen, Error as Cause, Fill, HugeSize, PageCount, Rung};
use htlb_tests::skip::skip;
use htlb_user::buffer::{Layout, Populate};
use htlb_user::pools::{CheckError, Pools, Retention};
use htlb_user::Owner;

mod buffer_support;
use buffer_support::{base, cause, huge, limited, limits, mib2, transparent, MIB2, PAGE};

/// Base pages of a process never come in pieces smaller than this.
const PIECE: u64 = 512;

/// Pools with so many base pages, which follow each other, and never one more.
fn base_limited(pages: u64) -> Pools {
    let pools = Pools::builder()
        .limit(Rung::Base, HugeSize::BASE, PageCount::new(pages))
        .build()
        .unwrap();
    drop(pools.buffer(pages * PAGE).base_pages().create().unwrap());
    assert_eq!(base(&pools), (pages, pages, 0));
    pools
}

fn is_short(cause: Cause) -> bool {
    matches!(cause, Cause::NoRoom | Cause::OutOfPages)
}

#[test]
fn promised_populated_punched_released() {
    let pools = base_limited(PIECE);
    let buffer = pools
        .buffer(10 * PAGE)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    assert_eq!(base(&pools), (PIECE, PIECE, 10));
    assert_eq!(buffer.receipt().reserved, ByteLen::new(10 * PAGE));
    assert_eq!(cause(buffer.as_slice()), Cause::NotPresent);
    assert_eq!(buffer.populate(0, 4 * PAGE).unwrap(), 4 * PAGE);
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 6));
    assert_eq!(buffer.populate(0, 5 * PAGE).unwrap(), PAGE);
    assert_eq!(buffer.populate(0, 5 * PAGE).unwrap(), 0);
    let gone = buffer.punch(4 * PAGE, 2 * PAGE).unwrap();
    assert_eq!((gone.pages.raw(), gone.promises.raw()), (1, 1));
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 4));
    assert_eq!(buffer.reserve(0, 10 * PAGE).unwrap(), 2 * PAGE);
    assert_eq!(buffer.reserve(0, 10 * PAGE).unwrap(), 0);
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 6));
    assert_eq!(buffer.receipt().populated, ByteLen::new(4 * PAGE));
    drop(buffer);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
    assert_eq!(pools.trim(), PIECE * PAGE);
    assert_eq!(base(&pools), (0, 0, 0));
}

#[test]
fn a_later_buffer_is_populated_whole() {
    let pools = Pools::new().unwrap();
    let size = 3 * PAGE + 17;
    let buffer = pools
        .buffer(size)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    assert_eq!(buffer.populate(0, size).unwrap(), 4 * PAGE);
    assert_eq!(buffer.as_slice().unwrap().len() as u64, size);
    pools.check().unwrap();
}

#[test]
fn two_that_do_not_fit() {
    let pools = base_limited(PIECE);
    let later = |pages: u64| {
        let builder = pools.buffer(pages * PAGE).base_pages();
        builder.populate(Populate::Later).create()
    };
    let first = later(PIECE * 2 / 3).unwrap();
    let before = base(&pools);
    assert!(is_short(cause(later(PIECE * 2 / 3))));
    assert_eq!(base(&pools), before);
    // Neither one that takes its pages at once, nor one that is straight.
    let now = pools.buffer(PIECE * PAGE).base_pages();
    assert!(is_short(cause(now.create())));
    let holes = pools
        .buffer(PIECE * PAGE)
        .base_pages()
        .populate(Populate::Unpromised)
        .create()
        .unwrap();
    assert!(is_short(cause(holes.populate(0, PIECE * PAGE))));
    let (_, free, reserved) = base(&pools);
    assert_eq!(
        (free, reserved),
        (reserved, PIECE * 2 / 3),
        "no promise was broken"
    );
    assert_eq!(first.populate(0, first.len()).unwrap(), first.len());
    base(&pools);
    drop((first, holes));
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
}

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

#[test]
fn truncate_to_nothing_and_grow_again() {
    let pools = base_limited(PIECE);
    let mut buffer = pools
        .buffer(3 * PAGE)
        .base_pages()
        .capacity(6 * PAGE)
        .create()
        .unwrap();
    buffer.as_mut_slice().unwrap().fill(0xee);
    assert_eq!(buffer.truncate(PAGE + 100).unwrap().pages.raw(), 1);
    assert_eq!(buffer.truncate(0).unwrap().pages.raw(), 2);
    assert!(buffer.is_empty() && buffer.as_slice().unwrap().is_empty());
    assert!(buffer.as_mut_slice().unwrap().is_empty());
    assert_eq!(buffer.raw_parts().unwrap().1, 0);
    let (_, free, reserved) = base(&pools);
    assert_eq!(
        (free, reserved),
        (PIECE - 3, 0),
        "three wait beyond the old size"
    );
    assert_eq!(buffer.truncate(6 * PAGE).unwrap().pages.raw(), 0);
    assert_eq!(
        buffer.reserve(0, 6 * PAGE).unwrap(),
        3 * PAGE,
        "of which three are had"
    );
    assert_eq!(buffer.receipt().reserved, ByteLen::new(6 * PAGE));
    assert_eq!(buffer.populate(0, 6 * PAGE).unwrap(), 6 * PAGE);
    let mut bytes = vec![1; 6 * PAGE as usize];
    buffer.read_at(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert_eq!(base(&pools), (PIECE, PIECE - 6, 0));
    drop(buffer);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
}

#[test]
fn what_a_truncate_cuts_off_is_zero_when_it_comes_back() {
    let pools = Pools::new().unwrap();
    let mut buffer = pools.buffer(2 * PAGE).base_pages().create().unwrap();
    buffer.as_mut_slice().unwrap().fill(7);
    buffer.truncate(PAGE + 10).unwrap();
    assert_eq!(
        cause(buffer.read_at(PAGE + 10, &mut [0])),
        Cause::RangeBeyondEnd
    );
    buffer.truncate(2 * PAGE).unwrap();
    let bytes = buffer.as_slice().unwrap();
    let (kept, cut) = bytes.split_at(PAGE as usize + 10);
    assert!(kept.iter().all(|byte| *byte == 7) && cut.iter().all(|byte| *byte == 0));
}

#[test]
fn a_producer_that_fails_or_is_short() {
    let pools = base_limited(PIECE);
    let builder = || pools.buffer(4 * PAGE).base_pages().threads(1);
    let refused = builder().create_with(|page| match page.offset() {
        8192 => Err(io::Error::other("the disk is on fire")),
        _ => Ok(0),
    });
    let error = refused.unwrap_err();
    assert_eq!(error.cause(), Cause::FillFailed);
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
    // The core's own reasons stay what they are.
    let refused = builder().create_with(|_| Err(Cause::Poisoned.into()));
    assert_eq!(cause(refused), Cause::Poisoned);
    let refused = builder().create_with(|page| Ok(page.bytes().len() + 1));
    assert_eq!(cause(refused), Cause::FillFailed);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));

    let later = builder().populate(Populate::Later).create().unwrap();
    for _ in 0..3 {
        let made = later.populate_with(0, PAGE, |page| {
            page.bytes().fill(0x55);
            Err(io::Error::other("no"))
        });
        assert_eq!(cause(made), Cause::FillFailed);
        assert_eq!(base(&pools), (PIECE, PIECE, 4), "the promise stays");
    }
    later
        .populate_with(0, 4 * PAGE, |page| {
            page.bytes()[..5].copy_from_slice(b"short");
            Ok(5)
        })
        .unwrap();
    let mut bytes = vec![0; 4 * PAGE as usize];
    later.read_at(0, &mut bytes).unwrap();
    for page in bytes.chunks(PAGE as usize) {
        assert!(page.starts_with(b"short") && page[5..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 0));
}

#[test]
fn a_panic_in_a_producer_leaves_nothing_claimed() {
    for threads in [1, 3] {
        let pools = base_limited(PIECE);
        let buffer = pools
            .buffer(6 * PAGE)
            .base_pages()
            .threads(threads)
            .populate(Populate::Later)
            .create()
            .unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            buffer.populate_with(0, 6 * PAGE, |page| {
                assert_ne!(page.offset(), 2 * PAGE, "a producer's bug");
                Ok(0)
            })
        }));
        let words = panicked.unwrap_err();
        assert!(words
            .downcast_ref::<String>()
            .unwrap()
            .contains("a producer's bug"));
        base(&pools);
        // Whoever comes next gets the page, and does not wait for ever.
        assert_eq!(buffer.populate(2 * PAGE, PAGE).unwrap(), PAGE);
        buffer.populate(0, 6 * PAGE).unwrap();
        assert_eq!(base(&pools), (PIECE, PIECE - 6, 0));
        drop(buffer);
        let created = catch_unwind(AssertUnwindSafe(|| {
            let builder = pools.buffer(3 * PAGE).base_pages().threads(threads);
            builder.create_with(|_| panic!("at once"))
        }));
        assert!(created.is_err());
        assert_eq!(base(&pools), (PIECE, PIECE, 0));
    }
}

#[test]
fn a_producer_may_use_the_rest_of_its_buffer_but_not_its_own_page() {
    let pools = Pools::new().unwrap();
    let buffer = pools
        .buffer(4 * PAGE)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    let mut calls = 0;
    buffer
        .populate_in_order(2 * PAGE, PAGE, |page| {
            calls += 1;
            let own = page.offset();
            assert_eq!(cause(buffer.populate(own, PAGE)), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.punch(own, PAGE)), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.pin(own)), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.read_at(own, &mut [0])), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.slice(own, 1)), Cause::NotPresent);
            assert_eq!(pools.check(), Err(CheckError::InsideProducer));
            assert_eq!(buffer.populate(0, PAGE).unwrap(), PAGE);
            assert_eq!(buffer.populate(3 * PAGE, PAGE).unwrap(), PAGE);
            assert_eq!(buffer.slice(0, PAGE).unwrap()[0], 0);
            page.bytes()[0] = 9;
            Ok(1)
        })
        .unwrap();
    assert_eq!(calls, 1);
    assert_eq!(buffer.slice(2 * PAGE, 1).unwrap()[0], 9);
    pools.check().unwrap();
}

#[test]
fn readers_may_overlap_in_any_way() {
    let pools = base_limited(PIECE);
    let buffer = pools
        .buffer(6 * PAGE)
        .base_pages()
        .create_with(|page| {
            let number = (page.offset() / PAGE) as u8;
            page.bytes().fill(number);
            Ok(page.bytes().len())
        })
        .unwrap();
    let middle = buffer.slice(2 * PAGE + 5, PAGE).unwrap();
    let whole = buffer.as_slice().unwrap();
    let left = buffer.slice(0, 3 * PAGE).unwrap();
    let right = buffer.slice(3 * PAGE, 3 * PAGE).unwrap();
    assert_eq!((middle[0], *middle.last().unwrap()), (2, 3));
    assert_eq!(whole.len() as u64, 6 * PAGE);
    for (at, byte) in whole.iter().enumerate() {
        assert_eq!(*byte as usize, at / PAGE as usize);
    }
    assert_eq!((left[0], right[0]), (0, 3));
    let mut copied = [0; 2];
    buffer.read_at(4 * PAGE - 1, &mut copied).unwrap();
    assert_eq!(copied, [3, 4]);
    for range in [(0, PAGE), (5 * PAGE, PAGE), (0, 6 * PAGE)] {
        assert_eq!(cause(buffer.punch(range.0, range.1)), Cause::Sealed);
    }
    drop((left, middle));
    assert_eq!(cause(buffer.punch(0, PAGE)), Cause::Sealed);
    drop((whole, right));
    assert_eq!(base(&pools), (PIECE, PIECE - 6, 0));
    // Each page can be taken out of what was read as one.
    for page in [3, 0, 5, 1] {
        assert_eq!(buffer.punch(page * PAGE, PAGE).unwrap().pages.raw(), 1);
        base(&pools);
    }
    assert_eq!(buffer.slice(2 * PAGE, PAGE).unwrap()[7], 2);
    drop(buffer);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
}

#[test]
fn guards_that_are_forgotten_cost_pages_and_nothing_else() {
    let pools = base_limited(PIECE);
    let whole = || pools.buffer(4 * PAGE).base_pages().create();

    let mut written = whole().unwrap();
    std::mem::forget(written.as_mut_slice().unwrap());
    assert_eq!(cause(written.as_mut_slice()), Cause::Pinned);
    assert_eq!(cause(written.as_slice()), Cause::Pinned);
    drop(written);
    assert_eq!(
        base(&pools),
        (PIECE, PIECE - 4, 0),
        "in limbo, and nobody gets them"
    );
    for _ in 0..3 {
        let mut other = whole().unwrap();
        other.as_mut_slice().unwrap().fill(1);
    }

    let read = whole().unwrap();
    std::mem::forget(read.as_slice().unwrap());
    assert_eq!(cause(read.punch(0, PAGE)), Cause::Sealed);
    drop(read);
    assert_eq!(base(&pools), (PIECE, PIECE - 8, 0));

    let pinned = whole().unwrap();
    std::mem::forget(pinned.pin(0).unwrap());
    drop(pinned);
    assert_eq!(base(&pools), (PIECE, PIECE - 12, 0));

    let all = pools
        .buffer((PIECE - 12) * PAGE)
        .base_pages()
        .layout(Layout::Scattered);
    assert_eq!(all.create().unwrap().len(), (PIECE - 12) * PAGE);
    assert_eq!(base(&pools), (PIECE, PIECE - 12, 0));
}

#[test]
fn what_is_returned_does_not_stay() {
    let pools = Pools::builder()
        .retention(Retention::Return)
        .build()
        .unwrap();
    let owner = Owner::new(&pools);
    for populate in [Populate::Now, Populate::Later, Populate::Unpromised] {
        let buffer = pools
            .buffer(20 * PAGE)
            .base_pages()
            .owner(&owner)
            .populate(populate)
            .create()
            .unwrap();
        base(&pools);
        buffer.populate(0, 10 * PAGE).unwrap();
        let (pages, ..) = base(&pools);
        assert!(pages >= 10, "{populate:?}");
        buffer.punch(0, 5 * PAGE).unwrap();
        base(&pools);
        drop(buffer);
        assert_eq!(base(&pools), (0, 0, 0), "{populate:?}");
    }
    let refused = pools
        .buffer(PAGE)
        .base_pages()
        .create_with(|_| Err(io::Error::other("no")));
    assert!(refused.is_err());
    assert_eq!(base(&pools), (0, 0, 0));
}

#[test]
fn two_pools_of_one_process_share_nothing() {
    let (one, two) = (base_limited(PIECE), base_limited(PIECE));
    let first = one.buffer(100 * PAGE).base_pages().create().unwrap();
    assert_eq!((base(&one).1, base(&two).1), (PIECE - 100, PIECE));
    // A producer of the one may use the other, and check it.
    let second = two
        .buffer(PAGE)
        .base_pages()
        .threads(1)
        .create_with(|page| {
            let inner = one.buffer(PAGE).base_pages().create().unwrap();
            one.check().unwrap();
            assert_eq!(two.check(), Err(CheckError::InsideProducer));
            page.bytes()[0] = inner.as_slice().unwrap()[0] + 1;
            Ok(1)
        })
        .unwrap();
    assert_eq!(second.as_slice().unwrap()[0], 1);
    drop(one);
    assert_eq!(first.as_slice().unwrap()[0], 0, "a buffer keeps its pools");
    assert_eq!(base(&two), (PIECE, PIECE - 1, 0));
}

#[test]
fn an_owner_gets_its_own_data_back_and_nobody_elses() {
    for pages in [1, 8] {
        let pools = base_limited(PIECE);
        let owner = Owner::new(&pools);
        let of = |owner: &Owner| pools.buffer(pages * PAGE).base_pages().owner(owner);
        let mut first = of(&owner).create().unwrap();
        first.as_mut_slice().unwrap().fill(0x77);
        let place = first.raw_parts().unwrap().0;
        drop(first);
        assert_eq!(base(&pools), (PIECE, PIECE - pages, 0));
        let again = of(&owner).create().unwrap();
        assert_eq!(again.raw_parts().unwrap().0, place);
        assert!(again.as_slice().unwrap().iter().all(|byte| *byte == 0x77));
        drop(again);
        let cleared = of(&owner).fill(Fill::Zeroed).create().unwrap();
        assert!(cleared.as_slice().unwrap().iter().all(|byte| *byte == 0));
        drop(cleared);
        let other = of(&Owner::new(&pools)).create().unwrap();
        assert!(other.as_slice().unwrap().iter().all(|byte| *byte == 0));
        drop(other);
        pools.trim();
        assert_eq!(base(&pools), (0, 0, 0));
    }
}

#[test]
fn a_kept_buffer_is_as_it_was_made() {
    let pools = base_limited(PIECE);
    let owner = Owner::new(&pools);
    let make = || {
        pools
            .buffer(4 * PAGE)
            .base_pages()
            .owner(&owner)
            .capacity(6 * PAGE)
    };
    let write = |byte: u8| {
        let mut buffer = make().create().unwrap();
        buffer.as_mut_slice().unwrap().fill(byte);
        buffer
    };
    for change in 0..5 {
        let mut buffer = write(0x66);
        match change {
            0 => drop(buffer.punch(PAGE, PAGE).unwrap()),
            1 => drop(buffer.truncate(PAGE).unwrap()),
            2 => drop(buffer.truncate(6 * PAGE).unwrap()),
            3 => std::mem::forget(buffer.pin(0).unwrap()),
            _ => std::mem::forget(buffer.as_mut_slice().unwrap()),
        }
        drop(buffer);
        base(&pools);
        let mut next = make().create().unwrap();
        assert_eq!((next.len(), next.capacity()), (4 * PAGE, 6 * PAGE));
        next.as_mut_slice().unwrap().fill(1);
        assert_eq!(next.punch(0, 4 * PAGE).unwrap().pages.raw(), 4, "{change}");
        base(&pools);
    }
    // Other choices, or another owner of the same pools, or the same owner in other pools.
    drop(write(0x44));
    assert_eq!(
        make().create_with(|_| Ok(0)).unwrap().as_slice().unwrap()[0],
        0
    );
    let zeroed = make().fill(Fill::Zeroed).create().unwrap();
    assert!(zeroed.as_slice().unwrap().iter().all(|byte| *byte == 0));
    let other = Pools::new().unwrap();
    let elsewhere = other
        .buffer(4 * PAGE)
        .base_pages()
        .owner(&owner)
        .capacity(6 * PAGE);
    assert_eq!(elsewhere.create().unwrap().as_slice().unwrap()[0], 0);
    drop(zeroed);
    other.check().unwrap();
    base(&pools);
    drop(owner);
    let (pages, free, reserved) = base(&pools);
    assert_eq!((pages, reserved), (PIECE, 0));
    assert!(free >= PIECE - 12, "all but what was forgotten: {free}");
}

#[test]
fn what_an_owner_keeps_serves_whoever_is_short() {
    let pools = base_limited(PIECE);
    let owner = Owner::keeping(&pools, 400 * PAGE);
    for straight in [false, true] {
        let mut kept = pools
            .buffer(400 * PAGE)
            .base_pages()
            .owner(&owner)
            .create()
            .unwrap();
        kept.as_mut_slice().unwrap().fill(0xaa);
        drop(kept);
        assert_eq!(base(&pools), (PIECE, PIECE - 400, 0));
        let layout = if straight {
            Layout::Straight
        } else {
            Layout::Scattered
        };
        let other = pools
            .buffer(300 * PAGE)
            .base_pages()
            .layout(layout)
            .create()
            .unwrap();
        let mut bytes = vec![1; 300 * PAGE as usize];
        other.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        drop(other);
        base(&pools);
    }
    let last = Owner::new(&pools);
    drop(
        pools
            .buffer(PAGE)
            .base_pages()
            .owner(&last)
            .create()
            .unwrap(),
    );
    drop((owner, last));
    assert_eq!(
        base(&pools),
        (PIECE, PIECE, 0),
        "an owner that ends gives back what it kept"
    );
}

#[test]
fn a_scattered_pool_serves_a_straight_buffer() {
    let pools = base_limited(PIECE);
    let buffer = |pages: u64| pools.buffer(pages * PAGE).base_pages().create().unwrap();
    let (low, middle, high) = (buffer(200), buffer(100), buffer(200));
    let (from, len) = low.raw_parts().unwrap();
    assert_eq!(len as u64, 200 * PAGE);
    assert!(!from.is_null());
    drop((low, high));
    // 412 pages are free, and no 300 of them follow each other: the system gets them back and gives them anew.
    let straight = buffer(300);
    assert_eq!(straight.as_slice().unwrap().len() as u64, 300 * PAGE);
    assert!(base(&pools).0 <= PIECE);
    drop((middle, straight));
    base(&pools);
}

#[test]
fn holes_of_huge_pages_come_at_once() {
    const NAME: &str = "holes_of_huge_pages_come_at_once";
    let Some(_lease) = huge(NAME, 8) else { return };
    let pools = limited(8);
    let holes = pools
        .buffer(8 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .populate(Populate::Unpromised)
        .create()
        .unwrap();
    assert_eq!(mib2(&pools), (0, 0, 0));
    assert_eq!(holes.populate(0, 8 * MIB2).unwrap(), 8 * MIB2);
    assert_eq!(mib2(&pools), (8, 0, 0));
    let mut pages: Vec<usize> = (0..8)
        .map(|page| holes.page_at(page * MIB2).unwrap().address)
        .collect();
    pages.sort_unstable();
    assert_eq!((pages[7] - pages[0]) as u64, 7 * MIB2, "all in one window");
    assert_eq!(holes.punch(0, 4 * MIB2).unwrap().pages.raw(), 4);
    assert_eq!(pools.trim(), 4 * MIB2);
    assert_eq!(mib2(&pools), (4, 0, 0));
    let more = pools.buffer(4 * MIB2).page_size(HugeSize::MIB2).strict();
    assert_eq!(more.create().unwrap().len(), 4 * MIB2);
    mib2(&pools);
}

#[test]
fn huge_pages_come_back_to_the_system() {
    const NAME: &str = "huge_pages_come_back_to_the_system";
    let Some(lease) = huge(NAME, 6) else { return };
    let free = || lease.pools().available(HugeSize::MIB2).unwrap().raw();
    let start = free();
    let pools = limits(6).retention(Retention::Return).build().unwrap();
    let buffer = pools
        .buffer(6 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .create()
        .unwrap();
    assert_eq!(free(), start - 6);
    assert_eq!(buffer.punch(2 * MIB2, MIB2).unwrap().pages.raw(), 1);
    assert_eq!(mib2(&pools), (5, 0, 0));
    assert_eq!(free(), start - 5);
    assert_eq!(buffer.populate(MIB2, 2 * MIB2).unwrap(), MIB2);
    assert_eq!(free(), start - 6);
    drop(buffer);
    assert_eq!((mib2(&pools), free()), ((0, 0, 0), start));

    let pools = limited(6);
    drop(
        pools
            .buffer(6 * MIB2)
            .page_size(HugeSize::MIB2)
            .strict()
            .create()
            .unwrap(),
    );
    assert_eq!((mib2(&pools), free()), ((6, 6, 0), start - 6));
    assert_eq!(pools.trim(), 6 * MIB2);
    assert_eq!(free(), start);
    let again = pools
        .buffer(6 * MIB2)
        .page_size(HugeSize::MIB2)
        .strict()
        .create()
        .unwrap();
    drop(pools);
    assert_eq!(free(), start - 6, "a buffer keeps its pools");
    drop(again);
    assert_eq!(free(), start);
}

#[test]
fn transparent_pages_keep_books_too() {
    const NAME: &str = "transparent_pages_keep_books_too";
    if !transparent(NAME) {
        return;
    }
    let pools = Pools::builder()
        .limit(Rung::Transparent, HugeSize::MIB2, PageCount::new(4))
        .build()
        .unwrap();
    let counts = || buffer_support::counts(&pools, Rung::Transparent, HugeSize::MIB2);
    let make = |pages: u64| pools.buffer(pages * MIB2).transparent().strict().create();
    match make(4) {
        Ok(buffer) => {
            assert_eq!(counts(), (4, 0, 0));
            assert_eq!(buffer.receipt().huge(), ByteLen::new(4 * MIB2));
            assert_eq!(cause(make(1)), Cause::OutOfPages);
            assert_eq!(counts(), (4, 0, 0));
        }
        Err(error) => return skip(NAME, &error.to_string()),
    }
    assert_eq!(counts(), (4, 4, 0));
    assert_eq!(pools.trim(), 4 * MIB2);
    assert_eq!(counts(), (0, 0, 0));
}
