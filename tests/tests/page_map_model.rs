// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The page map against a naive model: any interleaving of its operations, every answer and every slot compared.

use htlb_tests::model::page_map::{run, Nth, Op, Slot};
use proptest::prelude::*;

fn op() -> impl Strategy<Value = Op> {
    let slot = any::<u8>().prop_map(Slot);
    let nth = any::<u8>().prop_map(Nth);
    let range = (slot.clone(), slot.clone());
    let size = (slot.clone(), -1..=1i8);
    prop_oneof![
        5 => slot.clone().prop_map(Op::Claim),
        4 => nth.clone().prop_map(Op::Attach),
        1 => nth.clone().prop_map(Op::Detach),
        4 => nth.clone().prop_map(Op::Commit),
        1 => nth.clone().prop_map(Op::Abort),
        2 => slot.clone().prop_map(Op::Pin),
        3 => nth.clone().prop_map(Op::Unpin),
        1 => Just(Op::Seal),
        2 => nth.clone().prop_map(Op::Unseal),
        3 => range.clone().prop_map(|(a, b)| Op::ClaimRange(a, b)),
        6 => nth.clone().prop_map(Op::Next),
        3 => nth.clone().prop_map(Op::EndRange),
        2 => size.clone().prop_map(|(at, by)| Op::Truncate(at, by)),
        2 => size.prop_map(|(at, by)| Op::Grow(at, by)),
        3 => range.clone().prop_map(|(a, b)| Op::ClaimHoles(a, b)),
        3 => nth.clone().prop_map(Op::CommitPromises),
        1 => nth.prop_map(Op::AbortPromises),
        1 => range.prop_map(|(a, b)| Op::Unpromise(a, b)),
        2 => (slot.clone(), proptest::option::of(slot)).prop_map(|(at, held)| Op::Wait(at, held)),
        1 => Just(Op::WaitSeal),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_answers_as_the_model_does(ops in proptest::collection::vec(op(), 1..120)) {
        run(&ops);
    }
}
