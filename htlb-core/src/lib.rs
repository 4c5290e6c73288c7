// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Huge-page reservation accounting, pool selection, GFP policy and offset-to-page lookup.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod error;
pub mod frame;
pub mod gate;
pub mod ledger;
pub mod lock;
pub mod magazine;
pub mod page_map;
pub mod pool;
pub mod reach;
pub mod step;
mod sync;
pub mod units;

pub use error::Error;
pub use frame::{Condition, Frame};
pub use lock::Exclusive;
pub use reach::{AddressBits, Class, Level, NodeId, NodeMask, Reach};
pub use step::{Stop, WaitFor, Waiting, Wake};
pub use units::{ByteLen, ByteOffset, ByteRange, HugeSize, PageCount, PageIndex, Pfn};
