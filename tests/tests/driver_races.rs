// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Everything at once, on real threads: whatever the order, the books are in order at every rest, and at the end
//! everything is as it was at the start.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use htlb_core::driver::{Commitment, Filled};
use htlb_core::{
    AddressBits, Blank, ByteLen, ByteOffset, ByteRange, Contiguity, Error, Fill, HugeSize,
    PageIndex, Pfn, Request,
};
use htlb_tests::conformance::{pool, MachineSpec};
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::{Failing, Owner, SimBuffer, SimMachine};

const MIB2: HugeSize = HugeSize::MIB2;
const PAGE: u64 = 2 << 20;
const PAGES: u64 = 6;

/// Less than two buffers need, and a little more to be had.
const TIGHT: MachineSpec<'_> = MachineSpec::of(&[pool(MIB2, 5), pool(MIB2, 2).below(32)])
    .overcommit(&[(MIB2, 3)])
    .system(&[(MIB2, 4)])
    .magazine(2);

/// Numbers that differ from thread to thread and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn range(&mut self) -> ByteRange {
        let first = self.roll(PAGES);
        let count = 1 + self.roll(PAGES - first);
        ByteRange::at(ByteOffset::new(first * PAGE), ByteLen::new(count * PAGE)).expect("a range")
    }
}

fn buffer(machine: &SimMachine, owner: Owner, bits: u32) -> SimBuffer<'_> {
    let request = Request::builder(ByteLen::new(PAGES * PAGE))
        .page_size(MIB2)
        .strict()
        .fill(Fill::DirtyWithinOwner)
        .dma_mask(AddressBits::new(bits).expect("legal"))
        .build()
        .expect("legal");
    let capacity = request.size();
    machine
        .create(
            owner,
            &request,
            Commitment::Unpromised,
            capacity,
            &mut zeroes(),
        )
        .expect("holes")
}

fn is_refusal(error: Error) -> bool {
    matches!(
        error,
        Error::NoRoom
            | Error::OutOfPages
            | Error::OvercommitLimit
            | Error::AccountLimit
            | Error::OutOfMetadata
            | Error::Pinned
            | Error::Sealed
            | Error::NotPresent
            | Error::RangeBeyondEnd
            | Error::FillFailed
            | Error::Poisoned
            | Error::Interrupted
            | Error::NoContiguousRun
    )
}

fn refused<T>(outcome: Result<T, Error>) {
    if let Err(error) = outcome {
        assert!(is_refusal(error), "{error:?}");
    }
}

/// One thing that a user of the buffer may do.
fn step(machine: &SimMachine, buffer: &SimBuffer<'_>, dice: &mut Dice) {
    let range = dice.range();
    let at = range.start().raw();
    match dice.roll(14) {
        0 | 1 => refused(buffer.reserve(range)),
        2 | 3 => refused(buffer.populate(range)),
        4 => {
            let fails = dice.roll(2) == 0;
            refused(buffer.populate_with(range, &mut |blank: &Blank| {
                // Across a border of base pages.
                buffer.produce(blank, 0, &[7; 4200]);
                if fails {
                    Err(Error::FillFailed)
                } else {
                    Ok(4200)
                }
            }));
        }
        5 | 6 => refused(buffer.punch(range)),
        7 => refused(buffer.truncate(ByteLen::new(at + 1 + dice.roll(PAGE)))),
        8 => refused(buffer.truncate(ByteLen::new(PAGES * PAGE))),
        9 => match buffer.pin(at) {
            Ok(pin) => {
                let there = buffer.page_at(at).map(|page| page.pfn);
                assert!(there == Ok(pin.pfn()) || there == Err(Error::RangeBeyondEnd));
                buffer.unpin(pin);
            }
            Err(error) => assert!(is_refusal(error)),
        },
        10 => {
            if let Ok(seal) = buffer.seal() {
                let there = buffer.page_at(at);
                let still = buffer.page_at(at);
                assert!(there.is_err() || there == still, "a sealed page went");
                buffer.unseal(seal);
            }
        }
        11 => {
            refused(buffer.write(at + 100, b"mine"));
        }
        12 => {
            // Somebody outside holds a page for a while.
            if let Ok(page) = buffer.page_at(at) {
                machine.hold(page.pfn);
                refused(buffer.punch(range));
                machine.let_go(page.pfn);
            }
        }
        _ => {
            let mut bytes = [0; 8];
            refused(buffer.read(at + PAGE - 8, &mut bytes));
        }
    }
}

/// A machine that is busy runs the auditor late.
const AUDITS: u64 = 5;

/// Nobody waits for an auditor that has panicked.
struct Gone<'a>(&'a AtomicU64);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX, Ordering::SeqCst);
    }
}

/// Four users, an auditor, and whatever `also` does, until each user has done `steps` steps and the auditor has looked a few
/// times.
fn stress(machine: &SimMachine, steps: u64, also: impl Fn(&mut Dice) + Sync) {
    let owners = [Owner::FIRST, machine.owner(None).expect("an owner")];
    let buffers =
        [(owners[0], 64), (owners[1], 32)].map(|(owner, bits)| buffer(machine, owner, bits));
    let done = AtomicBool::new(false);
    let audits = AtomicU64::new(0);
    thread::scope(|scope| {
        let auditor = scope.spawn(|| {
            let _gone = Gone(&audits);
            let mut dice = Dice(99);
            while !done.load(Ordering::SeqCst) {
                assert_eq!(machine.audit(), Ok(()));
                audits.fetch_add(1, Ordering::SeqCst);
                also(&mut dice);
                // The gate is not fair: whoever closes it again at once keeps everybody out.
                thread::sleep(Duration::from_millis(1));
            }
        });
        let users: Vec<_> = (0..4u64)
            .map(|user| {
                let (buffers, audits) = (&buffers, &audits);
                scope.spawn(move || {
                    let mut dice = Dice(user + 1);
                    let mut done = 0;
                    while done < steps || audits.load(Ordering::SeqCst) < AUDITS {
                        done += 1;
                        let which = usize::from(dice.roll(4) == 0) ^ usize::from(user % 2 == 0);
                        step(machine, &buffers[which], &mut dice);
                    }
                })
            })
            .collect();
        for user in users {
            user.join().expect("no panic");
        }
        done.store(true, Ordering::SeqCst);
        auditor.join().expect("no panic");
    });
    assert_eq!(machine.audit(), Ok(()));
}

#[test]
fn everything_at_once() {
    let machine = SimMachine::new(&TIGHT);
    let start = machine.facts().without_names();
    stress(&machine, 400, |_| ());
    machine.empty_magazines(None);
    machine.retry_all_limbo();
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts().without_names(), start);
}

/// The same while calls of the host fail by the dice.
#[test]
fn everything_at_once_while_things_fail() {
    let machine = SimMachine::new(&TIGHT);
    let start = machine.facts().without_names();
    stress(&machine, 400, |dice| {
        machine.faults.arm(Failing::Only(dice.roll(4)), None);
    });
    machine.faults.disarm();
    machine.empty_magazines(None);
    machine.retry_all_limbo();
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts().without_names(), start);
}

/// Buffers of every kind are made and dropped on all threads, for one pool.
#[test]
fn buffers_come_and_go() {
    let machine = SimMachine::new(&TIGHT);
    let start = machine.facts().without_names();
    let made = AtomicU64::new(0);
    thread::scope(|scope| {
        for user in 0..4u64 {
            let (machine, made) = (&machine, &made);
            scope.spawn(move || {
                let mut dice = Dice(user + 7);
                for _ in 0..150 {
                    let pages = 1 + dice.roll(4);
                    let request = Request::builder(ByteLen::new(pages * PAGE))
                        .page_size(MIB2)
                        .strict()
                        .dma_mask(AddressBits::new([32, 64][dice.roll(2) as usize]).expect("legal"))
                        .contiguity(match dice.roll(3) {
                            0 => Contiguity::Whole,
                            1 => Contiguity::Runs(ByteLen::new(PAGE)),
                            _ => Contiguity::Pages,
                        })
                        .fill([Fill::Zeroed, Fill::DirtyWithinOwner][dice.roll(2) as usize])
                        .build()
                        .expect("legal");
                    let commitment =
                        [Commitment::Promised, Commitment::Unpromised][dice.roll(2) as usize];
                    let outcome = machine.create(
                        Owner::FIRST,
                        &request,
                        commitment,
                        request.size(),
                        &mut zeroes(),
                    );
                    match outcome {
                        Ok(buffer) => {
                            made.fetch_add(1, Ordering::Relaxed);
                            let populated = buffer.populate(buffer.all());
                            if commitment == Commitment::Promised {
                                assert!(populated.is_ok(), "a promise failed: {populated:?}");
                            }
                            refused(populated);
                            refused(buffer.write(0, b"mine"));
                        }
                        Err(error) => assert!(is_refusal(error), "{error:?}"),
                    }
                }
            });
        }
        for _ in 0..30 {
            assert_eq!(machine.audit(), Ok(()));
        }
    });
    assert!(made.into_inner() > 50);
    machine.empty_magazines(None);
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts().without_names(), start);
}

/// Two that want the one page that is left get it both, and pay for it once.
#[test]
fn the_last_page_is_had_once() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 1)]));
    for round in 0..100 {
        let request = Request::builder(ByteLen::new(PAGE))
            .page_size(MIB2)
            .strict();
        let request = request.build().expect("legal");
        let commitment = [Commitment::Promised, Commitment::Unpromised][round % 2];
        let buffer = machine
            .create(
                Owner::FIRST,
                &request,
                commitment,
                request.size(),
                &mut zeroes(),
            )
            .expect("a buffer");
        let buffer = &buffer;
        let got = thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|_| scope.spawn(move || buffer.populate_page(PageIndex::ZERO)))
                .collect();
            threads
                .into_iter()
                .map(|t| t.join().expect("no panic"))
                .collect::<Vec<_>>()
        });
        let (a, b) = (got[0].expect("a page"), got[1].expect("a page"));
        assert_eq!(a.0.pfn, b.0.pfn);
        assert_ne!(a.1, b.1, "one put it there, the other found it");
        assert!([a.1, b.1].contains(&Filled::Now));
        assert_eq!(machine.audit(), Ok(()));
    }
}

/// A pool that shrinks, grows and is broken up while it is used.
#[test]
fn resizing_under_load_breaks_no_promise() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 6)]).system(&[(MIB2, 6)]));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (machine, done) = (&machine, &done);
        scope.spawn(move || {
            let mut dice = Dice(3);
            while !done.load(Ordering::SeqCst) {
                let asked = dice.roll(9);
                let node = htlb_tests::sim::machine::node(0);
                machine.resize(MIB2, node, asked).expect("an answer");
                assert_eq!(machine.audit(), Ok(()));
                thread::sleep(Duration::from_millis(1));
            }
        });
        let users: Vec<_> = (0..3u64)
            .map(|user| {
                scope.spawn(move || {
                    let mut dice = Dice(user + 20);
                    for _ in 0..200 {
                        let pages = 1 + dice.roll(3);
                        let request = Request::builder(ByteLen::new(pages * PAGE))
                            .page_size(MIB2)
                            .strict();
                        let request = request.build().expect("legal");
                        let made = machine.create(
                            Owner::FIRST,
                            &request,
                            Commitment::Promised,
                            request.size(),
                            &mut zeroes(),
                        );
                        if let Ok(buffer) = made {
                            let populated = buffer.populate(buffer.all());
                            assert!(populated.is_ok(), "a promise failed: {populated:?}");
                        }
                    }
                })
            })
            .collect();
        for user in users {
            user.join().expect("no panic");
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(machine.audit(), Ok(()));
}

/// Frames are given out in an order, so that what a run of the tests found, the next one finds.
#[test]
fn the_machine_itself_is_deterministic() {
    let frames = || {
        let machine = SimMachine::new(&TIGHT);
        let buffer = buffer(&machine, Owner::FIRST, 64);
        buffer.populate(buffer.all()).expect("six pages");
        let map = buffer.core().map();
        map.frames().map(|(_, pfn, _)| pfn).collect::<Vec<Pfn>>()
    };
    assert_eq!(frames(), frames());
}
