// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that go between pools and the system, and none that go between two pools.

use std::io;

use htlb_user::buffer::Populate;
use htlb_user::pools::{CheckError, Pools, Retention};
use htlb_user::Owner;

use super::buffer_support::{base, PAGE};
use super::{base_limited, PIECE};

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
