// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The fuzz targets' own cases, without the fuzzer.

use arbitrary::{Arbitrary, Unstructured};
use htlb_core::HugeSize;
use htlb_tests::model::{ledger, page_map, pipeline, policy, pool, uapi};

/// Runs every seed of a target; `run` says how many steps it had.
fn seeds<T: for<'a> Arbitrary<'a>>(target: &str, run: impl Fn(&T) -> usize) {
    each(target, |name, bytes| {
        let case = T::arbitrary_take_rest(Unstructured::new(bytes)).expect("a case");
        assert!(run(&case) > 3, "{name} is not what it was");
    });
}

fn each(target: &str, run: impl Fn(&str, &[u8])) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");
    let mut seeds = 0;
    for file in std::fs::read_dir(format!("{corpus}/{target}")).expect("a corpus") {
        let path = file.expect("a readable directory").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("seed-") {
            run(&name, &std::fs::read(&path).expect("a readable seed"));
            seeds += 1;
        }
    }
    assert!(seeds > 1, "only {seeds} seeds of {target}");
}

#[test]
fn of_the_ledger() {
    seeds("ledger", |ops: &Vec<ledger::Op>| {
        ledger::run(ops);
        ops.len()
    });
}

#[test]
fn of_the_pool() {
    seeds("pool", |(huge, ops): &(bool, Vec<pool::Op>)| {
        let size = if *huge {
            HugeSize::MIB2
        } else {
            HugeSize::BASE
        };
        pool::run(size, ops);
        ops.len()
    });
}

#[test]
fn of_the_page_map() {
    seeds("page_map", |ops: &Vec<page_map::Op>| {
        page_map::run(ops);
        ops.len()
    });
}

#[test]
fn of_the_pipeline() {
    seeds("pipeline", |case: &pipeline::Case| {
        pipeline::run(case);
        case.ops.len()
    });
}

#[test]
fn of_policy() {
    each("policy", |_, bytes| {
        let case = policy::Case::arbitrary_take_rest(Unstructured::new(bytes));
        policy::run(&case.expect("a case"));
    });
}

#[test]
fn of_the_ioctl_records() {
    each("uapi", |_, bytes| {
        let call = uapi::Call::arbitrary_take_rest(Unstructured::new(bytes));
        uapi::run(&call.expect("a call"));
    });
}
