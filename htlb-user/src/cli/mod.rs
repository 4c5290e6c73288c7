// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The command line of `htlb`: what can be said on it, and how it is read.
//!
//! Here and not with the command, so that it can be read without being obeyed.

pub mod args;
pub mod size;
pub mod words;
