// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every sequence of operations on a tiny machine, up to a length: small-scope exhaustion.
//!
//! Two nodes, two address levels, four pages of which no two are alike, two buffers of up to three pages, one account beside
//! the root's. The first buffer is charged to the account and wants pages of node 0; the second wants pages below 4 GiB; one
//! page is both, so promises compete. The operations are those of [`op::Op`], through the driver loops; each is done once
//! undisturbed, and once for each call that it makes of its host, with that call failing: tables, slots, a surplus page, a page
//! for the buffer alone, an interruption before a page is filled, and clearing it.
//!
//! In every state:
//!
//! - I1 to I6, by `Stock::audit`; I9, by where each page is; no slot is claimed.
//! - Every promise can be filled while the system gives nothing, whichever comes first.
//! - I7: unpinned, unsealed and released, everything is back, and only an unused minimum is promised.
//! - I8: each operation that ends with an error left every fact as it was. Free surplus pages that nobody needs may leave,
//!   and one of them may stand for another.
//!
//! States are the same if their facts are: see [`state::Key`]; how the witness is arranged is none. The bound is the number of
//! operations in a row: 8, or 10 with `HTLB_LONG=1`, or `HTLB_SCOPE_LENGTH`. A sequence that fails is a shortest one; its steps
//! are printed.

mod host;
mod machine;
mod op;
mod search;
mod state;

use std::env;
use std::thread;
use std::time::Instant;

use htlb_tests::{figures, is_long};

use search::{exhaust, Bound};

#[test]
fn every_state_of_a_tiny_machine_is_sound() {
    let asked = env::var("HTLB_SCOPE_LENGTH").ok();
    let asked = asked.map(|text| text.parse().expect("a number of operations"));
    let length = asked.unwrap_or(if is_long() { 10 } else { 8 });
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let start = Instant::now();
    let report = exhaust(Bound { length }, threads);
    let end = if report.closed {
        "all there are"
    } else {
        "all that so many operations reach"
    };
    figures::note(&format!(
        "small scope: {} distinct states, {end}; {} transitions, {} refused, {} with a failing call; {} operations deep, \
         states by length {:?}; {:.1} s",
        report.states,
        report.transitions,
        report.refused,
        report.failures,
        report.levels.len() - 1,
        report.levels,
        start.elapsed().as_secs_f64()
    ));
    assert!(length < 8 || report.states >= 1_000_000, "{report:?}");
}
