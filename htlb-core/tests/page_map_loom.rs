// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every interleaving, under every order that the memory model allows, of a few operations on one or two slots:
//! `RUSTFLAGS="--cfg loom" cargo test --release -p htlb-core --test page_map_loom`.
#![cfg(loom)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use htlb_core::gate::Gate;
use htlb_core::page_map::{Claim, Extents, PageMap, Removed};
use htlb_core::{
    ByteLen, ByteOffset, Error, Frame, HugeSize, PageCount, PageIndex, Pfn, Stop, WaitFor, Waiting,
};
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;

/// A map, and the contents of the frame whose number is 1 or 2.
struct Buffer {
    map: PageMap<Vec<AtomicU64>>,
    contents: [AtomicU64; 3],
}

impl Buffer {
    fn new(pages: u64) -> Arc<Self> {
        let extents = Extents::new(&[(HugeSize::BASE, PageCount::new(pages))]).unwrap();
        let slots = (0..pages).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            map: PageMap::new(slots, extents, extents.capacity()).unwrap(),
            contents: [AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    /// Fills a slot with the frame of that number, whose contents become the number. The claim may be refused.
    fn fill(&self, index: u64, pfn: u64) -> Result<Fill, Stop> {
        let claim = match self.map.claim(PageIndex::new(index), |_| ())? {
            Claim::Present(located) => return Ok(Fill::Found(located.pfn.raw())),
            Claim::Granted(claim) => claim,
        };
        let frame = Frame::new(Pfn::new(pfn), HugeSize::BASE).unwrap();
        let filled = self.map.attach(claim, frame).unwrap();
        self.contents[pfn as usize].store(pfn, Ordering::Relaxed);
        let (_, wake) = self.map.commit(filled);
        Ok(Fill::Put(wake.target()))
    }

    fn content(&self, pfn: u64) -> u64 {
        self.contents[pfn as usize].load(Ordering::Relaxed)
    }

    fn all(&self) -> htlb_core::page_map::SlotRange {
        let end = ByteOffset::new(self.map.extents().capacity().raw());
        let bytes = htlb_core::ByteRange::new(ByteOffset::ZERO, end).unwrap();
        let capacity = self.map.extents().capacity();
        self.map.extents().covering(bytes, capacity).unwrap()
    }

    /// Removes everything; the frames that came out.
    fn punch(&self) -> Result<Vec<u64>, Stop> {
        let mut claim = self.map.claim_range(self.all(), |_| ())?;
        let mut frames = Vec::new();
        while let Some(emptied) = self.map.next_removed(&mut claim) {
            if let Removed::Frame(frame) = emptied.removed {
                frames.push(frame.into_pfn().raw());
            }
        }
        self.map.end_range(claim, |_| ());
        Ok(frames)
    }
}

#[derive(Debug, PartialEq)]
enum Fill {
    Put(Option<WaitFor>),
    Found(u64),
}

#[test]
fn of_two_that_fill_one_slot_one_does() {
    loom::model(|| {
        let buffer = Buffer::new(1);
        let other = buffer.clone();
        let other = thread::spawn(move || other.fill(0, 2));
        let mine = buffer.fill(0, 1);
        if let Ok(Fill::Found(pfn)) = mine {
            assert_eq!(buffer.content(pfn), pfn, "a page seen before its contents");
        }
        let theirs = other.join().unwrap();
        let put = |fill: &Result<Fill, Stop>| matches!(fill, Ok(Fill::Put(_)));
        assert!(put(&mine) != put(&theirs));
        let page = buffer.map.page_at(ByteOffset::ZERO).unwrap();
        assert_eq!(page.pfn.raw(), if put(&mine) { 1 } else { 2 });
    });
}

#[test]
fn page_at_sees_the_contents() {
    loom::model(|| {
        let buffer = Buffer::new(1);
        let other = buffer.clone();
        let other = thread::spawn(move || {
            let page = other.map.page_at(ByteOffset::ZERO).ok()?;
            Some(other.content(page.pfn.raw()))
        });
        assert!(buffer.fill(0, 1).is_ok());
        let seen = other.join().unwrap();
        assert!(
            matches!(seen, None | Some(1)),
            "a page seen before its contents"
        );
    });
}

#[test]
fn a_sleeper_is_woken() {
    loom::model(|| {
        let buffer = Buffer::new(1);
        let other = buffer.clone();
        let other = thread::spawn(move || other.fill(0, 1).unwrap());
        let slept = buffer.map.prepare_wait(PageIndex::ZERO, None) == Ok(Waiting::Sleep);
        let fill = other.join().unwrap();
        let target = slept.then_some(WaitFor::Slot(PageIndex::ZERO));
        assert_eq!(fill, Fill::Put(target));
    });
}

#[test]
fn a_pinned_page_stays_and_a_removed_one_is_not_pinned() {
    loom::model(|| {
        let buffer = Buffer::new(1);
        assert!(buffer.fill(0, 1).is_ok());
        let other = buffer.clone();
        let other = thread::spawn(move || {
            let removed = other.punch();
            if removed.is_ok() {
                other.contents[1].store(0, Ordering::Relaxed);
            }
            removed
        });
        match buffer.map.pin(PageIndex::ZERO) {
            Ok(pin) => {
                assert_eq!(
                    buffer.content(pin.pfn().raw()),
                    1,
                    "a pinned page was reused"
                );
                buffer.map.unpin(pin);
            }
            Err(stop) => assert!(matches!(
                stop,
                Stop::Wait(WaitFor::Slot(_)) | Stop::Fail(Error::NotPresent)
            )),
        }
        match other.join().unwrap() {
            Ok(frames) => assert_eq!(frames, [1]),
            Err(stop) => {
                assert_eq!(stop, Stop::Fail(Error::Pinned));
                assert!(buffer.map.page_at(ByteOffset::ZERO).is_ok());
            }
        }
    });
}

#[test]
fn a_seal_and_a_punch_exclude_each_other() {
    loom::model(|| {
        let buffer = Buffer::new(1);
        assert!(buffer.fill(0, 1).is_ok());
        let other = buffer.clone();
        let other = thread::spawn(move || other.punch());
        let mut slept = false;
        match buffer.map.seal() {
            Ok(seal) => {
                let before = buffer.map.page_at(ByteOffset::ZERO);
                thread::yield_now();
                assert_eq!(buffer.map.page_at(ByteOffset::ZERO), before);
                buffer.map.unseal(seal);
            }
            Err(stop) => {
                assert_eq!(stop, Stop::Wait(WaitFor::Seal));
                slept = buffer.map.prepare_wait_seal() == Waiting::Sleep;
            }
        }
        match other.join().unwrap() {
            Ok(frames) => assert_eq!(frames, [1]),
            Err(stop) => assert!(stop == Stop::Fail(Error::Sealed) && !slept),
        }
    });
}

#[test]
fn a_truncate_leaves_no_page_beyond_the_end() {
    loom::model(|| {
        let buffer = Buffer::new(1);
        let other = buffer.clone();
        let other = thread::spawn(move || other.fill(0, 1));
        let truncated = buffer.map.truncate(ByteLen::ZERO, |_| ());
        let done = truncated.is_ok();
        if let Ok(mut claim) = truncated {
            while buffer.map.next_removed(&mut claim).is_some() {}
            buffer.map.end_range(claim, |_| ());
        }
        let filled = other.join().unwrap();
        if done {
            assert_eq!(buffer.map.frames().count(), 0);
        } else {
            assert!(filled.is_ok() && buffer.map.frames().count() == 1);
        }
        assert_eq!(buffer.map.size().is_zero(), done);
    });
}

#[test]
fn a_reservation_misses_no_hole() {
    loom::model(|| {
        let buffer = Buffer::new(2);
        assert!(buffer.fill(0, 1).is_ok());
        let other = buffer.clone();
        let other = thread::spawn(move || other.punch().is_ok());
        let reserved = match buffer.map.claim_holes(buffer.all(), |_| ()) {
            Ok(claim) => {
                let holes = claim.holes().of(HugeSize::BASE).copied().unwrap();
                buffer.map.commit_promises(claim, |_| ());
                Some(holes.raw())
            }
            Err(stop) => {
                assert!(matches!(stop, Stop::Wait(_)));
                None
            }
        };
        let punched = other.join().unwrap();
        let census = *buffer.map.census().of(HugeSize::BASE).unwrap();
        let counts = [census.holes, census.promised, census.present].map(PageCount::raw);
        let expected = match (reserved, punched) {
            (Some(1), false) => vec![[0, 1, 1]],
            // The punch came after, and took the promise with the page.
            (Some(1), true) => vec![[2, 0, 0]],
            (Some(2), true) => vec![[0, 2, 0]],
            (None, true) => vec![[2, 0, 0]],
            other => panic!("{other:?}"),
        };
        assert!(expected.contains(&counts), "{counts:?}");
    });
}

#[test]
fn who_closes_the_gate_is_alone_and_sees_everything() {
    loom::model(|| {
        let gate = Arc::new((Gate::new(), AtomicU64::new(0)));
        let other = gate.clone();
        let other = thread::spawn(move || {
            let pass = other.0.enter().ok()?;
            other.1.store(1, Ordering::Relaxed);
            other.1.store(2, Ordering::Relaxed);
            Some(other.0.leave(pass).target())
        });
        let closing = gate.0.close().unwrap();
        let slept = gate.0.prepare_wait_drained(&closing) == Waiting::Sleep;
        if gate.0.is_drained(&closing) {
            assert_ne!(gate.1.load(Ordering::Relaxed), 1, "somebody is inside");
        }
        let reopened = (!slept).then(|| gate.0.reopen(closing));
        let left = other.join().unwrap();
        if slept {
            assert_eq!(left, Some(Some(WaitFor::Gate)), "a lost wake-up");
        }
        if reopened.is_some() {
            assert!(gate.0.enter().is_ok());
        }
    });
}
