// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The driver's loops, with a stock, on two threads. The end of each model: the books agree with the slots, and when all is
//! released the pool and the system have what they had.

use crate::host::{Machine, Memory};
use crate::{exactly, Preemptions};
use htlb_core::driver::{Commitment, Content};
use htlb_core::Error;
use loom::thread;
use std::sync::Arc;

/// Runs two operations on two buffers, which may be the same one; what each said.
fn both(
    machine: &Arc<Machine>,
    buffer: &Arc<Memory>,
    one: impl FnOnce(&Machine, &Memory) -> String,
    other: impl FnOnce(&Machine, &Memory) -> String + 'static,
) -> String {
    let (machine2, buffer2) = (machine.clone(), buffer.clone());
    let other = thread::spawn(move || other(&machine2, &buffer2));
    let one = one(machine, buffer);
    format!("{one}, {}", other.join().unwrap())
}

fn whole(buffer: Arc<Memory>) -> Memory {
    Arc::into_inner(buffer).unwrap()
}

fn populate(page: u64) -> impl Fn(&Machine, &Memory) -> String {
    move |machine, buffer| machine.populate(buffer, page)
}

fn populate_and_fail(machine: &Machine, buffer: &Memory) -> String {
    let mut produce = |page: &htlb_core::Blank| {
        machine.write(page);
        Err(Error::FillFailed)
    };
    machine.populate_with(buffer, 0, &mut Content::Producer(&mut produce))
}

/// With one page left, and none promised: one puts it there, the other finds it.
#[test]
fn two_populates_of_one_page_with_one_page_left() {
    for commitment in [Commitment::Unpromised, Commitment::Promised] {
        let name = format!("two populates of one page, one left, {commitment:?}");
        let expected = ["Now, Already", "Already, Now"];
        exactly(&name, Preemptions::Any, &expected, move || {
            let machine = Arc::new(Machine::new(1, 0));
            let buffer = Arc::new(machine.buffer(1, commitment));
            let said = both(&machine, &buffer, populate(0), populate(0));
            let left = machine.settled(&[&buffer]);
            assert_eq!(left, "1 pages, 0 free, 0 reserved, 0 surplus");
            machine.end(vec![whole(buffer)], 1, 0);
            said
        });
    }
}

#[test]
fn two_populates_of_two_pages_with_one_page_left() {
    let expected = ["Now, NoRoom", "NoRoom, Now"];
    exactly(
        "two populates of two pages, one left",
        Preemptions::Any,
        &expected,
        || {
            let machine = Arc::new(Machine::new(1, 0));
            let buffer = Arc::new(machine.buffer(2, Commitment::Unpromised));
            let said = both(&machine, &buffer, populate(0), populate(1));
            machine.settled(&[&buffer]);
            machine.end(vec![whole(buffer)], 1, 0);
            said
        },
    );
}

/// A page whose producer fails is back, with its promise, before who waits for the slot looks again.
#[test]
fn a_failed_fill_and_a_populate_with_one_page_left() {
    for commitment in [Commitment::Unpromised, Commitment::Promised] {
        let name = format!("a failed fill and a populate, one left, {commitment:?}");
        let expected = ["FillFailed, Now", "Already, Now"];
        exactly(&name, Preemptions::Any, &expected, move || {
            let machine = Arc::new(Machine::new(1, 0));
            let buffer = Arc::new(machine.buffer(1, commitment));
            let said = both(&machine, &buffer, populate_and_fail, populate(0));
            machine.settled(&[&buffer]);
            machine.end(vec![whole(buffer)], 1, 0);
            said
        });
    }
}

/// The page of a buffer that ends, and another that wants it.
#[test]
fn a_release_and_a_populate_with_one_page() {
    for (commitment, expected) in [
        (
            Commitment::Unpromised,
            ["released, Now", "released, NoRoom"],
        ),
        (Commitment::Promised, ["released, Now", "released, NoRoom"]),
    ] {
        let name = format!("a release and a populate, one page, {commitment:?}");
        exactly(&name, Preemptions::Any, &expected, move || {
            let machine = Arc::new(Machine::new(1, 0));
            let ending = machine.buffer(1, commitment);
            if commitment == Commitment::Unpromised {
                machine.populate(&ending, 0);
            }
            let buffer = Arc::new(machine.buffer(1, Commitment::Unpromised));
            let release = move |machine: &Machine, _: &Memory| {
                machine.release(ending);
                "released".to_owned()
            };
            let said = both(&machine, &buffer, release, populate(0));
            machine.settled(&[&buffer]);
            machine.end(vec![whole(buffer)], 1, 0);
            said
        });
    }
}

/// In one buffer. A hole is published before its page is back, so a populate without a promise may find neither.
#[test]
fn a_punch_and_a_populate_with_one_page() {
    let expected = [
        "punched 1 and 0, Already",
        "punched 1 and 0, Now",
        "punched 1 and 0, NoRoom",
    ];
    exactly(
        "a punch and a populate, one page",
        Preemptions::Any,
        &expected,
        || {
            let machine = Arc::new(Machine::new(1, 0));
            let buffer = Arc::new(machine.buffer(1, Commitment::Promised));
            assert_eq!(machine.populate(&buffer, 0), "Now");
            let punch = |machine: &Machine, buffer: &Memory| machine.punch(buffer);
            let said = both(&machine, &buffer, punch, populate(0));
            machine.settled(&[&buffer]);
            machine.end(vec![whole(buffer)], 1, 0);
            said
        },
    );
}

/// Of two reservations that overlap, the one that there is room for gets it: the other's claims are gone, and woke it.
#[test]
fn two_reservations_with_one_page() {
    let expected = ["NoRoom, promised 1"];
    exactly(
        "two reservations, one page",
        Preemptions::AtMost(3),
        &expected,
        || {
            let machine = Arc::new(Machine::new(1, 0));
            let buffer = Arc::new(machine.buffer(2, Commitment::Unpromised));
            let both_pages = |machine: &Machine, buffer: &Memory| machine.reserve(buffer, 0, 2);
            let second = |machine: &Machine, buffer: &Memory| machine.reserve(buffer, 1, 2);
            let said = both(&machine, &buffer, both_pages, second);
            machine.settled(&[&buffer]);
            machine.end(vec![whole(buffer)], 1, 0);
            said
        },
    );
}

/// A page is promised or it leaves, never both.
#[test]
fn a_shrink_and_a_reservation_with_one_page() {
    let expected = ["shrunk true, NoRoom", "shrunk false, promised 1"];
    exactly(
        "a shrink and a reservation, one page",
        Preemptions::Any,
        &expected,
        || {
            let machine = Arc::new(Machine::new(1, 0));
            let buffer = Arc::new(machine.buffer(1, Commitment::Unpromised));
            let shrink =
                |machine: &Machine, _: &Memory| format!("shrunk {}", machine.shrink().is_ok());
            let reserve = |machine: &Machine, buffer: &Memory| machine.reserve(buffer, 0, 1);
            let said = both(&machine, &buffer, shrink, reserve);
            machine.settled(&[&buffer]);
            let left = usize::from(said.starts_with("shrunk false"));
            machine.end(vec![whole(buffer)], left, 1 - left);
            said
        },
    );
}

/// However the pool shrinks, a promised page comes.
#[test]
fn shrinks_and_a_promised_populate() {
    let expected = ["shrunk 1, Now"];
    exactly(
        "two shrinks and a promised populate",
        Preemptions::Any,
        &expected,
        || {
            let machine = Arc::new(Machine::new(2, 0));
            let buffer = Arc::new(machine.buffer(1, Commitment::Promised));
            let shrinks = |machine: &Machine, _: &Memory| {
                let shrunk = (0..2).filter(|_| machine.shrink().is_ok()).count();
                format!("shrunk {shrunk}")
            };
            let said = both(&machine, &buffer, shrinks, populate(0));
            machine.settled(&[&buffer]);
            machine.end(vec![whole(buffer)], 1, 1);
            said
        },
    );
}

/// The page that an administrator adds and the one that a reservation brings are the same: one of them gets it.
#[test]
fn a_grow_and_a_reservation_that_asks_the_system() {
    let expected = [
        "grew true, promised 1",
        "grew true, NoRoom",
        "grew false, promised 1",
    ];
    exactly(
        "a grow and a reservation with surplus",
        Preemptions::AtMost(3),
        &expected,
        || {
            let machine = Arc::new(Machine::new(0, 1));
            let buffer = Arc::new(machine.buffer(1, Commitment::Unpromised));
            let grow = |machine: &Machine, _: &Memory| format!("grew {}", machine.grow());
            let reserve = |machine: &Machine, buffer: &Memory| machine.reserve(buffer, 0, 1);
            let said = both(&machine, &buffer, grow, reserve);
            machine.settled(&[&buffer]);
            let pool = usize::from(said.starts_with("grew true"));
            machine.end(vec![whole(buffer)], pool, 1 - pool);
            said
        },
    );
}

/// A surplus page goes with the promise that it came for, or on to the next one: never twice, never lost.
#[test]
fn a_release_and_a_reservation_of_a_surplus_page() {
    let expected = ["released, promised 1", "released, NoRoom"];
    exactly(
        "a release and a reservation of surplus",
        Preemptions::AtMost(3),
        &expected,
        || {
            let machine = Arc::new(Machine::new(0, 1));
            let ending = machine.buffer(1, Commitment::Unpromised);
            assert_eq!(machine.reserve(&ending, 0, 1), "promised 1");
            let buffer = Arc::new(machine.buffer(1, Commitment::Unpromised));
            let release = move |machine: &Machine, _: &Memory| {
                machine.release(ending);
                "released".to_owned()
            };
            let reserve = |machine: &Machine, buffer: &Memory| machine.reserve(buffer, 0, 1);
            let said = both(&machine, &buffer, release, reserve);
            machine.settled(&[&buffer]);
            machine.end(vec![whole(buffer)], 0, 1);
            said
        },
    );
}
