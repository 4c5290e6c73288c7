// SPDX-License-Identifier: GPL-2.0-only
//! A buffer: the core's, and what the kernel needs beside it.

use htlb_core::driver::{self, Commitment, Content, Punched};
use htlb_core::gate::Pass;
use htlb_core::page_map::{Extent, Located, PageMap, PagePin, Seal};
use htlb_core::{
    policy, Buffer, ByteLen, ByteOffset, ByteRange, Error as Reason, Host, HugeSize, PageCount, Part, Request,
    Stop,
};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex, SetOnce, UniqueArc};

use crate::accounts::Payer;
use crate::backing::Backing;
use crate::error::errno;
use crate::ffi::fault::Fault;
use crate::ffi::file::{BufferFile, Copies, Mappings};
use crate::ffi::page::{self, Page};
use crate::ffi::system;
use crate::ffi::wait::Signals;
use crate::host::{KernelHost, Patience};
use crate::machine::{Machine, Place};
use crate::memory::Slots;

/// What is populated when a buffer is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Populate {
    /// Everything.
    Now,
    /// What cannot be promised, because no stock serves it; the rest when it is asked for or touched.
    Later,
}

/// A buffer, which its file owns.
#[pin_data(PinnedDrop)]
pub(crate) struct DmaBuffer {
    core: Buffer<Slots>,
    backing: Backing,
    number: SetOnce<u64>,
    /// Those that programs asked for, one after the other.
    #[pin]
    seals: Mutex<KVec<Seal>>,
    /// Held while the size changes, before the gate: the kernel has a record of the size too.
    #[pin]
    sizing: Mutex<()>,
    /// The pass in which the buffer was taken off the list, for giving back what it has.
    #[pin]
    leaving: Mutex<Option<Pass>>,
}

impl DmaBuffer {
    /// A new buffer and its file.
    pub(crate) fn create(
        payer: Arc<Payer>,
        request: &Request,
        commitment: Commitment,
        capacity: ByteLen,
        populate: Populate,
        content: &mut Content<'_>,
    ) -> Result<BufferFile> {
        Self::over(Backing::new(payer), request, commitment, capacity, populate, content)
    }

    /// A new buffer and its file, on this.
    pub(crate) fn over(
        backing: Backing,
        request: &Request,
        commitment: Commitment,
        capacity: ByteLen,
        populate: Populate,
        content: &mut Content<'_>,
    ) -> Result<BufferFile> {
        let placement = policy::resolve(request, &backing.machine().topology()).map_err(errno)?;
        if commitment == Commitment::Promised || populate == Populate::Now {
            conceivable(request.size()).map_err(errno)?;
        }
        // The memory first: once the core's buffer is there, only dropping this one gives its pages back.
        let memory = UniqueArc::<Self>::new_uninit(GFP_KERNEL_ACCOUNT)?;
        let place = Place::new(GFP_KERNEL_ACCOUNT)?;
        let (core, pass) = {
            let host = KernelHost::enter(&backing, None, Patience::Killable, Copies::Stay).map_err(errno)?;
            let core = driver::create(&host, &placement, commitment, capacity, content).map_err(errno)?;
            (core, host.into_pass())
        };
        let buffer = memory.pin_init_with(pin_init!(Self {
            core,
            backing,
            number: SetOnce::new(),
            seals <- new_mutex!(KVec::new(), "htlb::seals"),
            sizing <- new_mutex!((), "htlb::sizing"),
            leaving <- new_mutex!(None, "htlb::leaving"),
        }));
        let buffer: Arc<Self> = match buffer {
            Ok(buffer) => buffer.into(),
            Err(never) => match never {},
        };
        let number = buffer.machine().note(place, &buffer);
        buffer.number.populate(number);
        if let Some(pass) = pass {
            buffer.machine().leave(pass);
        }
        if let Err(reason) = buffer.fulfil(commitment, populate, content) {
            buffer.close();
            return Err(errno(reason));
        }
        BufferFile::new(buffer)
    }

    /// A promise that no stock can give is kept by populating at once.
    fn fulfil(&self, commitment: Commitment, populate: Populate, content: &mut Content<'_>) -> Result<(), Reason> {
        for (part, extent) in self.core.parts().zip(self.map().extents().iter()) {
            let unpromised = self.machine().stock_of(&part.attempt).is_none();
            if populate == Populate::Now || (unpromised && commitment == Commitment::Promised) {
                if let Some(range) = self.bytes_of(extent) {
                    self.populate(range, content)?;
                }
            }
        }
        Ok(())
    }

    /// The bytes of an extent below the size.
    fn bytes_of(&self, extent: &Extent) -> Option<ByteRange> {
        let start = extent.start();
        let len = extent.size().len_of(extent.pages()).ok()?;
        let end = start.raw().saturating_add(len.raw()).min(self.size().raw());
        ByteRange::new(start, ByteOffset::new(end)).ok().filter(|range| !range.is_empty())
    }

    /// The bytes of all pages that a range touches, below the size.
    pub(crate) fn whole_pages(&self, range: ByteRange) -> Result<ByteRange, Reason> {
        let size = self.size().raw();
        let last = range.end().raw().checked_sub(1).ok_or(Reason::RangeEmpty)?;
        let page = |offset: u64| {
            let index = self.map().index_at(ByteOffset::new(offset))?;
            self.map().extents().bytes_of(index).ok_or(Reason::RangeBeyondEnd)
        };
        let (first, last) = (page(range.start().raw())?, page(last)?);
        ByteRange::new(first.start(), ByteOffset::new(last.end().raw().min(size)))
    }

    /// The end of its file: nobody has it mapped or open any more.
    pub(crate) fn close(self: Arc<Self>) {
        self.seals.lock().drain_all().for_each(|seal| self.map().unseal(seal));
        if let Some(number) = self.number.copy() {
            *self.leaving.lock() = self.machine().enter(Signals::Ignored).ok();
            self.machine().forget(number);
        }
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Machine {
        self.backing.machine()
    }

    /// Offset to page.
    pub(crate) fn map(&self) -> &PageMap<Slots> {
        self.core.map()
    }

    /// The core's buffer, to look at.
    pub(crate) fn core(&self) -> &Buffer<Slots> {
        &self.core
    }

    /// Its size.
    pub(crate) fn size(&self) -> ByteLen {
        self.map().size()
    }

    /// Whether all of its pages are folios.
    pub(crate) fn has_folios_only(&self) -> bool {
        !self.is_donated() && self.map().extents().iter().all(|extent| page::is_folio(extent.size()))
    }

    /// Whether its pages are somebody else's, who shares them.
    pub(crate) fn is_donated(&self) -> bool {
        self.backing.donation().is_some()
    }

    /// Notes who has it mapped.
    pub(crate) fn mapped_by(&self, mappings: Mappings) {
        self.backing.mapped_by(mappings);
    }

    /// Who has it mapped.
    pub(crate) fn mappings(&self) -> Option<Mappings> {
        self.backing.mappings()
    }

    fn host(&self, copies: Copies) -> Result<KernelHost<'_>, Reason> {
        KernelHost::enter(&self.backing, Some(self.map()), Patience::Killable, copies)
    }

    /// Promises the holes of a range; says how many bytes that was.
    pub(crate) fn reserve(&self, range: ByteRange) -> Result<ByteLen, Reason> {
        let before = self.weigh(range)?.promised;
        conceivable(range.len())?;
        let size = self.only_size(range);
        let pages = driver::reserve(&self.host(Copies::Stay)?, &self.core, range)?;
        if let Some(size) = size {
            return size.len_of(pages);
        }
        let after = self.weigh(range)?.promised;
        Ok(ByteLen::new(after.raw().saturating_sub(before.raw())))
    }

    /// The size of a range's pages, if they are all of one: then a count of pages says how many bytes they have. Two looks at the slots
    /// do not, since others change them in between.
    pub(crate) fn only_size(&self, range: ByteRange) -> Option<HugeSize> {
        let extents = self.map().extents();
        let mut pages = self.map().pages(range).ok()?.iter();
        let first = extents.size_of(pages.next()?)?;
        // The extents come by descending size: equal at both ends is equal in between.
        let last = pages.next_back().map_or(Some(first), |page| extents.size_of(page))?;
        (first == last).then_some(first)
    }

    /// Puts pages where there are none in a range.
    pub(crate) fn populate(&self, range: ByteRange, content: &mut Content<'_>) -> Result<PageCount, Reason> {
        // All of it makes sense, or nothing is done.
        self.map().pages(range)?;
        let mut now = 0u64;
        for part in by_gibibyte(range) {
            let pages = driver::populate(&self.host(Copies::Stay)?, &self.core, part, content)?;
            now = now.saturating_add(pages.raw());
        }
        Ok(PageCount::new(now))
    }

    /// The page that a fault asks for, put there if need be.
    pub(crate) fn fault(&self, offset: ByteOffset, fault: &Fault<'_>) -> Result<Located, Reason> {
        let host = KernelHost::enter(&self.backing, Some(self.map()), Patience::Fault(fault), Copies::Stay)?;
        driver::fault(&host, &self.core, offset)
    }

    /// Gives the pages and promises of a range back.
    pub(crate) fn punch(&self, range: ByteRange) -> Result<Punched, Reason> {
        let host = self.host(Copies::Stay)?;
        self.may_be_cut()?;
        let punched = driver::punch(&host, &self.core, range)?;
        self.machine().limbo().retry(self.machine());
        Ok(punched)
    }

    /// Another size.
    pub(crate) fn truncate(&self, size: ByteLen) -> Result<Punched, Reason> {
        let _others_wait = self.sizing.lock();
        let before = self.size();
        if size < before {
            self.may_be_cut()?;
        }
        if size > before {
            self.clear_beyond(before)?;
        }
        let punched = driver::truncate(&self.host(Copies::Go)?, &self.core, size).inspect_err(|_| {
            if let Some(mappings) = self.mappings() {
                // One that was interrupted had taken the new size to them already.
                mappings.resize(self.size());
            }
        })?;
        if let Some(mappings) = self.mappings() {
            mappings.resize(size);
            if size < before {
                // The page that the new end cuts stays, but not its entries: a touch beyond the end is a signal now.
                let beyond = ByteOffset::new(size.raw().next_multiple_of(HugeSize::BASE.bytes()));
                if let Ok(range) = ByteRange::new(beyond, ByteOffset::new(self.map().extents().capacity().raw())) {
                    mappings.revoke(range, Copies::Go, || self.drain_last());
                }
            }
        }
        Ok(punched)
    }

    /// A donated page cannot be given back alone.
    fn may_be_cut(&self) -> Result<(), Reason> {
        if self.is_donated() {
            Err(Reason::Sealed)
        } else {
            Ok(())
        }
    }

    /// Waits for the faults on the page that the end cuts.
    fn drain_last(&self) {
        let last = self.size().raw().checked_sub(1);
        let located = last.and_then(|last| self.map().page_at(ByteOffset::new(last)).ok());
        if let Some(page) = located.and_then(|located| Page::owned(located.pfn, located.size)) {
            page.drain();
        }
    }

    /// Zeroes what lies beyond the end in the page that the end cuts: a program, a device or a driver may have written
    /// there, and nobody is to read that where a buffer grew.
    fn clear_beyond(&self, end: ByteLen) -> Result<(), Reason> {
        let Some(last) = end.raw().checked_sub(1).map(ByteOffset::new) else { return Ok(()) };
        let pin = match self.pin(last) {
            Ok(pin) => pin,
            Err(Reason::NotPresent) => return Ok(()),
            Err(reason) => return Err(reason),
        };
        let from = end.raw() & (pin.size().bytes() - 1);
        let start = last.raw() & !(pin.size().bytes() - 1);
        let page = self.backing.page(start, pin.pfn(), pin.size());
        let cleared = from == 0 || page.is_some_and(|page| page.clear(from));
        self.map().unpin(pin);
        if cleared {
            Ok(())
        } else {
            Err(Reason::Interrupted)
        }
    }

    /// Forbids punching and truncating, until the seal is given back.
    pub(crate) fn seal(&self) -> Result<Seal, Reason> {
        self.until(|| self.map().seal())
    }

    /// Adds a seal of a program's.
    pub(crate) fn add_seal(&self) -> Result<(), Reason> {
        let seal = self.seal()?;
        let mut seals = self.seals.lock();
        // A seal has no size, so that keeping one takes no memory.
        seals.push(seal, GFP_KERNEL).map_err(|_| Reason::OutOfMetadata)
    }

    /// Takes a program's seal away.
    pub(crate) fn remove_seal(&self) -> Result<(), Reason> {
        let seal = self.seals.lock().pop().ok_or(Reason::NotPresent)?;
        self.map().unseal(seal);
        Ok(())
    }

    /// How many seals programs have on it.
    pub(crate) fn seals(&self) -> u64 {
        self.seals.lock().len() as u64
    }

    /// Pins the page at an offset, if there is one.
    pub(crate) fn pin(&self, offset: ByteOffset) -> Result<PagePin, Reason> {
        let index = self.map().index_at(offset)?;
        self.until(|| self.map().pin(index))
    }

    /// Asks until there is nothing to wait for any more.
    fn until<T>(&self, mut ask: impl FnMut() -> Result<T, Stop>) -> Result<T, Reason> {
        loop {
            match ask() {
                Ok(value) => return Ok(value),
                Err(Stop::Wait(what)) => self.host(Copies::Stay)?.wait(self.map(), what, None)?,
                Err(Stop::Fail(reason)) => return Err(reason),
                Err(Stop::Metadata { .. }) => return Err(Reason::OutOfMetadata),
            }
        }
    }
}

/// What a range holds, in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Weight {
    /// Of pages.
    pub(crate) populated: ByteLen,
    /// Of promises of pages that have not come yet.
    pub(crate) promised: ByteLen,
    /// Pins on its pages.
    pub(crate) pins: u64,
}

impl DmaBuffer {
    /// What a range holds.
    pub(crate) fn weigh(&self, range: ByteRange) -> Result<Weight, Reason> {
        let slots = self.map().pages(range)?;
        Ok(self.weight(&self.map().census_of(slots)))
    }

    /// What all of it holds, beyond the size too.
    pub(crate) fn weigh_all(&self) -> Weight {
        self.weight(&self.map().census())
    }

    fn weight(&self, census: &htlb_core::page_map::PerExtent<htlb_core::page_map::Census>) -> Weight {
        let mut weight = Weight::default();
        for (size, census) in census.iter() {
            weight.populated = sum(weight.populated, size, census.frames());
            weight.promised = sum(weight.promised, size, census.promises());
            weight.pins = weight.pins.saturating_add(census.pins);
        }
        weight
    }

    /// The parts, each with its extent.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&Part, &Extent)> {
        self.core.parts().zip(self.map().extents().iter())
    }
}

/// A promise of more than all memory would fetch half of it before it failed.
fn conceivable(len: ByteLen) -> Result<(), Reason> {
    if len.raw() <= system::total_memory() {
        Ok(())
    } else {
        Err(Reason::NoRoom)
    }
}

/// The range cut at each GiB, where pages of every size end: whoever wants to look at the books gets a turn in between.
fn by_gibibyte(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let mut start = range.start();
    core::iter::from_fn(move || {
        let next = (start.raw() | (HugeSize::GIB1.bytes() - 1)).saturating_add(1);
        let part = ByteRange::new(start, ByteOffset::new(next.min(range.end().raw()))).ok()?;
        start = part.end();
        (!part.is_empty()).then_some(part)
    })
}

fn sum(bytes: ByteLen, size: HugeSize, pages: PageCount) -> ByteLen {
    let more = size.bytes().saturating_mul(pages.raw());
    ByteLen::new(bytes.raw().saturating_add(more))
}

#[pinned_drop]
impl PinnedDrop for DmaBuffer {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        let pass = this.leaving.lock().take();
        let host = match pass {
            Some(pass) => Ok(KernelHost::within(this.backing, pass)),
            None => KernelHost::enter(this.backing, None, Patience::Endless, Copies::Go),
        };
        match host {
            Ok(host) => {
                if let Err(reason) = driver::release(&host, this.core) {
                    pr_err!("a buffer could not be released: {}\n", reason.as_str());
                }
            }
            Err(reason) => pr_err!("a buffer could not be released: {}\n", reason.as_str()),
        }
    }
}
