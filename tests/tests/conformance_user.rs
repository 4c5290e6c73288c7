// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The conformance suite on user space.
//!
//! Frame numbers are addresses there, one account pays for all, and nobody outside holds a page.

use htlb_tests::conformance::user::{Source, User};

htlb_tests::conformance!(
    hugetlb,
    |spec| User::new(Source::Hugetlb, spec),
    lacks: [Physical, Accounts, Overcommit, Resize, Demote, Limbo]
);

htlb_tests::conformance!(
    transparent,
    |spec| User::new(Source::Transparent, spec),
    lacks: [Physical, Accounts, Overcommit, Resize, Demote, Limbo]
);
