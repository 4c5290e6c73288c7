// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Requests of any choices on any machine: refused for a reason, or a ladder of what they allow.
#![no_main]

use htlb_tests::model::policy::{run, Case};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|case: Case| run(&case));
