// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the system has and allows, read from `/sys` and `/proc`.
//!
//! | module | question |
//! |---|---|
//! | [`pools`] | how many huge pages of which size are on which node? |
//! | [`resize`] | more, or fewer, please; and if not, why not? |
//! | [`thp`] | when does the kernel make transparent huge pages? |
//! | [`cgroup`] | what may this process use? |
//! | [`memlock`] | what counts against `RLIMIT_MEMLOCK`? |
//! | [`mounts`] | where is a hugetlbfs? |
//! | [`topology`] | nodes, CPUs, distances |
//! | [`meminfo`] | how much memory is there at all? |
//!
//! Every reader takes a [`Root`], `/` on a real machine and a directory of fixtures in tests. What is absent is a value ([`None`], an
//! empty list, an assumed single node): containers often lack `/sys`. What is there but cannot be understood is an
//! [`Error`] that names the file and what was found. The text is taken to be hostile: sizes are bounded, numbers checked, `..` refused.

pub(crate) mod error;
mod root;

pub mod cgroup;
pub mod meminfo;
pub mod memlock;
pub mod mounts;
pub mod pools;
pub mod resize;
pub mod thp;
pub mod topology;

pub use error::Error;
pub use root::Root;
