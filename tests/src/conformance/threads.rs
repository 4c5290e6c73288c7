// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Several threads on one buffer, and on one pool.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{mpsc, Barrier};
use std::thread;
use std::time::Duration;

use htlb_core::driver::Commitment::{Promised, Unpromised};
use htlb_core::Error;

use super::rig::{pages, short, strict, PAGE};
use super::{Order, Rig};

/// Time enough to go to sleep.
const MOMENT: Duration = Duration::from_millis(30);

/// libhugetlbfs, `alloc-instantiate-race`.
pub(super) fn two_that_populate_the_last_page_get_the_same_one(rig: &Rig<'_>) {
    for round in 0..40 {
        let commitment = if round % 2 == 0 { Promised } else { Unpromised };
        let buffer = rig.of(0, strict(1), commitment).expect("a buffer");
        let raw = buffer.raw();
        let start = Barrier::new(2);
        let put = thread::scope(|scope| {
            let one = || {
                start.wait();
                raw.populate(pages(0, 1), None)
            };
            let other = scope.spawn(one);
            [one(), other.join().expect("no panic")]
        });
        assert!(put == [Ok(0), Ok(1)] || put == [Ok(1), Ok(0)], "{put:?}");
        rig.check();
        assert_eq!(rig.nr_free_reserved(), (1, 0, 0));
    }
}

/// Both producers run at once, or neither ever ends.
pub(super) fn different_pages_are_filled_at_the_same_time(rig: &Rig<'_>) {
    let buffer = rig.promised(2);
    let raw = buffer.raw();
    let both = Barrier::new(2);
    thread::scope(|scope| {
        for page in 0..2 {
            let both = &both;
            scope.spawn(move || {
                let made = raw.populate(
                    pages(page, page + 1),
                    Some(&mut |in_hand| {
                        both.wait();
                        in_hand.write(0, b"x");
                        Ok(1)
                    }),
                );
                assert_eq!(made, Ok(1));
            });
        }
    });
    assert_eq!([buffer.byte(0), buffer.byte(PAGE)], [b'x', b'x']);
}

pub(super) fn a_punch_waits_for_a_fill(rig: &Rig<'_>) {
    let buffer = rig.promised(1);
    let raw = buffer.raw();
    let filled = AtomicBool::new(false);
    let (started, wait_for_start) = mpsc::channel();
    thread::scope(|scope| {
        let filled = &filled;
        scope.spawn(move || {
            let made = raw.populate(
                pages(0, 1),
                Some(&mut |_| {
                    started.send(()).expect("somebody listens");
                    thread::sleep(MOMENT);
                    filled.store(true, Ordering::SeqCst);
                    Ok(0)
                }),
            );
            assert_eq!(made, Ok(1));
        });
        wait_for_start.recv().expect("the fill began");
        let gone = raw.punch(pages(0, 1)).expect("it waited");
        assert!(filled.load(Ordering::SeqCst), "the punch did not wait");
        assert_eq!((gone.pages, gone.promises), (1, 0));
    });
    rig.check();
}

pub(super) fn a_second_populate_waits_for_the_first_producer(rig: &Rig<'_>) {
    let buffer = rig.promised(1);
    let raw = buffer.raw();
    let (started, wait_for_start) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let made = raw.populate(
                pages(0, 1),
                Some(&mut |in_hand| {
                    started.send(()).expect("somebody listens");
                    thread::sleep(MOMENT);
                    in_hand.write(0, b"first");
                    Ok(5)
                }),
            );
            assert_eq!(made, Ok(1));
        });
        wait_for_start.recv().expect("the fill began");
        let made = raw.populate(pages(0, 1), Some(&mut |_| panic!("the page is there")));
        assert_eq!(made, Ok(0));
        let mut byte = [0];
        raw.read(0, &mut byte).expect("a page");
        assert_eq!(byte, *b"f", "published with its contents");
    });
    rig.check();
}

pub(super) fn a_failed_fill_is_taken_over_by_who_waited(rig: &Rig<'_>) {
    for commitment in [Promised, Unpromised] {
        let buffer = rig.of(0, strict(1), commitment).expect("a buffer");
        let raw = buffer.raw();
        let (started, wait_for_start) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                let made = raw.populate(
                    pages(0, 1),
                    Some(&mut |_| {
                        started.send(()).expect("somebody listens");
                        thread::sleep(MOMENT);
                        Err(Error::FillFailed)
                    }),
                );
                assert_eq!(made, Err(Error::FillFailed));
            });
            wait_for_start.recv().expect("the fill began");
            let made = raw.populate(
                pages(0, 1),
                Some(&mut |in_hand| {
                    in_hand.write(0, b"second");
                    Ok(6)
                }),
            );
            assert_eq!(made, Ok(1));
        });
        assert_eq!(buffer.byte(0), b's');
    }
}

/// Numbers that differ from thread to thread and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// An edit planned, the map changed, then committed: plan, commit, abort, remove on overlapping ranges.
pub(super) fn everything_at_once_leaves_the_books_in_order(rig: &Rig<'_>) {
    let buffer = rig.unpromised(5);
    let raw = buffer.raw();
    let expected = |outcome: Result<u64, Error>| match short(outcome) {
        Ok(_)
        | Err(Error::NoRoom | Error::Pinned | Error::Sealed | Error::NotPresent)
        | Err(Error::FillFailed) => {}
        Err(error) => panic!("{error:?}"),
    };
    thread::scope(|scope| {
        for seed in 1..5 {
            scope.spawn(move || {
                let mut dice = Dice(seed);
                for _ in 0..250 {
                    let first = dice.roll(5);
                    let range = pages(first, first + 1 + dice.roll(5 - first));
                    let at = first * PAGE;
                    match dice.roll(9) {
                        0 => expected(raw.reserve(range)),
                        1 | 2 => expected(raw.populate(range, None)),
                        3 => expected(raw.populate(range, Some(&mut |_| Err(Error::FillFailed)))),
                        4 | 5 => expected(raw.punch(range).map(|gone| gone.pages)),
                        6 => {
                            let pinned = raw.pin(at);
                            expected(pinned.map(|()| 0));
                            if pinned.is_ok() {
                                assert!(raw.page_at(at).is_ok(), "a pinned page is there");
                                raw.unpin(at);
                            }
                        }
                        7 => {
                            raw.seal().expect("a seal waits, and is had");
                            let there = raw.page_at(at);
                            let still = raw.page_at(at);
                            assert!(there.is_err() || there == still, "a sealed page went");
                            raw.unseal();
                        }
                        _ => expected(raw.fault(at).map(|_| 0)),
                    }
                }
            });
        }
        for _ in 0..20 {
            rig.check();
        }
    });
    rig.check();
    assert!(buffer.punch(pages(0, 5)).is_ok());
    assert_eq!(rig.nr_free_reserved(), (6, 6, 0));
}

pub(super) fn reservations_that_overlap_cover_each_hole_once(rig: &Rig<'_>) {
    for round in 0..10 {
        let buffer = rig.unpromised(8);
        let raw = buffer.raw();
        let promised = AtomicU64::new(0);
        thread::scope(|scope| {
            for seed in 1..5 {
                let promised = &promised;
                scope.spawn(move || {
                    let mut dice = Dice(seed + 10 * round);
                    for _ in 0..10 {
                        let first = dice.roll(8);
                        let range = pages(first, first + 1 + dice.roll(8 - first));
                        let more = raw.reserve(range).expect("there are pages for all");
                        promised.fetch_add(more, Ordering::SeqCst);
                    }
                });
            }
        });
        let rest = buffer
            .reserve(pages(0, 8))
            .expect("there are pages for all");
        assert_eq!(promised.into_inner() + rest, 8);
        assert_eq!(rig.nr_free_reserved(), (8, 8, 8));
    }
}

pub(super) fn buffers_come_and_go_on_many_threads(rig: &Rig<'_>) {
    let machine = rig.machine();
    thread::scope(|scope| {
        for seed in 1..5 {
            scope.spawn(move || {
                let mut dice = Dice(seed);
                for _ in 0..60 {
                    let count = 1 + dice.roll(3);
                    let request = strict(count).build().expect("legal");
                    let order = Order {
                        request,
                        commitment: if dice.roll(2) == 0 {
                            Promised
                        } else {
                            Unpromised
                        },
                        capacity: request.size(),
                    };
                    let made = short(machine.create(0, &order, None));
                    let Ok(buffer) = made else {
                        assert_eq!(made.err(), Some(Error::NoRoom));
                        continue;
                    };
                    match short(buffer.populate(pages(0, count), None)) {
                        Ok(_) => {}
                        Err(Error::NoRoom) => assert_eq!(order.commitment, Unpromised),
                        Err(error) => panic!("{error:?}"),
                    }
                }
            });
        }
    });
    rig.check();
    assert_eq!(rig.nr_free_reserved(), (4, 4, 0));
}
