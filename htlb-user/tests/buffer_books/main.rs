// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every count after every step, whatever went wrong.

#[path = "../buffer_support/mod.rs"]
mod buffer_support;

mod between;
mod bounds;
mod guards;
mod huge;
mod owners;
mod producers;
mod promises;
mod truncated;

use htlb_core::{HugeSize, PageCount, Rung};
use htlb_user::pools::Pools;

use buffer_support::{base, PAGE};

/// Base pages of a process never come in pieces smaller than this.
pub(crate) const PIECE: u64 = 512;

/// Pools with so many base pages, which follow each other, and never one more.
pub(crate) fn base_limited(pages: u64) -> Pools {
    let pools = Pools::builder()
        .limit(Rung::Base, HugeSize::BASE, PageCount::new(pages))
        .build()
        .unwrap();
    drop(pools.buffer(pages * PAGE).base_pages().create().unwrap());
    assert_eq!(base(&pools), (pages, pages, 0));
    pools
}
