// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Many threads on one buffer, and on one process's pools.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use htlb_core::{Error as Cause, HugeSize, PageCount, Rung};
use htlb_user::buffer::{Layout, Populate};
use htlb_user::pools::Pools;
use htlb_user::{Buffer, Owner};

mod buffer_support;
use buffer_support::{base, cause, PAGE};

const PIECE: u64 = 512;

fn pools_of(pages: u64) -> Pools {
    Pools::builder()
        .limit(Rung::Base, HugeSize::BASE, PageCount::new(pages))
        .build()
        .unwrap()
}

/// A number that looks random, from a seed.
fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// The end of a scope is a wait inside std, of which the thread sanitizer knows nothing; it knows what a join is.
fn all(threads: Vec<thread::ScopedJoinHandle<'_, ()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn populate_punch_pin_slice_and_check_at_once() {
    const PAGES: u64 = 24;
    let pools = pools_of(PIECE);
    let buffer = pools
        .buffer(PAGES * PAGE)
        .base_pages()
        .layout(Layout::Scattered)
        .populate(Populate::Later)
        .threads(1)
        .create()
        .unwrap();
    let end = Instant::now() + Duration::from_millis(1500);
    let done: Vec<AtomicU64> = (0..6).map(|_| AtomicU64::new(0)).collect();
    let work = |seed: u64| {
        let mut seed = seed;
        while Instant::now() < end {
            let first = next(&mut seed) % PAGES;
            let count = 1 + next(&mut seed) % (PAGES - first);
            let (offset, len) = (first * PAGE, count * PAGE);
            let what = next(&mut seed) % 6;
            let went = match what {
                0 => buffer.populate(offset, len).map(drop),
                1 => buffer
                    .populate_with(offset, len, |page| {
                        let number = (page.offset() / PAGE) as u8 + 1;
                        page.bytes().fill(number);
                        Ok(page.bytes().len())
                    })
                    .map(drop),
                2 => buffer.punch(offset, len).map(drop),
                3 => buffer.reserve(offset, len).map(drop),
                4 => buffer.pin(offset).map(|pin| {
                    let mut bytes = [0; 2];
                    buffer.read_at(offset, &mut bytes).unwrap();
                    assert_eq!(pin.page().offset, offset);
                    assert!(
                        bytes == [0; 2] || bytes == [first as u8 + 1; 2],
                        "{bytes:?}"
                    );
                }),
                _ => buffer.slice(offset, PAGE).map(|slice| {
                    let byte = slice[0];
                    assert!(byte == 0 || byte == first as u8 + 1);
                    assert!(slice.iter().all(|other| *other == byte), "half a page");
                }),
            };
            match went {
                Ok(()) => done[what as usize].fetch_add(1, Ordering::Relaxed),
                Err(error) => {
                    let cause = error.cause();
                    assert!(
                        matches!(
                            (what, cause),
                            (2, Cause::Pinned | Cause::Sealed) | (4 | 5, Cause::NotPresent)
                        ),
                        "{what}: {error}"
                    );
                    0
                }
            };
        }
    };
    thread::scope(|scope| {
        let mut threads: Vec<_> = (1..=4)
            .map(|seed| {
                let work = &work;
                scope.spawn(move || work(seed * 0x9e37_79b9_7f4a))
            })
            .collect();
        threads.push(scope.spawn(|| {
            while Instant::now() < end {
                pools.check().unwrap();
                thread::yield_now();
            }
        }));
        all(threads);
    });
    for (what, done) in done.iter().enumerate() {
        assert!(
            done.load(Ordering::Relaxed) > 0,
            "{what} never came through"
        );
    }
    pools.check().unwrap();
    drop(buffer);
    let (pages, free, reserved) = base(&pools);
    assert_eq!((pages, reserved), (free, 0));
}

#[test]
fn buffers_of_all_kinds_come_and_go() {
    let pools = pools_of(8 * PIECE);
    let owner = Owner::new(&pools);
    let end = Instant::now() + Duration::from_millis(1500);
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for thread in 1..=4_u64 {
            let (pools, owner, refused) = (&pools, &owner, &refused);
            threads.push(scope.spawn(move || {
                let mut seed = thread * 0x9e37_79b9_7f4a;
                let mut kept: Vec<Buffer> = Vec::new();
                while Instant::now() < end {
                    let size = (1 + next(&mut seed) % 900) * PAGE;
                    let mut builder = pools.buffer(size).base_pages().threads(2);
                    match next(&mut seed) % 6 {
                        0 => builder = builder.owner(owner),
                        1 => builder = builder.layout(Layout::Scattered),
                        2 => builder = builder.populate(Populate::Later),
                        3 => builder = builder.populate(Populate::Unpromised),
                        4 => builder = builder.capacity(size + 5 * PAGE),
                        _ => builder = builder.owner(owner).layout(Layout::Scattered),
                    }
                    match builder.create() {
                        Ok(mut buffer) => {
                            let byte = (next(&mut seed) | 1) as u8;
                            if buffer.page_at(size - 1).is_ok() {
                                buffer.write_at(size - 1, &[byte]).unwrap();
                                let mut read = [0];
                                buffer.read_at(size - 1, &mut read).unwrap();
                                assert_eq!(read, [byte]);
                            }
                            kept.push(buffer);
                        }
                        Err(error) => {
                            assert!(
                                matches!(error.cause(), Cause::NoRoom | Cause::OutOfPages),
                                "{error}"
                            );
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if kept.len() > 3 || next(&mut seed) % 3 == 0 {
                        kept.pop();
                    }
                    if next(&mut seed) % 64 == 0 {
                        pools.trim();
                    }
                }
            }));
        }
        threads.push(scope.spawn(|| {
            while Instant::now() < end {
                pools.check().unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        }));
        all(threads);
    });
    drop(owner);
    let (pages, free, reserved) = base(&pools);
    assert_eq!((pages, reserved), (free, 0));
    assert!(pages <= 8 * PIECE);
    // The end was near enough to be met, and nobody was refused where there was none.
    assert!(refused.into_inner() > 0);
}

#[test]
fn two_that_want_the_last_page_get_the_same_one() {
    for _ in 0..50 {
        let pools = pools_of(PIECE);
        let all = pools
            .buffer((PIECE - 1) * PAGE)
            .base_pages()
            .layout(Layout::Scattered);
        let _all = all.populate(Populate::Later).create().unwrap();
        let last = pools
            .buffer(PAGE)
            .base_pages()
            .populate(Populate::Unpromised)
            .create()
            .unwrap();
        let came = thread::scope(|scope| {
            let one = scope.spawn(|| last.populate(0, PAGE));
            let two = scope.spawn(|| last.populate(0, PAGE));
            one.join().unwrap().unwrap() + two.join().unwrap().unwrap()
        });
        assert_eq!(came, PAGE, "one page, once");
        assert_eq!(base(&pools), (PIECE, PIECE - 1, PIECE - 1));
    }
}

#[test]
fn growth_is_not_taken_from_the_one_who_asked() {
    // Everybody asks for all that there is room for, so nobody may lose a page of it to another.
    let pools = Pools::new().unwrap();
    let pools = &pools;
    thread::scope(|scope| {
        let work = || {
            scope.spawn(move || {
                for pages in 1..60 {
                    let buffer = pools.buffer(pages * PAGE).base_pages().strict().create();
                    assert_eq!(
                        buffer.unwrap().as_slice().unwrap().len() as u64,
                        pages * PAGE
                    );
                }
            })
        };
        all((0..4).map(|_| work()).collect());
    });
    base(pools);
}

#[test]
fn whoever_waits_for_a_producer_gets_its_page() {
    let pools = pools_of(PIECE);
    let buffer = pools
        .buffer(2 * PAGE)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    for fails in [true, false] {
        let (begun, has_begun) = mpsc::channel();
        let go_on = AtomicBool::new(false);
        thread::scope(|scope| {
            let producer = scope.spawn(|| {
                buffer.populate_with(0, PAGE, |page| {
                    begun.send(()).unwrap();
                    while !go_on.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                    page.bytes()[0] = 3;
                    if fails {
                        return Err(std::io::Error::other("no"));
                    }
                    Ok(1)
                })
            });
            has_begun.recv().unwrap();
            let waiters: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| buffer.populate(0, PAGE)))
                .collect();
            let reader = scope.spawn(|| {
                let mut byte = [9];
                let read = buffer.read_at(0, &mut byte);
                read.map(|()| byte[0])
            });
            // An inspection waits for the producer; those who come meanwhile still get in.
            let inspector = scope.spawn(|| pools.check());
            thread::sleep(Duration::from_millis(20));
            assert_eq!(
                buffer.populate(PAGE, PAGE).unwrap(),
                if fails { PAGE } else { 0 }
            );
            go_on.store(true, Ordering::Release);
            assert_eq!(producer.join().unwrap().is_err(), fails);
            let came: u64 = waiters
                .into_iter()
                .map(|w| w.join().unwrap().unwrap())
                .sum();
            assert_eq!(came, if fails { PAGE } else { 0 });
            match reader.join().unwrap() {
                Ok(byte) => assert_eq!(byte, if fails { 0 } else { 3 }),
                // The failed producer left a hole for a moment.
                Err(error) => assert_eq!((fails, error.cause()), (true, Cause::NotPresent)),
            }
            inspector.join().unwrap().unwrap();
        });
        pools.check().unwrap();
        buffer.punch(0, PAGE).unwrap();
        buffer.reserve(0, PAGE).unwrap();
    }
}

#[test]
fn a_punch_waits_for_a_producer_and_a_reader_stops_it() {
    let pools = Pools::new().unwrap();
    let buffer = pools
        .buffer(4 * PAGE)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    let (begun, has_begun) = mpsc::channel();
    thread::scope(|scope| {
        let producer = scope.spawn(|| {
            buffer.populate_with(2 * PAGE, PAGE, |_| {
                begun.send(()).unwrap();
                thread::sleep(Duration::from_millis(30));
                Ok(0)
            })
        });
        has_begun.recv().unwrap();
        let gone = buffer.punch(0, 4 * PAGE).unwrap();
        assert_eq!((gone.pages.raw(), gone.promises.raw()), (1, 3));
        assert_eq!(producer.join().unwrap().unwrap(), PAGE);
    });
    buffer.populate(0, PAGE).unwrap();
    let slice = buffer.slice(0, 1).unwrap();
    assert_eq!(cause(buffer.punch(0, PAGE)), Cause::Sealed);
    thread::scope(|scope| {
        let other = scope.spawn(|| buffer.populate(PAGE, 3 * PAGE));
        assert_eq!(
            other.join().unwrap().unwrap(),
            3 * PAGE,
            "filling goes on under a reader"
        );
    });
    drop(slice);
    pools.check().unwrap();
}

#[test]
fn owners_end_while_books_are_compared() {
    let pools = Pools::new().unwrap();
    let pools = &pools;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let inspector = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Acquire) {
                pools.check().unwrap();
                rounds += 1;
                thread::sleep(Duration::from_micros(200));
            }
            rounds
        });
        let workers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    for round in 0..300 {
                        let owner = Owner::new(pools);
                        let builder = pools.buffer(2 * PAGE).base_pages().owner(&owner);
                        let buffer = match round % 2 {
                            0 => builder.create().unwrap(),
                            _ => builder.layout(Layout::Scattered).create().unwrap(),
                        };
                        // Either may be the last to know of the other.
                        match round % 4 {
                            0 | 1 => drop((buffer, owner)),
                            _ => drop((owner, buffer)),
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        stop.store(true, Ordering::Release);
        assert!(inspector.join().unwrap() > 0);
    });
    let (pages, free, reserved) = base(pools);
    assert_eq!((pages, reserved), (free, 0));
}
