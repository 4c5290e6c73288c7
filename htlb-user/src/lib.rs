// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Huge-page buffers for programs, on any Linux machine.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod sys;
pub mod system;
pub mod load;
pub mod store;
pub mod bench;
pub mod named;
pub mod receipt;

mod advice;
mod arena;
pub mod buffer;
mod error;
mod filling;
mod host;
mod owner;
mod parallel;
pub mod pools;
mod waiters;

pub use buffer::{Buffer, BufferBuilder};
pub use error::Error;
pub use named::Named;
pub use owner::Owner;
pub use pools::Pools;
pub use receipt::Receipt;
