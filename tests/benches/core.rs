// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The core's operations, each alone, and what they cost together: `cargo bench -p htlb-tests`.
//!
//! The ratios that have a target are printed first, measured in turns; `htlb bench` prints the same.

use std::sync::atomic::AtomicU64;

use divan::{black_box, Bencher};
use htlb_core::gate::Gate;
use htlb_core::page_map::{Claim, Extents, PageMap};
use htlb_core::{Frame, HugeSize, PageCount, PageIndex, Pfn};
use htlb_user::bench::core::{self as measure, Lookups, Machine, Ranges};

fn main() {
    // `cargo test` runs every bench once; the ratios are for `cargo bench`.
    if std::env::args().any(|argument| argument == "--bench") {
        print_ratios().expect("the core refuses what it must grant");
    }
    divan::main();
}

fn print_ratios() -> Result<(), htlb_core::Error> {
    println!(
        "reserve_growth          {:8.2}  (at most 1.3)",
        measure::reserve_growth()?
    );
    let lookup = measure::page_at()?;
    println!("page_at_ns              {:8.2}  (at most 4)", lookup.ns);
    println!(
        "page_at_vs_btree        {:8.1}  (at least 50)",
        lookup.vs_btree
    );
    println!(
        "  dependent: page_at_ns {:8.2}, vs_btree {:.1}",
        lookup.dependent_ns, lookup.dependent_vs_btree
    );
    println!(
        "scale_16tib             {:8.2}  (at most 2.0)",
        measure::scale_16tib()?
    );
    println!(
        "metadata_bytes_per_page {:8.3}  (at most 10)\n",
        measure::metadata_bytes_per_page()?
    );
    Ok(())
}

/// One page among `ranges` disjoint reserved ranges.
#[divan::bench(args = [100, 7_900, 100_000])]
fn reserve_and_release(bencher: Bencher, ranges: u64) {
    let ranges = Ranges::new(ranges).unwrap();
    bencher
        .counter(1000u32)
        .bench_local(|| ranges.reserve_and_release(1000).unwrap());
}
