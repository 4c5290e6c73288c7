// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A simulated machine of 16 TiB in 2 MiB pages on 8 nodes.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use htlb_core::pool::Pool;
use htlb_core::{Class, Condition, Error, Frame, HugeSize, NodeId, PageCount, Pfn, Stop};

const SIZE: HugeSize = HugeSize::MIB2;
const PAGES: u64 = 8 << 20;
const NODES: u64 = 8;

fn class(page: u64) -> Class {
    let node = NodeId::new((page / (PAGES / NODES)) as u32).unwrap();
    Class::of(Pfn::new(page * SIZE.base_pages()), SIZE, node)
}

fn frame(page: u64) -> Frame {
    Frame::new(Pfn::new(page * SIZE.base_pages()), SIZE).unwrap()
}

/// Every page of the machine, added in an order that leaves no two together: an odd stride visits all.
fn machine() -> (Pool<Vec<u64>>, u32) {
    let mut pool = Pool::new(SIZE, vec![0; Pool::<Vec<u64>>::words(1)]).unwrap();
    let mut moves = 0;
    for step in 0..PAGES {
        let page = step.wrapping_mul(0x9e37_79b9) % PAGES;
        let mut next = frame(page);
        while let Err((back, stop)) = pool.add(next, class(page), Condition::Dirty) {
            let Stop::Metadata { words, .. } = stop else {
                unreachable!("{stop:?}")
            };
            drop(pool.adopt(vec![u64::MAX; words]));
            next = back;
            moves += 1;
        }
    }
    (pool, moves)
}

#[test]
fn sixteen_tebibytes_on_eight_nodes() {
    let (mut pool, moves) = machine();
    assert_eq!(pool.check(), Ok(()));
    assert_eq!(pool.total().free.raw(), PAGES);
    // Node 0 has the narrow levels, and the first GiB four of them.
    assert_eq!(pool.chunks_used(), 16_384 + 3);
    assert_eq!(moves, 15);
    let bytes = |chunks| Pool::<Vec<u64>>::words(chunks) as u64 * 8;
    assert!(
        bytes(pool.chunks_used()) * 2 < PAGES,
        "over half a byte per page"
    );
    assert!(
        bytes(pool.chunks()) < PAGES,
        "over a byte per page after doubling"
    );

    // One node's terabyte and a half is one run, aligned to two terabytes like the node itself.
    let terabyte = PageCount::new(PAGES / NODES * 3 / 4);
    let node = |wanted| move |of: Class| of.node.raw() == wanted;
    let run = pool.find_run(terabyte, 1 << 29, node(5)).unwrap().take();
    assert_eq!(run.first(), frame(PAGES / NODES * 5).pfn());
    let again = pool.find_run(terabyte, 1, node(5)).err();
    assert_eq!(again, Some(Error::NoContiguousRun));
    for frame in run {
        pool.put(frame, Condition::Dirty).unwrap();
    }

    // Takes that come back in another order leave every chunk whole again.
    let mut held = Vec::new();
    for step in 0..200_000u64 {
        let from = class(PAGES / NODES * (step % NODES) + PAGES / NODES - 1);
        let (frame, _) = pool.take(from, Condition::Dirty).unwrap();
        assert_eq!(class(frame.pfn().raw() / SIZE.base_pages()), from);
        held.push(frame);
    }
    // Taken chunk by chunk: 25,000 pages of each of 8 classes break 49 chunks of each at most.
    let whole: usize = pool
        .classes()
        .map(|(of, _)| pool.whole_chunks(of).count())
        .sum();
    assert_eq!(whole, 16_383 - 8 * 49);
    assert_eq!(pool.check(), Ok(()));
    while !held.is_empty() {
        let frame = held.swap_remove(held.len().wrapping_mul(0x9e37_79b9) % held.len());
        let page = frame.pfn().raw() / SIZE.base_pages();
        assert_eq!(pool.put(frame, Condition::Dirty), Ok(class(page)));
    }
    let whole: usize = pool
        .classes()
        .map(|(of, _)| pool.whole_chunks(of).count())
        .sum();
    assert_eq!((whole, pool.total().free.raw()), (16_383, PAGES));
    assert_eq!(pool.check(), Ok(()));
}
