// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Putting pages into a buffer, in parallel, zeroed or filled in place.

use std::io;
use std::sync::Mutex;
use std::thread;

use htlb_core::driver::{self, Content};
use htlb_core::{Blank, ByteLen, ByteOffset, ByteRange, Contiguity, Error as Cause, PageCount};

use super::Buffer;
use crate::error::Error;
use crate::host::locked;
use crate::sys::lease::Lease;

/// A page that nobody else can see yet.
#[derive(Debug)]
pub struct PageMut<'a> {
    lease: &'a mut Lease,
    offset: u64,
}

impl PageMut<'_> {
    /// Where its first byte is in the buffer.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Its bytes. They hold anything: only what is written counts.
    #[must_use]
    pub fn bytes(&mut self) -> &mut [u8] {
        self.lease.bytes_mut().unwrap_or_default()
    }
}

pub(super) type Produce<'a> = dyn Fn(&mut PageMut<'_>) -> io::Result<usize> + Sync + 'a;

impl Buffer {
    /// Puts a zeroed page wherever `offset..offset + len` has none. Several threads share the work.
    ///
    /// # Errors
    /// [`Cause::NoRoom`] and [`Cause::OutOfPages`] for pages that were not promised; what was populated before stays.
    pub fn populate(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.fill(offset, len, None)
    }

    /// As [`Buffer::populate`], each page filled in place by `produce`; see [`super::BufferBuilder::create_with`].
    ///
    /// # Errors
    /// As [`Buffer::populate`]; what `produce` says, the first of several threads'.
    pub fn populate_with<F>(&self, offset: u64, len: u64, produce: F) -> Result<(), Error>
    where
        F: Fn(&mut PageMut<'_>) -> io::Result<usize> + Sync,
    {
        self.fill(offset, len, Some(&produce))
    }

    pub(super) fn populate_all(&self, produce: Option<&Produce<'_>>) -> Result<(), Error> {
        match self.len() {
            0 => Ok(()),
            len => self.fill(0, len, produce),
        }
    }

    fn fill(&self, offset: u64, len: u64, produce: Option<&Produce<'_>>) -> Result<(), Error> {
        let asked = || format!("populate {len} bytes at offset {offset}");
        let fail = |cause| self.error(asked(), cause);
        let range = ByteRange::at(ByteOffset::new(offset), ByteLen::new(len)).map_err(fail)?;
        let pages = self.core().map().pages(range).map_err(fail)?;
        let shared = self.host().shared();
        let _inside = shared.enter();
        let words: Mutex<Option<String>> = Mutex::default();
        let threads = (self.host().threads() as u64).clamp(1, pages.count().raw());
        let outcome = if threads <= 1 {
            self.fill_part(range, produce, &words).map(drop)
        } else {
            let share = PageCount::new(pages.count().raw().div_ceil(threads));
            let parts: Vec<ByteRange> = self.parts_of(pages, share, range);
            thread::scope(|scope| {
                let workers: Vec<_> = parts
                    .iter()
                    .map(|part| {
                        let words = &words;
                        scope.spawn(move || {
                            let _inside = shared.enter_as_worker();
                            self.fill_part(*part, produce, words).map(drop)
                        })
                    })
                    .collect();
                workers
                    .into_iter()
                    .map(|worker| worker.join().unwrap_or(Err(Cause::FillFailed)))
                    .fold(Ok(()), Result::and)
            })
        };
        match outcome {
            Ok(()) => Ok(()),
            Err(cause) => {
                let error = fail(cause);
                Err(match locked(&words).take() {
                    Some(words) => error.found(words),
                    None => error,
                })
            }
        }
    }

    /// Cuts whole pages into parts of `share` pages.
    fn parts_of(
        &self,
        pages: htlb_core::page_map::SlotRange,
        share: PageCount,
        range: ByteRange,
    ) -> Vec<ByteRange> {
        let extents = self.core().map().extents();
        let step = usize::try_from(share.raw()).unwrap_or(usize::MAX);
        let starts: Vec<u64> = pages
            .iter()
            .step_by(step)
            .filter_map(|index| extents.bytes_of(index))
            .map(|bytes| bytes.start().raw())
            .collect();
        let ends = starts.iter().skip(1).copied().chain([range.end().raw()]);
        starts
            .iter()
            .zip(ends)
            .filter_map(|(start, end)| {
                ByteRange::new(ByteOffset::new(*start), ByteOffset::new(end)).ok()
            })
            .collect()
    }

    fn fill_part(
        &self,
        range: ByteRange,
        produce: Option<&Produce<'_>>,
        words: &Mutex<Option<String>>,
    ) -> Result<PageCount, Cause> {
        let mut producer = |blank: &Blank| {
            let arena = self
                .host()
                .shared()
                .arena_of(blank.pfn, self.host().own_arena())
                .ok_or(Cause::FrameInvalid)?;
            let mut lease = arena.lease(blank.pfn, ByteLen::new(blank.size.bytes()))?;
            let mut page = PageMut {
                lease: &mut lease,
                offset: blank.offset,
            };
            let written = match produce {
                Some(produce) => produce(&mut page),
                None => Ok(0),
            };
            written.map(|bytes| bytes as u64).map_err(|error| {
                locked(words).get_or_insert_with(|| error.to_string());
                Cause::FillFailed
            })
        };
        let mut content = match produce {
            Some(_) => Content::Producer(&mut producer),
            None => Content::Zeroes,
        };
        driver::populate(self.host(), self.core(), range, &mut content)
    }

    /// Whether the pages are physically contiguous as was asked, as far as the system says where they are.
    pub(super) fn check_contiguity(&self, contiguity: Contiguity) -> Result<(), Error> {
        let run = match contiguity {
            Contiguity::Pages => return Ok(()),
            Contiguity::Runs(len) => len.raw(),
            Contiguity::Whole => self.len(),
        };
        let fail = |cause| {
            Error::new(
                format!("make runs of {run} physically contiguous bytes"),
                cause,
            )
        };
        let mut offset = 0;
        while offset < self.len() {
            let end = (offset + run).min(self.len());
            let mut expected = None;
            while offset < end {
                let page = self.page_at(offset)?;
                if expected.is_none() && page.len >= end - offset {
                    // One page is contiguous wherever it is.
                    offset = end;
                    break;
                }
                let Some(physical) = page.physical else {
                    return Err(fail(Cause::OutOfReach));
                };
                if expected.is_some_and(|expected| expected != physical) {
                    return Err(fail(Cause::NoContiguousRun).advise(
                        "use a page size of at least the run, or reserve the huge pages at boot",
                    ));
                }
                expected = Some(physical + page.len);
                offset += page.len;
            }
        }
        Ok(())
    }
}
