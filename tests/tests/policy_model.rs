// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Requests, policy and ioctl records of any kind, from bytes as the fuzzers make them.

use arbitrary::{Arbitrary, Unstructured};
use htlb_core::uapi::{Create, Record};
use htlb_tests::model::{policy, uapi};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_ladder_is_that_of_the_model(bytes in prop::collection::vec(any::<u8>(), 128)) {
        let case = policy::Case::arbitrary(&mut Unstructured::new(&bytes));
        policy::run(&case.expect("enough bytes"));
    }

    #[test]
    fn every_record_is_refused_or_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..160)) {
        let call = uapi::Call::arbitrary_take_rest(Unstructured::new(&bytes));
        if let Ok(call) = call {
            uapi::run(&call);
        }
    }

    /// Near to what is accepted: a record for a common request, a few fields of which are something else.
    #[test]
    fn every_create_record_is_understood_or_refused_for_a_reason(
        fields in prop::collection::vec((4..80usize, any::<u8>()), 0..4),
        number in Just(0u8),
    ) {
        let good = Create { size: Create::SIZE, bytes: 4 << 20, page_bytes: 2 << 20, ..Create::default() };
        let mut bytes = vec![0; Create::SIZE as usize];
        good.encode(&mut bytes);
        for (at, byte) in fields {
            bytes[at] = byte;
        }
        uapi::run(&uapi::Call::of(number, &bytes));
    }
}
