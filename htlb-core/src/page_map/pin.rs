// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Keeping one page where it is.

use static_assertions::assert_not_impl_any;

use super::slot::State;
use super::PageMap;
use crate::error::Error;
use crate::step::{Stop, WaitFor};
use crate::sync::AtomicU64;
use crate::units::{HugeSize, PageIndex, Pfn};

/// One pin on one present page: until it is given back, the page is neither punched nor truncated away.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lost pin keeps its page for ever"]
pub struct PagePin {
    index: PageIndex,
    pfn: Pfn,
    size: HugeSize,
}

assert_not_impl_any!(PagePin: Clone, Copy);

impl PagePin {
    /// The slot of the page.
    #[must_use]
    pub const fn index(&self) -> PageIndex {
        self.index
    }

    /// The first frame number of the page.
    #[must_use]
    pub const fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// The size of the page.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.size
    }
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// Pins the page at `index`, whose contents are then visible to the caller and stay where they are.
    ///
    /// # Errors
    /// [`Stop::Wait`] for the slot while somebody fills or punches it; [`Error::NotPresent`];
    /// [`Error::PinOverflow`] beyond [`MAX_PINS`](super::MAX_PINS); [`Error::RangeBeyondEnd`].
    #[doc(alias = "folio_get")]
    pub fn pin(&self, index: PageIndex) -> Result<PagePin, Stop> {
        let (cell, size) = self.cell_below_size(index)?;
        let mut now = cell.read();
        loop {
            match now.state() {
                State::Present => {}
                State::Claimed => return Err(Stop::Wait(WaitFor::Slot(index))),
                State::Hole | State::Promised => return Err(Error::NotPresent.into()),
            }
            let pinned = now.pinned().ok_or(Error::PinOverflow)?;
            match cell.exchange(now, pinned) {
                Ok(()) => {
                    return Ok(PagePin {
                        index,
                        pfn: now.pfn(),
                        size,
                    })
                }
                Err(changed) => now = changed,
            }
        }
    }

    /// The token of a pin that is held on the page at `index`, for those who could not keep it: an interface without owned
    /// values, such as C's, keeps the index. `None` where there is no pin, or no page.
    ///
    /// Whoever asks owes the proof that the pin is theirs. Where it is another's, that one's page may go; no count is wrong.
    pub fn recall_pin(&self, index: PageIndex) -> Option<PagePin> {
        let now = self.cell(index.raw())?.read();
        let size = self.extents.size_of(index)?;
        (now.is_present() && now.unpinned().is_some()).then(|| PagePin {
            index,
            pfn: now.pfn(),
            size,
        })
    }

    /// Gives a pin back. Cannot fail, never waits, and may be called in atomic context.
    #[doc(alias = "folio_put")]
    pub fn unpin(&self, pin: PagePin) {
        let Some(cell) = self.cell(pin.index.raw()) else {
            return;
        };
        let mut now = cell.read();
        // The pin itself proves that the page is present and the count is not zero; a pin of another map ends here.
        while now.is_present() {
            let Some(unpinned) = now.unpinned() else {
                return;
            };
            match cell.exchange(now, unpinned) {
                Ok(()) => return,
                Err(changed) => now = changed,
            }
        }
    }
}
