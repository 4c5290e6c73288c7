// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Filling pages: what is cleared and what is not, who pays, and who waits for whom.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use htlb_core::driver::{populate_page, Commitment, Content, Filled};
use htlb_core::{
    Blank, ByteLen, ByteOffset, ByteRange, Condition, Error, Exclusive, Fill, HugeSize, PageIndex,
    Request,
};
use htlb_tests::conformance::{pool, MachineSpec};
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::{Call, Failing, Owner, SimBuffer, SimHost, SimMachine};

const MIB2: HugeSize = HugeSize::MIB2;
const PAGE: u64 = 2 << 20;

fn buffer<'m>(
    machine: &'m SimMachine,
    pages: u64,
    fill: Fill,
    commitment: Commitment,
) -> SimBuffer<'m> {
    let request = Request::builder(ByteLen::new(pages * PAGE))
        .page_size(MIB2)
        .strict();
    let request = request.fill(fill).build().expect("legal");
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

fn promised(machine: &SimMachine, pages: u64) -> SimBuffer<'_> {
    buffer(machine, pages, Fill::Zeroed, Commitment::Promised)
}

fn page(number: u64) -> ByteRange {
    ByteRange::at(ByteOffset::new(number * PAGE), ByteLen::new(PAGE)).expect("a range")
}

fn free_reserved_used(machine: &SimMachine) -> (u64, u64) {
    let counts = machine.stock_of(MIB2).with(|stock| stock.counts());
    (counts.free.raw(), counts.reserved.raw())
}

/// Of the two pages, one came zeroed from the system: it is not cleared again, and it goes to who needs zeroes.
#[test]
fn only_dirty_pages_are_cleared() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 2)]));
    machine.faults.arm(Failing::From(0), Some(Call::Clear));
    let zeroed = promised(&machine, 2);
    assert_eq!(
        zeroed.populate_page(PageIndex::ZERO).map(|(_, how)| how),
        Ok(Filled::Now)
    );
    assert_eq!(
        zeroed.populate_page(PageIndex::new(1)),
        Err(Error::Poisoned)
    );
    assert_eq!(machine.faults.disarm(), [Call::Clear]);
    assert_eq!(machine.audit(), Ok(()));
    drop(zeroed);
    // What came back is dirty, whatever it was before.
    machine.faults.arm(Failing::From(0), Some(Call::Clear));
    let again = promised(&machine, 2);
    assert_eq!(again.populate_page(PageIndex::ZERO), Err(Error::Poisoned));
    machine.faults.disarm();
    assert_eq!(machine.audit(), Ok(()));
}

#[test]
fn a_producer_learns_where_its_page_is_and_what_it_holds() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 2)]));
    let buffer = promised(&machine, 2);
    let mut seen = Vec::new();
    let made = buffer.populate_with(buffer.all(), &mut |blank: &Blank| {
        seen.push((blank.offset, blank.size, blank.condition, blank.pfn));
        Ok(0)
    });
    assert_eq!(made.map(|pages| pages.raw()), Ok(2));
    let there = [0, PAGE].map(|at| buffer.page_at(at).expect("a page").pfn);
    assert_eq!(
        seen,
        [
            (0, MIB2, Condition::Clean, there[0]),
            (PAGE, MIB2, Condition::Dirty, there[1])
        ]
    );
}

/// The page that the owner kept is charged already: the promise that the slot had goes.
#[test]
fn a_kept_page_ends_the_promise_once_it_is_there() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 3)]).magazine(2));
    let first = buffer(&machine, 1, Fill::DirtyWithinOwner, Commitment::Promised);
    assert!(first.write(7, b"own").is_ok());
    drop(first);
    assert_eq!(free_reserved_used(&machine), (2, 0), "one is kept");
    let second = buffer(&machine, 2, Fill::DirtyWithinOwner, Commitment::Promised);
    assert_eq!(free_reserved_used(&machine), (2, 2));
    let mut looked = false;
    let made = second.populate_with(page(0), &mut |blank: &Blank| {
        looked = true;
        assert_eq!(blank.condition, Condition::Dirty);
        assert_eq!(free_reserved_used(&machine), (2, 2), "not before");
        Ok(3)
    });
    assert_eq!((made.map(|pages| pages.raw()), looked), (Ok(1), true));
    assert_eq!(free_reserved_used(&machine), (2, 1));
    assert_eq!(machine.audit(), Ok(()));
    drop(second);
    machine.empty_magazines(None);
    assert_eq!(free_reserved_used(&machine), (3, 0));
}

/// A short fill of a kept page zeroes the owner's own bytes behind it too.
#[test]
fn a_short_fill_of_a_kept_page_leaves_nothing_behind() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 2)]).magazine(2));
    let first = buffer(&machine, 1, Fill::DirtyWithinOwner, Commitment::Promised);
    assert!(first.write(0, &[9; 5000]).is_ok());
    drop(first);
    let second = buffer(&machine, 1, Fill::DirtyWithinOwner, Commitment::Promised);
    let made = second.populate_with(page(0), &mut |blank: &Blank| {
        second.produce(blank, 0, b"new");
        Ok(3)
    });
    assert!(made.is_ok());
    let mut bytes = [1; 5000];
    assert!(second.read(0, &mut bytes).is_ok());
    assert_eq!(&bytes[..3], b"new");
    assert!(bytes[3..].iter().all(|byte| *byte == 0));
    drop(second);
    machine.empty_magazines(None);
}

#[test]
fn pages_from_outside_go_back_outside() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 1)]).system(&[(MIB2, 2)]));
    let start = machine.facts();
    let all = promised(&machine, 1);
    let holes = buffer(&machine, 3, Fill::Zeroed, Commitment::Unpromised);
    for number in [0, 1] {
        assert!(holes.populate(page(number)).is_ok());
        assert_eq!(machine.audit(), Ok(()));
    }
    assert!(matches!(
        holes.populate(page(2)),
        Err(Error::NoRoom | Error::OutOfPages | Error::OvercommitLimit)
    ));
    assert_eq!(free_reserved_used(&machine), (1, 1), "no pool has them");
    assert!(holes.punch(page(0)).is_ok());
    assert_eq!(machine.audit(), Ok(()));
    assert!(
        holes.populate(page(2)).is_ok(),
        "what went back can be had again"
    );
    drop((all, holes));
    assert_eq!(machine.facts(), start);
}

#[test]
fn donated_pages_are_nobody_elses() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 1)]).system(&[(MIB2, 2)]));
    machine.donate(MIB2, 2);
    assert_eq!(machine.audit(), Ok(()));
    let before = machine.facts();
    let request = Request::builder(ByteLen::new(3 * PAGE))
        .page_size(MIB2)
        .strict();
    let request = request.build().expect("legal");
    let imported = machine
        .create_of_donated(Owner::FIRST, &request)
        .expect("a buffer");
    assert!(imported.populate(page(0)).is_ok());
    assert!(imported.populate(page(2)).is_ok());
    assert_eq!(imported.populate(page(1)), Err(Error::OutOfPages));
    assert_eq!(
        imported.reserve(page(1)),
        Err(Error::NoRoom),
        "no pool promises them"
    );
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(
        free_reserved_used(&machine),
        (1, 0),
        "the pool has nothing to do with them"
    );
    assert!(imported.write(0, b"device").is_ok());
    drop(imported);
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts(), before);
}

#[test]
fn every_removal_revokes_the_mappings_first() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 3)]));
    let mut buffer = promised(&machine, 3);
    assert!(buffer.populate(buffer.all()).is_ok());
    assert_eq!(machine.unmapped(), 0);
    assert!(buffer.punch(page(1)).is_ok());
    assert_eq!(machine.unmapped(), 1);
    assert!(buffer.truncate(ByteLen::new(PAGE)).is_ok());
    assert_eq!(machine.unmapped(), 2);
    assert!(buffer.release().is_ok());
    assert_eq!(machine.unmapped(), 3);
}

/// A caller that says what it holds gets the error that the suite shows for threads.
#[test]
fn holding_a_lower_page_and_waiting_for_a_higher_one_is_refused() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 3)]));
    let buffer = promised(&machine, 3);
    let asked = buffer.populate_with(page(1), &mut |_| {
        for (index, answer) in [
            (1, Err(Error::WouldDeadlock)),
            (0, Ok(Filled::Now)),
            (2, Ok(Filled::Now)),
        ] {
            let host = SimHost::new(&machine, Owner::FIRST);
            let index = PageIndex::new(index);
            let holding = Some(PageIndex::new(1));
            let got = populate_page(&host, buffer.core(), index, &mut Content::Zeroes, holding);
            assert_eq!(got.map(|(_, how)| how), answer);
        }
        Ok(0)
    });
    assert_eq!(asked.map(|pages| pages.raw()), Ok(1));
    assert_eq!(machine.audit(), Ok(()));
}

/// A fatal signal ends the wait for a page that somebody else fills, and nothing else.
#[test]
fn an_interrupted_wait_leaves_everything_as_it_was() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 3)]));
    let buffer = promised(&machine, 3);
    let (started, wait_for_start) = mpsc::channel();
    let (finish, wait_for_finish) = mpsc::channel::<()>();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (buffer, done) = (&buffer, &done);
        scope.spawn(move || {
            let made = buffer.populate_with(page(1), &mut |_| {
                started.send(()).expect("somebody listens");
                wait_for_finish.recv().expect("the end is told");
                Ok(0)
            });
            assert_eq!(made.map(|pages| pages.raw()), Ok(1));
            done.store(true, Ordering::SeqCst);
        });
        wait_for_start.recv().expect("the fill began");
        machine.faults.arm(Failing::From(0), Some(Call::Wait));
        assert_eq!(buffer.punch(page(1)), Err(Error::Interrupted));
        assert_eq!(
            buffer.punch(buffer.all()),
            Err(Error::Interrupted),
            "and lets page 0 go again"
        );
        assert_eq!(buffer.truncate(ByteLen::new(PAGE)), Err(Error::Interrupted));
        assert_eq!(buffer.populate(page(1)), Err(Error::Interrupted));
        assert_eq!(buffer.fault(PAGE), Err(Error::Interrupted));
        assert_eq!(buffer.pin(PAGE).err(), Some(Error::Interrupted));
        assert_eq!(
            buffer.reserve(buffer.all()).map(|pages| pages.raw()),
            Ok(0),
            "it has a promise"
        );
        machine.faults.disarm();
        assert!(buffer.populate(page(0)).is_ok());
        assert!(!done.load(Ordering::SeqCst));
        assert_eq!(machine.queues.slept(), 0);
        finish.send(()).expect("it listens");
    });
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(free_reserved_used(&machine), (1, 1));
}

/// Who waits really sleeps, and is woken by the end of the fill.
#[test]
fn waiters_sleep_until_they_are_woken() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 1)]));
    let buffer = promised(&machine, 1);
    let (started, wait_for_start) = mpsc::channel();
    thread::scope(|scope| {
        let (buffer, machine) = (&buffer, &machine);
        scope.spawn(move || {
            let made = buffer.populate_with(page(0), &mut |_| {
                started.send(()).expect("somebody listens");
                while machine.queues.sleeping() < 3 {
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(0)
            });
            assert_eq!(made.map(|pages| pages.raw()), Ok(1));
        });
        wait_for_start.recv().expect("the fill began");
        for _ in 0..3 {
            scope.spawn(move || {
                let (_, how) = buffer.populate_page(PageIndex::ZERO).expect("a page");
                assert_eq!(how, Filled::Already);
            });
        }
    });
    assert_eq!(machine.queues.sleeping(), 0);
    assert_eq!(machine.audit(), Ok(()));
}
