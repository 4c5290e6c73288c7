// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Down the ladder of page sizes, and contiguous runs: what a plan says is what is got.

use htlb_core::driver::{plan, with_stock, Commitment, Plan};
use htlb_core::{
    policy, ByteLen, Contiguity, Error, Exclusive, Fallback, HugeSize, PageIndex, Placement,
    Request, Rung, Stop, WaitFor,
};
use htlb_tests::conformance::{pool, MachineSpec};
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::{Owner, SimBuffer, SimHost, SimMachine};

const MIB2: HugeSize = HugeSize::MIB2;
const GIB1: HugeSize = HugeSize::GIB1;
const BASE: HugeSize = HugeSize::BASE;
const PAGE: u64 = 2 << 20;

/// One 1 GiB page and 300 of 2 MiB; the system has 50 more of those.
const SHORT: MachineSpec<'_> = MachineSpec::of(&[pool(GIB1, 1), pool(MIB2, 300)])
    .overcommit(&[(MIB2, 100)])
    .system(&[(MIB2, 50)]);

/// Size, rung, pages, supplied, promised.
type Row = (HugeSize, Rung, u64, u64, u64);

fn rows(plan: &Plan) -> Vec<Row> {
    plan.parts()
        .map(|part| {
            let attempt = part.part().attempt;
            (
                attempt.size,
                attempt.rung,
                part.pages().raw(),
                part.supplied().raw(),
                part.promised().raw(),
            )
        })
        .collect()
}

fn placement(machine: &SimMachine, request: htlb_core::RequestBuilder) -> Placement {
    let request = request.build().expect("legal");
    policy::resolve(&request, &machine.topology()).expect("sizes that there are")
}

/// Plans, cancels, and finds everything as it was.
fn planned(
    machine: &SimMachine,
    request: htlb_core::RequestBuilder,
    commitment: Commitment,
) -> Result<Vec<Row>, Error> {
    let before = machine.facts().without_names();
    let host = SimHost::new(machine, Owner::FIRST);
    let outcome = plan(&host, &placement(machine, request), commitment).map(|plan| {
        let rows = rows(&plan);
        plan.cancel(&host);
        rows
    });
    drop(host);
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts().without_names(), before);
    outcome
}

#[test]
fn each_rung_gives_what_it_has() {
    let machine = SimMachine::new(&SHORT);
    let request = Request::builder(ByteLen::new(2 * GIB1.bytes() + 5000));
    let rest = (512 - 350) * 512 + 2;
    assert_eq!(
        planned(&machine, request, Commitment::Promised),
        Ok(vec![
            (GIB1, Rung::Pool, 1, 0, 1),
            (MIB2, Rung::System, 350, 50, 350),
            (BASE, Rung::Base, rest, 0, 0),
        ])
    );
}

#[test]
fn what_is_planned_is_built() {
    let machine = SimMachine::new(&SHORT);
    let start = machine.facts().without_names();
    let size = ByteLen::new(2 * GIB1.bytes());
    let of = placement(&machine, Request::builder(size));
    let buffer = machine.create_by(Owner::FIRST, |host| {
        plan(host, &of, Commitment::Promised)?.build(host, size)
    });
    let mut buffer = buffer.expect("it was planned");
    assert_eq!(machine.audit(), Ok(()));
    let sizes: Vec<_> = buffer
        .core()
        .map()
        .extents()
        .iter()
        .map(|extent| (extent.size(), extent.pages().raw()))
        .collect();
    assert_eq!(sizes, [(GIB1, 1), (MIB2, 350), (BASE, (512 - 350) * 512)]);
    let counts = |size| machine.stock_of(size).with(|stock| stock.counts());
    assert_eq!(counts(GIB1).reserved.raw(), 1);
    let small = counts(MIB2);
    assert_eq!(
        (small.nr.raw(), small.reserved.raw(), small.surplus.raw()),
        (350, 350, 50)
    );
    // One page of each size, at the borders.
    for offset in [0, GIB1.bytes(), GIB1.bytes() + 350 * PAGE, size.raw() - 1] {
        assert!(buffer.fault(offset).is_ok());
    }
    assert_eq!(machine.audit(), Ok(()));
    let gone = buffer.release().expect("nobody holds it");
    assert_eq!((gone.pages.raw(), gone.promises.raw()), (4, 349));
    drop(buffer);
    assert_eq!(machine.facts().without_names(), start);
}

#[test]
fn a_plan_that_cannot_be_built_gives_its_promises_back() {
    let machine = SimMachine::new(&SHORT);
    let start = machine.facts().without_names();
    let of = placement(&machine, Request::builder(ByteLen::new(4 * PAGE)));
    let made = machine.create_by(Owner::FIRST, |host| {
        plan(host, &of, Commitment::Promised)?.build(host, ByteLen::new(4 * PAGE - 1))
    });
    assert_eq!(made.err(), Some(Error::BeyondCapacity));
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts().without_names(), start);
}

#[test]
fn the_spare_capacity_is_in_pages_of_the_last_size() {
    let machine = SimMachine::new(&SHORT);
    let request = Request::builder(ByteLen::new(3 * PAGE))
        .build()
        .expect("legal");
    let capacity = ByteLen::new(8 * PAGE + 1);
    let made = machine.create(
        Owner::FIRST,
        &request,
        Commitment::Promised,
        capacity,
        &mut zeroes(),
    );
    let buffer = made.expect("three pages");
    assert_eq!(buffer.core().map().extents().capacity().raw(), 9 * PAGE);
    assert_eq!(buffer.core().map().size().raw(), 3 * PAGE);
    let reserved = machine
        .stock_of(MIB2)
        .with(|stock| stock.counts().reserved.raw());
    assert_eq!(reserved, 3, "what is beyond the request is not promised");
}

#[test]
fn strictness_and_fallbacks_cut_the_ladder() {
    let machine = SimMachine::new(&SHORT);
    let of = |fallback| {
        let request = Request::builder(ByteLen::new(2 * GIB1.bytes())).page_size(GIB1);
        planned(&machine, request.fallback(fallback), Commitment::Promised)
    };
    assert!(matches!(
        of(Fallback::STRICT),
        Err(Error::NoRoom | Error::OvercommitLimit | Error::OutOfPages)
    ));
    assert!(matches!(
        of(Fallback::SMALLER),
        Err(Error::NoRoom | Error::OvercommitLimit | Error::OutOfPages)
    ));
    let base = of(Fallback::BASE).expect("base pages there are");
    assert_eq!(
        base,
        [
            (GIB1, Rung::Pool, 1, 0, 1),
            (BASE, Rung::Base, 512 * 512, 0, 0)
        ]
    );
}

#[test]
fn transparent_pages_come_before_base_pages() {
    let machine = SimMachine::new(&MachineSpec {
        transparent: true,
        ..MachineSpec::of(&[pool(MIB2, 2)])
    });
    let request = Request::builder(ByteLen::new(5 * PAGE));
    assert_eq!(
        planned(&machine, request, Commitment::Promised),
        Ok(vec![
            (MIB2, Rung::Pool, 2, 0, 2),
            (MIB2, Rung::Transparent, 3, 0, 0)
        ])
    );
}

#[test]
fn without_a_promise_nothing_is_asked_of_the_pool() {
    let machine = SimMachine::new(&SHORT);
    let request = Request::builder(ByteLen::new(4 * PAGE));
    let rows = planned(&machine, request, Commitment::Unpromised);
    assert_eq!(rows, Ok(vec![(MIB2, Rung::System, 4, 0, 0)]));
}

#[test]
fn no_lower_rung_helps_an_account_at_its_limit() {
    let machine = SimMachine::new(&SHORT);
    let owner = machine.owner(Some((MIB2, Some(3), 0))).expect("an account");
    let before = machine.facts();
    let request = Request::builder(ByteLen::new(4 * PAGE))
        .build()
        .expect("legal");
    let made = machine.create(
        owner,
        &request,
        Commitment::Promised,
        request.size(),
        &mut zeroes(),
    );
    assert_eq!(made.err(), Some(Error::AccountLimit));
    assert_eq!(machine.facts(), before);
    assert_eq!(machine.close(owner), Ok(()));
}

// ---- contiguous ----

fn contiguous<'m>(
    machine: &'m SimMachine,
    request: htlb_core::RequestBuilder,
) -> Result<SimBuffer<'m>, Error> {
    let request = request.build().expect("legal");
    machine.create(
        Owner::FIRST,
        &request,
        Commitment::Promised,
        request.size(),
        &mut zeroes(),
    )
}

fn frames(buffer: &SimBuffer<'_>) -> Vec<u64> {
    let map = buffer.core().map();
    map.frames().map(|(_, pfn, _)| pfn.raw()).collect()
}

fn strict(pages: u64) -> htlb_core::RequestBuilder {
    Request::builder(ByteLen::new(pages * PAGE))
        .page_size(MIB2)
        .strict()
}

/// Where the pool is in pieces the system gives a run, and takes the very pages back.
#[test]
fn a_run_comes_from_the_system_where_the_pool_has_none() {
    let machine = SimMachine::new(
        &MachineSpec::of(&[pool(MIB2, 4)])
            .overcommit(&[(MIB2, 8)])
            .system(&[(MIB2, 8)]),
    );
    let holes = contiguous(&machine, strict(4)).expect("the pool");
    assert!(holes.populate(holes.all()).is_ok());
    let mut by_frame: Vec<_> = frames(&holes).into_iter().zip(0..).collect();
    by_frame.sort_unstable();
    for (_, page) in by_frame.into_iter().step_by(2) {
        let bytes = holes.core().map().extents().bytes_of(PageIndex::new(page));
        assert!(holes.punch(bytes.expect("a page")).is_ok());
    }
    let before = machine.facts().without_names();
    let run = contiguous(&machine, strict(3).contiguity(Contiguity::Whole)).expect("a run");
    assert_eq!(machine.audit(), Ok(()));
    let of_run = frames(&run);
    assert!(
        of_run.windows(2).all(|pair| pair[1] == pair[0] + 512),
        "{of_run:?}"
    );
    let counts = machine.stock_of(MIB2).with(|stock| stock.counts());
    let (nr, free, surplus) = (counts.nr.raw(), counts.free.raw(), counts.surplus.raw());
    // Two pages of the holes, three of the run; what came beside them has gone.
    assert_eq!((nr, free, surplus), (5, 0, 1));
    assert_eq!(counts.reserved.raw(), 0);
    drop(run);
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts().without_names(), before);
}

#[test]
fn a_run_that_one_page_size_lacks_may_be_had_of_a_smaller_one() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 520)]));
    let start = machine.facts();
    let request = Request::builder(ByteLen::new(GIB1.bytes())).contiguity(Contiguity::Whole);
    let buffer = contiguous(&machine, request).expect("512 pages in a row");
    let of_run = frames(&buffer);
    assert_eq!(of_run.len(), 512);
    assert!(of_run.windows(2).all(|pair| pair[1] == pair[0] + 512));
    drop(buffer);
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts(), start);
}

#[test]
fn the_last_run_may_be_shorter() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 16)]));
    let runs = strict(7).contiguity(Contiguity::Runs(ByteLen::new(3 * PAGE)));
    let buffer = contiguous(&machine, runs).expect("3, 3 and 1");
    for run in frames(&buffer).chunks(3) {
        assert!(
            run.windows(2).all(|pair| pair[1] == pair[0] + 512),
            "{run:?}"
        );
    }
    let counts = machine.stock_of(MIB2).with(|stock| stock.counts());
    assert_eq!((counts.free.raw(), counts.reserved.raw()), (9, 0));
}

/// Another program's base page lies in the middle of the only large range.
#[test]
fn fragmented_memory_gives_no_run() {
    let machine = SimMachine::new(
        &MachineSpec::of(&[])
            .overcommit(&[(MIB2, 4096)])
            .system(&[(MIB2, 4096)]),
    );
    for page in (0..4096).step_by(3) {
        machine.occupy(htlb_core::Pfn::new(page * 512 + 7));
    }
    let start = machine.facts();
    let run = contiguous(&machine, strict(3).contiguity(Contiguity::Whole));
    assert!(matches!(run.err(), Some(Error::NoContiguousRun)));
    assert_eq!(machine.audit(), Ok(()));
    assert_eq!(machine.facts(), start);
    drop(contiguous(&machine, strict(2).contiguity(Contiguity::Whole)).expect("two in a row"));
    assert_eq!(machine.facts(), start);
}

#[test]
fn a_stock_is_not_waited_for() {
    let machine = SimMachine::new(&SHORT);
    let host = SimHost::new(&machine, Owner::FIRST);
    let of = placement(&machine, Request::builder(ByteLen::new(PAGE)));
    let attempt = of.attempts().next().expect("a rung");
    let outcome: Result<(), Error> = with_stock(&host, attempt, |_| Err(Stop::Wait(WaitFor::Gate)));
    assert_eq!(outcome, Err(Error::Closed));
}
