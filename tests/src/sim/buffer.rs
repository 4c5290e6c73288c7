// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A buffer, with the gate around every call.

use std::sync::Arc;

use htlb_core::driver::{self, Commitment, Content, Filled, Punched};
use htlb_core::page_map::{Located, PagePin, Seal};
use htlb_core::{
    policy, Blank, Buffer, ByteLen, ByteOffset, ByteRange, Error, PageCount, PageIndex, Request,
    Stop,
};

use super::host::{filling, SimHost};
use super::lock::held;
use super::machine::{lock, Owner, SimMachine, Slots};
use super::memory::Writer;

/// What the machine knows of a buffer.
#[derive(Debug)]
pub struct Live {
    pub(super) buffer: Arc<Buffer<Slots>>,
    pub(super) slots: Slots,
    pub(super) owner: Owner,
    pub(super) donated: bool,
}

/// A buffer of one owner. Released when dropped, if nobody has forbidden that.
#[derive(Debug)]
pub struct SimBuffer<'m> {
    machine: &'m SimMachine,
    owner: Owner,
    donated: bool,
    /// `None` after the release.
    buffer: Option<Arc<Buffer<Slots>>>,
}

/// Zeroes for every page.
#[must_use]
pub const fn zeroes() -> Content<'static> {
    Content::Zeroes
}

impl SimMachine {
    /// A buffer for the request, that can grow to `capacity`.
    ///
    /// # Errors
    /// Those of [`policy::resolve`] and [`driver::create`].
    pub fn create(
        &self,
        owner: Owner,
        request: &Request,
        commitment: Commitment,
        capacity: ByteLen,
        content: &mut Content<'_>,
    ) -> Result<SimBuffer<'_>, Error> {
        let placement = policy::resolve(request, &self.topology())?;
        let host = SimHost::new(self, owner);
        let buffer = match content {
            Content::Zeroes => {
                driver::create(&host, &placement, commitment, capacity, &mut zeroes())?
            }
            Content::Producer(produce) => {
                let mut guarded = |blank: &Blank| guard(0, PageIndex::ZERO, || produce(blank));
                let mut content = Content::Producer(&mut guarded);
                driver::create(&host, &placement, commitment, capacity, &mut content)?
            }
        };
        Ok(self.register(&host, owner, false, buffer))
    }

    /// A buffer made by the caller's own plan.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn create_by(
        &self,
        owner: Owner,
        f: impl FnOnce(&SimHost<'_>) -> Result<Buffer<Slots>, Error>,
    ) -> Result<SimBuffer<'_>, Error> {
        let host = SimHost::new(self, owner);
        let buffer = f(&host)?;
        Ok(self.register(&host, owner, false, buffer))
    }

    /// A buffer of pages that a donor gave: no pool has them, and they go back to it.
    ///
    /// # Errors
    /// As [`SimMachine::create`].
    pub fn create_of_donated(
        &self,
        owner: Owner,
        request: &Request,
    ) -> Result<SimBuffer<'_>, Error> {
        let placement = policy::resolve(request, &self.topology())?;
        let host = SimHost::of_donated(self, owner);
        let buffer = driver::create(
            &host,
            &placement,
            Commitment::Unpromised,
            request.size(),
            &mut zeroes(),
        )?;
        Ok(self.register(&host, owner, true, buffer))
    }

    fn register(
        &self,
        host: &SimHost<'_>,
        owner: Owner,
        donated: bool,
        buffer: Buffer<Slots>,
    ) -> SimBuffer<'_> {
        let buffer = Arc::new(buffer);
        let slots = host.slots.take().expect("a buffer has slots");
        lock(&self.buffers).push(Live {
            buffer: buffer.clone(),
            slots,
            owner,
            donated,
        });
        SimBuffer {
            machine: self,
            owner,
            donated,
            buffer: Some(buffer),
        }
    }
}

/// Runs a producer as the core promises to: with no lock held.
fn guard<T>(map: usize, index: PageIndex, produce: impl FnOnce() -> T) -> T {
    assert_eq!(held(), 0, "a producer under a stock's lock");
    filling(map, index, produce)
}

impl<'m> SimBuffer<'m> {
    /// The core's own buffer.
    ///
    /// # Panics
    /// After the release.
    #[must_use]
    pub fn core(&self) -> &Buffer<Slots> {
        self.buffer.as_ref().expect("a buffer in use")
    }

    fn host(&self) -> SimHost<'m> {
        if self.donated {
            SimHost::of_donated(self.machine, self.owner)
        } else {
            SimHost::new(self.machine, self.owner)
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self.core().map()) as usize
    }

    /// The bytes of all pages that lie, at least in part, below the size.
    ///
    /// # Panics
    /// If there are none.
    #[must_use]
    pub fn all(&self) -> ByteRange {
        ByteRange::at(ByteOffset::ZERO, self.core().map().size()).expect("not empty")
    }

    /// [`driver::reserve`].
    ///
    /// # Errors
    /// As there.
    pub fn reserve(&self, range: ByteRange) -> Result<PageCount, Error> {
        driver::reserve(&self.host(), self.core(), range)
    }

    /// [`driver::populate`] with zeroes.
    ///
    /// # Errors
    /// As there.
    pub fn populate(&self, range: ByteRange) -> Result<PageCount, Error> {
        driver::populate(&self.host(), self.core(), range, &mut zeroes())
    }

    /// [`driver::populate`] with what `produce` writes.
    ///
    /// # Errors
    /// As there.
    pub fn populate_with(
        &self,
        range: ByteRange,
        produce: &mut dyn FnMut(&Blank) -> Result<u64, Error>,
    ) -> Result<PageCount, Error> {
        let map = self.core().map();
        let mut guarded = |blank: &Blank| {
            // A page begins below the size, or it could not have been claimed.
            let index = map.index_at(ByteOffset::new(blank.offset))?;
            guard(self.address(), index, || produce(blank))
        };
        let mut content = Content::Producer(&mut guarded);
        driver::populate(&self.host(), self.core(), range, &mut content)
    }

    /// [`driver::populate_page`] with zeroes.
    ///
    /// # Errors
    /// As there.
    pub fn populate_page(&self, index: PageIndex) -> Result<(Located, Filled), Error> {
        driver::populate_page(&self.host(), self.core(), index, &mut zeroes(), None)
    }

    /// [`driver::fault`].
    ///
    /// # Errors
    /// As there.
    pub fn fault(&self, offset: u64) -> Result<Located, Error> {
        driver::fault(&self.host(), self.core(), ByteOffset::new(offset))
    }

    /// [`htlb_core::page_map::PageMap::page_at`].
    ///
    /// # Errors
    /// As there.
    pub fn page_at(&self, offset: u64) -> Result<Located, Error> {
        self.core().map().page_at(ByteOffset::new(offset))
    }

    /// [`driver::punch`].
    ///
    /// # Errors
    /// As there.
    pub fn punch(&self, range: ByteRange) -> Result<Punched, Error> {
        driver::punch(&self.host(), self.core(), range)
    }

    /// [`driver::truncate`], and zeroes behind the new end.
    ///
    /// # Errors
    /// As there.
    pub fn truncate(&self, size: ByteLen) -> Result<Punched, Error> {
        let before = self.core().map().size();
        let punched = driver::truncate(&self.host(), self.core(), size)?;
        if size < before && !size.is_zero() {
            if let Ok(pin) = self.pin(size.raw() - 1) {
                let start = self.core().map().extents().bytes_of(pin.index());
                let kept = start.map_or(0, |bytes| size.raw() - bytes.start().raw());
                lock(&self.machine.memory).clear(pin.pfn(), kept);
                self.unpin(pin);
            }
        }
        Ok(punched)
    }

    /// Pins the page at `offset`, which is present.
    ///
    /// # Errors
    /// Those of [`htlb_core::page_map::PageMap::pin`].
    pub fn pin(&self, offset: u64) -> Result<PagePin, Error> {
        let host = self.host();
        let map = self.core().map();
        let index = map.index_at(ByteOffset::new(offset))?;
        until_done(&host, map, || map.pin(index))
    }

    /// Gives a pin back.
    pub fn unpin(&self, pin: PagePin) {
        self.core().map().unpin(pin);
    }

    /// Seals the buffer.
    ///
    /// # Errors
    /// Those of [`htlb_core::page_map::PageMap::seal`].
    pub fn seal(&self) -> Result<Seal, Error> {
        let host = self.host();
        let map = self.core().map();
        until_done(&host, map, || map.seal())
    }

    /// Gives a seal back.
    pub fn unseal(&self, seal: Seal) {
        self.core().map().unseal(seal);
    }

    /// Reads, as a program does that has the buffer mapped: what is not there comes into being.
    ///
    /// # Errors
    /// Those of [`driver::fault`].
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (page, pin) = self.pinned(at)?;
            let rest = page.size.bytes() - page.offset_in_page.raw();
            let some = usize::try_from(rest)
                .map_or(bytes.len(), |rest| rest + done)
                .min(bytes.len());
            lock(&self.machine.memory).read(
                page.pfn,
                page.offset_in_page.raw(),
                &mut bytes[done..some],
            );
            self.unpin(pin);
            done = some;
        }
        Ok(())
    }

    /// Writes, as [`SimBuffer::read`] reads.
    ///
    /// # Errors
    /// Those of [`driver::fault`].
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let (page, pin) = self.pinned(at)?;
            let rest = page.size.bytes() - page.offset_in_page.raw();
            let some = usize::try_from(rest)
                .map_or(bytes.len(), |rest| rest + done)
                .min(bytes.len());
            lock(&self.machine.memory).write(
                page.pfn,
                page.offset_in_page.raw(),
                &bytes[done..some],
                self.writer(),
            );
            self.unpin(pin);
            done = some;
        }
        Ok(())
    }

    /// The page at an offset, kept in place while it is looked at.
    fn pinned(&self, offset: u64) -> Result<(Located, PagePin), Error> {
        loop {
            let page = self.fault(offset)?;
            match self.pin(offset) {
                Ok(pin) if pin.pfn() == page.pfn => return Ok((page, pin)),
                Ok(pin) => self.unpin(pin),
                // It was punched meanwhile.
                Err(Error::NotPresent) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// As whom this buffer's owner writes.
    #[must_use]
    pub const fn writer(&self) -> Writer {
        Writer::Owner(self.owner.number)
    }

    /// Writes into a page that is being filled.
    pub fn produce(&self, blank: &Blank, at: u64, bytes: &[u8]) {
        lock(&self.machine.memory).write(blank.pfn, at, bytes, self.writer());
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// Those of [`driver::release`]; the buffer is then as it was.
    ///
    /// # Panics
    /// After an earlier release.
    pub fn release(&mut self) -> Result<Punched, Error> {
        let host = self.host();
        let (place, mut live) = {
            let mut buffers = lock(&self.machine.buffers);
            let buffer = self.buffer.take().expect("a buffer in use");
            let at = buffers
                .iter()
                .position(|live| Arc::ptr_eq(&live.buffer, &buffer))
                .expect("it was registered");
            (at, buffers.remove(at))
        };
        let buffer = Arc::get_mut(&mut live.buffer).expect("nobody else has it");
        let outcome = driver::release(&host, buffer);
        if outcome.is_err() {
            self.buffer = Some(live.buffer.clone());
            lock(&self.machine.buffers).insert(place, live);
        }
        outcome
    }
}

impl Drop for SimBuffer<'_> {
    fn drop(&mut self) {
        if self.buffer.is_some() && !std::thread::panicking() {
            let released = self.release();
            assert!(released.is_ok(), "dropped while {released:?}");
        }
    }
}

/// Repeats what may have to wait.
fn until_done<T>(
    host: &SimHost<'_>,
    map: &htlb_core::page_map::PageMap<Slots>,
    mut f: impl FnMut() -> Result<T, Stop>,
) -> Result<T, Error> {
    loop {
        match f() {
            Ok(value) => return Ok(value),
            Err(Stop::Wait(what)) => htlb_core::Host::wait(host, map, what, None)?,
            Err(Stop::Fail(error)) => return Err(error),
            Err(Stop::Metadata { .. }) => return Err(Error::OutOfMetadata),
        }
    }
}
