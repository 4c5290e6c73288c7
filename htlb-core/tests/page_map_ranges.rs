// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The edges of the page map: offsets and ranges that do not fit, sizes, counters that are full, values misused.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::sync::atomic::AtomicU64;

use htlb_core::page_map::{Claim, Extents, FilledClaim, PageMap, Removed, SlotRange, MAX_PINS};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error, Frame, HugeSize, PageCount, PageIndex, Pfn, Stop,
    WaitFor, Waiting,
};
use proptest::prelude::*;

type Map = PageMap<Vec<AtomicU64>>;

const GIB1: u64 = 1 << 30;
const MIB2: u64 = 2 << 20;
const BASE: u64 = 4096;

fn extents(parts: &[(HugeSize, u64)]) -> Result<Extents, Error> {
    let parts: Vec<_> = parts
        .iter()
        .map(|&(size, count)| (size, PageCount::new(count)))
        .collect();
    Extents::new(&parts)
}

fn three() -> Extents {
    extents(&[
        (HugeSize::GIB1, 2),
        (HugeSize::MIB2, 3),
        (HugeSize::BASE, 5),
    ])
    .unwrap()
}

fn map(extents: Extents) -> Map {
    let slots = (0..extents.slots()).map(|_| AtomicU64::new(0)).collect();
    PageMap::new(slots, extents, extents.capacity()).unwrap()
}

fn bytes(start: u64, end: u64) -> Result<ByteRange, Error> {
    ByteRange::new(ByteOffset::new(start), ByteOffset::new(end))
}

fn pages(map: &Map, start: u64, end: u64) -> Result<SlotRange, Error> {
    map.pages(bytes(start, end)?)
}

fn filled(map: &Map, index: u64, pfn: u64) -> FilledClaim {
    let Ok(Claim::Granted(claim)) = map.claim(PageIndex::new(index), |_| ()) else {
        panic!("slot {index} is not free");
    };
    let frame = Frame::new(Pfn::new(pfn), claim.size()).unwrap();
    map.attach(claim, frame).unwrap()
}

fn fill(map: &Map, index: u64, pfn: u64) {
    assert_eq!(map.commit(filled(map, index, pfn)).1.target(), None);
}

fn promise(map: &Map, range: SlotRange) {
    let claim = map.claim_holes(range, |_| ()).unwrap();
    map.commit_promises(claim, |_| ());
}

fn present(map: &Map) -> u64 {
    map.census()
        .iter()
        .map(|(_, census)| census.present.raw())
        .sum()
}

#[test]
fn extents_do_not_ascend_and_fit_the_address_space() {
    let invalid = Err(Error::ExtentsInvalid);
    assert_eq!(extents(&[]), invalid);
    assert_eq!(extents(&[(HugeSize::MIB2, 0)]), invalid);
    assert_eq!(
        extents(&[(HugeSize::BASE, 1), (HugeSize::MIB2, 1)]),
        invalid
    );
    let order = |order| HugeSize::from_order(order).unwrap();
    assert_eq!(
        extents(&[(order(9), 1), (order(4), 1), (order(2), 1), (order(0), 1)]),
        invalid
    );
    let most = (ByteLen::MAX.raw() + 1) / GIB1;
    assert_eq!(extents(&[(HugeSize::GIB1, most)]), Err(Error::SizeTooLarge));
    assert_eq!(
        extents(&[(HugeSize::GIB1, u64::MAX)]),
        Err(Error::SizeTooLarge)
    );
    assert_eq!(
        extents(&[(HugeSize::GIB1, most - 1), (HugeSize::MIB2, 512)]),
        Err(Error::SizeTooLarge)
    );
    let largest = extents(&[(HugeSize::GIB1, most - 1), (HugeSize::MIB2, 511)]).unwrap();
    assert_eq!(largest.capacity().raw(), ByteLen::MAX.raw() + 1 - MIB2);
    let equal = extents(&[
        (HugeSize::MIB2, 2),
        (HugeSize::MIB2, 3),
        (HugeSize::BASE, 1),
    ])
    .unwrap();
    assert_eq!(
        map(equal).index_at(ByteOffset::new(4 * MIB2)),
        Ok(PageIndex::new(4))
    );
    assert_eq!(
        equal.bytes_of(PageIndex::new(4)).unwrap().start().raw(),
        4 * MIB2
    );
    assert!(extents(&[(order(22), 1), (order(4), 1), (order(0), 1)]).is_ok());
}

#[test]
fn offsets_and_slots_agree_across_three_sizes() {
    let map = map(three());
    let mut start = 0;
    for (slot, size) in [GIB1, GIB1, MIB2, MIB2, MIB2, BASE, BASE, BASE, BASE, BASE]
        .into_iter()
        .enumerate()
    {
        let index = PageIndex::new(slot as u64);
        let own = map.extents().bytes_of(index).unwrap();
        assert_eq!((own.start().raw(), own.len().raw()), (start, size));
        assert_eq!(map.extents().size_of(index).unwrap().bytes(), size);
        for offset in [start, start + 1, start + size / 2, start + size - 1] {
            assert_eq!(map.index_at(ByteOffset::new(offset)), Ok(index));
        }
        start += size;
    }
    assert_eq!(map.extents().capacity().raw(), start);
    assert_eq!(map.extents().bytes_of(PageIndex::new(10)), None);
    for offset in [start, u64::MAX] {
        let offset = ByteOffset::new(offset);
        assert_eq!(map.index_at(offset), Err(Error::RangeBeyondEnd));
        assert_eq!(map.page_at(offset), Err(Error::RangeBeyondEnd));
    }
}

#[test]
fn ranges_that_do_not_fit_are_refused() {
    let map = map(three());
    let small = 2 * GIB1 + 3 * MIB2;
    let end = small + 5 * BASE;
    assert_eq!(pages(&map, 0, 0), Err(Error::RangeEmpty));
    assert_eq!(pages(&map, MIB2, 0), Err(Error::RangeReversed));
    assert_eq!(pages(&map, 0, u64::MAX), Err(Error::RangeOverflow));
    assert_eq!(pages(&map, 1 << 63, u64::MAX), Err(Error::RangeOverflow));
    let wraps = ByteRange::at(ByteOffset::new(GIB1), ByteLen::new(u64::MAX));
    assert_eq!(wraps, Err(Error::RangeOverflow));
    assert_eq!(pages(&map, 0, 1 << 62), Err(Error::RangeBeyondEnd));
    assert_eq!(pages(&map, 0, end + 1), Err(Error::RangeBeyondEnd));
    assert_eq!(pages(&map, end, end + BASE), Err(Error::RangeBeyondEnd));
    // A boundary of small pages is not one of large ones.
    assert_eq!(pages(&map, MIB2, GIB1), Err(Error::RangeUnaligned));
    assert_eq!(pages(&map, 0, GIB1 + MIB2), Err(Error::RangeUnaligned));
    assert_eq!(pages(&map, 1, end), Err(Error::RangeUnaligned));
    assert_eq!(pages(&map, small - BASE, end), Err(Error::RangeUnaligned));
    assert_eq!(pages(&map, small, end - 1), Err(Error::RangeUnaligned));

    let whole = pages(&map, 0, end).unwrap();
    assert_eq!((whole.count().raw(), whole.iter().count()), (10, 10));
    let across = pages(&map, small - MIB2, small + BASE).unwrap();
    assert_eq!((across.first().raw(), across.end().raw()), (4, 6));
    let beyond = map
        .extents()
        .covering(bytes(0, end + BASE).unwrap(), ByteLen::new(end + BASE));
    assert_eq!(beyond, Err(Error::BeyondCapacity));
}

#[test]
fn a_range_may_end_with_the_buffer_inside_a_page() {
    let map = map(three());
    let cut = 2 * GIB1 + 5;
    let claim = map.truncate(ByteLen::new(cut), |_| ()).unwrap();
    map.end_range(claim, |_| ());
    // Nothing was removed, so the size came back.
    assert_eq!(map.size(), map.extents().capacity());

    let mut claim = map.truncate(ByteLen::new(cut), |_| ()).unwrap();
    assert_eq!(claim.count(), PageCount::new(7));
    while map.next_removed(&mut claim).is_some() {}
    map.end_range(claim, |_| ());
    assert_eq!(map.size().raw(), cut);
    assert_eq!(pages(&map, GIB1, cut).unwrap().count().raw(), 2);
    assert_eq!(pages(&map, GIB1, cut - 1), Err(Error::RangeUnaligned));
    assert_eq!(pages(&map, GIB1, cut + 1), Err(Error::RangeBeyondEnd));
    fill(&map, 2, 512);
    assert!(map.page_at(ByteOffset::new(cut - 1)).is_ok());
    // Past the end is a range error even where the page is there.
    assert_eq!(
        map.page_at(ByteOffset::new(cut)),
        Err(Error::RangeBeyondEnd)
    );
    let past = map.claim(PageIndex::new(3), |_| ());
    assert!(matches!(past, Err(Stop::Fail(Error::RangeBeyondEnd))));
    let pin = map.pin(PageIndex::new(3));
    assert_eq!(pin, Err(Stop::Fail(Error::RangeBeyondEnd)));
}

#[test]
fn a_truncate_keeps_the_page_that_it_cuts_and_touches_no_promise_twice() {
    let map = map(extents(&[(HugeSize::MIB2, 4)]).unwrap());
    promise(&map, pages(&map, 0, 4 * MIB2).unwrap());
    fill(&map, 1, 512);
    fill(&map, 3, 1024);
    let mut claim = map.truncate(ByteLen::new(MIB2 + 1), |_| ()).unwrap();
    assert_eq!(map.size().raw(), MIB2 + 1);
    let mut removed = Vec::new();
    while let Some(emptied) = map.next_removed(&mut claim) {
        removed.push(emptied.removed);
    }
    map.end_range(claim, |_| ());
    let frame = Frame::new(Pfn::new(1024), HugeSize::MIB2).unwrap();
    assert_eq!(
        removed,
        [Removed::Promise(HugeSize::MIB2), Removed::Frame(frame)]
    );
    assert_eq!(present(&map), 1);
    // Growing again brings holes back, neither pages nor promises.
    assert_eq!(map.grow(ByteLen::new(4 * MIB2)).unwrap().raw(), MIB2 + 1);
    let census = *map.census().of(HugeSize::MIB2).unwrap();
    assert_eq!((census.holes.raw(), census.promises().raw()), (2, 1));
    assert_eq!(
        map.grow(ByteLen::new(4 * MIB2 + 1)),
        Err(Error::BeyondCapacity)
    );
}

#[test]
fn a_truncate_that_meets_a_pin_or_a_seal_changes_nothing() {
    let map = map(extents(&[(HugeSize::MIB2, 4)]).unwrap());
    promise(&map, pages(&map, 0, 2 * MIB2).unwrap());
    fill(&map, 3, 512);
    let before = map.census();
    let truncated = |map: &Map| match map.truncate(ByteLen::new(1), |_| ()) {
        Err(stop) => stop,
        Ok(claim) => panic!("{claim:?}"),
    };
    let pin = map.pin(PageIndex::new(3)).unwrap();
    let pinned = map.census();
    assert_eq!(truncated(&map), Stop::Fail(Error::Pinned));
    assert_eq!((map.size().raw(), map.census()), (4 * MIB2, pinned));
    map.unpin(pin);
    let seal = map.seal().unwrap();
    assert_eq!(truncated(&map), Stop::Fail(Error::Sealed));
    let punched = map.claim_range(pages(&map, 0, MIB2).unwrap(), |_| ());
    assert_eq!(punched, Err(Stop::Fail(Error::Sealed)));
    // A promise is no page: it may go.
    let freed = map.unpromise(pages(&map, 0, MIB2).unwrap(), |_| ());
    assert_eq!(freed.unwrap().of(HugeSize::MIB2), Some(&PageCount::ONE));
    promise(&map, pages(&map, 0, MIB2).unwrap());
    map.unseal(seal);
    assert_eq!((map.size().raw(), map.census()), (4 * MIB2, before));
    let mut claim = map.truncate(ByteLen::new(1), |_| ()).unwrap();
    while map.next_removed(&mut claim).is_some() {}
    map.end_range(claim, |_| ());
    assert_eq!(present(&map), 0);
}

#[test]
fn promises_may_come_before_the_size() {
    let map = map(extents(&[(HugeSize::MIB2, 4)]).unwrap());
    let mut claim = map.truncate(ByteLen::ZERO, |_| ()).unwrap();
    while map.next_removed(&mut claim).is_some() {}
    map.end_range(claim, |_| ());
    assert_eq!(pages(&map, 0, MIB2), Err(Error::RangeBeyondEnd));
    let new = ByteLen::new(3 * MIB2 - 7);
    let range = map
        .extents()
        .covering(bytes(0, new.raw()).unwrap(), new)
        .unwrap();
    promise(&map, range);
    assert_eq!(map.grow(new), Ok(ByteLen::ZERO));
    let census = *map.census().of(HugeSize::MIB2).unwrap();
    assert_eq!(census.promises().raw(), 3);
    assert_eq!(
        map.census_of(range).of(HugeSize::MIB2),
        Some(&htlb_core::page_map::Census {
            promised: PageCount::new(3),
            ..Default::default()
        })
    );
}

#[test]
fn pins_and_seals_stop_at_their_last_bit() {
    let mut map = map(extents(&[(HugeSize::MIB2, 1)]).unwrap());
    fill(&map, 0, (1 << 40) - 512);
    let mut pins: Vec<_> = (0..MAX_PINS)
        .map(|_| map.pin(PageIndex::ZERO).unwrap())
        .collect();
    let full = Err(Stop::Fail(Error::PinOverflow));
    assert_eq!(map.pin(PageIndex::ZERO), full);
    assert_eq!(pins[0].pfn(), Pfn::new((1 << 40) - 512));
    map.unpin(pins.swap_remove(0));
    pins.push(map.pin(PageIndex::ZERO).unwrap());
    assert_eq!(map.drain().err(), Some(Error::Pinned));
    pins.into_iter().for_each(|pin| map.unpin(pin));

    let mut seals: Vec<_> = (0..(1 << 20) - 1).map(|_| map.seal().unwrap()).collect();
    assert_eq!(map.seal(), Err(Stop::Fail(Error::PinOverflow)));
    map.unseal(seals.swap_remove(0));
    seals.push(map.seal().unwrap());
    assert_eq!(map.drain().err(), Some(Error::Sealed));
    seals.into_iter().for_each(|seal| map.unseal(seal));
    assert!(!map.is_sealed());
    let drained: Vec<_> = map.drain().unwrap().collect();
    assert!(matches!(
        drained[..],
        [(PageIndex::ZERO, Removed::Frame(_))]
    ));
    assert_eq!(map.drain().unwrap().count(), 0);
}

#[test]
fn slots_that_do_not_match_are_refused() {
    let extents = three();
    for slots in [0, 9, 11] {
        let slots: Vec<_> = (0..slots).map(|_| AtomicU64::new(0)).collect();
        let refused = PageMap::new(slots, extents, extents.capacity());
        assert_eq!(refused.err(), Some(Error::SlotsMismatch));
    }
    let stale: Vec<_> = (0..10).map(|n| AtomicU64::new(n / 9)).collect();
    let refused = PageMap::new(stale, extents, extents.capacity());
    assert_eq!(refused.err(), Some(Error::SlotsMismatch));
    let zeroed: Vec<_> = (0..10).map(|_| AtomicU64::new(0)).collect();
    let beyond = ByteLen::new(extents.capacity().raw() + 1);
    let refused = PageMap::new(zeroed, extents, beyond);
    assert_eq!(refused.err(), Some(Error::BeyondCapacity));
}

#[test]
fn a_frame_of_another_size_comes_back_with_the_claim() {
    let map = map(three());
    let Ok(Claim::Granted(claim)) = map.claim(PageIndex::ZERO, |_| ()) else {
        panic!("a hole is free");
    };
    let frame = Frame::new(Pfn::new(512), HugeSize::MIB2).unwrap();
    let refused = map.attach(claim, frame).unwrap_err();
    assert_eq!(refused.error, Error::FrameSizeMismatch);
    assert_eq!(refused.frame.into_pfn(), Pfn::new(512));
    assert_eq!(map.frames().count(), 0);
    assert_eq!(map.abort(refused.claim).1.target(), None);
    assert!(!map.is_claimed(PageIndex::ZERO));
}

#[test]
fn whoever_holds_a_claim_waits_only_for_lower_slots() {
    let map = map(three());
    let own = filled(&map, 4, 512);
    let (lower, higher) = (filled(&map, 3, 1024), filled(&map, 5, 3));
    let wait = |slot: &FilledClaim| map.prepare_wait(slot.index(), Some(own.index()));
    assert_eq!(wait(&own), Err(Error::WouldDeadlock));
    assert_eq!(wait(&higher), Err(Error::WouldDeadlock));
    assert_eq!(wait(&lower), Ok(Waiting::Sleep));
    assert_eq!(
        map.prepare_wait(PageIndex::new(9), Some(own.index())),
        Ok(Waiting::Retry)
    );
    assert_eq!(
        map.prepare_wait(PageIndex::new(99), None),
        Ok(Waiting::Retry)
    );
    let woken = Some(WaitFor::Slot(lower.index()));
    assert_eq!(map.commit(lower).1.target(), woken);
    assert_eq!(map.commit(higher).1.target(), None);
    assert_eq!(map.commit(own).1.target(), None);
}

#[test]
fn the_mark_of_a_waiter_belongs_to_one_claim() {
    let map = map(three());
    let first = filled(&map, 5, 1);
    let index = first.index();
    assert_eq!(map.prepare_wait(index, None), Ok(Waiting::Sleep));
    let (claim, frame) = map.detach(first);
    assert_eq!(frame.into_pfn(), Pfn::new(1));
    assert_eq!(map.abort(claim).1.target(), Some(WaitFor::Slot(index)));
    assert_eq!(map.prepare_wait(index, None), Ok(Waiting::Retry));
    assert_eq!(map.commit(filled(&map, 5, 2)).1.target(), None);
}

#[test]
fn a_range_of_another_map_fails_and_puts_everything_back() {
    let large = map(three());
    let small = map(extents(&[(HugeSize::MIB2, 3)]).unwrap());
    fill(&small, 1, 512);
    let before = small.census();
    let foreign = pages(&large, 0, large.extents().capacity().raw()).unwrap();
    let beyond = Stop::Fail(Error::RangeBeyondEnd);
    assert_eq!(small.claim_range(foreign, |_| ()), Err(beyond));
    assert_eq!(small.census(), before);
    assert!(small.seal().map(|seal| small.unseal(seal)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any pair of numbers as a range, against the definition: page by page.
    #[test]
    fn covering_agrees_with_its_definition(
        start in edge(), end in edge(), size in edge().prop_filter("within capacity", |&size| size <= capacity()),
    ) {
        let extents = three();
        let mut at = vec![0];
        for slot in 0..extents.slots() as u64 {
            at.push(extents.bytes_of(PageIndex::new(slot)).unwrap().end().raw());
        }
        let answer = bytes(start, end).and_then(|range| extents.covering(range, ByteLen::new(size)));
        let expected = if start > i64::MAX as u64 || end > i64::MAX as u64 {
            Err(Error::RangeOverflow)
        } else if start == end {
            Err(Error::RangeEmpty)
        } else if start > end {
            Err(Error::RangeReversed)
        } else if end > size {
            Err(Error::RangeBeyondEnd)
        } else if !at.contains(&start) || !(at.contains(&end) || end == size) {
            Err(Error::RangeUnaligned)
        } else {
            let first = at.iter().position(|&b| b == start).unwrap() as u64;
            let last = at.iter().position(|&b| b >= end).unwrap() as u64;
            Ok((first, last))
        };
        prop_assert_eq!(answer.map(|range| (range.first().raw(), range.end().raw())), expected);
    }
}

fn capacity() -> u64 {
    2 * GIB1 + 3 * MIB2 + 5 * BASE
}

/// Numbers near page boundaries, and some from the far end.
fn edge() -> impl Strategy<Value = u64> {
    let near = |at: u64| prop_oneof![3 => Just(at), 1 => Just(at.saturating_sub(1)), 1 => Just(at.saturating_add(1))];
    prop_oneof![
        3 => (0..=2u64).prop_map(|n| n * GIB1).prop_flat_map(near),
        3 => (0..=3u64).prop_map(|n| 2 * GIB1 + n * MIB2).prop_flat_map(near),
        3 => (0..=5u64).prop_map(|n| 2 * GIB1 + 3 * MIB2 + n * BASE).prop_flat_map(near),
        1 => (0..=512u64).prop_map(|n| n * MIB2).prop_flat_map(near),
        1 => Just(i64::MAX as u64).prop_flat_map(near),
        1 => any::<u64>(),
    ]
}
