// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The ledger against the model that tries every set of classes, after every operation.
#![no_main]

use htlb_tests::model::ledger::{run, Op};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|ops: Vec<Op>| run(&ops));
