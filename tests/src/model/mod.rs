// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Naive models that say what the core must answer, shared by property tests and fuzz targets.
//!
//! A model derives everything from first principles at every question, keeps no total, and is too slow for
//! anything but a few pages: so it has no fault in common with the core.

pub mod ledger;
pub mod page_map;
pub mod pipeline;
pub mod policy;
pub mod pool;
pub mod uapi;
