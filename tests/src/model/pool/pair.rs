// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A pool beside the map of pages that it should be: each call made, and its answer foretold.

use std::collections::BTreeMap;

use htlb_core::pool::Pool;
use htlb_core::{Class, Condition, Error, Frame, HugeSize, PageCount, Pfn, Stop};

use super::naive::{Naive, State, CHUNK};
use super::{classes, regions, Many, Op};

fn condition(clean: bool) -> Condition {
    if clean {
        Condition::Clean
    } else {
        Condition::Dirty
    }
}

/// Free pages of a chunk: all, and those in `condition`.
fn chunk(naive: &Naive, class: Class, page: u64, condition: Condition) -> (u64, u64) {
    let start = page & !(CHUNK - 1);
    naive
        .pages
        .range(start..start + CHUNK)
        .filter(|(_, (of, _))| *of == class)
        .fold((0, 0), |(all, like), (_, (_, state))| match state {
            State::Taken => (all, like),
            State::Free(at) => (all + 1, like + u64::from(*at == condition)),
        })
}

/// The chunks of a class that have free pages, as (free, free in `condition`).
fn chunks(naive: &Naive, class: Class, condition: Condition) -> BTreeMap<u64, (u64, u64)> {
    let mut starts: Vec<u64> = naive.pages.keys().map(|page| page & !(CHUNK - 1)).collect();
    starts.dedup();
    starts
        .into_iter()
        .map(|start| (start, chunk(naive, class, start, condition)))
        .filter(|(_, (free, _))| *free > 0)
        .collect()
}

/// A pool beside the pages that it should have.
#[derive(Debug)]
pub(super) struct Pair {
    size: HugeSize,
    pool: Pool<Vec<u64>>,
    naive: Naive,
    held: Vec<Frame>,
}

/// Memory as a host may hand it over: not cleared.
fn memory(words: usize) -> Vec<u64> {
    vec![0xdead_beef_dead_beef; words]
}

impl Pair {
    pub(super) fn new(size: HugeSize) -> Self {
        let memory = memory(Pool::<Vec<u64>>::words(1));
        Self {
            size,
            pool: Pool::new(size, memory).unwrap(),
            naive: Naive::default(),
            held: Vec::new(),
        }
    }

    fn pfn(&self, page: u64) -> Pfn {
        Pfn::new(page << self.size.order())
    }

    fn page(&self, frame: &Frame) -> u64 {
        frame.pfn().raw() >> self.size.order()
    }

    fn add(&mut self, page: u64, class: Class, at: Condition) {
        let frame = Frame::new(self.pfn(page), self.size).unwrap();
        let room = self.pool.room_for([(frame.pfn(), class)]);
        let added = self.pool.add(frame, class, at);
        assert_eq!(room, added.as_ref().copied().map_err(|(_, stop)| *stop));
        match added {
            Ok(()) => {
                let before = self.naive.pages.insert(page, (class, State::Free(at)));
                assert_eq!(before, None);
            }
            Err((frame, Stop::Metadata { words, .. })) => {
                assert!(!self.naive.pages.contains_key(&page));
                self.compare_counts();
                let old = self.pool.adopt(memory(words));
                assert!(old.len() < words);
                assert_eq!(self.pool.add(frame, class, at), Ok(()));
                self.naive.pages.insert(page, (class, State::Free(at)));
            }
            Err((frame, stop)) => {
                assert_eq!(stop, Stop::Fail(Error::FrameInvalid));
                assert_eq!(self.page(&frame), page);
                assert!(self.naive.pages.contains_key(&page));
            }
        }
    }

    fn take(&mut self, class: Class, prefer: Condition) {
        let chunks = chunks(&self.naive, class, prefer);
        let Some((frame, at)) = self.pool.take(class, prefer) else {
            assert!(chunks.is_empty());
            return;
        };
        let page = self.page(&frame);
        assert_eq!(self.naive.pages.get(&page), Some(&(class, State::Free(at))));
        // A partly free chunk where there is one; of those, one with a page in the preferred condition.
        let (free, _) = chunks[&(page & !(CHUNK - 1))];
        let some_part = chunks.values().any(|(free, _)| *free < CHUNK);
        assert_eq!(free < CHUNK, some_part);
        let as_full = |other: &u64| (*other < CHUNK) == some_part;
        let liked = chunks
            .values()
            .any(|(free, like)| as_full(free) && *like > 0);
        assert_eq!(at == prefer, liked);
        self.naive.pages.insert(page, (class, State::Taken));
        self.held.push(frame);
    }

    fn put(&mut self, which: usize, at: Condition) {
        if self.held.is_empty() {
            return;
        }
        let frame = self.held.swap_remove(which % self.held.len());
        let page = self.page(&frame);
        let (class, _) = self.naive.pages[&page];
        assert_eq!(self.pool.put(frame, at), Ok(class));
        self.naive.pages.insert(page, (class, State::Free(at)));
    }

    fn remove(&mut self, which: usize) {
        if self.held.is_empty() {
            return;
        }
        let frame = self.held.swap_remove(which % self.held.len());
        let (class, _) = self.naive.pages.remove(&self.page(&frame)).unwrap();
        assert_eq!(self.pool.remove(&frame), Ok(class));
        assert_eq!(self.pool.remove(&frame), Err(Error::FrameInvalid));
        assert_eq!(self.pool.knows(frame.pfn()), None);
        assert!(self.pool.put(frame, Condition::Dirty).is_err());
    }

    fn run(&mut self, count: u64, align: u64, accepted: u8) {
        let accept = |of: Class| {
            let index = classes().iter().position(|class| *class == of).unwrap();
            accepted & (1 << index) != 0
        };
        let exists = self.naive.has_run(count, align, &accept);
        let base_pages = align << self.size.order();
        let found = match self
            .pool
            .find_run(PageCount::new(count), base_pages, accept)
        {
            Ok(found) => found,
            Err(error) => {
                assert_eq!((error, exists), (Error::NoContiguousRun, false));
                return;
            }
        };
        let start = found.first().raw() >> self.size.order();
        assert!(start % align == 0 && self.naive.is_run(start, count, &accept));
        let mut tally: Vec<(Class, PageCount)> = found.classes().collect();
        tally.sort();
        let mut pages = self
            .naive
            .pages
            .range(start..start + count)
            .map(|(_, page)| *page);
        let clean = pages.all(|(_, state)| state == State::Free(Condition::Clean));
        assert_eq!(found.condition(), condition(clean));
        let mut expected: Vec<(Class, PageCount)> = Vec::new();
        for of in classes() {
            let pages = self.naive.pages.range(start..start + count);
            let pages = pages.filter(|(_, (class, _))| *class == of).count() as u64;
            if pages > 0 {
                expected.push((of, PageCount::new(pages)));
            }
        }
        expected.sort();
        assert_eq!(tally, expected);
        // Every second run is only looked at: nothing may have changed.
        if count % 2 == 0 {
            return;
        }
        let run = found.take();
        assert_eq!((run.first(), run.pages().raw()), (self.pfn(start), count));
        self.hold(start, run);
    }

    fn hold(&mut self, start: u64, run: impl Iterator<Item = Frame>) {
        for (page, frame) in (start..).zip(run) {
            assert_eq!(self.page(&frame), page);
            self.naive.pages.get_mut(&page).unwrap().1 = State::Taken;
            self.held.push(frame);
        }
    }

    fn chunk(&mut self, class: Class) {
        let whole: Vec<u64> = {
            let chunks = chunks(&self.naive, class, Condition::Clean).into_iter();
            chunks
                .filter(|(_, (free, _))| *free == CHUNK)
                .map(|(start, _)| start)
                .collect()
        };
        let order = self.size.order();
        let mut listed: Vec<u64> = self
            .pool
            .whole_chunks(class)
            .map(|pfn| pfn.raw() >> order)
            .collect();
        listed.sort_unstable();
        assert_eq!(listed, whole);
        match self.pool.take_chunk(class) {
            None => assert!(whole.is_empty()),
            Some(run) => {
                let start = run.first().raw() >> order;
                assert!(whole.contains(&start) && run.pages().raw() == CHUNK);
                let (_, clean) = chunks(&self.naive, class, Condition::Clean)[&start];
                assert_eq!(run.condition(), condition(clean == CHUNK));
                self.hold(start, run);
            }
        }
    }

    fn compare_counts(&self) {
        assert_eq!(self.pool.check(), Ok(()));
        assert_eq!(self.pool.total(), self.naive.counts(None));
        for class in classes() {
            assert_eq!(self.pool.counts(class), self.naive.counts(Some(class)));
        }
    }

    fn compare_pages(&self) {
        for region in regions(self.size) {
            for page in region * CHUNK..(region + 1) * CHUNK {
                let (class, state) = self.naive.pages.get(&page).copied().unzip();
                assert_eq!(self.pool.knows(self.pfn(page)), class);
                let free = match state {
                    Some(State::Free(condition)) => Some(condition),
                    _ => None,
                };
                assert_eq!(self.pool.condition(self.pfn(page)), free);
            }
        }
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Add(page, len, class, clean) => {
                let len = len.pages();
                let first = regions(self.size)[page.region()] * CHUNK + page.start(len);
                for page in first..first + len {
                    self.add(page, class.class(), condition(clean));
                }
            }
            Op::Take(class, clean, times) => {
                (0..times.times()).for_each(|_| self.take(class.class(), condition(clean)));
            }
            Op::Put(which, clean, times) => {
                (0..times.times()).for_each(|_| self.put(which.into(), condition(clean)));
            }
            Op::Remove(which, Many(times)) => {
                (0..times % 600).for_each(|_| self.remove(which.into()));
            }
            Op::Run(count, align, accept) => self.run(count.pages(), 1 << (align % 12), accept),
            Op::Chunk(class) => self.chunk(class.class()),
            Op::Adopt(more) => {
                let more = u32::from(more % 4);
                // Larger tables at any moment, and smaller ones, which are handed back.
                let words = Pool::<Vec<u64>>::words(self.pool.chunks() + more);
                let old = self.pool.adopt(memory(words));
                assert_eq!(old.len() == words, more == 0);
            }
        }
        self.compare_counts();
    }

    /// Everything put back and removed: the tables are as empty as at the start.
    pub(super) fn drain(mut self) {
        self.compare_pages();
        for frame in std::mem::take(&mut self.held) {
            self.pool.put(frame, Condition::Dirty).unwrap();
        }
        for class in classes() {
            while let Some((frame, _)) = self.pool.take(class, Condition::Clean) {
                assert_eq!(self.pool.remove(&frame), Ok(class));
            }
        }
        assert_eq!(self.pool.classes().count(), 0);
        assert_eq!(self.pool.chunks_used(), 0);
        assert_eq!(self.pool.check(), Ok(()));
    }
}
