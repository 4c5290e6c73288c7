// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Putting pages into a buffer, in parallel, zeroed or filled in place.

use std::any::Any;
use std::io;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::Mutex;

use htlb_core::driver::{self, Content};
use htlb_core::{
    Blank, ByteLen, ByteOffset, ByteRange, Contiguity, Error as Cause, HugeSize, PageCount,
    PageIndex,
};

use super::Buffer;
use crate::error::Error;
use crate::filling::Filling;
use crate::locks::locked;
use crate::parallel;
use crate::sys::lease::Lease;

/// Fewer bytes than this are not worth a thread, where all that is done to them is zeroing.
const WORTH_A_THREAD: u64 = 4 << 20;

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

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.lease.len().raw()
    }

    /// Never true.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Its bytes. They hold anything: only what is written counts. None where peers may write the memory.
    #[must_use]
    pub fn bytes(&mut self) -> &mut [u8] {
        self.lease.bytes_mut().unwrap_or_default()
    }
}

pub(super) type Produce<'a> = dyn Fn(&mut PageMut<'_>) -> io::Result<usize> + Sync + 'a;

/// What went wrong in a producer, in its own words.
#[derive(Debug, Default)]
struct Complaint(Mutex<Option<String>>);

impl Complaint {
    /// Keeps the words of the first of several, and gives the reason: the core's own where the error carries one.
    fn note(&self, error: &io::Error) -> Cause {
        locked(&self.0).get_or_insert_with(|| error.to_string());
        let inside = error.get_ref().and_then(|inside| inside.downcast_ref());
        inside.copied().unwrap_or(Cause::FillFailed)
    }

    fn add_to(self, error: Error) -> Error {
        match locked(&self.0).take() {
            Some(words) => error.found(words),
            None => error,
        }
    }
}

impl Buffer {
    /// Puts a zeroed page wherever `offset..offset + len` has none; says how many bytes that was. Several threads share the work.
    ///
    /// # Errors
    /// [`Cause::NoRoom`] and [`Cause::OutOfPages`] for pages that were not promised; what was populated before stays.
    pub fn populate(&self, offset: u64, len: u64) -> Result<u64, Error> {
        self.fill(offset, len, None)
    }

    /// As [`Buffer::populate`], each page filled in place by `produce`; see [`super::BufferBuilder::create_with`].
    ///
    /// A producer may use other pages of the buffer, except those above its own that somebody else is filling. A panic in it
    /// leaves its page out of the buffer, and is passed on.
    ///
    /// # Errors
    /// As [`Buffer::populate`]; what `produce` says, the first of several threads'; [`Cause::WouldDeadlock`] for a producer
    /// that asks for the page that it is filling.
    pub fn populate_with<F>(&self, offset: u64, len: u64, produce: F) -> Result<u64, Error>
    where
        F: Fn(&mut PageMut<'_>) -> io::Result<usize> + Sync,
    {
        self.fill(offset, len, Some(&produce))
    }

    /// As [`Buffer::populate_with`], one page after the other and in this thread, so that `produce` may change what it knows.
    ///
    /// ```
    /// use htlb_user::buffer::Populate;
    /// let pools = htlb_user::Pools::new()?;
    /// let buffer = pools.buffer(3 * 4096).base_pages().populate(Populate::Later).create()?;
    /// let mut pages = 0;
    /// buffer.populate_in_order(0, buffer.len(), |_| {
    ///     pages += 1;
    ///     Ok(0)
    /// })?;
    /// assert_eq!(pages, 3);
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Buffer::populate_with`].
    pub fn populate_in_order<F>(&self, offset: u64, len: u64, mut produce: F) -> Result<u64, Error>
    where
        F: FnMut(&mut PageMut<'_>) -> io::Result<usize>,
    {
        let complaint = Complaint::default();
        let outcome = self.in_parts(offset, len, 1, |parts| {
            let mut bytes = 0_u64;
            for part in parts {
                bytes += self.produce_part(*part, &mut produce, &complaint)?;
            }
            Ok(bytes)
        });
        outcome.map_err(|cause| complaint.add_to(self.unfilled(offset, len, cause)))
    }

    pub(super) fn populate_all(&self, produce: Option<&Produce<'_>>) -> Result<u64, Error> {
        match self.len() {
            0 => Ok(0),
            len => self.fill(0, len, produce),
        }
    }

    fn unfilled(&self, offset: u64, len: u64, cause: Cause) -> Error {
        self.error(format!("populate {len} bytes at offset {offset}"), cause)
    }

    fn fill(&self, offset: u64, len: u64, produce: Option<&Produce<'_>>) -> Result<u64, Error> {
        let complaint = Complaint::default();
        let threads = match produce {
            Some(_) => self.host().threads(),
            // Nothing is left to be done but to publish them.
            None if self.host().aside().is_clean() => 1,
            None => {
                let worth = usize::try_from(len / WORTH_A_THREAD).unwrap_or(usize::MAX);
                self.host().threads().min(worth)
            }
        };
        let outcome = self.in_parts(offset, len, threads, |parts| {
            let shared = self.host().shared();
            parallel::each(threads, parts, |part| {
                let _inside = shared.enter_as_worker();
                match produce {
                    Some(produce) => {
                        self.produce_part(*part, &mut |page| produce(page), &complaint)
                    }
                    None => self.fill_part(*part, &mut Content::Zeroes),
                }
            })
        });
        outcome.map_err(|cause| complaint.add_to(self.unfilled(offset, len, cause)))
    }

    /// Calls `work` with the parts of a range, inside the gate.
    fn in_parts(
        &self,
        offset: u64,
        len: u64,
        threads: usize,
        work: impl FnOnce(&[ByteRange]) -> Result<u64, Cause>,
    ) -> Result<u64, Cause> {
        let shared = self.host().shared();
        let _inside = shared.enter()?;
        self.writable()?;
        let range = ByteRange::at(ByteOffset::new(offset), ByteLen::new(len))?;
        let parts = self.parts_of(range, threads)?;
        self.prepare(range)?;
        let outcome = work(&parts);
        for part in self.core().parts() {
            // What came at once for holes that others filled meanwhile.
            if let Some(arena) = self.host().arena(&part.attempt) {
                arena.shed();
            }
        }
        outcome
    }

    /// Gets what the holes of a range will need, at once.
    fn prepare(&self, range: ByteRange) -> Result<(), Cause> {
        let map = self.core().map();
        let census = map.census_of(map.pages(range)?);
        let aside = self.host().aside().left();
        for (part, (_, census)) in self.core().parts().zip(census.iter()) {
            let holes = census.holes.raw().saturating_sub(aside);
            self.host().prepare(&part.attempt, PageCount::new(holes));
        }
        Ok(())
    }

    /// Cuts a range of whole pages into parts for so many threads, each of pages of one size.
    fn parts_of(&self, range: ByteRange, threads: usize) -> Result<Vec<ByteRange>, Cause> {
        let map = self.core().map();
        let extents = map.extents();
        let pages = map.pages(range)?;
        // A few parts for each thread, so that none waits long for the slowest.
        let pieces = match threads {
            0 | 1 => 1,
            more => more.min(1024) as u64 * 4,
        };
        let share = pages.count().raw().div_ceil(pieces).max(1);
        let mut parts = Vec::new();
        let mut start: Option<(u64, PageIndex)> = None;
        for index in pages.iter() {
            let here = extents
                .bytes_of(index)
                .ok_or(Cause::RangeBeyondEnd)?
                .start();
            match start {
                None => start = Some((here.raw(), index)),
                Some((from, first)) => {
                    let full = index.raw() - first.raw() >= share;
                    if full || extents.number_of(first) != extents.number_of(index) {
                        parts.push(ByteRange::new(ByteOffset::new(from), here)?);
                        start = Some((here.raw(), index));
                    }
                }
            }
        }
        if let Some((from, _)) = start {
            parts.push(ByteRange::new(ByteOffset::new(from), range.end())?);
        }
        Ok(parts)
    }

    /// Populates pages of one size; says how many bytes came.
    fn fill_part(&self, range: ByteRange, content: &mut Content<'_>) -> Result<u64, Cause> {
        let size = self.size_at(range)?;
        let pages: PageCount = driver::populate(self.host(), self.core(), range, content)?;
        Ok(pages.raw() * size.bytes())
    }

    fn size_at(&self, range: ByteRange) -> Result<HugeSize, Cause> {
        let map = self.core().map();
        let index = map.index_at(range.start())?;
        map.extents().size_of(index).ok_or(Cause::RangeBeyondEnd)
    }

    /// As [`Buffer::fill_part`], by a producer.
    fn produce_part(
        &self,
        range: ByteRange,
        produce: &mut dyn FnMut(&mut PageMut<'_>) -> io::Result<usize>,
        complaint: &Complaint,
    ) -> Result<u64, Cause> {
        let map = self.core().map();
        let mut panic: Option<Box<dyn Any + Send>> = None;
        let mut producer = |blank: &Blank| {
            let shared = self.host().shared();
            let arena = shared
                .arena_of(blank.pfn, blank.size, self.host().own_arena())
                .ok_or(Cause::FrameInvalid)?;
            let mut lease = arena.lease(blank.pfn, ByteLen::new(blank.size.bytes()))?;
            let _filling = Filling::of(map, map.index_at(ByteOffset::new(blank.offset))?);
            let mut page = PageMut {
                lease: &mut lease,
                offset: blank.offset,
            };
            // A panic must not pass through the core, which holds the claim on the page: others would wait for ever.
            match catch_unwind(AssertUnwindSafe(|| produce(&mut page))) {
                // CAST: usize is at most 64 bits wide on Linux.
                Ok(Ok(bytes)) => Ok(bytes as u64),
                Ok(Err(error)) => Err(complaint.note(&error)),
                Err(thrown) => {
                    panic = Some(thrown);
                    Err(Cause::FillFailed)
                }
            }
        };
        let outcome = self.fill_part(range, &mut Content::Producer(&mut producer));
        match panic {
            Some(thrown) => resume_unwind(thrown),
            None => outcome,
        }
    }

    /// Whether the pages are physically contiguous as was asked, as far as the system says where they are.
    pub(super) fn check_contiguity(&self, contiguity: Contiguity) -> Result<(), Error> {
        let own = self.host().own_arena();
        if own.is_some_and(|arena| arena.sole_device().is_some()) {
            // The device was asked for such runs, and gives no others.
            return Ok(());
        }
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
        let mut start = 0;
        while start < self.len() {
            let end = start.saturating_add(run).min(self.len());
            let mut at = start;
            let mut expected = None;
            while at < end {
                let page = self.page_at(at)?;
                at = page.offset + page.len;
                if expected.is_none() && at >= end {
                    // One page is contiguous wherever it is.
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
            }
            start = end;
        }
        Ok(())
    }
}
