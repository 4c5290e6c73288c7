// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What must be refused, and which page is preferred.

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
use htlb_core::{Class, Condition, Error, Frame, HugeSize, Level, NodeId, Pfn, Stop};

const SIZE: HugeSize = HugeSize::MIB2;
const DIRTY: Condition = Condition::Dirty;
const CLEAN: Condition = Condition::Clean;

fn frame(page: u64) -> Frame {
    Frame::new(Pfn::new(page * SIZE.base_pages()), SIZE).unwrap()
}

fn class(node: u32) -> Class {
    Class {
        node: NodeId::new(node).unwrap(),
        level: Level::WIDEST,
    }
}

fn pool() -> Pool<Vec<u64>> {
    Pool::new(SIZE, vec![0; Pool::<Vec<u64>>::words(16)]).unwrap()
}

fn page(taken: Option<(Frame, Condition)>) -> Option<(u64, Condition)> {
    taken.map(|(frame, condition)| (frame.pfn().raw() / SIZE.base_pages(), condition))
}

#[test]
fn a_page_is_added_once() {
    let mut pool = pool();
    let invalid = Stop::Fail(Error::FrameInvalid);
    pool.add(frame(3), class(0), CLEAN).unwrap();
    // Free or taken, of the same class or another: it is known.
    assert_eq!(
        pool.add(frame(3), class(0), DIRTY),
        Err((frame(3), invalid))
    );
    assert_eq!(
        pool.add(frame(3), class(1), DIRTY),
        Err((frame(3), invalid))
    );
    let (taken, _) = pool.take(class(0), DIRTY).unwrap();
    assert_eq!(
        pool.add(frame(3), class(0), DIRTY),
        Err((frame(3), invalid))
    );
    assert_eq!(pool.condition(taken.pfn()), None);
    assert_eq!((pool.total().known.raw(), pool.check()), (1, Ok(())));
}

#[test]
fn a_page_from_outside_comes_back() {
    let mut pool = pool();
    for page in [0, 2] {
        pool.add(frame(page), class(0), CLEAN).unwrap();
    }
    // Another region, an unknown page of a known chunk, a page that is free already, another size.
    for foreign in [512, 1, 0, 2] {
        assert_eq!(pool.put(frame(foreign), CLEAN), Err(frame(foreign)));
        assert_eq!(pool.remove(&frame(foreign)), Err(Error::FrameInvalid));
    }
    let base = || Frame::new(Pfn::ZERO, HugeSize::BASE).unwrap();
    assert_eq!(pool.put(base(), CLEAN), Err(base()));
    assert_eq!(pool.remove(&base()), Err(Error::FrameInvalid));
    assert_eq!(
        pool.add(base(), class(0), CLEAN),
        Err((base(), Error::FrameInvalid.into()))
    );
    assert_eq!((pool.total().free.raw(), pool.check()), (2, Ok(())));
}

#[test]
fn only_frame_numbers_of_pages_are_known() {
    let mut pool = pool();
    pool.add(frame(0), class(5), CLEAN).unwrap();
    assert_eq!(pool.knows(Pfn::ZERO), Some(class(5)));
    for pfn in [1, 511, 512, (1 << 40) - 512, 1 << 40, u64::MAX] {
        assert_eq!(pool.knows(Pfn::new(pfn)), None);
        assert_eq!(pool.condition(Pfn::new(pfn)), None);
    }
}

#[test]
fn an_empty_class_gives_nothing() {
    let mut pool = pool();
    assert_eq!(page(pool.take(class(0), DIRTY)), None);
    pool.add(frame(0), class(0), DIRTY).unwrap();
    assert_eq!(page(pool.take(class(1), DIRTY)), None);
    assert_eq!(page(pool.take(class(0), DIRTY)), Some((0, DIRTY)));
    assert_eq!(page(pool.take(class(0), DIRTY)), None);
    assert!(pool.take_chunk(class(0)).is_none());
    assert_eq!(pool.whole_chunks(class(0)).count(), 0);
}

#[test]
fn zeroed_requests_get_clean_pages_and_others_dirty_ones() {
    let mut pool = pool();
    for (page, condition) in [(0, DIRTY), (1, CLEAN), (2, DIRTY), (3, CLEAN)] {
        pool.add(frame(page), class(0), condition).unwrap();
    }
    assert_eq!(page(pool.take(class(0), CLEAN)), Some((1, CLEAN)));
    assert_eq!(page(pool.take(class(0), DIRTY)), Some((0, DIRTY)));
    assert_eq!(page(pool.take(class(0), CLEAN)), Some((3, CLEAN)));
    assert_eq!(page(pool.take(class(0), CLEAN)), Some((2, DIRTY)));
}

#[test]
fn a_whole_chunk_is_broken_last_even_for_a_clean_page() {
    let mut pool = pool();
    for page in 512..1024 {
        pool.add(frame(page), class(0), CLEAN).unwrap();
    }
    pool.add(frame(0), class(0), DIRTY).unwrap();
    assert_eq!(
        pool.whole_chunks(class(0)).collect::<Vec<_>>(),
        [frame(512).pfn()]
    );
    assert_eq!(page(pool.take(class(0), CLEAN)), Some((0, DIRTY)));
    assert_eq!(page(pool.take(class(0), CLEAN)), Some((512, CLEAN)));
    assert_eq!(pool.whole_chunks(class(0)).count(), 0);
    pool.put(frame(512), CLEAN).unwrap();
    let run = pool.take_chunk(class(0)).unwrap();
    assert_eq!(
        (run.first(), run.pages().raw(), run.condition()),
        (frame(512).pfn(), 512, CLEAN)
    );
    assert_eq!(
        (pool.counts(class(0)).known.raw(), pool.check()),
        (513, Ok(()))
    );
    for frame in run {
        assert_eq!(pool.remove(&frame), Ok(class(0)));
    }
    assert_eq!(
        (pool.counts(class(0)).known.raw(), pool.chunks_used()),
        (1, 1)
    );
}
