// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Huge-page reservation accounting, pool selection, GFP policy and offset-to-page lookup.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

#[cfg(test)]
extern crate std;

pub mod error;
pub mod frame;
pub mod gate;
pub mod gfp;
pub mod ledger;
pub mod lock;
pub mod magazine;
pub mod page_map;
pub mod policy;
pub mod pool;
pub mod reach;
pub mod request;
pub mod step;
pub mod uapi;
mod sync;
pub mod units;

pub use error::Error;
pub use frame::{Condition, Frame};
pub use gfp::{Gfp, Mobility};
pub use lock::Exclusive;
pub use policy::{Attempt, Placement, Rung, Sizes, Topology};
pub use reach::{AddressBits, Class, Level, NodeId, NodeMask, Reach};
pub use request::{Contiguity, Fallback, Fill, NodePolicy, PageChoice, Request, RequestBuilder};
pub use step::{Stop, WaitFor, Waiting, Wake};
pub use units::{ByteLen, ByteOffset, ByteRange, HugeSize, PageCount, PageIndex, Pfn};
