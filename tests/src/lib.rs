// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the tests of every back end share.

pub mod conformance;
pub mod host;
pub mod kernel;
pub mod model;
pub mod sim;
pub mod skip;
pub mod vm;
