// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! From the request to the page on simulated machines whose calls fail, after every operation.
#![no_main]

use htlb_tests::model::pipeline::{run, Case};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|case: Case| run(&case));
