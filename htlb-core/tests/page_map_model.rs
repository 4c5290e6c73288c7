// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The page map against a naive model: any interleaving of its operations, every answer and every slot compared.
//!
//! Claims stay open over other operations, several at a time and on overlapping ranges, so "planned, then the map
//! changed, then committed" is the ordinary case here.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use htlb_core::page_map::{
    Census, Claim, Extents, FilledClaim, Origin, PageMap, PagePin, PromiseClaim, RangeClaim,
    Removed, Seal, SlotClaim, SlotRange,
};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error, Frame, HugeSize, PageCount, PageIndex, Pfn, Stop,
    WaitFor, Waiting,
};
use proptest::prelude::*;

const PARTS: [(HugeSize, u64); 3] = [
    (HugeSize::GIB1, 1),
    (HugeSize::MIB2, 3),
    (HugeSize::BASE, 3),
];
const SLOTS: usize = 7;

/// Where each page begins, by addition alone; the last entry is the capacity.
fn boundaries() -> Vec<u64> {
    let mut at = vec![0];
    for (size, count) in PARTS {
        for _ in 0..count {
            at.push(at[at.len() - 1] + size.bytes());
        }
    }
    at
}

fn size_of(slot: usize) -> HugeSize {
    match slot {
        0 => HugeSize::GIB1,
        1..=3 => HugeSize::MIB2,
        _ => HugeSize::BASE,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Page {
    Hole,
    Promised,
    Filling {
        origin: Origin,
        pfn: Option<Pfn>,
        waited: bool,
    },
    /// Claimed by a punch or a change of promises, with what was there.
    Held {
        was: Was,
        waited: bool,
    },
    Present {
        pfn: Pfn,
        pins: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Was {
    Hole,
    Promised,
    Present(Pfn),
}

impl Was {
    fn page(self) -> Page {
        match self {
            Was::Hole => Page::Hole,
            Was::Promised => Page::Promised,
            Was::Present(pfn) => Page::Present { pfn, pins: 0 },
        }
    }
}

impl Page {
    fn is_claimed(self) -> bool {
        matches!(self, Page::Filling { .. } | Page::Held { .. })
    }

    fn waited(self) -> bool {
        matches!(
            self,
            Page::Filling { waited: true, .. } | Page::Held { waited: true, .. }
        )
    }

    fn pfn(self) -> Option<Pfn> {
        match self {
            Page::Present { pfn, .. } => Some(pfn),
            Page::Filling { pfn, .. } => pfn,
            Page::Held {
                was: Was::Present(pfn),
                ..
            } => Some(pfn),
            _ => None,
        }
    }
}

/// One punch or truncate under way.
#[derive(Clone, Copy, Debug)]
struct Punch {
    next: usize,
    end: usize,
    truncated_from: Option<u64>,
}

#[derive(Default)]
struct Tokens {
    claims: Vec<SlotClaim>,
    filled: Vec<FilledClaim>,
    pins: Vec<PagePin>,
    seals: Vec<Seal>,
    ranges: Vec<(RangeClaim, Punch)>,
    promises: Vec<(PromiseClaim, Vec<usize>)>,
}

struct World {
    map: PageMap<Vec<AtomicU64>>,
    pages: Vec<Page>,
    size: u64,
    seal_waited: bool,
    tokens: Tokens,
    next_frame: u64,
    /// Frames that came out of the map again.
    returned: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Op {
    Claim(usize),
    Attach(usize),
    Detach(usize),
    Commit(usize),
    Abort(usize),
    Pin(usize),
    Unpin(usize),
    Seal,
    Unseal(usize),
    ClaimRange(usize, usize),
    Next(usize),
    EndRange(usize),
    Truncate(usize, i64),
    Grow(usize, i64),
    ClaimHoles(usize, usize),
    CommitPromises(usize),
    AbortPromises(usize),
    Unpromise(usize, usize),
    Wait(usize, Option<usize>),
    WaitSeal,
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..SLOTS;
    let nth = 0..8usize;
    let range = (0..SLOTS, 1..=SLOTS);
    let size = (0..=SLOTS, -1..=1i64);
    prop_oneof![
        5 => slot.clone().prop_map(Op::Claim),
        4 => nth.clone().prop_map(Op::Attach),
        1 => nth.clone().prop_map(Op::Detach),
        4 => nth.clone().prop_map(Op::Commit),
        1 => nth.clone().prop_map(Op::Abort),
        2 => slot.clone().prop_map(Op::Pin),
        3 => nth.clone().prop_map(Op::Unpin),
        1 => Just(Op::Seal),
        2 => nth.clone().prop_map(Op::Unseal),
        3 => range.clone().prop_map(|(a, b)| Op::ClaimRange(a, b)),
        6 => nth.clone().prop_map(Op::Next),
        3 => nth.clone().prop_map(Op::EndRange),
        2 => size.clone().prop_map(|(at, by)| Op::Truncate(at, by)),
        2 => size.prop_map(|(at, by)| Op::Grow(at, by)),
        3 => range.clone().prop_map(|(a, b)| Op::ClaimHoles(a, b)),
        3 => nth.clone().prop_map(Op::CommitPromises),
        1 => nth.prop_map(Op::AbortPromises),
        1 => range.prop_map(|(a, b)| Op::Unpromise(a, b)),
        2 => (slot.clone(), proptest::option::of(slot)).prop_map(|(at, held)| Op::Wait(at, held)),
        1 => Just(Op::WaitSeal),
    ]
}

fn pick<T>(from: &mut Vec<T>, nth: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(nth % from.len()))
}

fn index(slot: usize) -> PageIndex {
    PageIndex::new(slot as u64)
}

fn wait(slot: usize) -> Stop {
    Stop::Wait(WaitFor::Slot(index(slot)))
}

fn nobody(what: WaitFor) {
    panic!("woke {what:?}, for whom nobody can have waited");
}

impl World {
    fn new() -> Self {
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

    fn below_size(&self, slot: usize) -> bool {
        boundaries()[slot] < self.size
    }

    fn slots_for(&self, size: u64) -> usize {
        boundaries().iter().filter(|&&at| at < size).count()
    }

    fn range(&self, a: usize, b: usize) -> Option<(usize, usize, SlotRange)> {
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

    /// Ends the wait for a slot and says whom that wakes.
    fn settle(&mut self, slot: usize, becomes: Page) -> Option<WaitFor> {
        let waited = self.pages[slot].waited();
        self.pages[slot] = becomes;
        waited.then(|| WaitFor::Slot(index(slot)))
    }

    fn transient(&self) -> bool {
        !self.tokens.ranges.is_empty() || !self.tokens.promises.is_empty()
    }

    /// After a punch or a reservation has left: the wake-up of those who wait for the seal.
    fn left(&mut self) -> Option<WaitFor> {
        let wake = self.seal_waited && !self.transient();
        self.seal_waited &= self.transient();
        wake.then_some(WaitFor::Seal)
    }

    fn may_punch(&self) -> Result<(), Stop> {
        if !self.tokens.seals.is_empty() {
            Err(Stop::Fail(Error::Sealed))
        } else if !self.tokens.promises.is_empty() {
            Err(Stop::Wait(WaitFor::Seal))
        } else {
            Ok(())
        }
    }

    fn may_remove(&self, mut slots: std::ops::Range<usize>) -> Result<(), Stop> {
        slots.try_for_each(|slot| match self.pages[slot] {
            Page::Present { pins: 1.., .. } => Err(Stop::Fail(Error::Pinned)),
            page if page.is_claimed() => Err(wait(slot)),
            _ => Ok(()),
        })
    }

    fn hold(&mut self, slots: std::ops::Range<usize>) {
        for page in &mut self.pages[slots] {
            let was = match *page {
                Page::Hole => Was::Hole,
                Page::Promised => Was::Promised,
                Page::Present { pfn, .. } => Was::Present(pfn),
                page => panic!("{page:?} cannot be held"),
            };
            *page = Page::Held { was, waited: false };
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Claim(slot) => self.claim(slot),
            Op::Attach(nth) => {
                let Some(claim) = pick(&mut self.tokens.claims, nth) else {
                    return;
                };
                let slot = claim.index().raw() as usize;
                self.next_frame += HugeSize::GIB1.base_pages();
                let frame = Frame::new(Pfn::new(self.next_frame), claim.size()).unwrap();
                if let Page::Filling { pfn, .. } = &mut self.pages[slot] {
                    *pfn = Some(frame.pfn());
                }
                self.tokens
                    .filled
                    .push(self.map.attach(claim, frame).unwrap());
            }
            Op::Detach(nth) => {
                let Some(filled) = pick(&mut self.tokens.filled, nth) else {
                    return;
                };
                let slot = filled.index().raw() as usize;
                let (claim, frame) = self.map.detach(filled);
                let Page::Filling { pfn, .. } = &mut self.pages[slot] else {
                    panic!("{:?} is not being filled", self.pages[slot]);
                };
                assert_eq!(*pfn, Some(frame.pfn()));
                *pfn = None;
                assert!(self.returned.insert(frame.into_pfn().raw()));
                self.tokens.claims.push(claim);
            }
            Op::Commit(nth) => {
                let Some(filled) = pick(&mut self.tokens.filled, nth) else {
                    return;
                };
                let slot = filled.index().raw() as usize;
                let pfn = filled.pfn();
                let wakes = self.settle(slot, Page::Present { pfn, pins: 0 });
                let (located, wake) = self.map.commit(filled);
                assert_eq!((located.pfn, located.size), (pfn, size_of(slot)));
                assert_eq!(wake.target(), wakes);
            }
            Op::Abort(nth) => {
                let Some(claim) = pick(&mut self.tokens.claims, nth) else {
                    return;
                };
                let slot = claim.index().raw() as usize;
                let Page::Filling { origin, .. } = self.pages[slot] else {
                    panic!("{:?} is not being filled", self.pages[slot]);
                };
                let page = match origin {
                    Origin::Hole => Page::Hole,
                    Origin::Promised => Page::Promised,
                };
                let wakes = self.settle(slot, page);
                let (was, wake) = self.map.abort(claim);
                assert_eq!((was, wake.target()), (origin, wakes));
            }
            Op::Pin(slot) => self.pin(slot),
            Op::Unpin(nth) => {
                if let Some(pin) = pick(&mut self.tokens.pins, nth) {
                    let Page::Present { pins, .. } = &mut self.pages[pin.index().raw() as usize]
                    else {
                        panic!("a pinned page has gone");
                    };
                    *pins -= 1;
                    self.map.unpin(pin);
                }
            }
            Op::Seal => match self.map.seal() {
                Ok(seal) => {
                    assert!(self.tokens.ranges.is_empty());
                    self.tokens.seals.push(seal);
                }
                Err(stop) => {
                    assert!(!self.tokens.ranges.is_empty());
                    assert_eq!(stop, Stop::Wait(WaitFor::Seal));
                }
            },
            Op::Unseal(nth) => {
                if let Some(seal) = pick(&mut self.tokens.seals, nth) {
                    self.map.unseal(seal);
                }
            }
            Op::ClaimRange(a, b) => {
                let Some((a, b, range)) = self.range(a, b) else {
                    return;
                };
                let expected = self.may_punch().and_then(|()| self.may_remove(a..b));
                match self.map.claim_range(range, nobody) {
                    Ok(claim) => {
                        assert_eq!(expected, Ok(()));
                        self.hold(a..b);
                        let punch = Punch {
                            next: a,
                            end: b,
                            truncated_from: None,
                        };
                        self.tokens.ranges.push((claim, punch));
                    }
                    Err(stop) => self.refused(stop, expected),
                }
            }
            Op::Truncate(at, by) => {
                let new = boundaries()[at].saturating_add_signed(by);
                let (first, end) = (self.slots_for(new), self.slots_for(self.size));
                let expected = self.may_punch().and_then(|()| self.may_remove(first..end));
                match self.map.truncate(ByteLen::new(new), nobody) {
                    Ok(claim) => {
                        assert_eq!(expected, Ok(()));
                        let punch = if new < self.size {
                            self.hold(first..end);
                            Punch {
                                next: first,
                                end,
                                truncated_from: Some(std::mem::replace(&mut self.size, new)),
                            }
                        } else {
                            Punch {
                                next: first,
                                end: first,
                                truncated_from: None,
                            }
                        };
                        self.tokens.ranges.push((claim, punch));
                    }
                    Err(stop) => self.refused(stop, expected),
                }
            }
            Op::Next(nth) => self.next_removed(nth),
            Op::EndRange(nth) => {
                let Some((claim, punch)) = pick(&mut self.tokens.ranges, nth) else {
                    return;
                };
                let mut expected = Vec::new();
                for slot in punch.next..punch.end {
                    let Page::Held { was, .. } = self.pages[slot] else {
                        panic!("slot {slot} was lost by its punch");
                    };
                    expected.extend(self.settle(slot, was.page()));
                }
                if let (Some(old), true) = (punch.truncated_from, punch.next < punch.end) {
                    self.size = self.size.max(old);
                }
                expected.extend(self.left());
                let mut woken = Vec::new();
                self.map.end_range(claim, |what| woken.push(what));
                assert_eq!(woken, expected);
            }
            Op::Grow(at, by) => {
                let new = boundaries()[at].saturating_add_signed(by);
                let answer = self.map.grow(ByteLen::new(new));
                if new > boundaries()[SLOTS] {
                    assert_eq!(answer, Err(Error::BeyondCapacity));
                } else {
                    assert_eq!(answer, Ok(ByteLen::new(self.size)));
                    self.size = self.size.max(new);
                }
            }
            Op::ClaimHoles(a, b) => self.claim_holes(a, b),
            Op::CommitPromises(nth) => self.end_promises(nth, Page::Promised),
            Op::AbortPromises(nth) => self.end_promises(nth, Page::Hole),
            Op::Unpromise(a, b) => self.unpromise(a, b),
            Op::Wait(slot, held) => {
                let answer = self.map.prepare_wait(index(slot), held.map(index));
                let expected = if !self.pages[slot].is_claimed() {
                    Ok(Waiting::Retry)
                } else if held.is_some_and(|held| slot >= held) {
                    Err(Error::WouldDeadlock)
                } else {
                    Ok(Waiting::Sleep)
                };
                assert_eq!(answer, expected);
                if let (
                    Ok(Waiting::Sleep),
                    Page::Filling { waited, .. } | Page::Held { waited, .. },
                ) = (answer, &mut self.pages[slot])
                {
                    *waited = true;
                }
            }
            Op::WaitSeal => {
                let blocked = self.transient();
                self.seal_waited |= blocked;
                let expected = if blocked {
                    Waiting::Sleep
                } else {
                    Waiting::Retry
                };
                assert_eq!(self.map.prepare_wait_seal(), expected);
            }
        }
    }

    /// A refused attempt; the entry that it made and left again wakes nobody, since it was never there for others.
    fn refused(&self, stop: Stop, expected: Result<(), Stop>) {
        assert_eq!(Err(stop), expected);
    }

    fn claim(&mut self, slot: usize) {
        let answer = self.map.claim(index(slot), nobody);
        let page = self.pages[slot];
        match answer {
            Ok(Claim::Granted(claim)) => {
                assert!(self.below_size(slot));
                let origin = match page {
                    Page::Hole => Origin::Hole,
                    Page::Promised => Origin::Promised,
                    page => panic!("{page:?} was granted"),
                };
                assert_eq!(
                    (claim.index(), claim.size(), claim.origin()),
                    (index(slot), size_of(slot), origin)
                );
                self.pages[slot] = Page::Filling {
                    origin,
                    pfn: None,
                    waited: false,
                };
                self.tokens.claims.push(claim);
            }
            Ok(Claim::Present(located)) => {
                assert!(self.below_size(slot));
                assert!(matches!(page, Page::Present { pfn, .. } if pfn == located.pfn));
            }
            Err(Stop::Fail(Error::RangeBeyondEnd)) => assert!(!self.below_size(slot)),
            Err(stop) => {
                assert_eq!(stop, wait(slot));
                assert!(page.is_claimed() && self.below_size(slot));
            }
        }
    }

    fn pin(&mut self, slot: usize) {
        let below = self.below_size(slot);
        let answer = self.map.pin(index(slot));
        match (answer, &mut self.pages[slot]) {
            (Err(Stop::Fail(Error::RangeBeyondEnd)), _) => assert!(!below),
            (Ok(pin), Page::Present { pfn, pins }) => {
                assert!(below);
                assert_eq!((pin.pfn(), pin.size()), (*pfn, size_of(slot)));
                *pins += 1;
                self.tokens.pins.push(pin);
            }
            (Err(Stop::Fail(Error::NotPresent)), Page::Hole | Page::Promised) => assert!(below),
            (Err(stop), page) => {
                assert!(page.is_claimed() && below);
                assert_eq!(stop, wait(slot));
            }
            (Ok(pin), page) => panic!("{pin:?} on {page:?}"),
        }
    }

    fn next_removed(&mut self, nth: usize) {
        let open = self.tokens.ranges.len();
        if open == 0 {
            return;
        }
        let (claim, punch) = &mut self.tokens.ranges[nth % open];
        let emptied = self.map.next_removed(claim);
        if punch.next == punch.end {
            assert!(emptied.is_none());
            return;
        }
        let slot = punch.next;
        punch.next += 1;
        let emptied = emptied.unwrap();
        assert_eq!(emptied.index, index(slot));
        let Page::Held { was, .. } = self.pages[slot] else {
            panic!("slot {slot} was lost by its punch");
        };
        assert_eq!(emptied.wake.target(), self.settle(slot, Page::Hole));
        match (emptied.removed, was) {
            (Removed::Nothing, Was::Hole) => {}
            (Removed::Promise(size), Was::Promised) => assert_eq!(size, size_of(slot)),
            (Removed::Frame(frame), Was::Present(pfn)) => {
                assert_eq!((frame.pfn(), frame.size()), (pfn, size_of(slot)));
                assert!(self.returned.insert(frame.into_pfn().raw()));
            }
            (removed, was) => panic!("{removed:?} where {was:?} was"),
        }
    }

    fn claim_holes(&mut self, a: usize, b: usize) {
        let Some((a, b, range)) = self.range(a, b) else {
            return;
        };
        let expected = if self.tokens.ranges.is_empty() {
            (a..b).try_for_each(|slot| match self.pages[slot] {
                Page::Filling {
                    origin: Origin::Hole,
                    ..
                }
                | Page::Held { .. } => Err(wait(slot)),
                _ => Ok(()),
            })
        } else {
            Err(Stop::Wait(WaitFor::Seal))
        };
        match self.map.claim_holes(range, nobody) {
            Err(stop) => self.refused(stop, expected),
            Ok(claim) => {
                assert_eq!(expected, Ok(()));
                let holes: Vec<usize> = (a..b)
                    .filter(|&slot| self.pages[slot] == Page::Hole)
                    .collect();
                for (size, count) in claim.holes().iter() {
                    let expected = holes.iter().filter(|&&slot| size_of(slot) == size).count();
                    assert_eq!(count.raw(), expected as u64);
                }
                for &slot in &holes {
                    self.hold(slot..slot + 1);
                }
                self.tokens.promises.push((claim, holes));
            }
        }
    }

    fn end_promises(&mut self, nth: usize, becomes: Page) {
        let Some((claim, holes)) = pick(&mut self.tokens.promises, nth) else {
            return;
        };
        let mut expected = Vec::new();
        for slot in holes {
            expected.extend(self.settle(slot, becomes));
        }
        expected.extend(self.left());
        let mut woken = Vec::new();
        match becomes {
            Page::Promised => self.map.commit_promises(claim, |what| woken.push(what)),
            _ => self.map.abort_promises(claim, |what| woken.push(what)),
        }
        assert_eq!(woken, expected);
    }

    fn unpromise(&mut self, a: usize, b: usize) {
        let Some((a, b, range)) = self.range(a, b) else {
            return;
        };
        let expected = if self.tokens.promises.is_empty() {
            (a..b).try_for_each(|slot| match self.pages[slot] {
                Page::Filling {
                    origin: Origin::Promised,
                    ..
                }
                | Page::Held {
                    was: Was::Promised, ..
                } => Err(wait(slot)),
                _ => Ok(()),
            })
        } else {
            Err(Stop::Wait(WaitFor::Seal))
        };
        match self.map.unpromise(range, nobody) {
            Err(stop) => self.refused(stop, expected),
            Ok(counts) => {
                assert_eq!(expected, Ok(()));
                let mut left = counts;
                for slot in a..b {
                    if self.pages[slot] == Page::Promised {
                        self.pages[slot] = Page::Hole;
                        let count = left.of(size_of(slot)).copied().unwrap();
                        assert!(!count.is_zero(), "slot {slot} was not counted");
                        left = self.less(left, size_of(slot));
                    }
                }
                assert!(left.iter().all(|(_, count)| count.is_zero()));
            }
        }
    }

    fn less(
        &self,
        mut counts: htlb_core::page_map::PerExtent<PageCount>,
        size: HugeSize,
    ) -> htlb_core::page_map::PerExtent<PageCount> {
        if let Some(count) = counts.of_mut(size) {
            *count = count.checked_sub(1).unwrap();
        }
        counts
    }

    /// Every slot as the model has it.
    fn check(&self) {
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

    fn census(&self, size: HugeSize) -> Census {
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

    /// Ends everything that is open, drains the map, and finds every frame again.
    fn finish(mut self) {
        for _ in 0..SLOTS {
            self.step(Op::Detach(0));
            self.step(Op::Abort(0));
        }
        while !self.tokens.ranges.is_empty() {
            self.step(Op::EndRange(0));
        }
        while !self.tokens.promises.is_empty() {
            self.step(Op::AbortPromises(0));
        }
        self.check();
        if !self.tokens.seals.is_empty() {
            assert_eq!(self.map.drain().err(), Some(Error::Sealed));
        }
        while !self.tokens.seals.is_empty() {
            self.step(Op::Unseal(0));
        }
        if !self.tokens.pins.is_empty() {
            assert_eq!(self.map.drain().err(), Some(Error::Pinned));
        }
        while !self.tokens.pins.is_empty() {
            self.step(Op::Unpin(0));
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_answers_as_the_model_does(ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
            world.check();
        }
        world.finish();
    }
}
