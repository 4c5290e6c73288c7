// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The ledger against the model that tries every set of classes.

use arbitrary::{Arbitrary, Unstructured};
use htlb_tests::model::ledger::{run, Op};
use proptest::prelude::*;

/// As many bytes as the longest operation reads; shrinking one towards zero simplifies that operation alone.
fn op() -> impl Strategy<Value = Op> {
    any::<[u8; 16]>().prop_map(|bytes| operation(&bytes))
}

/// A first supply, so that most later operations have something to work with.
fn growth() -> impl Strategy<Value = Op> {
    // The first four bytes choose the operation: zeroes are the first one, `Grow`.
    any::<[u8; 12]>().prop_map(|rest| operation(&[[0; 4].as_slice(), &rest].concat()))
}

fn operation(bytes: &[u8]) -> Op {
    Op::arbitrary(&mut Unstructured::new(bytes)).expect("enough bytes")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_that_of_the_model(
        supply in prop::collection::vec(growth(), 0..9),
        ops in prop::collection::vec(op(), 0..120),
    ) {
        run(&[supply, ops].concat());
    }
}

#[test]
fn zeroes_mean_growth() {
    assert!(matches!(operation(&[0; 16]), Op::Grow(..)));
}
