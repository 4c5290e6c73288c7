// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A buffer of the module under test: ioctls on its file, mappings of it, and a driver's calls.

use std::io;
use std::os::fd::AsFd;
use std::thread;

use htlb_core::page_map::Located;
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error, Pfn};
use htlb_user::device::{Cut, DeviceBuffer, DeviceError, How, Mapping};

use super::super::probe::{self, Probe};
use super::machine::{cause, About, Kernel};
use crate::conformance::{Gone, Got, InHand, Pages, Produce};

/// The base page.
const BASE: u64 = 4096;

/// A buffer under test.
#[derive(Debug)]
pub(super) struct Tested<'m> {
    kernel: &'m Kernel,
    /// There until it is released.
    buffer: Option<DeviceBuffer>,
    /// The size of its smallest pages.
    smallest: u64,
}

fn range<T>(outcome: Result<T, DeviceError>) -> Result<T, Error> {
    outcome.map_err(|error| cause(&error, About::Range))
}

/// What a driver's call said, in the core's words.
fn of_driver(error: &io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::ENXIO) => Error::RangeBeyondEnd,
        Some(libc::ENODATA) => Error::NotPresent,
        Some(libc::EINVAL) => Error::RangeUnaligned,
        Some(libc::ENOMEM) => Error::NoRoom,
        Some(libc::EDQUOT) => Error::AccountLimit,
        Some(libc::EOVERFLOW) => Error::PinOverflow,
        Some(libc::EIO) => Error::FillFailed,
        Some(libc::EINTR) => Error::Interrupted,
        _ => panic!("{error}"),
    }
}

impl<'m> Tested<'m> {
    pub(super) fn new(kernel: &'m Kernel, buffer: DeviceBuffer) -> Self {
        let parts = buffer.parts().expect("it has parts");
        let sizes = parts.iter().map(|part| part.size.bytes());
        Self {
            kernel,
            smallest: sizes.min().unwrap_or(BASE),
            buffer: Some(buffer),
        }
    }

    fn file(&self) -> &DeviceBuffer {
        self.buffer.as_ref().expect("it was not released")
    }

    /// Pages of the smallest size: most buffers have but one. The last may be cut.
    const fn pages(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.smallest)
    }

    fn gone(&self, cut: Cut) -> Gone {
        Gone {
            pages: self.pages(cut.removed),
            promises: self.pages(cut.unpromised),
        }
    }

    /// A mapping of base pages with this range, and where the range begins in it; every page is there.
    ///
    /// A program that touches what cannot be had is killed; one that asks first gets an error, which says no more than that,
    /// so the buffer is asked too.
    fn mapped(&self, offset: u64, len: u64, how: How) -> Result<(Mapping, usize), Error> {
        let start = offset - offset % BASE;
        let end = (offset + len).next_multiple_of(BASE);
        let bytes = usize::try_from(end - start).expect("a short range");
        loop {
            let mapping = self.file().map(start, bytes, how);
            let refused = match &mapping {
                Ok(mapping) => mapping.populate(0, bytes).err(),
                Err(error) => Some(io::Error::from_raw_os_error(error.errno())),
            };
            match (mapping, refused) {
                (Ok(mapping), None) => {
                    let at = usize::try_from(offset - start).expect("below a page");
                    return Ok((mapping, at));
                }
                (_, Some(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => self.wanting(offset, len)?,
            }
        }
    }

    /// Why pages of a range cannot be touched; no error if they can now.
    fn wanting(&self, offset: u64, len: u64) -> Result<(), Error> {
        let size = self.size().raw();
        if offset + len > size {
            return Err(Error::RangeBeyondEnd);
        }
        let start = offset - offset % self.smallest;
        let end = (offset + len).next_multiple_of(self.smallest).min(size);
        range(self.file().populate(start, end - start)).map(drop)
    }

    /// Runs a producer on this thread, while another waits in the kernel for what it makes.
    fn produced(&self, of: ByteRange, produce: Produce<'_>) -> Result<u64, Error> {
        let driver = Probe::open().expect("one more driver");
        let (offset, len) = (of.start().raw(), of.len().raw());
        let mut pages = 0;
        let mut said = None;
        let filled = thread::scope(|scope| {
            let filling = scope.spawn(|| driver.fill(self.file().as_fd(), offset, len));
            let waits_for_us = Abandoned(&driver);
            while let Some(page) = driver.next().expect("a page or the end") {
                let mut in_hand = Page {
                    driver: &driver,
                    page,
                };
                let answer = produce(&mut in_hand).map_err(|error| {
                    said = Some(error);
                    libc::EIO
                });
                pages += u64::from(answer.is_ok());
                driver.answer(answer).expect("a page is in hand");
            }
            drop(waits_for_us);
            filling.join().expect("no panic")
        });
        match filled {
            Ok(()) => Ok(pages),
            Err(error) => Err(match (of_driver(&error), said) {
                (Error::FillFailed, Some(said)) => said,
                (other, _) => other,
            }),
        }
    }
}

/// A producer that panics must not keep the other thread waiting.
struct Abandoned<'a>(&'a Probe);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.0.abandon().expect("nothing to refuse");
    }
}

/// A page in hand.
struct Page<'a> {
    driver: &'a Probe,
    page: probe::Page,
}

impl InHand for Page<'_> {
    fn offset(&self) -> u64 {
        self.page.offset
    }

    fn len(&self) -> u64 {
        self.page.len
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        self.driver.write(at, bytes).expect("a place in the page");
    }
}

impl Pages for Tested<'_> {
    fn reserve(&self, of: ByteRange) -> Result<u64, Error> {
        let bytes = self.file().reserve(of.start().raw(), of.len().raw());
        range(bytes).map(|bytes| self.pages(bytes))
    }

    fn populate(&self, of: ByteRange, produce: Option<Produce<'_>>) -> Result<u64, Error> {
        match produce {
            Some(produce) => self.produced(of, produce),
            None => {
                let bytes = self.file().populate(of.start().raw(), of.len().raw());
                range(bytes).map(|bytes| self.pages(bytes))
            }
        }
    }

    fn fault(&self, offset: u64) -> Result<Located, Error> {
        loop {
            match self.page_at(offset) {
                // Another thread may punch it at once.
                Err(Error::NotPresent) => drop(self.mapped(offset, 1, How::SHARED)?),
                found => return found,
            }
        }
    }

    fn page_at(&self, offset: u64) -> Result<Located, Error> {
        let place = range(self.file().lookup(offset))?;
        let offset_in_page = place.physical % place.size.bytes();
        Ok(Located {
            pfn: Pfn::new((place.physical - offset_in_page) / BASE),
            size: place.size,
            offset_in_page: ByteOffset::new(offset_in_page),
        })
    }

    fn pin(&self, offset: u64) -> Result<(), Error> {
        self.kernel
            .probe
            .pin(self.file().as_fd(), offset)
            .map_err(|error| of_driver(&error))
    }

    fn unpin(&self, offset: u64) {
        let done = self.kernel.probe.unpin(self.file().as_fd(), offset);
        done.expect("a pin there");
    }

    fn seal(&self) -> Result<(), Error> {
        range(self.file().seal())
    }

    fn unseal(&self) {
        self.file().unseal().expect("a seal");
    }

    fn punch(&self, of: ByteRange) -> Result<Gone, Error> {
        let cut = self.file().punch(of.start().raw(), of.len().raw());
        range(cut).map(|cut| self.gone(cut))
    }

    fn truncate(&self, size: ByteLen) -> Result<Gone, Error> {
        range(self.file().truncate(size.raw())).map(|cut| self.gone(cut))
    }

    fn size(&self) -> ByteLen {
        ByteLen::new(self.file().size().expect("its size"))
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let (mapping, at) = self.mapped(offset, bytes.len() as u64, How::READ)?;
        mapping.read_at(at, bytes).expect("it is mapped");
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let (mut mapping, at) = self.mapped(offset, bytes.len() as u64, How::SHARED)?;
        mapping.write_at(at, bytes).expect("it is mapped");
        Ok(())
    }

    fn receipt(&self) -> Vec<Got> {
        let parts = self.file().parts().expect("its parts");
        parts
            .iter()
            .map(|part| Got {
                size: part.size,
                rung: part.rung.expect("a rung of this version"),
                pages: part.bytes / part.size.bytes(),
            })
            .collect()
    }

    fn release(&mut self) -> Result<Gone, Error> {
        let info = range(self.file().info())?;
        let gone = self.gone(Cut {
            removed: info.populated,
            unpromised: info.promised,
        });
        self.buffer = None;
        Ok(gone)
    }
}
