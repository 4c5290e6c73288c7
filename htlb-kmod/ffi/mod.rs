// SPDX-License-Identifier: GPL-2.0-only
//! The kernel, as small safe functions: all unsafe code of this module is in this folder.
//!
//! [`c`] declares the C companion; the others each wrap one thing of the kernel, and take no decision.

pub(crate) mod c;
pub(crate) mod device;
pub(crate) mod dmabuf;
pub(crate) mod exports;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod import;
pub(crate) mod limbo;
pub(crate) mod module;
pub(crate) mod page;
pub(crate) mod published;
pub(crate) mod range;
pub(crate) mod sg;
pub(crate) mod shrinker;
pub(crate) mod system;
pub(crate) mod wait;
