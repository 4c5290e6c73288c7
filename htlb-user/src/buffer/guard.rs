// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What keeps pages where they are: pins and seals, for devices and others that go by address.

use htlb_core::page_map::{PagePin, Seal};
use htlb_core::{ByteOffset, Error as Cause, PageIndex, Stop};

use super::{Buffer, Page};
use crate::error::Error;

/// A page that stays where it is until this is dropped.
#[derive(Debug)]
pub struct PinnedPage<'b> {
    buffer: &'b Buffer,
    pin: Option<PagePin>,
    page: Page,
}

impl PinnedPage<'_> {
    /// The page.
    #[must_use]
    pub const fn page(&self) -> Page {
        self.page
    }
}

impl Drop for PinnedPage<'_> {
    fn drop(&mut self) {
        if let Some(pin) = self.pin.take() {
            self.buffer.core().map().unpin(pin);
        }
    }
}

/// A buffer that cannot be punched or truncated until this is dropped.
#[derive(Debug)]
pub struct Sealed<'b> {
    buffer: &'b Buffer,
    seal: Option<Seal>,
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        if let Some(seal) = self.seal.take() {
            self.buffer.core().map().unseal(seal);
        }
    }
}

impl Buffer {
    /// Keeps the page that holds the byte at `offset` where it is.
    ///
    /// ```
    /// use htlb_core::Error;
    /// let pools = htlb_user::Pools::new()?;
    /// let buffer = pools.buffer(8192).base_pages().create()?;
    /// let pin = buffer.pin(0)?;
    /// assert_eq!(buffer.punch(0, 4096).unwrap_err().cause(), Error::Pinned);
    /// drop(pin);
    /// assert_eq!(buffer.punch(0, 4096)?.pages.raw(), 1);
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Cause::NotPresent`], [`Cause::RangeBeyondEnd`], [`Cause::PinOverflow`].
    pub fn pin(&self, offset: u64) -> Result<PinnedPage<'_>, Error> {
        let pinned = || {
            self.here()?;
            let index = self.core().map().index_at(ByteOffset::new(offset))?;
            let pin = self.pin_index(index)?;
            match self.find(offset) {
                Ok(page) => Ok(PinnedPage {
                    buffer: self,
                    pin: Some(pin),
                    page,
                }),
                Err(cause) => {
                    self.core().map().unpin(pin);
                    Err(cause)
                }
            }
        };
        pinned().map_err(|cause| self.error(format!("pin the page at offset {offset}"), cause))
    }

    pub(super) fn pin_index(&self, index: PageIndex) -> Result<PagePin, Cause> {
        loop {
            match self.core().map().pin(index) {
                Ok(pin) => return Ok(pin),
                Err(Stop::Wait(what)) => self.wait(what)?,
                Err(Stop::Fail(cause)) => return Err(cause),
                Err(Stop::Metadata { .. }) => return Err(Cause::OutOfMetadata),
            }
        }
    }

    /// Forbids punch and truncate until the guard is dropped: for a device that uses the whole buffer.
    ///
    /// # Errors
    /// [`Cause::PinOverflow`].
    pub fn seal(&self) -> Result<Sealed<'_>, Error> {
        match self.seal_map() {
            Ok(seal) => Ok(Sealed {
                buffer: self,
                seal: Some(seal),
            }),
            Err(cause) => Err(self.error("seal the buffer".into(), cause)),
        }
    }

    pub(super) fn seal_map(&self) -> Result<Seal, Cause> {
        self.here()?;
        loop {
            match self.core().map().seal() {
                Ok(seal) => return Ok(seal),
                Err(Stop::Wait(what)) => self.wait(what)?,
                Err(Stop::Fail(cause)) => return Err(cause),
                Err(Stop::Metadata { .. }) => return Err(Cause::OutOfMetadata),
            }
        }
    }
}
