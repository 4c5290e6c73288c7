// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Ioctl records as bytes from user space: refused by the rules, or back byte for byte.
#![no_main]

use htlb_tests::model::uapi::{run, Call};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|call: Call<'_>| run(&call));
