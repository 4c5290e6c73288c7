// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The core's operations, each alone, and what they cost together: `cargo bench -p htlb-tests --bench core`.
//!
//! The figures that have a target come first, measured in turns with their peers; `htlb bench` prints the same.

use std::sync::atomic::AtomicU64;

use divan::{black_box, counter::ItemsCount, Bencher};
use htlb_core::gate::Gate;
use htlb_core::page_map::{Claim, Extents, PageMap};
use htlb_core::{Error, Frame, HugeSize, PageCount, PageIndex, Pfn};
use htlb_user::bench::core::{self as measure, Lookups, Machine, Ranges};

/// Operations in one sample.
const BATCH: usize = 1000;

fn main() {
    // `cargo test` runs each bench once, to see that it works; the figures are for `cargo bench`.
    if std::env::args().any(|argument| argument == "--bench") {
        print_figures().expect("the core grants what it has room for");
    }
    divan::main();
}

fn print_figures() -> Result<(), Error> {
    let figure = |name, value: f64, target| println!("{name:<34} {value:>9.2}   {target}");
    figure("reserve_growth", measure::reserve_growth()?, "<= 1.3");
    let lookup = measure::page_at()?;
    figure("page_at_ns", lookup.ns, "<= 4");
    figure("page_at_vs_btree", lookup.vs_btree, ">= 50");
    figure("page_at_ns, dependent", lookup.dependent_ns, "");
    figure("page_at_vs_btree, dependent", lookup.dependent_vs_btree, "");
    figure("scale_16tib", measure::scale_16tib()?, "<= 2.0");
    let metadata = measure::metadata_bytes_per_page()?;
    figure("metadata_bytes_per_page", metadata, "<= 10");
    Ok(())
}

/// One page of a buffer with so many disjoint reserved ranges, through the driver loops and the lock.
#[divan::bench(args = [100, 7_900, 100_000])]
fn reserve_and_release(bencher: Bencher<'_, '_>, ranges: u64) {
    let ranges = Ranges::new(ranges).unwrap();
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| ranges.reserve_and_release(BATCH).unwrap());
}

/// Every page of a buffer of 1 TiB on average once, in no order.
mod look_up_in_1tib {
    use super::*;

    const PAGES: u64 = 1 << 19;

    fn measure(bencher: Bencher<'_, '_>, find: fn(&Lookups) -> Result<f64, Error>) {
        let lookups = Lookups::new(PAGES).unwrap();
        bencher
            .counter(ItemsCount::new(PAGES as usize))
            .bench_local(|| find(&lookups).unwrap());
    }

    #[divan::bench(sample_count = 20)]
    fn page_at(bencher: Bencher<'_, '_>) {
        measure(bencher, Lookups::page_at);
    }

    #[divan::bench(sample_count = 20)]
    fn page_at_dependent(bencher: Bencher<'_, '_>) {
        measure(bencher, Lookups::page_at_dependent);
    }

    #[divan::bench(sample_count = 20)]
    fn btree(bencher: Bencher<'_, '_>) {
        measure(bencher, Lookups::btree);
    }

    #[divan::bench(sample_count = 20)]
    fn btree_dependent(bencher: Bencher<'_, '_>) {
        measure(bencher, Lookups::btree_dependent);
    }
}

/// One page each time, put back long after it was taken; arguments are nodes and pages of 2 MiB.
#[divan::bench(args = [(1, 1 << 9), (8, 1 << 23)])]
fn promise_take_put_release(bencher: Bencher<'_, '_>, (nodes, pages): (u8, u64)) {
    let mut machine = Machine::new(nodes, pages).unwrap();
    bencher
        .counter(ItemsCount::new(BATCH))
        .bench_local(|| machine.promise_take_put_release(BATCH).unwrap());
}

/// A map of one page, which is there where a frame is given.
fn map(frame: Option<Frame>) -> PageMap<[AtomicU64; 1]> {
    let extents = Extents::new(&[(HugeSize::MIB2, PageCount::ONE)]).unwrap();
    let map = PageMap::new([AtomicU64::new(0)], extents, extents.capacity()).unwrap();
    if let Some(frame) = frame {
        let Ok(Claim::Granted(claim)) = map.claim(PageIndex::ZERO, |_| ()) else {
            unreachable!("nobody else is here");
        };
        let _ = map.commit(map.attach(claim, frame).unwrap());
    }
    map
}

fn frame() -> Frame {
    Frame::new(Pfn::new(512), HugeSize::MIB2).unwrap()
}

/// A slot claimed, given a frame, and published; then claimed with its frame, and emptied.
#[divan::bench]
fn claim_commit_punch(bencher: Bencher<'_, '_>) {
    let map = map(None);
    let size = map.size();
    let whole = htlb_core::ByteRange::at(htlb_core::ByteOffset::ZERO, size).unwrap();
    let slots = map.pages(whole).unwrap();
    bencher.bench_local(|| {
        let Ok(Claim::Granted(claim)) = map.claim(black_box(PageIndex::ZERO), |_| ()) else {
            unreachable!("the last round left a hole");
        };
        let published = map.commit(map.attach(claim, frame()).unwrap());
        let mut claim = map.claim_range(slots, |_| ()).unwrap();
        let emptied = map.next_removed(&mut claim);
        map.end_range(claim, |_| ());
        (published, emptied)
    });
}

/// A slot claimed and given up as it was.
#[divan::bench]
fn claim_abort(bencher: Bencher<'_, '_>) {
    let map = map(None);
    bencher.bench_local(|| {
        let Ok(Claim::Granted(claim)) = map.claim(black_box(PageIndex::ZERO), |_| ()) else {
            unreachable!("nobody else is here");
        };
        map.abort(claim)
    });
}

/// One pin taken and given back.
#[divan::bench]
fn pin_unpin(bencher: Bencher<'_, '_>) {
    let map = map(Some(frame()));
    bencher.bench_local(|| {
        let pin = map.pin(black_box(PageIndex::ZERO)).unwrap();
        map.unpin(pin);
    });
}

/// One pass through an open gate.
#[divan::bench]
fn gate_enter_leave(bencher: Bencher<'_, '_>) {
    let gate = Gate::new();
    bencher.bench_local(|| gate.leave(black_box(&gate).enter().unwrap()));
}
