// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The atomics of this crate, in one place so that a model checker can stand in for them.
//!
//! Under `--cfg loom` they are loom's, which run every interleaving that the memory orders allow.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
