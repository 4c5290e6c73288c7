// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pool against a map of pages: every operation, every answer, `check()` after each step.

use htlb_core::HugeSize;
use htlb_tests::model::pool::{run, Count, Length, Many, Of, Op, Start, Times};
use proptest::prelude::*;

fn op() -> impl Strategy<Value = Op> {
    let of = any::<u8>().prop_map(Of);
    let clean = any::<bool>();
    let times = any::<u8>().prop_map(Times);
    let start = (any::<u8>(), any::<u16>()).prop_map(|(region, page)| Start(region, page));
    let length = any::<u16>().prop_map(Length);
    let count = any::<u16>().prop_map(Count);
    let which = any::<u16>();
    prop_oneof![
        5 => (start, length, of.clone(), clean).prop_map(|(at, len, of, clean)| Op::Add(at, len, of, clean)),
        4 => (of.clone(), clean, times.clone()).prop_map(|(of, clean, times)| Op::Take(of, clean, times)),
        4 => (which, clean, times).prop_map(|(which, clean, times)| Op::Put(which, clean, times)),
        2 => (which, any::<u16>()).prop_map(|(which, times)| Op::Remove(which, Many(times))),
        3 => (count, any::<u8>(), any::<u8>()).prop_map(|(count, align, accept)| Op::Run(count, align, accept)),
        1 => of.prop_map(Op::Chunk),
        1 => any::<u8>().prop_map(Op::Adopt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_naive_pool(
        ops in prop::collection::vec(op(), 1..50),
        size in prop_oneof![Just(HugeSize::MIB2), Just(HugeSize::BASE)],
    ) {
        run(size, &ops);
    }
}
