// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The page map against a list of what each page is, after every operation.
#![no_main]

use htlb_tests::model::page_map::{run, Op};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|ops: Vec<Op>| run(&ops));
