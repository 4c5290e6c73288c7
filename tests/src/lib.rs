// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the tests of every back end share.

pub mod model;
pub mod sim;
pub mod conformance;
#[cfg(feature = "guest")]
pub mod guest;
#[cfg(feature = "runner")]
pub mod dma_buf;
#[cfg(feature = "runner")]
pub mod host;
#[cfg(feature = "runner")]
pub mod kernel;
#[cfg(feature = "runner")]
pub mod kmod;
pub mod figures;
pub mod skip;
#[cfg(feature = "runner")]
pub mod tree;
#[cfg(feature = "runner")]
pub mod vm;

/// The environment variable that asks for what takes minutes: `cargo xtask test --long` sets it.
pub const LONG: &str = "HTLB_LONG";

/// Whether [`LONG`] asks for it.
#[must_use]
pub fn is_long() -> bool {
    std::env::var_os(LONG).is_some_and(|long| !long.is_empty() && long != "0")
}
