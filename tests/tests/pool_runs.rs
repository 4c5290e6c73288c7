// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Runs of contiguous pages against brute force: across chunks, classes and holes, of every length and alignment.

use htlb_core::pool::Pool;
use htlb_core::{Class, Condition, Error, Frame, HugeSize, PageCount, Pfn};
use htlb_tests::model::pool::naive::{class, Naive, State, CHUNK};
use proptest::prelude::*;

const SIZE: HugeSize = HugeSize::MIB2;
const REGIONS: u64 = 7;

fn classes() -> [Class; 3] {
    [class(0, 6), class(0, 8), class(1, 6)]
}

fn frame(page: u64) -> Frame {
    Frame::new(Pfn::new(page * SIZE.base_pages()), SIZE).unwrap()
}

struct Machine {
    pool: Pool<Vec<u64>>,
    naive: Naive,
}

impl Machine {
    /// Seven regions of free pages from `first`, whose class changes at each of `borders`.
    fn new(first: u64, borders: &[u64]) -> Self {
        let memory = vec![u64::MAX; Pool::<Vec<u64>>::words(64)];
        let mut machine = Self {
            pool: Pool::new(SIZE, memory).unwrap(),
            naive: Naive::default(),
        };
        for page in 0..REGIONS * CHUNK {
            let at = classes()[borders.iter().filter(|border| **border <= page).count() % 3];
            let condition = Condition::Dirty;
            machine
                .pool
                .add(frame(first + page), at, condition)
                .unwrap();
            machine
                .naive
                .pages
                .insert(first + page, (at, State::Free(condition)));
        }
        machine
    }

    /// Takes exactly these pages: everything, and then everything else back.
    fn punch(&mut self, holes: &[u64]) {
        for at in classes() {
            while let Some((frame, _)) = self.pool.take(at, Condition::Dirty) {
                let page = frame.pfn().raw() / SIZE.base_pages();
                self.naive.pages.insert(page, (at, State::Taken));
            }
        }
        let pages: Vec<u64> = self.naive.pages.keys().copied().collect();
        for page in pages.into_iter().filter(|page| !holes.contains(page)) {
            let at = self.pool.put(frame(page), Condition::Dirty).unwrap();
            self.naive
                .pages
                .insert(page, (at, State::Free(Condition::Dirty)));
        }
        assert_eq!(self.pool.total(), self.naive.counts(None));
    }

    fn compare(&mut self, count: u64, align: u64, accept: &dyn Fn(Class) -> bool) {
        let exists = self.naive.has_run(count, align, accept);
        match self
            .pool
            .find_run(PageCount::new(count), align * SIZE.base_pages(), accept)
        {
            Ok(found) => {
                let start = found.first().raw() / SIZE.base_pages();
                assert!(start % align == 0, "{count} {align}: {start}");
                assert!(
                    self.naive.is_run(start, count, accept),
                    "{count} {align}: {start}"
                );
                let pages = found.classes().map(|(at, pages)| (accept(at), pages.raw()));
                let (accepted, sum) = pages.fold((true, 0), |(all, sum), (ok, pages)| {
                    (all && ok, sum + pages)
                });
                assert_eq!((accepted, sum), (true, count));
            }
            Err(error) => {
                assert_eq!(error, Error::NoContiguousRun);
                assert!(!exists, "{count} pages aligned to {align} missed");
            }
        }
    }
}

/// A pool that begins anywhere, at zero, or ends with the last page there is.
fn firsts() -> impl Strategy<Value = u64> {
    let last = (Pfn::MAX.raw() + 1) / SIZE.base_pages();
    prop_oneof![Just(0), Just(3 * CHUNK), Just(last - REGIONS * CHUNK)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn equals_brute_force(
        first in firsts(),
        borders in prop::collection::vec(0..REGIONS * CHUNK, 0..6),
        holes in prop::collection::vec(0..REGIONS * CHUNK, 0..12),
        edges in prop::collection::vec((0..REGIONS, any::<bool>()), 0..4),
        wanted in prop::collection::vec((1..REGIONS * CHUNK + 2, 0..13u32, 1..8u8), 24),
    ) {
        let mut machine = Machine::new(first, &borders);
        // Holes at the very edges of regions as well, where one-off mistakes live.
        let edges = edges.iter().map(|(region, last)| region * CHUNK + if *last { CHUNK - 1 } else { 0 });
        let holes: Vec<u64> = holes.iter().copied().chain(edges).map(|page| first + page).collect();
        machine.punch(&holes);
        prop_assert_eq!(machine.pool.check(), Ok(()));
        let lengths = [1, 2, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025, REGIONS * CHUNK];
        let wanted = wanted.into_iter().chain(lengths.map(|count| (count, 0, 7)));
        for (count, align, mask) in wanted {
            let accept = |at: Class| {
                let index = classes().iter().position(|class| *class == at).unwrap();
                mask & (1 << index) != 0
            };
            machine.compare(count, 1 << align, &accept);
        }
        prop_assert_eq!(machine.pool.check(), Ok(()));
    }
}

#[test]
fn a_run_may_be_longer_than_chunks_and_span_classes() {
    let mut machine = Machine::new(CHUNK, &[700, 1500, 2222]);
    let count = REGIONS * CHUNK - 1;
    machine.punch(&[CHUNK]);
    let found = machine
        .pool
        .find_run(PageCount::new(count), 1, |_| true)
        .unwrap();
    let mut classes_found: Vec<(Class, u64)> =
        found.classes().map(|(at, n)| (at, n.raw())).collect();
    classes_found.sort();
    let [a, b, c] = classes();
    let third = REGIONS * CHUNK - 2222;
    assert_eq!(classes_found, [(a, 699 + third), (b, 800), (c, 722)]);
    let run = found.take();
    assert_eq!(run.first(), frame(CHUNK + 1).pfn());
    assert_eq!(machine.pool.total().free, PageCount::ZERO);
    assert_eq!(machine.pool.check(), Ok(()));
    for frame in run {
        machine.pool.put(frame, Condition::Dirty).unwrap();
    }
    assert_eq!(machine.pool.total().free.raw(), count);
}

#[test]
fn a_short_run_spares_whole_chunks() {
    let mut machine = Machine::new(0, &[]);
    machine.punch(&[2 * CHUNK + 100]);
    for count in [1, 50, 200, 411] {
        let found = machine
            .pool
            .find_run(PageCount::new(count), 1, |_| true)
            .unwrap();
        assert_eq!(
            found.first().raw() / SIZE.base_pages() / CHUNK,
            2,
            "{count}"
        );
    }
    let found = machine
        .pool
        .find_run(PageCount::new(412), 1, |_| true)
        .unwrap();
    assert_eq!(found.take().count(), 412);
    assert_eq!(machine.pool.check(), Ok(()));
}

#[test]
fn a_run_that_is_only_found_changes_nothing() {
    let mut machine = Machine::new(0, &[100]);
    let before = machine.pool.total();
    drop(machine.pool.find_run(PageCount::new(300), 1, |_| true));
    assert_eq!(machine.pool.total(), before);
    assert_eq!(machine.pool.condition(Pfn::ZERO), Some(Condition::Dirty));
}

#[test]
fn impossible_runs_are_errors() {
    let mut machine = Machine::new(0, &[]);
    let mut error = |count, align| {
        machine
            .pool
            .find_run(PageCount::new(count), align, |_| true)
            .err()
    };
    assert_eq!(error(0, 1), Some(Error::ContiguityInvalid));
    assert_eq!(error(1, 0), Some(Error::AlignmentInvalid));
    assert_eq!(error(1, 3 * 512), Some(Error::AlignmentInvalid));
    assert_eq!(error(u64::MAX, 1), Some(Error::NoContiguousRun));
    assert_eq!(error(REGIONS * CHUNK + 1, 1), Some(Error::NoContiguousRun));
    assert_eq!(error(1, 1 << 63), None);
    assert_eq!(error(REGIONS * CHUNK, 1 << 63), None);
    let refused = machine.pool.find_run(PageCount::ONE, 1, |_| false).err();
    assert_eq!(refused, Some(Error::NoContiguousRun));
}

#[test]
fn a_run_is_clean_only_if_every_page_is() {
    let mut machine = Machine::new(0, &[]);
    let all = machine
        .pool
        .find_run(PageCount::new(REGIONS * CHUNK), 1, |_| true)
        .unwrap();
    let frames: Vec<Frame> = all.take().collect();
    for (page, frame) in frames.into_iter().enumerate() {
        let condition = if page == 700 {
            Condition::Dirty
        } else {
            Condition::Clean
        };
        machine.pool.put(frame, condition).unwrap();
    }
    let condition = |pool: &mut Pool<Vec<u64>>, count| {
        let found = pool
            .find_run(PageCount::new(count), 1 << 20, |_| true)
            .unwrap();
        (found.first().raw(), found.condition())
    };
    assert_eq!(condition(&mut machine.pool, 700), (0, Condition::Clean));
    assert_eq!(condition(&mut machine.pool, 701), (0, Condition::Dirty));
}
