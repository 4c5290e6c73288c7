// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The books of huge pages: those of the system, and transparent ones.

use htlb_core::{ByteLen, Error as Cause, HugeSize, PageCount, Rung};
use htlb_tests::skip::skip;
use htlb_user::buffer::Populate;
use htlb_user::pools::{Pools, Retention};

use super::buffer_support::{self, cause, huge, limited, limits, mib2, transparent, MIB2};

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
