// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Three at once, where the third meets what the first two leave half done.

use crate::actor::Operation::{
    Fill, GiveUp, Grow, Pin, Punch, Refuse, Reserve, Seal, Truncate, Unpromise,
};
use crate::map::Initially::{Hole, Present, Promised};
use crate::pairs::compare;
use crate::{print, Preemptions};

#[test]
fn triples() {
    let bound = Preemptions::AtMost(2);
    let cases = [
        // Two wait for one claim, and both are woken: by its end, and by that of who came first.
        (vec![Hole], [Fill, Fill, Fill]),
        (vec![Hole], [GiveUp, GiveUp, Fill]),
        (vec![Promised], [GiveUp, Fill, Punch]),
        (vec![Present], [Punch, Punch, Fill]),
        (vec![Present], [Punch, Fill, Pin]),
        (vec![Present], [Truncate, Punch, Fill]),
        (vec![Hole], [Truncate, Grow, Fill]),
        // The whole buffer's word has three kinds of entrant and one mark.
        (vec![Present], [Punch, Seal, Reserve]),
        (vec![Promised], [Unpromise, Reserve, Fill]),
        (vec![Present], [Seal, Seal, Punch]),
        // A range that ends half-way gives back what somebody waits for.
        (vec![Hole, Present], [Punch, Pin, Reserve]),
        (vec![Hole, Present], [Punch, Punch, Pin]),
        (vec![Hole, Hole], [Reserve, Fill, Punch]),
        (vec![Promised, Hole], [Refuse, Fill, Unpromise]),
    ];
    let mut interleavings = 0;
    for (slots, operations) in &cases {
        interleavings += compare(slots, operations, bound).unwrap();
    }
    print("triples", cases.len() as u64, interleavings, bound);
}
