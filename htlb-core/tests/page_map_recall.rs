// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pins and seals whose tokens were not kept come back from the map, as often as they are held and no oftener.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::AtomicU64;

use htlb_core::page_map::{Claim, Extents, PageMap};
use htlb_core::{ByteLen, ByteOffset, Error, Frame, HugeSize, PageCount, PageIndex, Pfn, Stop};

const PAGE: PageIndex = PageIndex::new(1);

/// Three pages and a half, the second of which is there.
fn map() -> PageMap<[AtomicU64; 4]> {
    let extents = Extents::new(&[(HugeSize::MIB2, PageCount::new(4))]).unwrap();
    let size = ByteLen::new(7 << 20);
    let map = PageMap::new([const { AtomicU64::new(0) }; 4], extents, size).unwrap();
    let Ok(Claim::Granted(claim)) = map.claim(PAGE, |_| ()) else {
        panic!("a hole is claimed");
    };
    let frame = Frame::new(Pfn::new(512), HugeSize::MIB2).unwrap();
    let filled = map.attach(claim, frame).unwrap();
    let (_, wake) = map.commit(filled);
    assert_eq!(wake.target(), None);
    map
}

#[test]
fn a_pin_is_recalled_as_often_as_it_is_held() {
    let map = map();
    assert_eq!(map.recall_pin(PAGE), None);
    for _ in 0..2 {
        let pin = map.pin(PAGE).unwrap();
        assert_eq!((pin.index(), pin.size()), (PAGE, HugeSize::MIB2));
        // Its index is what is kept.
    }
    for _ in 0..2 {
        let pin = map.recall_pin(PAGE).expect("it is held");
        assert_eq!((pin.index(), pin.pfn()), (PAGE, Pfn::new(512)));
        map.unpin(pin);
    }
    assert_eq!(map.recall_pin(PAGE), None);
    assert_eq!(map.recall_pin(PageIndex::new(0)), None, "a hole");
    assert_eq!(map.recall_pin(PageIndex::new(4)), None, "no page");
}

#[test]
fn a_seal_is_recalled_as_often_as_it_is_held() {
    let map = map();
    assert!(map.recall_seal().is_none());
    let _unkept = map.seal().unwrap();
    let whole = map.pages(htlb_core::ByteRange::at(ByteOffset::ZERO, map.size()).unwrap());
    let punch = map.claim_range(whole.unwrap(), |_| ());
    assert_eq!(punch.err(), Some(Stop::Fail(Error::Sealed)));
    map.unseal(map.recall_seal().expect("it is held"));
    assert!(map.recall_seal().is_none());
}

#[test]
fn an_offset_has_a_page_wherever_the_buffer_ends() {
    let map = map();
    let page_of = |offset| map.extents().index_of(ByteOffset::new(offset));
    assert_eq!(page_of((4 << 20) - 1), Some(PAGE));
    // Beyond the size, below the capacity, and beyond that.
    assert_eq!(page_of((8 << 20) - 1), Some(PageIndex::new(3)));
    assert_eq!(page_of(8 << 20), None);
}
