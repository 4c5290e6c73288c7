// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the conformance suite needs and programs do not: the same calls without the guards that make misuse impossible.
//!
//! Nothing here is unsafe: what a borrow would forbid is refused when it happens.

use std::sync::atomic::AtomicU64;

use htlb_core::driver::Punched;
use htlb_core::page_map::PageMap;
use htlb_core::Error as Cause;

use super::Buffer;

#[doc(hidden)]
impl Buffer {
    /// Offset to page, pins and seals as the core has them.
    #[must_use]
    pub fn page_map(&self) -> &PageMap<Box<[AtomicU64]>> {
        self.core().map()
    }

    /// As [`Buffer::truncate`], while others may look.
    ///
    /// # Errors
    /// As there; [`Cause::Pinned`] where somebody reads the page that the end cuts, after the buffer was shortened.
    pub fn truncate_shared(&self, size: u64) -> Result<Punched, Cause> {
        self.resize(size)
    }

    /// As [`Buffer::write_at`], while others may look.
    ///
    /// # Errors
    /// As there; [`Cause::Pinned`] where somebody reads a page of it at this moment.
    pub fn write_at_shared(&self, offset: u64, from: &[u8]) -> Result<(), Cause> {
        self.write_shared(offset, from)
    }
}
