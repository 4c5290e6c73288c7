// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Tables that grow at any moment, are refused, and are reused.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use htlb_core::pool::Pool;
use htlb_core::{Class, Condition, Error, Frame, HugeSize, NodeId, PageCount, Pfn, Stop};

const SIZE: HugeSize = HugeSize::MIB2;

fn frame(page: u64) -> Frame {
    Frame::new(Pfn::new(page * SIZE.base_pages()), SIZE).unwrap()
}

fn class(node: u32, page: u64) -> Class {
    Class::of(frame(page).into_pfn(), SIZE, NodeId::new(node).unwrap())
}

fn memory(chunks: u32) -> Vec<u64> {
    vec![0x5555_5555_5555_5555; Pool::<Vec<u64>>::words(chunks)]
}

fn pool(chunks: u32) -> Pool<Vec<u64>> {
    Pool::new(SIZE, memory(chunks)).unwrap()
}

/// One page in each of `regions` regions far apart.
fn spread(regions: u64) -> impl Iterator<Item = u64> {
    (0..regions).map(|region| region * 512 * 1001 + region)
}

#[test]
fn no_memory_is_an_error_and_one_chunk_is_a_pool() {
    assert_eq!(Pool::new(SIZE, vec![]).err(), Some(Error::OutOfMetadata));
    let one = Pool::<Vec<u64>>::words(1);
    assert!(Pool::new(SIZE, vec![0; one - 1]).is_err());
    assert_eq!(Pool::new(SIZE, vec![0; one]).unwrap().chunks(), 1);
    assert_eq!(Pool::<Vec<u64>>::words(u32::MAX), usize::MAX);
}

#[test]
fn tables_move_at_every_point_without_losing_a_page() {
    for moved in 0..40 {
        let mut pool = pool(64);
        let mut held = Vec::new();
        for (step, page) in spread(40).enumerate() {
            if step == moved {
                let old = pool.adopt(memory(64 + moved as u32));
                assert_eq!(
                    old.len() < Pool::<Vec<u64>>::words(64 + moved as u32),
                    moved > 0
                );
            }
            let at = class(step as u32 % 3, page);
            pool.add(frame(page), at, Condition::Clean).unwrap();
            match step % 3 {
                0 => held.push((pool.take(at, Condition::Clean).unwrap().0, at)),
                1 => {
                    let (frame, _) = pool.take(at, Condition::Clean).unwrap();
                    pool.remove(&frame).unwrap();
                }
                _ => {}
            }
            assert_eq!(pool.check(), Ok(()));
        }
        assert_eq!((pool.total().known.raw(), held.len()), (27, 14));
        for (frame, at) in held {
            assert_eq!(pool.put(frame, Condition::Dirty), Ok(at));
        }
        assert_eq!(pool.check(), Ok(()));
    }
}

#[test]
fn a_refused_table_changes_nothing_and_asks_again() {
    let mut pool = pool(1);
    pool.add(frame(0), class(0, 0), Condition::Clean).unwrap();
    let before = pool.total();
    for _ in 0..3 {
        let (back, stop) = pool
            .add(frame(512), class(0, 512), Condition::Clean)
            .unwrap_err();
        assert_eq!(back, frame(512));
        let words = Pool::<Vec<u64>>::words(2);
        assert_eq!(
            stop,
            Stop::Metadata {
                table: htlb_core::Table::Pool,
                words
            }
        );
        assert_eq!((pool.total(), pool.knows(back.pfn())), (before, None));
        assert_eq!(pool.check(), Ok(()));
    }
    // What is too small, or no larger, comes straight back.
    assert_eq!(pool.adopt(Vec::new()), Vec::<u64>::new());
    assert_eq!(pool.adopt(vec![7]), vec![7]);
    assert_eq!(pool.adopt(memory(1)), memory(1));
    let old = pool.adopt(memory(2));
    assert_eq!((old.len(), pool.chunks()), (Pool::<Vec<u64>>::words(1), 2));
    pool.add(frame(512), class(0, 512), Condition::Clean)
        .unwrap();
}

#[test]
fn room_for_a_demoted_page_is_room_for_all_its_parts() {
    // The first GiB spans the levels of 24, 26, 28 and 30 bits: four chunks.
    for chunks in 1..6 {
        let mut pool = pool(chunks);
        let parts = || (0..512).map(|page| (frame(page).into_pfn(), class(0, page)));
        match pool.room_for(parts()) {
            Ok(()) => assert!(chunks >= 4),
            Err(stop) => {
                assert!(chunks < 4);
                let Stop::Metadata { words, .. } = stop else {
                    panic!("{stop:?}")
                };
                drop(pool.adopt(vec![0; words]));
                assert_eq!(pool.room_for(parts()), Ok(()));
            }
        }
        for (pfn, at) in parts() {
            let part = Frame::new(pfn, SIZE).unwrap();
            pool.add(part, at, Condition::Dirty).unwrap();
        }
        assert_eq!((pool.chunks_used(), pool.total().free.raw()), (4, 512));
        assert_eq!(pool.room_for(parts()), Err(Error::FrameInvalid.into()));
        let unaligned = [(Pfn::new(513), class(0, 1))];
        assert_eq!(pool.room_for(unaligned), Err(Error::FrameUnaligned.into()));
    }
}

#[test]
fn chunks_of_a_busy_pool_are_reused() {
    let mut pool = pool(4);
    let mut held = std::collections::VecDeque::new();
    for (step, page) in spread(4_000).enumerate() {
        if held.len() == 4 {
            let frame: Frame = held.pop_front().unwrap();
            pool.remove(&frame).unwrap();
        }
        let at = class(step as u32 % 64, page);
        pool.add(frame(page), at, Condition::Clean).unwrap();
        held.push_back(pool.take(at, Condition::Clean).unwrap().0);
    }
    assert_eq!((pool.chunks(), pool.chunks_used()), (4, 4));
    assert_eq!((pool.classes().count(), pool.check()), (4, Ok(())));
}

#[test]
fn one_region_can_hold_a_page_of_every_class() {
    // 512 pages of one region, and the other 256 classes in the next one.
    let mut pool = pool(1);
    for index in 0..Class::COUNT {
        let mut next = frame(index as u64);
        let at = Class::from_index(index).unwrap();
        while let Err((back, Stop::Metadata { words, .. })) = pool.add(next, at, Condition::Clean) {
            drop(pool.adopt(vec![u64::MAX; words]));
            next = back;
            assert_eq!(pool.room_for([(next.pfn(), at)]), Ok(()));
        }
    }
    assert_eq!(pool.check(), Ok(()));
    assert_eq!(pool.classes().count(), Class::COUNT);
    for index in 0..Class::COUNT {
        let at = Class::from_index(index).unwrap();
        assert_eq!(pool.counts(at).free, PageCount::ONE);
        let (taken, _) = pool.take(at, Condition::Dirty).unwrap();
        assert_eq!(taken, frame(index as u64));
        assert_eq!(pool.put(taken, Condition::Dirty), Ok(at));
    }
    let found = pool.find_run(PageCount::new(768), 1, |_| true).unwrap();
    assert_eq!(found.classes().count(), Class::COUNT);
}
