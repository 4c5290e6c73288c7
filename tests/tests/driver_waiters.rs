// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Whoever waits is woken by whatever ends: a punch, a reservation, a fill that found no page. A wake-up that is lost
//! panics in the machine.

use std::thread;

use htlb_core::driver::Commitment;
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error, HugeSize, PageIndex, Request};
use htlb_tests::conformance::{pool, MachineSpec};
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::{Owner, Point, SimBuffer, SimMachine};

const PAGE: u64 = 2 << 20;

fn machine(pages: u64) -> SimMachine {
    SimMachine::new(&MachineSpec::of(&[pool(HugeSize::MIB2, pages)]))
}

fn buffer(machine: &SimMachine, pages: u64, commitment: Commitment) -> SimBuffer<'_> {
    let request = Request::builder(ByteLen::new(pages * PAGE)).page_size(HugeSize::MIB2);
    let request = request.strict().build().expect("legal");
    machine
        .create(
            Owner::FIRST,
            &request,
            commitment,
            request.size(),
            &mut zeroes(),
        )
        .expect("a buffer")
}

fn page(number: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(number * PAGE), ByteLen::new(PAGE)).expect("a range")
}

fn is_short<T>(outcome: Result<T, Error>) -> bool {
    matches!(
        outcome,
        Err(Error::NoRoom | Error::OutOfPages | Error::OvercommitLimit)
    )
}

/// Runs `first`, which lasts at `point` until the threads of `then` wait for it.
fn while_it_lasts(
    machine: &SimMachine,
    point: Point,
    first: impl FnOnce() + Send,
    then: &[&(dyn Fn() + Sync)],
) {
    machine.stalls.set(point, then.len() as u64);
    thread::scope(|scope| {
        scope.spawn(first);
        // The call takes its stall when it begins to last; then its slots are claimed.
        while machine.stalls.is_set() {
            thread::yield_now();
        }
        for waiter in then {
            scope.spawn(*waiter);
        }
    });
    assert!(machine.queues.slept() >= then.len() as u64);
    assert_eq!(machine.queues.sleeping(), 0);
    assert_eq!(machine.audit(), Ok(()));
}

#[test]
fn the_end_of_a_punch_wakes_those_who_wait_for_its_pages() {
    let machine = machine(2);
    let buffer = buffer(&machine, 2, Commitment::Promised);
    buffer.populate(buffer.all()).expect("promised pages");
    while_it_lasts(
        &machine,
        Point::Unmap,
        || assert!(buffer.punch(buffer.all()).is_ok()),
        &[
            // Its page may be on its way to the pool still, when the slot is a hole already.
            &|| match buffer.populate_page(PageIndex::ZERO) {
                Ok(_) => {}
                short => assert!(is_short(short)),
            },
            &|| match buffer.pin(PAGE) {
                Ok(pin) => buffer.unpin(pin),
                Err(error) => assert_eq!(error, Error::NotPresent),
            },
        ],
    );
}

#[test]
fn the_end_of_a_punch_wakes_those_who_want_to_seal_or_to_reserve() {
    let machine = machine(4);
    let buffer = buffer(&machine, 2, Commitment::Promised);
    buffer.populate(page(0)).expect("a promised page");
    while_it_lasts(
        &machine,
        Point::Unmap,
        || assert!(buffer.punch(page(0)).is_ok()),
        &[
            &|| buffer.unseal(buffer.seal().expect("after the punch")),
            &|| assert!(buffer.reserve(buffer.all()).is_ok()),
        ],
    );
    assert_eq!(buffer.reserve(buffer.all()).map(|pages| pages.raw()), Ok(0));
}

#[test]
fn the_end_of_a_truncate_wakes_those_who_wait_beyond_it() {
    let machine = machine(2);
    let buffer = buffer(&machine, 2, Commitment::Promised);
    buffer.populate(buffer.all()).expect("promised pages");
    let size = ByteLen::new(PAGE);
    while_it_lasts(
        &machine,
        Point::Unmap,
        || assert!(buffer.truncate(size).is_ok()),
        &[&|| {
            // The size is lowered before the pages go, so only who was there before waits.
            assert_eq!(buffer.fault(PAGE), Err(Error::RangeBeyondEnd));
            buffer.unseal(buffer.seal().expect("after the truncate"));
        }],
    );
}

#[test]
fn a_fill_that_finds_no_page_wakes_who_waits_for_it() {
    let machine = machine(1);
    let all = buffer(&machine, 1, Commitment::Promised);
    let holes = buffer(&machine, 1, Commitment::Unpromised);
    while_it_lasts(
        &machine,
        Point::Supply,
        || assert!(is_short(holes.populate_page(PageIndex::ZERO))),
        &[&|| assert!(is_short(holes.fault(5))), &|| {
            assert!(holes.punch(page(0)).is_ok())
        }],
    );
    drop(all);
    assert!(holes.populate_page(PageIndex::ZERO).is_ok());
}

#[test]
fn a_refused_reservation_wakes_who_waits_for_its_holes() {
    let machine = machine(2);
    let holes = buffer(&machine, 3, Commitment::Unpromised);
    while_it_lasts(
        &machine,
        Point::Supply,
        || assert!(is_short(holes.reserve(holes.all()))),
        &[
            &|| assert!(holes.fault(0).is_ok()),
            &|| assert!(holes.fault(PAGE).is_ok()),
            &|| assert!(holes.punch(page(2)).is_ok()),
        ],
    );
    assert_eq!(holes.punch(holes.all()).map(|gone| gone.pages.raw()), Ok(2));
}
