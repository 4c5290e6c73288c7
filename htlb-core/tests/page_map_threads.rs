// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One map hammered by threads that fill, pin, punch, truncate, seal and reserve, with real waits: no time-outs, so a
//! lost wake-up hangs the test. An inspector closes the gate again and again, and compares slots, frames and promises.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;

use htlb_core::gate::{Gate, Pass};
use htlb_core::page_map::{Claim, Extents, Origin, PageMap, RangeClaim, Removed, SlotRange};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error, Frame, HugeSize, PageCount, PageIndex, Pfn, Stop,
    WaitFor, Waiting, Wake,
};

const SLOTS: u64 = 24;
const FRAMES: u64 = 20;
const THREADS: u64 = 4;
const ROUNDS: u64 = 60_000;

/// A queue of sleepers.
#[derive(Default)]
struct Bell {
    lock: Mutex<()>,
    rung: Condvar,
    sleeps: AtomicU64,
}

impl Bell {
    fn sleep_while(&self, blocked: impl Fn() -> Waiting) {
        let mut held = self.lock.lock().unwrap();
        while blocked() == Waiting::Sleep {
            self.sleeps.fetch_add(1, Ordering::Relaxed);
            held = self.rung.wait(held).unwrap();
        }
    }

    fn ring(&self) {
        let _held = self.lock.lock().unwrap();
        self.rung.notify_all();
    }
}

/// A thread that fails holds claims for which the others would wait for ever.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

struct Buffer {
    map: PageMap<Vec<AtomicU64>>,
    gate: Gate,
    slots: Vec<Bell>,
    seal: Bell,
    entry: Bell,
    pool: Mutex<Vec<Frame>>,
    /// What the ledger would count as promised.
    promised: AtomicI64,
    /// The contents of each frame: the slot that it was filled for, plus one.
    contents: Vec<AtomicU64>,
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

impl Buffer {
    fn new() -> Self {
        let extents = Extents::new(&[
            (HugeSize::MIB2, PageCount::new(SLOTS / 2)),
            (HugeSize::BASE, PageCount::new(SLOTS / 2)),
        ])
        .unwrap();
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        // One pool for both sizes: each number stands for a 2 MiB page or for its first 4 KiB.
        let frames = (0..FRAMES).map(|n| Frame::new(Pfn::new(n << 9), HugeSize::MIB2).unwrap());
        Self {
            map: PageMap::new(slots, extents, extents.capacity()).unwrap(),
            gate: Gate::new(),
            slots: (0..SLOTS).map(|_| Bell::default()).collect(),
            seal: Bell::default(),
            entry: Bell::default(),
            pool: Mutex::new(frames.collect()),
            promised: AtomicI64::new(0),
            contents: (0..FRAMES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn content(&self, pfn: Pfn) -> &AtomicU64 {
        &self.contents[(pfn.raw() >> 9) as usize]
    }

    fn wake(&self, what: WaitFor) {
        match what {
            WaitFor::Slot(index) => self.slots[index.raw() as usize].ring(),
            WaitFor::Seal => self.seal.ring(),
            WaitFor::Gate => self.entry.ring(),
        }
    }

    fn owed(&self, wake: Wake) {
        if let Some(what) = wake.target() {
            self.wake(what);
        }
    }

    fn wait(&self, stop: Stop) {
        match stop {
            Stop::Wait(WaitFor::Slot(index)) => self.slots[index.raw() as usize]
                .sleep_while(|| self.map.prepare_wait(index, None).unwrap()),
            Stop::Wait(WaitFor::Seal) => self.seal.sleep_while(|| self.map.prepare_wait_seal()),
            Stop::Wait(WaitFor::Gate) => self.entry.sleep_while(|| self.gate.prepare_wait()),
            stop => panic!("{stop:?} is nothing to wait for"),
        }
    }

    fn enter(&self) -> Pass {
        loop {
            match self.gate.enter() {
                Ok(pass) => return pass,
                Err(stop) => self.wait(stop),
            }
        }
    }

    /// Runs `f` inside the gate until it no longer has to wait, and waits outside.
    fn inside<T>(&self, mut f: impl FnMut() -> Result<T, Stop>) -> Result<T, Error> {
        loop {
            let pass = self.enter();
            let result = f();
            self.owed(self.gate.leave(pass));
            match result {
                Ok(value) => return Ok(value),
                Err(Stop::Fail(error)) => return Err(error),
                Err(stop) => self.wait(stop),
            }
        }
    }

    fn take(&self, size: HugeSize) -> Option<Frame> {
        let frame = self.pool.lock().unwrap().pop()?;
        Some(Frame::new(frame.into_pfn(), size).unwrap())
    }

    fn put(&self, frame: Frame) {
        self.content(frame.pfn()).store(0, Ordering::Relaxed);
        let frame = Frame::new(frame.into_pfn(), HugeSize::MIB2).unwrap();
        self.pool.lock().unwrap().push(frame);
    }

    /// Fills a page, in which others run, so that they meet the claim.
    fn populate(&self, index: PageIndex, fails: bool) -> Result<(), Stop> {
        let claim = match self.map.claim(index, |what| self.wake(what))? {
            Claim::Present(_) => return Ok(()),
            Claim::Granted(claim) => claim,
        };
        let Some(frame) = self.take(claim.size()) else {
            self.owed(self.map.abort(claim).1);
            return Err(Error::NoRoom.into());
        };
        if claim.origin() == Origin::Promised {
            self.promised.fetch_sub(1, Ordering::Relaxed);
        }
        let filled = self.map.attach(claim, frame).unwrap();
        let content = self.content(filled.pfn());
        assert_eq!(
            content.swap(index.raw() + 1, Ordering::Relaxed),
            0,
            "a frame in two places"
        );
        thread::yield_now();
        if fails {
            let (claim, frame) = self.map.detach(filled);
            self.put(frame);
            if claim.origin() == Origin::Promised {
                self.promised.fetch_add(1, Ordering::Relaxed);
            }
            self.owed(self.map.abort(claim).1);
            return Err(Error::FillFailed.into());
        }
        self.owed(self.map.commit(filled).1);
        Ok(())
    }

    fn read_pinned(&self, index: PageIndex) -> Result<(), Stop> {
        let pin = self.map.pin(index)?;
        for _ in 0..3 {
            thread::yield_now();
            let content = self.content(pin.pfn()).load(Ordering::Relaxed);
            assert_eq!(content, index.raw() + 1, "a pinned page changed");
        }
        self.map.unpin(pin);
        Ok(())
    }

    fn remove(&self, mut claim: RangeClaim, steps: u64) {
        for _ in 0..steps {
            let Some(emptied) = self.map.next_removed(&mut claim) else {
                break;
            };
            match emptied.removed {
                Removed::Frame(frame) => self.put(frame),
                Removed::Promise(_) => {
                    self.promised.fetch_sub(1, Ordering::Relaxed);
                }
                Removed::Nothing => {}
            }
            self.owed(emptied.wake);
        }
        self.map.end_range(claim, |what| self.wake(what));
    }

    fn reserve(&self, range: SlotRange, refused: bool) -> Result<(), Stop> {
        let claim = self.map.claim_holes(range, |what| self.wake(what))?;
        let holes: u64 = claim.holes().iter().map(|(_, count)| count.raw()).sum();
        if refused {
            self.map.abort_promises(claim, |what| self.wake(what));
            return Err(Error::NoRoom.into());
        }
        self.promised.fetch_add(holes as i64, Ordering::Relaxed);
        self.map.commit_promises(claim, |what| self.wake(what));
        Ok(())
    }

    fn unpromise(&self, range: SlotRange) -> Result<(), Stop> {
        let counts = self.map.unpromise(range, |what| self.wake(what))?;
        let given: u64 = counts.iter().map(|(_, count)| count.raw()).sum();
        self.promised.fetch_sub(given as i64, Ordering::Relaxed);
        Ok(())
    }

    fn sealed(&self, index: PageIndex) -> Result<(), Stop> {
        let seal = self.map.seal()?;
        let start = self.map.extents().bytes_of(index).unwrap().start();
        // Under a seal an answer stays true, without a pin.
        if let Ok(page) = self.map.page_at(start) {
            for _ in 0..8 {
                assert_eq!(self.map.page_at(start), Ok(page));
                let content = self.content(page.pfn).load(Ordering::Relaxed);
                assert_eq!(
                    content,
                    index.raw() + 1,
                    "a page of a sealed buffer changed"
                );
            }
        }
        self.map.unseal(seal);
        Ok(())
    }

    fn work(&self, seed: u64) {
        let _abort = AbortOnPanic;
        let mut rng = Rng(seed | 1);
        let capacity = self.map.extents().capacity();
        for _ in 0..ROUNDS {
            let index = PageIndex::new(rng.below(SLOTS));
            let last = PageIndex::new((index.raw() + rng.below(6)).min(SLOTS - 1));
            let bytes = |index| self.map.extents().bytes_of(index).unwrap();
            let range = ByteRange::new(bytes(index).start(), bytes(last).end()).unwrap();
            let range = self.map.extents().covering(range, capacity).unwrap();
            let coin = rng.below(8) == 0;
            let steps = if coin { rng.below(4) } else { u64::MAX };
            let result = match rng.below(16) {
                0..=5 => self.inside(|| self.populate(index, coin)),
                6..=8 => self.inside(|| self.read_pinned(index)),
                9..=10 => self.inside(|| {
                    let claim = self.map.claim_range(range, |what| self.wake(what))?;
                    self.remove(claim, steps);
                    Ok(())
                }),
                11 => {
                    let size = ByteLen::new(bytes(last).end().raw() - rng.below(2));
                    self.inside(|| {
                        let claim = self.map.truncate(size, |what| self.wake(what))?;
                        self.remove(claim, steps);
                        Ok(())
                    })
                }
                12 => self.map.grow(capacity).map(drop),
                13 => self.inside(|| self.reserve(range, coin)),
                14 => self.inside(|| self.unpromise(range)),
                _ => self.inside(|| self.sealed(index)),
            };
            if let Err(error) = result {
                let expected = [
                    Error::NoRoom,
                    Error::FillFailed,
                    Error::NotPresent,
                    Error::Pinned,
                    Error::Sealed,
                    Error::RangeBeyondEnd,
                ];
                assert!(expected.contains(&error), "{error:?}");
            }
        }
    }

    /// Nobody is inside: no claim is open, and each frame and each promise is where it is counted.
    fn inspect(&self) {
        let mut frames: Vec<u64> = self.map.frames().map(|(_, pfn, _)| pfn.raw()).collect();
        frames.extend(self.pool.lock().unwrap().iter().map(|f| f.pfn().raw()));
        frames.sort_unstable();
        let all: Vec<u64> = (0..FRAMES).map(|n| n << 9).collect();
        assert_eq!(frames, all);
        let mut promises = 0;
        for (_, census) in self.map.census().iter() {
            assert!(census.claimed_holes.is_zero() && census.claimed_promises.is_zero());
            assert!(census.claimed_frames.is_zero() && census.pins == 0);
            promises += census.promises().raw() as i64;
        }
        assert_eq!(promises, self.promised.load(Ordering::Relaxed));
        for (index, pfn, _) in self.map.frames() {
            let start = self.map.extents().bytes_of(index).unwrap().start();
            assert!(start.raw() < self.map.size().raw(), "a page beyond the end");
            let content = self.content(pfn).load(Ordering::Relaxed);
            assert_eq!(content, index.raw() + 1);
        }
    }
}

#[test]
fn nothing_is_lost_or_made_twice_under_contention() {
    let mut buffer = Buffer::new();
    let done = AtomicBool::new(false);
    let inspections = AtomicU64::new(0);
    thread::scope(|scope| {
        let buffer = &buffer;
        let workers: Vec<_> = (0..THREADS)
            .map(|n| scope.spawn(move || buffer.work(0x9e37_79b9_7f4a_7c15 ^ (n << 40))))
            .collect();
        scope.spawn(|| {
            let _abort = AbortOnPanic;
            while !done.load(Ordering::Relaxed) {
                let closing = buffer.gate.close().unwrap();
                buffer
                    .entry
                    .sleep_while(|| buffer.gate.prepare_wait_drained(&closing));
                assert!(buffer.gate.is_drained(&closing));
                buffer.inspect();
                buffer.owed(buffer.gate.reopen(closing));
                inspections.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(inspections.into_inner() > 0);
    let sleeps = |bell: &Bell| bell.sleeps.load(Ordering::Relaxed);
    assert!(sleeps(&buffer.entry) > 0);
    assert!(buffer.slots.iter().map(sleeps).sum::<u64>() > 0);
    buffer.inspect();
    let removed: Vec<_> = buffer.map.drain().unwrap().collect();
    for (_, removed) in removed {
        match removed {
            Removed::Frame(frame) => buffer.put(frame),
            Removed::Promise(_) => {
                buffer.promised.fetch_sub(1, Ordering::Relaxed);
            }
            Removed::Nothing => panic!("drain reports what it finds"),
        }
    }
    buffer.inspect();
    assert_eq!(buffer.promised.into_inner(), 0);
    assert_eq!(buffer.pool.into_inner().unwrap().len() as u64, FRAMES);
}

/// Two populate the same offset with one frame left: both find the same page, and the frame is used once.
#[test]
fn the_last_page_goes_to_both() {
    for _ in 0..2_000 {
        let buffer = Buffer::new();
        buffer.pool.lock().unwrap().truncate(1);
        let index = PageIndex::ZERO;
        thread::scope(|scope| {
            let populate = || buffer.inside(|| buffer.populate(index, false));
            let other = scope.spawn(populate);
            assert_eq!(populate(), Ok(()));
            assert_eq!(other.join().unwrap(), Ok(()));
        });
        assert!(buffer.map.page_at(ByteOffset::ZERO).is_ok());
        assert!(buffer.pool.lock().unwrap().is_empty());
    }
}
