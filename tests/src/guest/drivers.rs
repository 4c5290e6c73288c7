// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What `htlb.ko` exports to other drivers: called by a test driver, and by the two examples, whose mappings a program then has.

mod caller;
mod chardev;
mod edu;
mod mapped;
mod rust;
mod view;

pub(super) use caller::Caller;

use super::{Case, Group, Module};

/// The module with enough for every case; what it lacks is an error, not the system's business.
pub(super) const GROUP: Group = Group {
    name: "drivers",
    modules: &[
        Module::new("htlb", "pages_2m=24 overcommit_2m=0"),
        Module::new("htlb_caller", ""),
    ],
    cases: || {
        let groups: [Vec<Case>; 3] = [caller::cases(), mapped::cases(), chardev::cases()];
        groups.into_iter().flatten().collect()
    },
};

/// The module with some low pages, as a device needs that drives few address bits, among others.
pub(super) const EDU: Group = Group {
    name: "edu",
    modules: &[
        Module::new("htlb", "pages_2m=4 low_2m=10 low_bits=28 overcommit_2m=0"),
        Module::new("htlb_caller", ""),
    ],
    cases: edu::cases,
};

/// The test driver in Rust, in a group of its own: in the first one nothing but a mapping may keep the module.
pub(super) const RUST: Group = Group {
    name: "rust_driver",
    modules: &[
        // Buffers that a call of a program drops keep their pages until it returns.
        Module::new("htlb", "pages_2m=32 overcommit_2m=0"),
        Module::new("htlb_rust", ""),
    ],
    cases: rust::cases,
};
