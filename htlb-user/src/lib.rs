// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Huge-page buffers for programs, on any Linux machine.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod sys;
pub mod system;
pub mod load;
pub mod store;
pub mod bench;
pub mod receipt;

pub use receipt::Receipt;
