// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A map, the contents of its frames, the promises that a ledger would count, and the queues of those who wait.

use htlb_core::page_map::{Claim, Extents, PageMap, SlotRange};
use htlb_core::sync::{AtomicU64, Ordering};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Frame, HugeSize, PageCount, PageIndex, Pfn, WaitFor, Waiting,
};
use loom::sync::{Condvar, Mutex};

/// What a slot is before the threads start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initially {
    Hole,
    Promised,
    Present,
}

/// The contents of a frame that left the map, and may be used again.
pub(crate) const REUSED: u64 = 99;
/// The frame of a slot that is present at the start is this and the slot.
const FIRST_OF_SLOTS: u64 = 4;
const FRAMES: usize = 6;

pub(crate) struct Shared {
    pub(crate) map: PageMap<Vec<AtomicU64>>,
    /// Of the frame with that number: 0 before it is filled, its number afterwards.
    contents: [AtomicU64; FRAMES],
    /// What a ledger would have as promised.
    promised: AtomicU64,
    queues: [(Mutex<()>, Condvar); 3],
}

impl Shared {
    /// A map of so many slots, of which the first `size` are below the size.
    pub(crate) fn new(slots: &[Initially], size: u64) -> Self {
        let pages = slots.len() as u64;
        let extents = Extents::new(&[(HugeSize::BASE, PageCount::new(pages))]).unwrap();
        let words = slots.iter().map(|_| AtomicU64::new(0)).collect();
        let shared = Self {
            map: PageMap::new(words, extents, bytes(size)).unwrap(),
            contents: std::array::from_fn(|_| AtomicU64::new(0)),
            promised: AtomicU64::new(0),
            queues: std::array::from_fn(|_| (Mutex::new(()), Condvar::new())),
        };
        for (slot, initially) in (0..).zip(slots) {
            match initially {
                Initially::Hole => {}
                Initially::Promised => shared.promise(slot),
                Initially::Present => shared.put(slot, FIRST_OF_SLOTS + slot),
            }
        }
        shared
    }

    fn promise(&self, slot: u64) {
        let range = self.range(slot, slot + 1);
        let claim = self.map.claim_holes(range, |_| ()).unwrap();
        self.map.commit_promises(claim, |_| ());
        self.promises(1);
    }

    fn put(&self, slot: u64, pfn: u64) {
        let Ok(Claim::Granted(claim)) = self.map.claim(PageIndex::new(slot), |_| ()) else {
            panic!("slot {slot} is taken");
        };
        let filled = self.map.attach(claim, frame(pfn)).unwrap();
        self.fill(pfn);
        let _ = self.map.commit(filled);
    }

    pub(crate) fn slots(&self) -> u64 {
        self.map.extents().slots() as u64
    }

    /// Whatever the size is now.
    pub(crate) fn range(&self, first: u64, end: u64) -> SlotRange {
        let bytes = ByteRange::new(offset(first), offset(end)).unwrap();
        let capacity = self.map.extents().capacity();
        self.map.extents().covering(bytes, capacity).unwrap()
    }

    pub(crate) fn all(&self) -> SlotRange {
        self.range(0, self.slots())
    }

    pub(crate) fn fill(&self, pfn: u64) {
        self.contents[pfn as usize].store(pfn, Ordering::Relaxed);
    }

    pub(crate) fn reuse(&self, pfn: u64) {
        self.contents[pfn as usize].store(REUSED, Ordering::Relaxed);
    }

    pub(crate) fn content(&self, pfn: u64) -> u64 {
        self.contents[pfn as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn promises(&self, more: u64) {
        self.promised.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn give_back_promises(&self, less: u64) {
        self.promised.fetch_sub(less, Ordering::Relaxed);
    }

    fn queue(&self, what: WaitFor) -> &(Mutex<()>, Condvar) {
        match what {
            WaitFor::Slot(index) => &self.queues[index.raw() as usize],
            WaitFor::Seal => &self.queues[2],
            WaitFor::Gate => panic!("a map has no gate"),
        }
    }

    /// Sleeps as a host does: the last look under the lock that the waker takes too.
    pub(crate) fn wait(&self, what: WaitFor) {
        let (lock, queue) = self.queue(what);
        let held = lock.lock().unwrap();
        let waiting = match what {
            WaitFor::Slot(index) => self.map.prepare_wait(index, None).unwrap(),
            _ => self.map.prepare_wait_seal(),
        };
        if waiting == Waiting::Sleep {
            drop(queue.wait(held).unwrap());
        }
    }

    pub(crate) fn wake(&self, what: WaitFor) {
        let (lock, queue) = self.queue(what);
        drop(lock.lock().unwrap());
        queue.notify_all();
    }

    /// What a slot is, once nobody else is at it.
    fn state(&self, slot: u64) -> String {
        let census = *self
            .map
            .census_of(self.range(slot, slot + 1))
            .of(HugeSize::BASE)
            .unwrap();
        let frame = self.map.frames_of(self.range(slot, slot + 1)).next();
        assert_eq!(census.pins, 0, "a pin is left");
        match (census.holes.raw(), census.promised.raw(), frame) {
            (1, _, _) => "hole".to_owned(),
            (_, 1, _) => "promised".to_owned(),
            (_, _, Some((_, pfn, _))) if census.present.raw() == 1 => format!("page {}", pfn.raw()),
            _ => panic!("slot {slot} is claimed still"),
        }
    }

    /// What is left, after all that must hold then has been looked at.
    pub(crate) fn settled(&self) -> String {
        let states: Vec<String> = (0..self.slots()).map(|slot| self.state(slot)).collect();
        let promised = states.iter().filter(|state| *state == "promised").count() as u64;
        assert_eq!(
            self.promised.load(Ordering::Relaxed),
            promised,
            "promises counted, and in the slots"
        );
        let size = self.map.size();
        for (index, pfn, _) in self.map.frames() {
            assert_eq!(self.content(pfn.raw()), pfn.raw());
            assert!(bytes(index.raw()) < size, "a page beyond the size");
        }
        // Nobody is kept out for ever: a punch proves that no seal, reservation or claim is left, a reservation that no punch is.
        let mut claim = self.map.claim_range(self.all(), |_| ()).unwrap();
        while self.map.next_removed(&mut claim).is_some() {}
        self.map.end_range(claim, |_| ());
        let claim = self.map.claim_holes(self.all(), |_| ()).unwrap();
        self.map.abort_promises(claim, |_| ());
        format!("{} of {size}", states.join(", "))
    }
}

pub(crate) fn frame(pfn: u64) -> Frame {
    Frame::new(Pfn::new(pfn), HugeSize::BASE).unwrap()
}

pub(crate) fn offset(slot: u64) -> ByteOffset {
    ByteOffset::new(slot * HugeSize::BASE.bytes())
}

pub(crate) fn bytes(slots: u64) -> ByteLen {
    ByteLen::new(slots * HugeSize::BASE.bytes())
}
