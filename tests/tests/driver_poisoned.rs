// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages whose memory went bad while they lay free in the pool: they serve nobody, and nobody loses a promise by them.

use htlb_core::driver::Commitment::{self, Promised, Unpromised};
use htlb_core::{
    AddressBits, ByteLen, Contiguity, Error, Exclusive, HugeSize, PageCount, PageIndex, Pfn,
    Request, Stock,
};
use htlb_tests::conformance::{pool, MachineSpec};
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::faults::Call;
use htlb_tests::sim::machine::node;
use htlb_tests::sim::{Failing, Owner, SimBuffer, SimMachine};

const MIB2: HugeSize = HugeSize::MIB2;
const PAGE: u64 = 2 << 20;

fn create(
    machine: &SimMachine,
    owner: Owner,
    pages: u64,
    contiguity: Contiguity,
    commitment: Commitment,
) -> Result<SimBuffer<'_>, Error> {
    let size = ByteLen::new(pages * PAGE);
    let request = Request::builder(size)
        .page_size(MIB2)
        .strict()
        .contiguity(contiguity)
        .build()
        .expect("legal");
    machine.create(owner, &request, commitment, size, &mut zeroes())
}

fn pages(machine: &SimMachine, pages: u64, commitment: Commitment) -> SimBuffer<'_> {
    create(machine, Owner::FIRST, pages, Contiguity::Pages, commitment).expect("a buffer")
}

fn frames(buffer: &SimBuffer<'_>) -> Vec<Pfn> {
    let frames = buffer.core().map().frames();
    frames.map(|(_, pfn, _)| pfn).collect()
}

/// Every page of the pool, in the order in which it gives them.
fn of_pool(machine: &SimMachine, number: u64) -> Vec<Pfn> {
    let all = pages(machine, number, Promised);
    assert_eq!(all.populate(all.all()), Ok(PageCount::new(number)));
    frames(&all)
}

/// Pages that there are, are free, are promised and are surplus.
fn counts(machine: &SimMachine) -> [u64; 4] {
    let counts = machine.stock_of(MIB2).with(|stock| stock.counts());
    [counts.nr, counts.free, counts.reserved, counts.surplus].map(PageCount::raw)
}

/// Whatever the pages were taken for, the next good ones come, and the bad ones are gone for good.
#[test]
fn bad_pages_are_exchanged_for_good_ones() {
    for commitment in [Promised, Unpromised] {
        let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 5)]));
        let bad = [0, 1, 3].map(|at| of_pool(&machine, 5)[at]);
        for pfn in bad {
            machine.poison(pfn);
        }
        let two = pages(&machine, 2, commitment);
        assert_eq!(two.populate(two.all()), Ok(PageCount::new(2)));
        assert_eq!(machine.audit(), Ok(()));
        assert!(frames(&two).iter().all(|pfn| !bad.contains(pfn)));
        for gone in machine.buried() {
            let known = |stock: &mut Stock<_>| stock.pool().knows(gone);
            assert_eq!(machine.stock_of(MIB2).with(known), None);
        }
        drop(two);
        let left = 5 - machine.buried().len() as u64;
        assert_eq!(counts(&machine), [left, left, 0, 0], "{commitment:?}");
        let rest = pages(&machine, 2, commitment);
        assert_eq!(rest.populate(rest.all()), Ok(PageCount::new(2)));
        drop(rest);
        assert_eq!(machine.audit(), Ok(()));
    }
}

/// Where every page is promised, the good ones go to those who come first, and the last promise waits for another page.
#[test]
fn a_promise_that_only_a_bad_page_could_keep_waits() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 3)]).system(&[(MIB2, 1)]));
    let start = machine.facts();
    let bad = of_pool(&machine, 3)[0];
    let buffer = pages(&machine, 3, Promised);
    machine.poison(bad);
    for at in [0, 1] {
        let (page, _) = buffer.populate_page(PageIndex::new(at)).expect("good ones");
        assert_ne!(page.pfn, bad);
    }
    let before = machine.facts();
    assert_eq!(buffer.populate(buffer.all()), Err(Error::Poisoned));
    assert_eq!(machine.facts(), before);
    assert_eq!(machine.audit(), Ok(()));
    drop(buffer);
    assert_eq!(machine.facts(), start);

    let again = pages(&machine, 3, Promised);
    assert_eq!(machine.grow(MIB2, node(0), 1, AddressBits::ALL), Ok(1));
    assert_eq!(again.populate(again.all()), Ok(PageCount::new(3)));
    assert_eq!(machine.buried(), [bad]);
    assert_eq!(counts(&machine), [3, 0, 0, 0]);
    assert_eq!(machine.audit(), Ok(()));
}

/// Who has no promise does not get a good page in place of a bad one that was promised to nobody.
#[test]
fn a_good_page_that_is_promised_stays_promised() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 2)]));
    let bad = of_pool(&machine, 2)[0];
    machine.poison(bad);
    let promised = pages(&machine, 1, Promised);
    let other = pages(&machine, 1, Unpromised);
    assert_eq!(other.populate(other.all()), Err(Error::Poisoned));
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(promised.populate(promised.all()), Ok(PageCount::ONE));
    assert_ne!(frames(&promised), [bad]);
    assert_eq!(machine.audit(), Ok(()));
}

/// What comes from the system for a bad page takes its place in the pool.
#[test]
fn the_system_stands_in_for_a_bad_page() {
    for commitment in [Promised, Unpromised] {
        let machine = SimMachine::new(
            &MachineSpec::of(&[pool(MIB2, 1)])
                .overcommit(&[(MIB2, 1)])
                .system(&[(MIB2, 1)]),
        );
        let bad = of_pool(&machine, 1)[0];
        machine.poison(bad);
        let buffer = pages(&machine, 1, commitment);
        let before = machine.facts().without_names();
        machine.faults.arm(Failing::From(0), Some(Call::Supply));
        assert_eq!(buffer.populate(buffer.all()), Err(Error::Poisoned));
        assert!(!machine.faults.disarm().is_empty());
        assert_eq!(machine.facts().without_names(), before);
        assert_eq!(buffer.populate(buffer.all()), Ok(PageCount::ONE));
        assert_eq!(machine.buried(), [bad]);
        // The pool is as large as before.
        assert_eq!(counts(&machine), [1, 0, 0, 0]);
        drop(buffer);
        assert_eq!(counts(&machine), [1, 1, 0, 0]);
        assert_eq!(machine.audit(), Ok(()));
    }
}

/// An account that has all it may have gets another page for the bad one: it has one page, not two.
#[test]
fn an_account_at_its_limit_gets_another_page() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 3)]));
    let owner = machine.owner(Some((MIB2, Some(1), 0))).expect("an account");
    let bad = of_pool(&machine, 3)[0];
    machine.poison(bad);
    let buffer = create(&machine, owner, 1, Contiguity::Pages, Unpromised).expect("a buffer");
    assert_eq!(buffer.populate(buffer.all()), Ok(PageCount::ONE));
    assert_eq!(machine.audit(), Ok(()));
    drop(buffer);
    let left = 3 - machine.buried().len() as u64;
    assert_eq!(counts(&machine), [left, left, 0, 0]);
}

/// A run is all of its pages: where one is bad, it leaves, and the next run is another.
#[test]
fn a_bad_page_is_in_no_run() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 8)]));
    let whole = || create(&machine, Owner::FIRST, 4, Contiguity::Whole, Promised);
    let bad = frames(&whole().expect("four in a row"))[1];
    machine.poison(bad);
    assert_eq!(whole().err(), Some(Error::Poisoned));
    assert_eq!(machine.buried(), [bad]);
    assert_eq!(counts(&machine), [7, 7, 0, 0]);
    assert_eq!(machine.audit(), Ok(()));
    let run = whole().expect("four others in a row");
    assert!(!frames(&run).contains(&bad));
    assert_eq!(machine.audit(), Ok(()));
}

/// Nothing else is to be had: the run is refused, and the bad page is promised again.
#[test]
fn a_run_that_nothing_can_stand_in_for_is_refused() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 2)]));
    let start = machine.facts();
    for bad in of_pool(&machine, 2) {
        machine.poison(bad);
    }
    let run = create(&machine, Owner::FIRST, 2, Contiguity::Whole, Promised);
    assert_eq!(run.err(), Some(Error::Poisoned));
    assert_eq!(machine.facts(), start);
    assert_eq!(machine.audit(), Ok(()));
}

/// Whatever fails while a bad page is exchanged: nothing is lost, and it works the next time.
#[test]
fn an_exchange_that_fails_leaves_nothing_behind() {
    for commitment in [Promised, Unpromised] {
        for failing in [Failing::Only, Failing::From] {
            let mut calls = 0;
            loop {
                let machine = SimMachine::new(
                    &MachineSpec::of(&[pool(MIB2, 2)])
                        .overcommit(&[(MIB2, 1)])
                        .system(&[(MIB2, 1)]),
                );
                let bad = of_pool(&machine, 2)[1];
                machine.poison(bad);
                let buffer = pages(&machine, 2, commitment);
                machine.faults.arm(failing(calls), None);
                let made = buffer.populate(buffer.all());
                let failed = !machine.faults.disarm().is_empty();
                assert!(failed || made.is_ok(), "{made:?}");
                assert_eq!(machine.audit(), Ok(()), "call {calls}");
                assert!(!frames(&buffer).contains(&bad), "call {calls}");
                assert!(buffer.populate(buffer.all()).is_ok(), "call {calls}");
                assert_eq!(machine.buried(), [bad]);
                drop(buffer);
                assert_eq!(machine.audit(), Ok(()), "call {calls}");
                assert_eq!(counts(&machine), [2, 2, 0, 0], "call {calls}");
                if !failed {
                    break;
                }
                calls += 1;
            }
            assert!(calls >= 3, "only {calls} calls");
        }
    }
}
