// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every sequence of operations on a tiny machine, up to a length, with every call of the host failing in turn.

mod host;
mod machine;
mod op;
mod search;
mod state;

use std::time::Instant;

use htlb_tests::{figures, is_long};

use search::{exhaust, Bound};

#[test]
fn every_state_of_a_tiny_machine_is_sound() {
    let length = std::env::var("HTLB_SCOPE_LENGTH")
        .ok()
        .and_then(|text| text.parse().ok());
    let length = length.unwrap_or(if is_long() { usize::MAX } else { 9 });
    let start = Instant::now();
    let report = exhaust(Bound { length }, 2);
    println!("{report:?} {:?}", start.elapsed());
}
