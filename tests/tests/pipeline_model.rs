// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The whole pipeline on simulated machines, operated at random while calls of the host fail.

use arbitrary::{Arbitrary, Unstructured};
use htlb_tests::model::pipeline::{run, Case, Op, Start};
use proptest::prelude::*;

/// As many bytes as the longest operation reads; shrinking one towards zero simplifies that operation alone.
fn any_of<T: for<'a> Arbitrary<'a> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    any::<[u8; 32]>()
        .prop_map(|bytes| T::arbitrary(&mut Unstructured::new(&bytes)).expect("enough bytes"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_leaked_or_broken(
        start in any_of::<Start>(),
        create in prop::collection::vec(any::<[u8; 28]>(), 1..4),
        ops in prop::collection::vec(any_of::<Op>(), 0..40),
    ) {
        // The first four bytes choose the operation: zeroes are the first one, `Create`.
        let create = create.iter().map(|rest| {
            let bytes = [[0; 4].as_slice(), rest].concat();
            Op::arbitrary(&mut Unstructured::new(&bytes)).expect("enough bytes")
        });
        let ops = create.chain(ops).collect();
        run(&Case { start, ops });
    }
}

#[test]
fn zeroes_make_a_buffer() {
    let op = Op::arbitrary(&mut Unstructured::new(&[0; 32]));
    assert!(matches!(op, Ok(Op::Create(..))));
}
