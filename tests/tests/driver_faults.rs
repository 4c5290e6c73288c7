// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The n-th thing that the core asks of its host fails, for every n, in every operation: an `Err` left every fact as
//! it was, and whatever happened, everything can be given back.

use htlb_core::driver::Commitment::{self, Promised, Unpromised};
use htlb_core::driver::Content;
use htlb_core::{
    AddressBits, Blank, ByteLen, Contiguity, Error, Fill, HugeSize, PageIndex, Request,
};
use htlb_tests::conformance::{pool, MachineSpec};
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::machine::node;
use htlb_tests::sim::{Failing, Owner, SimBuffer, SimMachine};

const MIB2: HugeSize = HugeSize::MIB2;
const GIB1: HugeSize = HugeSize::GIB1;
const PAGE: u64 = 2 << 20;

/// Pools that are short, a system that is not, and tables that must grow.
const SHORT: MachineSpec<'_> = MachineSpec::of(&[pool(MIB2, 2)])
    .overcommit(&[(MIB2, 8), (GIB1, 1)])
    .system(&[(MIB2, 16), (GIB1, 1)])
    .magazine(4);

/// Pools that have enough.
const AMPLE: MachineSpec<'_> = MachineSpec::of(&[pool(MIB2, 8)]).magazine(4);

/// No overcommit: what the pool lacks, the system gives to one buffer alone.
const OUTSIDE: MachineSpec<'_> = MachineSpec::of(&[pool(MIB2, 1)]).system(&[(MIB2, 4)]);

type Operation<'a> = &'a mut dyn FnMut() -> Result<(), Error>;

/// Runs `body` again and again. In it, one operation is tried: the n-th call that it makes of its host fails, alone or with all
/// that follow, until it makes fewer than n. Says how many different failures the operation reported.
fn exhaust(
    spec: &MachineSpec<'_>,
    body: impl Fn(&SimMachine, &mut dyn FnMut(Operation<'_>)),
) -> usize {
    let mut refusals = 0;
    for failing in [Failing::Only, Failing::From] {
        for n in 0..10_000 {
            let machine = SimMachine::new(spec);
            let facts = || match spec.overcommit {
                [] => machine.facts(),
                _ => machine.facts().without_names(),
            };
            let start = facts();
            let mut fired = Vec::new();
            let mut tried = 0;
            body(&machine, &mut |operation| {
                tried += 1;
                let before = facts();
                machine.faults.arm(failing(n), None);
                let outcome = operation();
                fired = machine.faults.disarm();
                assert_eq!(machine.audit(), Ok(()), "after {fired:?}, number {n}");
                if let Err(error) = outcome {
                    assert!(!fired.is_empty(), "{error:?} without a failure");
                    assert_eq!(facts(), before, "{error:?} after {fired:?}, number {n}");
                    refusals += 1;
                }
            });
            assert_eq!(tried, 1);
            machine.empty_magazines(None);
            assert_eq!(machine.audit(), Ok(()));
            assert_eq!(facts(), start, "after {fired:?}, number {n}");
            if fired.is_empty() {
                break;
            }
        }
    }
    refusals
}

fn strict(pages: u64) -> htlb_core::RequestBuilder {
    Request::builder(ByteLen::new(pages * PAGE))
        .page_size(MIB2)
        .strict()
}

fn create<'m>(
    machine: &'m SimMachine,
    owner: Owner,
    request: htlb_core::RequestBuilder,
    commitment: Commitment,
) -> Result<SimBuffer<'m>, Error> {
    let request = request.build().expect("legal");
    machine.create(owner, &request, commitment, request.size(), &mut zeroes())
}

/// Tries to create, and keeps what was made until the end of the trial.
fn creating(
    spec: &MachineSpec<'_>,
    request: htlb_core::RequestBuilder,
    commitment: Commitment,
) -> usize {
    exhaust(spec, |machine, attempt| {
        let mut made = None;
        attempt(&mut || {
            made = Some(create(machine, Owner::FIRST, request, commitment)?);
            Ok(())
        });
        drop(made);
    })
}

#[test]
fn create_from_the_pool() {
    // Tables, and slots.
    assert!(creating(&AMPLE, strict(5), Promised) >= 2);
    assert!(creating(&AMPLE, strict(5), Unpromised) >= 1);
}

#[test]
fn create_with_surplus() {
    assert!(creating(&SHORT, strict(7), Promised) >= 10);
}

#[test]
fn create_down_the_ladder() {
    let request = Request::builder(ByteLen::new(GIB1.bytes() + 5 * PAGE + 4096));
    assert!(creating(&SHORT, request, Promised) >= 2);
    assert!(creating(&SHORT, request, Unpromised) >= 1);
}

#[test]
fn create_contiguous() {
    let whole = strict(4).contiguity(Contiguity::Whole);
    assert!(creating(&AMPLE, whole, Promised) >= 4);
    let aligned = strict(6)
        .contiguity(Contiguity::Runs(ByteLen::new(2 * PAGE)))
        .alignment(2 * PAGE)
        .fill(Fill::DirtyWithinOwner);
    assert!(creating(&AMPLE, aligned, Promised) >= 4);
}

/// The pool has no run, so one comes from the system beside the pages that the promise brought.
#[test]
fn create_contiguous_with_surplus() {
    let request = strict(4).contiguity(Contiguity::Whole);
    assert!(creating(&SHORT, request, Promised) >= 4);
}

#[test]
fn create_contiguous_with_a_producer() {
    let request = strict(4)
        .contiguity(Contiguity::Whole)
        .build()
        .expect("legal");
    for failing in 0..4 {
        exhaust(&SHORT, |machine, attempt| {
            let start = machine.facts().without_names();
            let mut calls = 0;
            let mut produce = |_: &Blank| {
                calls += 1;
                if calls > failing {
                    Err(Error::FillFailed)
                } else {
                    Ok(0)
                }
            };
            let mut content = Content::Producer(&mut produce);
            let made = machine.create(
                Owner::FIRST,
                &request,
                Promised,
                request.size(),
                &mut content,
            );
            assert_eq!(made.err(), Some(Error::FillFailed));
            assert_eq!(machine.facts().without_names(), start);
            attempt(&mut || Ok(()));
        });
    }
}

#[test]
fn create_for_an_account_with_a_minimum() {
    let refusals = exhaust(&SHORT, |machine, attempt| {
        let owner = machine.owner(Some((MIB2, Some(6), 2))).expect("it fits");
        let mut made = None;
        attempt(&mut || {
            made = Some(create(machine, owner, strict(5), Promised)?);
            Ok(())
        });
        drop(made);
        assert_eq!(machine.close(owner), Ok(()));
        machine.forget_closed_accounts();
    });
    assert!(refusals >= 4);
}

#[test]
fn open_an_account() {
    let refusals = exhaust(&AMPLE, |machine, attempt| {
        let mut made = None;
        attempt(&mut || {
            made = Some(machine.owner(Some((MIB2, None, 3)))?);
            Ok(())
        });
        if let Some(owner) = made {
            assert_eq!(machine.close(owner), Ok(()));
        }
        machine.forget_closed_accounts();
    });
    assert!(refusals >= 1);
}

#[test]
fn reserve() {
    let refusals = exhaust(&SHORT, |machine, attempt| {
        let buffer = create(machine, Owner::FIRST, strict(7), Unpromised).expect("holes");
        attempt(&mut || buffer.reserve(buffer.all()).map(drop));
    });
    assert!(refusals >= 6, "{refusals}");
}

/// Two page sizes: what the first got goes back where the second fails.
#[test]
fn reserve_pages_of_two_sizes() {
    const TWO: MachineSpec<'_> = MachineSpec::of(&[pool(GIB1, 1)])
        .overcommit(&[(MIB2, 8)])
        .system(&[(MIB2, 16)]);
    let refusals = exhaust(&TWO, |machine, attempt| {
        let request = Request::builder(ByteLen::new(GIB1.bytes() + 3 * PAGE));
        let buffer = create(machine, Owner::FIRST, request, Promised).expect("pages");
        assert!(buffer.punch(buffer.all()).is_ok());
        attempt(&mut || buffer.reserve(buffer.all()).map(drop));
    });
    assert!(refusals >= 6);
}

#[test]
fn populate_a_promised_page() {
    for spec in [&AMPLE, &SHORT] {
        exhaust(spec, |machine, attempt| {
            let buffer = create(machine, Owner::FIRST, strict(4), Promised).expect("pages");
            attempt(&mut || buffer.populate_page(PageIndex::new(2)).map(drop));
        });
    }
}

#[test]
fn populate_without_a_promise() {
    let refusals = exhaust(&SHORT, |machine, attempt| {
        let _others = create(machine, Owner::FIRST, strict(2), Promised).expect("the pool");
        let buffer = create(machine, Owner::FIRST, strict(4), Unpromised).expect("holes");
        attempt(&mut || buffer.populate_page(PageIndex::new(2)).map(drop));
    });
    assert!(refusals >= 1);
}

#[test]
fn populate_from_the_system_for_this_buffer_alone() {
    let refusals = exhaust(&OUTSIDE, |machine, attempt| {
        let _others = create(machine, Owner::FIRST, strict(1), Promised).expect("the pool");
        let buffer = create(machine, Owner::FIRST, strict(2), Unpromised).expect("holes");
        attempt(&mut || buffer.fault(PAGE).map(drop));
    });
    assert!(refusals >= 1);
}

#[test]
fn populate_with_a_short_producer() {
    // Its only page is dirty.
    const ONE: MachineSpec<'_> = MachineSpec::of(&[pool(MIB2, 1)]);
    for commitment in [Promised, Unpromised] {
        let refusals = exhaust(&ONE, |machine, attempt| {
            let buffer = create(machine, Owner::FIRST, strict(1), commitment).expect("a buffer");
            attempt(&mut || {
                let mut produce = |blank: &Blank| {
                    buffer.produce(blank, 0, b"short");
                    Ok(5)
                };
                buffer.populate_with(buffer.all(), &mut produce).map(drop)
            });
        });
        assert!(refusals >= 1);
    }
}

/// What the owner kept, and the promise, are both there again.
#[test]
fn populate_with_what_the_owner_kept() {
    for (commitment, again) in [
        (Promised, Fill::DirtyWithinOwner),
        (Unpromised, Fill::DirtyWithinOwner),
        (Promised, Fill::Zeroed),
    ] {
        let refusals = exhaust(&AMPLE, |machine, attempt| {
            let request = strict(2).fill(Fill::DirtyWithinOwner);
            let first = create(machine, Owner::FIRST, request, Promised).expect("pages");
            assert!(first.write(0, b"short").is_ok());
            drop(first);
            let buffer =
                create(machine, Owner::FIRST, strict(2).fill(again), commitment).expect("a buffer");
            attempt(&mut || {
                // The very bytes that are there: a fill that fails may leave its own.
                let mut produce = |blank: &Blank| {
                    buffer.produce(blank, 0, b"short");
                    Ok(5)
                };
                let first =
                    htlb_core::ByteRange::at(htlb_core::ByteOffset::ZERO, ByteLen::new(PAGE));
                buffer.populate_with(first?, &mut produce).map(drop)
            });
        });
        assert!(refusals >= 1);
    }
}

#[test]
fn punch_and_truncate_can_only_be_interrupted_and_release_cannot_fail() {
    // Once alone, once with all that follow.
    for (step, interruptions) in [(0, 2), (1, 2), (2, 0)] {
        let refusals = exhaust(&SHORT, |machine, attempt| {
            let mut buffer = create(machine, Owner::FIRST, strict(5), Promised).expect("pages");
            assert!(buffer.populate_page(PageIndex::new(1)).is_ok());
            assert!(buffer.populate_page(PageIndex::new(4)).is_ok());
            attempt(&mut || match step {
                0 => buffer.punch(buffer.all()).map(drop),
                1 => buffer.truncate(ByteLen::new(PAGE + 1)).map(drop),
                _ => buffer.release().map(drop),
            });
        });
        assert_eq!(refusals, interruptions);
    }
}

/// The same for an operation whose success stays.
fn exhaust_lasting(
    spec: &MachineSpec<'_>,
    operation: impl Fn(&SimMachine) -> Result<(), Error>,
) -> usize {
    let mut refusals = 0;
    for failing in [Failing::Only, Failing::From] {
        for n in 0.. {
            let machine = SimMachine::new(spec);
            let before = machine.facts();
            machine.faults.arm(failing(n), None);
            let outcome = operation(&machine);
            let fired = machine.faults.disarm();
            assert_eq!(machine.audit(), Ok(()));
            match outcome {
                Ok(()) => assert_ne!(machine.facts(), before),
                Err(error) => {
                    assert_eq!(
                        machine.facts(),
                        before,
                        "{error:?} after {fired:?}, number {n}"
                    );
                    refusals += 1;
                }
            }
            if fired.is_empty() {
                break;
            }
        }
    }
    refusals
}

#[test]
fn grow_a_pool() {
    let refusals = exhaust_lasting(&SHORT, |machine| {
        match machine.grow(MIB2, node(0), 1, AddressBits::new(28)?)? {
            0 => Err(Error::OutOfPages),
            _ => Ok(()),
        }
    });
    // The page, and tables for its class.
    assert!(refusals >= 4);
}

/// The page below 1 GiB lies in five classes, for which there are no tables yet.
#[test]
fn demote() {
    const LARGE: MachineSpec<'_> = MachineSpec::of(&[pool(GIB1, 1).below(30)]);
    assert!(exhaust_lasting(&LARGE, |machine| machine.demote(node(0))) >= 2);
}
