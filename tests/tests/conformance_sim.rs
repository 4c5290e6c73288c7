// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The conformance suite on the simulated machine, which lacks nothing.

use htlb_tests::sim::backend::Sim;

htlb_tests::conformance!(sim, |spec| Ok(Sim::new(spec)), lacks: []);
