// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The system calls, as small safe functions: the one place of this crate with `unsafe`.

pub mod file;
