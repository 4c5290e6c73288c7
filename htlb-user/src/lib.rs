// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Huge-page buffers for programs, on any Linux machine.
//!
//! ```
//! use htlb_user::Pools;
//! let pools = Pools::new()?;
//! // In the largest pages that waste little; with .strict() and .page_size() in these or none.
//! let mut buffer = pools.buffer(3 << 20).create()?;
//! buffer.as_mut_slice()?[..5].copy_from_slice(b"hello");
//! assert_eq!(&buffer.as_slice()?[..5], b"hello");
//! println!("{}", buffer.receipt()); // which pages, from where, and why not better ones
//! buffer.punch(0, buffer.len())?;   // no system call: the pages wait for the next buffer
//! # Ok::<(), htlb_user::Error>(())
//! ```
//!
//! # What is where
//!
//! | module | what it is |
//! |---|---|
//! | [`pools`] | the pages of this process by kind and size, and their books |
//! | [`buffer`] | memory of a known size in pages of a known size: made, populated, punched, pinned, shared |
//! | [`Owner`] | who may have its own old data back instead of zeroes |
//! | [`receipt`] | what was got, from which rung of the ladder, and why not better |
//! | [`named`], [`store`] | buffers that outlive the process, by name |
//! | [`load`] | a file into a buffer by direct I/O |
//! | [`device`] | `/dev/htlb`, where the kernel module is loaded |
//! | [`system`] | what the machine has and allows |
//! | [`sys`] | what is asked of the kernel: the only place with `unsafe` |
//!
//! A request goes through the core's policy to a ladder of attempts: the pools of this process, the kernel module htlb.ko where it is
//! loaded, the system's hugetlb pool, smaller huge pages, transparent huge pages, base pages. The core's ledger decides who may have pages, its pool which, its page map
//! says where they are; this crate gets them from the kernel, populated and verified before they count, and makes them
//! visible as slices. What the core promised cannot fail later, so a shortage is an error when the buffer is made or populated,
//! and never a signal, with one exception: memory that was shared with a process that punches it.
//!
//! # Threads, forks, ends
//!
//! Everything here is `Send` and `Sync`. A forked child inherits none of it: calls are errors there, dropping does nothing.
//! Nothing is left behind by a process that is killed, except named buffers.
//!
//! # With the kernel module
//!
//! Where `/dev/htlb` can be opened, huge pages come from there first ([`pools::DeviceUse`]), and a receipt says so; nothing else
//! changes, but that physical contiguity and DMA masks are to be had without `CAP_SYS_ADMIN`, since the module sees to them, and that what
//! [`Buffer::share`] passes on is a buffer of the module, which can become a dma-buf ([`device::DeviceBuffer::export`]).
//! [`device`] has the module's own calls. Named buffers stay in files on a hugetlbfs: a buffer of the module has no name, and ends with
//! the last process that has it.
//!
//! # When not to use this
//!
//! For a general allocator; for memory that a library hands out itself (`MAP_HUGETLB` in a database, say); where transparent huge pages
//! already do, as for large, long-lived, randomly read heaps on a machine with `enabled` set to `always`; and for a few kilobytes.
//!
//! # Features
//!
//! `cli`, on by default, is for the `htlb` command: a program that only wants the library turns it off.
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
pub mod device;
mod error;
mod filling;
mod host;
mod locks;
mod owner;
mod parallel;
pub mod pools;
mod waiters;

/// The command line, for the `htlb` command and those that test it; no part of the library.
#[cfg(feature = "args")]
#[doc(hidden)]
pub mod cli;
/// Parsers that nobody else needs to reach.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;

pub use buffer::{Buffer, BufferBuilder};
pub use error::Error;
pub use named::Named;
pub use owner::Owner;
pub use pools::Pools;
pub use receipt::Receipt;
