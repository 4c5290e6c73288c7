// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A page that somebody answers for.

use static_assertions::assert_not_impl_any;

use crate::error::Error;
use crate::units::{HugeSize, Pfn};

/// The right to one page: its first frame number and its size.
///
/// Neither `Clone` nor `Copy`. A frame is minted by the back end when a page comes into being, is consumed when
/// it is packed into the pool or a page-map slot, and is minted again only by the operation that empties that
/// place. Dropping one is not unsafe, since the back end owns every page from grow to shrink, but it is a leak
/// that `check()` finds.
#[derive(Debug, PartialEq, Eq, Hash)]
#[must_use = "a dropped frame is a leaked page"]
pub struct Frame {
    pfn: Pfn,
    size: HugeSize,
}

assert_not_impl_any!(Frame: Clone, Copy);

impl Frame {
    /// Takes responsibility for the page of `size` that begins at `pfn`: for back ends that got it from their system.
    ///
    /// # Errors
    /// [`Error::FrameUnaligned`] where `pfn` is not a multiple of the size or does not fit a slot.
    pub const fn new(pfn: Pfn, size: HugeSize) -> Result<Self, Error> {
        if pfn.raw() > Pfn::MAX.raw() || pfn.raw() & size.base_pages().wrapping_sub(1) != 0 {
            return Err(Error::FrameUnaligned);
        }
        Ok(Self { pfn, size })
    }

    /// For places in this crate that stored a frame's number and now empty themselves.
    pub(crate) const fn mint(pfn: Pfn, size: HugeSize) -> Self {
        Self { pfn, size }
    }

    /// The first frame number, in base pages.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The page size.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.size
    }

    /// Gives the page up to the back end, which alone can let it go or forget it.
    #[must_use]
    pub const fn into_pfn(self) -> Pfn {
        self.pfn
    }
}

/// Whether a free page is known to hold only zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Every byte is zero.
    Clean,
    /// It may hold what an earlier owner left.
    Dirty,
}
