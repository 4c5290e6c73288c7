// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pool against a map of pages, after every operation.
#![no_main]

use htlb_core::HugeSize;
use htlb_tests::model::pool::{run, Op};
use libfuzzer_sys::fuzz_target;

/// More would only be slower.
const MOST: usize = 48;

fuzz_target!(|case: (bool, Vec<Op>)| {
    let (huge, ops) = case;
    let size = if huge { HugeSize::MIB2 } else { HugeSize::BASE };
    run(size, &ops[..ops.len().min(MOST)]);
});
