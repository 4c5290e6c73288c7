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

pub mod units;
pub mod error;
pub mod reach;
pub mod gfp;
pub mod request;
pub mod policy;

pub mod ledger;
pub mod pool;
pub mod stock;
pub mod magazine;
pub mod page_map;
pub mod buffer;

pub mod step;
pub mod frame;
pub mod lock;
pub mod gate;
pub mod host;
pub mod driver;
pub mod uapi;
mod sync;

pub use buffer::{Buffer, Part};
pub use error::Error;
pub use frame::{Condition, Frame};
pub use gfp::{Gfp, Mobility};
pub use host::{Blank, Host, Reclaim};
pub use lock::Exclusive;
pub use policy::{Attempt, Placement, Rung, Sizes, Topology};
pub use reach::{AddressBits, Class, Level, NodeId, NodeMask, Reach};
pub use request::{Contiguity, Fallback, Fill, NodePolicy, PageChoice, Request, RequestBuilder};
pub use step::{Stop, Table, WaitFor, Waiting, Wake};
pub use stock::{Charge, Returned, Stock, Supply};
pub use units::{ByteLen, ByteOffset, ByteRange, HugeSize, PageCount, PageIndex, Pfn};
