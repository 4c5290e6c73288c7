// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A long punch or truncate can be ended half-way: what it took away stays away, and the rest is as it was.

use htlb_core::driver::Commitment;
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error, Fallback, HugeSize, PageChoice, Request};
use htlb_tests::conformance::MachineSpec;
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::faults::Call;
use htlb_tests::sim::{Failing, Owner, SimBuffer, SimMachine};

const BASE: u64 = HugeSize::BASE.bytes();
/// More than one stretch, less than two.
const PAGES: u64 = 40_000;
const SIZE: u64 = PAGES * BASE;

/// A buffer of base pages with one page in each stretch, and what is in them.
fn buffer(machine: &SimMachine) -> SimBuffer<'_> {
    let request = Request::builder(ByteLen::new(SIZE))
        .page(PageChoice::Base)
        .fallback(Fallback::BASE)
        .build()
        .expect("a request");
    let buffer = machine
        .create(
            Owner::FIRST,
            &request,
            Commitment::Unpromised,
            ByteLen::new(SIZE),
            &mut zeroes(),
        )
        .expect("a buffer");
    for offset in [0, SIZE - BASE] {
        buffer.write(offset, b"mine").expect("a page");
    }
    buffer
}

/// Where the second stretch begins is as it was, and the first is gone.
fn half_is_gone(machine: &SimMachine, buffer: &SimBuffer<'_>) {
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(buffer.page_at(0).map(drop), Err(Error::NotPresent));
    let mut bytes = [0; 4];
    buffer.read(SIZE - BASE, &mut bytes).expect("present");
    assert_eq!(&bytes, b"mine");
    assert_eq!(buffer.core().map().size().raw(), SIZE);
    // Nothing is claimed any more.
    let at_the_border = (PAGES / 2) * BASE;
    buffer.write(at_the_border, b"new").expect("a page");
}

fn whole() -> ByteRange {
    ByteRange::at(ByteOffset::ZERO, ByteLen::new(SIZE)).expect("a range")
}

#[test]
fn a_punch_ends_between_two_stretches() {
    let machine = SimMachine::new(&MachineSpec::of(&[]));
    let buffer = buffer(&machine);
    machine.faults.arm(Failing::Only(1), Some(Call::Interrupt));
    assert_eq!(buffer.punch(whole()), Err(Error::Interrupted));
    assert_eq!(machine.faults.disarm(), [Call::Interrupt]);
    half_is_gone(&machine, &buffer);

    let punched = buffer.punch(whole()).expect("nothing is pinned");
    assert_eq!(punched.pages.raw(), 2);
    assert_eq!(machine.audit(), Ok(()));
}

#[test]
fn a_truncate_that_is_interrupted_leaves_the_size() {
    let machine = SimMachine::new(&MachineSpec::of(&[]));
    let buffer = buffer(&machine);
    machine.faults.arm(Failing::Only(1), Some(Call::Interrupt));
    assert_eq!(buffer.truncate(ByteLen::ZERO), Err(Error::Interrupted));
    assert_eq!(machine.faults.disarm(), [Call::Interrupt]);
    half_is_gone(&machine, &buffer);

    buffer
        .truncate(ByteLen::new(BASE))
        .expect("nothing is pinned");
    assert_eq!(buffer.core().map().size().raw(), BASE);
    assert_eq!(machine.audit(), Ok(()));
}

#[test]
fn one_that_is_interrupted_at_once_changes_nothing() {
    let machine = SimMachine::new(&MachineSpec::of(&[]));
    let buffer = buffer(&machine);
    let before = machine.facts();
    machine.faults.arm(Failing::From(0), Some(Call::Interrupt));
    assert_eq!(buffer.punch(whole()), Err(Error::Interrupted));
    assert_eq!(buffer.truncate(ByteLen::ZERO), Err(Error::Interrupted));
    machine.faults.disarm();
    assert_eq!(machine.facts(), before);
}
