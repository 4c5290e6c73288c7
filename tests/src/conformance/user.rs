// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! User space under test: the library's own buffers, on the real hugetlb pool or on transparent huge pages.
//!
//! A process's pools stand for the machine's: they are given what the case asks for, and no more.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::Mutex;
use std::thread;

use htlb_core::driver::{Commitment, Punched};
use htlb_core::ledger::Counts;
use htlb_core::page_map::{Located, PageMap, PagePin, Seal};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error, HugeSize, PageChoice, PageCount, Pfn, Request, Rung,
    Stop,
};
use htlb_user::buffer::{Layout, PageMut, Populate};
use htlb_user::pools::Pools;
use htlb_user::{Buffer, BufferBuilder, Owner};

use super::{
    Gone, Got, InHand, Limits, Machine, MachineSpec, Order, OwnerId, Pages, Produce, Unavailable,
};
use crate::host::PoolLease;

/// Where the huge pages come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The system's hugetlb pool.
    Hugetlb,
    /// Anonymous memory, which needs no pool and no right.
    Transparent,
}

/// The pools of this process under test.
#[derive(Debug)]
pub struct User {
    pools: Pools,
    source: Source,
    kept: u64,
    owners: Mutex<Vec<Option<Owner>>>,
    /// Given back last.
    _lease: Option<PoolLease>,
}

impl User {
    /// As described, as far as this machine has it.
    ///
    /// # Errors
    /// Too few pages.
    ///
    /// # Panics
    /// For a description that no case for user space has.
    pub fn new(source: Source, spec: &MachineSpec<'_>) -> Result<Self, Unavailable> {
        let unavailable = |why: &dyn std::fmt::Display| Unavailable(why.to_string());
        let pages = match spec.pools {
            [] => 0,
            [one] if one.size == HugeSize::MIB2 && one.node == 0 => one.pages,
            other => panic!("{other:?} is not for user space"),
        };
        let lease = match source {
            Source::Hugetlb if pages > 0 => {
                let lease = PoolLease::with_at_least(HugeSize::MIB2, PageCount::new(pages));
                Some(lease.map_err(|why| unavailable(&why))?)
            }
            Source::Hugetlb | Source::Transparent => None,
        };
        let (mut huge, mut transparent) = (PageCount::ZERO, PageCount::ZERO);
        match source {
            Source::Hugetlb => huge = PageCount::new(pages),
            Source::Transparent => transparent = PageCount::new(pages),
        }
        let pools = Pools::builder()
            .limit(Rung::System, HugeSize::GIB1, PageCount::ZERO)
            .limit(Rung::System, HugeSize::MIB2, huge)
            .limit(Rung::Transparent, HugeSize::MIB2, transparent)
            .build()
            .map_err(|why| unavailable(&why))?;
        if pages > 0 {
            // They stay when the buffer goes.
            let whole = pools.buffer(pages * HugeSize::MIB2.bytes()).strict();
            let whole = match source {
                Source::Hugetlb => whole.page_size(HugeSize::MIB2),
                Source::Transparent => whole.transparent(),
            };
            whole
                .strict()
                .create()
                .map_err(|why| unavailable(&format!("{pages} pages: {why}")))?;
        }
        let user = Self {
            pools,
            source,
            kept: spec.magazine as u64 * HugeSize::MIB2.bytes(),
            owners: Mutex::default(),
            _lease: lease,
        };
        let first = user.new_owner();
        user.owners().push(Some(first));
        Ok(user)
    }

    fn new_owner(&self) -> Owner {
        Owner::keeping(&self.pools, self.kept)
    }

    fn owners(&self) -> std::sync::MutexGuard<'_, Vec<Option<Owner>>> {
        self.owners.lock().expect("no test panics with it")
    }

    /// The request, of the pages that stand for huge ones here.
    fn builder(&self, request: Request) -> BufferBuilder {
        let builder = self.pools.buffer_for(request);
        match (request.page(), self.source) {
            (PageChoice::Huge(_), Source::Transparent) => builder.transparent(),
            _ => builder,
        }
    }
}

/// That the system is short and that the pool is are one fact here: the system has nothing beyond the pool.
fn named(cause: Error) -> Error {
    match cause {
        Error::OutOfPages => Error::NoRoom,
        other => other,
    }
}

fn gone(punched: Punched) -> Gone {
    Gone {
        pages: punched.pages.raw(),
        promises: punched.promises.raw(),
    }
}

struct UserInHand<'a, 'p>(&'a mut PageMut<'p>);

impl InHand for UserInHand<'_, '_> {
    fn offset(&self) -> u64 {
        self.0.offset()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("a place in a page");
        self.0.bytes()[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Machine for User {
    fn owner(&self, limits: Option<Limits>) -> Result<OwnerId, Error> {
        assert!(limits.is_none(), "there are no accounts here");
        let owner = self.new_owner();
        let mut owners = self.owners();
        owners.push(Some(owner));
        Ok(owners.len() - 1)
    }

    fn close(&self, owner: OwnerId) -> Result<(), Error> {
        let ended = self.owners()[owner].take();
        drop(ended.expect("an owner ends once"));
        Ok(())
    }

    fn create<'m>(
        &'m self,
        owner: OwnerId,
        order: &Order,
        produce: Option<Produce<'_>>,
    ) -> Result<Box<dyn Pages + 'm>, Error> {
        assert!(produce.is_none(), "nothing is contiguous here");
        let owner = self.owners()[owner].clone().expect("it has not ended");
        let buffer = self
            .builder(order.request)
            .owner(&owner)
            .capacity(order.capacity.raw())
            .layout(Layout::Scattered)
            .populate(match order.commitment {
                Commitment::Promised => Populate::Later,
                Commitment::Unpromised => Populate::Unpromised,
            })
            .create()
            .map_err(|error| named(error.cause()))?;
        Ok(Box::new(UserPages {
            buffer,
            pins: Mutex::default(),
            seals: Mutex::default(),
        }))
    }

    fn counts(&self, size: HugeSize, node: Option<u32>) -> Counts {
        assert_eq!(node, None, "nodes are not asked for here");
        let rung = match self.source {
            Source::Hugetlb => Rung::System,
            Source::Transparent => Rung::Transparent,
        };
        let pools = self.pools.state();
        let found = pools
            .iter()
            .find(|pool| (pool.rung, pool.size) == (rung, size));
        found.map_or(Counts::default(), |pool| pool.counts)
    }

    fn resize(&self, _size: HugeSize, _node: u32, _pages: u64) -> Result<u64, Error> {
        unreachable!("the back end lacks it")
    }

    fn demote(&self, _node: u32) -> Result<(), Error> {
        unreachable!("the back end lacks it")
    }

    fn hold(&self, _page: Pfn) {
        unreachable!("the back end lacks it")
    }

    fn let_go(&self, _page: Pfn) {
        unreachable!("the back end lacks it")
    }

    fn check(&self) -> Result<(), String> {
        self.pools.check().map_err(|error| error.to_string())
    }
}

/// A buffer under test.
#[derive(Debug)]
struct UserPages {
    buffer: Buffer,
    pins: Mutex<Vec<(u64, PagePin)>>,
    seals: Mutex<Vec<Seal>>,
}

impl UserPages {
    fn map(&self) -> &PageMap<Box<[AtomicU64]>> {
        self.buffer.page_map()
    }

    /// The bytes of the page that holds `offset`.
    fn page_of(&self, offset: u64) -> Result<ByteRange, Error> {
        let index = self.map().index_at(ByteOffset::new(offset))?;
        let page = self.map().extents().bytes_of(index);
        let page = page.ok_or(Error::RangeBeyondEnd)?;
        let end = page.end().raw().min(self.map().size().raw());
        ByteRange::new(page.start(), ByteOffset::new(end))
    }

    /// How many pages so many bytes of a range are.
    fn pages(&self, range: ByteRange, bytes: u64) -> u64 {
        let index = self.map().index_at(range.start());
        let size = index
            .ok()
            .and_then(|index| self.map().extents().size_of(index));
        bytes / size.map_or(1, HugeSize::bytes)
    }

    /// Does something that needs the pages, and gets them where they are missing.
    fn touching(
        &self,
        offset: u64,
        len: usize,
        mut f: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            match f() {
                Err(Error::NotPresent) => {
                    let mut at = offset;
                    while at < offset + len as u64 {
                        let page = self.page_of(at)?;
                        self.fault(at)?;
                        at = page.end().raw();
                    }
                }
                // Somebody else reads or writes the page at this moment.
                Err(Error::Pinned) => thread::yield_now(),
                outcome => return outcome,
            }
        }
    }
}

fn until_ready<T>(mut f: impl FnMut() -> Result<T, Stop>) -> Result<T, Error> {
    loop {
        match f() {
            Ok(value) => return Ok(value),
            Err(Stop::Fail(error)) => return Err(error),
            Err(Stop::Wait(_) | Stop::Metadata { .. }) => thread::yield_now(),
        }
    }
}

impl Pages for UserPages {
    fn reserve(&self, range: ByteRange) -> Result<u64, Error> {
        let bytes = self.buffer.reserve(range.start().raw(), range.len().raw());
        let bytes = bytes.map_err(|error| named(error.cause()))?;
        Ok(self.pages(range, bytes))
    }

    fn populate(&self, range: ByteRange, produce: Option<Produce<'_>>) -> Result<u64, Error> {
        let (start, len) = (range.start().raw(), range.len().raw());
        let bytes = match produce {
            None => self.buffer.populate(start, len),
            Some(produce) => self.buffer.populate_in_order(start, len, |page| {
                let written = produce(&mut UserInHand(page)).map_err(io::Error::from)?;
                Ok(usize::try_from(written).unwrap_or(usize::MAX))
            }),
        };
        let bytes = bytes.map_err(|error| named(error.cause()))?;
        Ok(self.pages(range, bytes))
    }

    fn fault(&self, offset: u64) -> Result<Located, Error> {
        let page = self.page_of(offset)?;
        let put = self.buffer.populate(page.start().raw(), page.len().raw());
        put.map_err(|error| named(error.cause()))?;
        self.page_at(offset)
    }

    fn page_at(&self, offset: u64) -> Result<Located, Error> {
        self.map().page_at(ByteOffset::new(offset))
    }

    fn pin(&self, offset: u64) -> Result<(), Error> {
        let index = self.map().index_at(ByteOffset::new(offset))?;
        let pin = until_ready(|| self.map().pin(index))?;
        self.pins.lock().expect("unpoisoned").push((offset, pin));
        Ok(())
    }

    fn unpin(&self, offset: u64) {
        let mut pins = self.pins.lock().expect("unpoisoned");
        let at = pins.iter().position(|(of, _)| *of == offset);
        let (_, pin) = pins.swap_remove(at.expect("a pin there"));
        self.map().unpin(pin);
    }

    fn seal(&self) -> Result<(), Error> {
        let seal = until_ready(|| self.map().seal())?;
        self.seals.lock().expect("unpoisoned").push(seal);
        Ok(())
    }

    fn unseal(&self) {
        let seal = self.seals.lock().expect("unpoisoned").pop();
        self.map().unseal(seal.expect("a seal"));
    }

    fn punch(&self, range: ByteRange) -> Result<Gone, Error> {
        let punched = self.buffer.punch(range.start().raw(), range.len().raw());
        punched.map(gone).map_err(|error| named(error.cause()))
    }

    fn truncate(&self, size: ByteLen) -> Result<Gone, Error> {
        self.buffer.truncate_shared(size.raw()).map(gone)
    }

    fn size(&self) -> ByteLen {
        self.map().size()
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.touching(offset, bytes.len(), || {
            let read = self.buffer.read_at(offset, bytes);
            read.map_err(|error| named(error.cause()))
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.touching(offset, bytes.len(), || {
            self.buffer.write_at_shared(offset, bytes)
        })
    }

    fn receipt(&self) -> Vec<Got> {
        let got = |share: &htlb_user::receipt::Share| Got {
            size: share.size,
            rung: share.rung,
            pages: share.pages.raw(),
        };
        self.buffer.receipt().shares.iter().map(got).collect()
    }

    fn release(&mut self) -> Result<Gone, Error> {
        // All that dropping does and can fail in.
        self.buffer.truncate_shared(0).map(gone)
    }
}
