// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The map, the model and every claim, pin and seal that is open.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use htlb_core::page_map::{
    Census, Extents, FilledClaim, Origin, PageMap, PagePin, PromiseClaim, RangeClaim, Removed,
    Seal, SlotClaim, SlotRange,
};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error, HugeSize, PageCount, PageIndex, Stop, WaitFor,
};

use super::page::{boundaries, size_of, Page, Punch, Was, PARTS, SLOTS};
use super::{Nth, Op};

#[derive(Default)]
pub(super) struct Tokens {
    pub(super) claims: Vec<SlotClaim>,
    pub(super) filled: Vec<FilledClaim>,
    pub(super) pins: Vec<PagePin>,
    pub(super) seals: Vec<Seal>,
    pub(super) ranges: Vec<(RangeClaim, Punch)>,
    pub(super) promises: Vec<(PromiseClaim, Vec<usize>)>,
}

pub(super) struct World {
    pub(super) map: PageMap<Vec<AtomicU64>>,
    pub(super) pages: Vec<Page>,
    pub(super) size: u64,
    pub(super) seal_waited: bool,
    pub(super) tokens: Tokens,
    pub(super) next_frame: u64,
    /// Frames that came out of the map again.
    pub(super) returned: BTreeSet<u64>,
}

pub(super) fn pick<T>(from: &mut Vec<T>, nth: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(nth % from.len()))
}

pub(super) fn index(slot: usize) -> PageIndex {
    PageIndex::new(slot as u64)
}

pub(super) fn wait(slot: usize) -> Stop {
    Stop::Wait(WaitFor::Slot(index(slot)))
}

pub(super) fn nobody(what: WaitFor) {
    panic!("woke {what:?}, for whom nobody can have waited");
}

impl World {
    pub(super) fn new() -> Self {
        let parts = PARTS.map(|(size, count)| (size, PageCount::new(count)));
        let extents = Extents::new(&parts).unwrap();
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        let map = PageMap::new(slots, extents, extents.capacity()).unwrap();
        Self {
            map,
            pages: vec![Page::Hole; SLOTS],
            size: boundaries()[SLOTS],
            seal_waited: false,
            tokens: Tokens::default(),
            next_frame: 0,
            returned: BTreeSet::new(),
        }
    }

    pub(super) fn below_size(&self, slot: usize) -> bool {
        boundaries()[slot] < self.size
    }

    pub(super) fn slots_for(&self, size: u64) -> usize {
        boundaries().iter().filter(|&&at| at < size).count()
    }

    pub(super) fn range(&self, a: usize, b: usize) -> Option<(usize, usize, SlotRange)> {
        let at = |slot: usize| ByteOffset::new(boundaries()[slot]);
        let bytes = ByteRange::new(at(a), at(b)).ok()?;
        let range = self
            .map
            .extents()
            .covering(bytes, self.map.extents().capacity())
            .unwrap();
        assert_eq!((range.first(), range.end()), (index(a), index(b)));
        Some((a, b, range))
    }

    pub(super) fn settle(&mut self, slot: usize, becomes: Page) -> Option<WaitFor> {
        let waited = self.pages[slot].waited();
        self.pages[slot] = becomes;
        waited.then(|| WaitFor::Slot(index(slot)))
    }

    pub(super) fn transient(&self) -> bool {
        !self.tokens.ranges.is_empty() || !self.tokens.promises.is_empty()
    }

    pub(super) fn left(&mut self) -> Option<WaitFor> {
        let wake = self.seal_waited && !self.transient();
        self.seal_waited &= self.transient();
        wake.then_some(WaitFor::Seal)
    }

    pub(super) fn check(&self) {
        let starts = boundaries();
        assert_eq!(self.map.size(), ByteLen::new(self.size));
        assert_eq!(self.map.is_sealed(), !self.tokens.seals.is_empty());
        for (slot, page) in self.pages.iter().enumerate() {
            assert_eq!(self.map.is_claimed(index(slot)), page.is_claimed());
            for offset in [starts[slot], starts[slot + 1] - 1] {
                let found = self.map.page_at(ByteOffset::new(offset));
                let expected = if offset >= self.size {
                    Err(Error::RangeBeyondEnd)
                } else if let Page::Present { pfn, .. } = *page {
                    Ok((pfn, size_of(slot), offset - starts[slot]))
                } else {
                    Err(Error::NotPresent)
                };
                let found = found.map(|at| (at.pfn, at.size, at.offset_in_page.raw()));
                assert_eq!(found, expected);
            }
        }
        let frames: Vec<_> = self.map.frames().collect();
        let expected: Vec<_> = (0..SLOTS)
            .filter_map(|slot| Some((index(slot), self.pages[slot].pfn()?, size_of(slot))))
            .collect();
        assert_eq!(frames, expected);
        for (size, census) in self.map.census().iter() {
            assert_eq!(*census, self.census(size));
        }
    }

    pub(super) fn census(&self, size: HugeSize) -> Census {
        let pages = (0..SLOTS)
            .filter(|&slot| size_of(slot) == size)
            .map(|slot| self.pages[slot]);
        let count = |is: &dyn Fn(Page) -> bool| {
            PageCount::new(pages.clone().filter(|&page| is(page)).count() as u64)
        };
        let claimed = |origin: Origin, was: Was| {
            count(&move |page| match page {
                Page::Filling {
                    origin: own,
                    pfn: None,
                    ..
                } => own == origin,
                Page::Held { was: own, .. } => own == was,
                _ => false,
            })
        };
        Census {
            holes: count(&|page| page == Page::Hole),
            promised: count(&|page| page == Page::Promised),
            claimed_holes: claimed(Origin::Hole, Was::Hole),
            claimed_promises: claimed(Origin::Promised, Was::Promised),
            claimed_frames: count(&|page| page.is_claimed() && page.pfn().is_some()),
            present: count(&|page| matches!(page, Page::Present { .. })),
            pins: pages
                .clone()
                .map(|page| match page {
                    Page::Present { pins, .. } => pins,
                    _ => 0,
                })
                .sum(),
        }
    }

    pub(super) fn finish(mut self) {
        for _ in 0..SLOTS {
            self.step(Op::Detach(Nth(0)));
            self.step(Op::Abort(Nth(0)));
        }
        while !self.tokens.ranges.is_empty() {
            self.step(Op::EndRange(Nth(0)));
        }
        while !self.tokens.promises.is_empty() {
            self.step(Op::AbortPromises(Nth(0)));
        }
        self.check();
        if !self.tokens.seals.is_empty() {
            assert_eq!(self.map.drain().err(), Some(Error::Sealed));
        }
        while !self.tokens.seals.is_empty() {
            self.step(Op::Unseal(Nth(0)));
        }
        if !self.tokens.pins.is_empty() {
            assert_eq!(self.map.drain().err(), Some(Error::Pinned));
        }
        while !self.tokens.pins.is_empty() {
            self.step(Op::Unpin(Nth(0)));
        }
        self.check();
        let mut expected = (0..SLOTS).filter(|&slot| self.pages[slot] != Page::Hole);
        for (at, removed) in self.map.drain().unwrap() {
            let slot = expected.next().unwrap();
            assert_eq!(at, index(slot));
            match (removed, self.pages[slot]) {
                (Removed::Promise(size), Page::Promised) => assert_eq!(size, size_of(slot)),
                (Removed::Frame(frame), Page::Present { pfn, .. }) => {
                    assert_eq!(frame.pfn(), pfn);
                    assert!(self.returned.insert(frame.into_pfn().raw()));
                }
                (removed, page) => panic!("{removed:?} where {page:?} was"),
            }
        }
        assert_eq!(expected.next(), None);
        let unit = HugeSize::GIB1.base_pages();
        let made: BTreeSet<u64> = (1..=self.next_frame / unit).map(|n| n * unit).collect();
        assert_eq!(self.returned, made, "a frame was lost or made twice");
        let slots = self.map.into_slots();
        assert!(slots.into_iter().all(|slot| slot.into_inner() == 0));
    }
}
