// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A buffer: memory in the largest pages that could be had, and a receipt that says which.

mod builder;
mod fill;
mod guard;
mod share;

use std::sync::Arc;
use std::time::Duration;

use htlb_core::driver;
use htlb_core::stock::{Held, Violation};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error as Cause, NodeId, PageCount, PageIndex, Part, Pfn, Stock,
};

use crate::arena::{address, Arena, Slots, Words};
use crate::error::Error;
use crate::host::BufferHost;
use crate::owner::{Key, Owner};
use crate::pools::Shared;
use crate::receipt::{Home, Receipt, Share};

pub use builder::{BufferBuilder, Layout, Populate};
pub use fill::PageMut;
pub use guard::{PinnedPage, Sealed, Slice, SliceMut};
pub use share::Access;

/// The part of a buffer that outlives a borrow of it: an inspection looks at it too.
#[derive(Debug)]
pub(crate) struct Live {
    core: htlb_core::Buffer<Slots>,
    host: BufferHost,
}

impl Live {
    /// What it holds of a pool of the process.
    pub(crate) fn held(&self, arena: &Arc<Arena>, stock: &Stock<Words>) -> Held {
        let serves = |part: &Part| {
            self.host
                .arena(&part.attempt)
                .is_some_and(|of| Arc::ptr_eq(of, arena))
        };
        let mut held = stock.held_by(&self.core, serves);
        if self.core.parts().next().is_some_and(serves) {
            held.pages += self.host.pages_aside();
        }
        held
    }

    /// Whether every page that it was made with is still there, and no more.
    fn is_as_made(&self, key: &Key) -> bool {
        let map = self.core.map();
        let mut pages = map
            .extents()
            .iter()
            .map(|extent| extent.first_pages(extent.pages()));
        map.size() == key.request.size()
            && !map.is_sealed()
            && pages.all(|pages| pages.iter().all(|index| map.is_present(index)))
    }

    /// Audits the pages that are this buffer's alone.
    pub(crate) fn check_own(&self) -> Result<(), Violation> {
        let Some(arena) = self.host.own_arena() else {
            return Ok(());
        };
        let stock = crate::host::locked(arena.stock());
        let held = self.held(arena, &stock);
        stock.audit(held)
    }
}

/// Memory of a known size in pages of a known size.
///
/// Made by [`crate::Pools::buffer`]. `Send` and `Sync`: threads may populate, pin and read it at once. A forked child must
/// not use what it inherited: the memory is not there.
#[derive(Debug)]
pub struct Buffer {
    /// `None` only while it is dropped.
    live: Option<Arc<Live>>,
    place: usize,
    /// Who has it back when it is dropped.
    keep: Option<(Owner, Key)>,
    home: Home,
    access: Access,
    took: Duration,
    asked: ByteLen,
}

static_assertions::assert_impl_all!(Buffer: Send, Sync);

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its first byte in the buffer.
    pub offset: u64,
    /// Its size in bytes.
    pub len: u64,
    /// Its address in this process. A hint: the page may be punched unless it is pinned or the buffer is sealed.
    pub address: usize,
    /// Its physical address, where the system says it and does not move the page: hugetlb, with `CAP_SYS_ADMIN`.
    pub physical: Option<u64>,
    /// The node that holds it.
    pub node: NodeId,
}

impl Buffer {
    fn live(&self) -> &Live {
        // INVARIANT: taken only by Drop, after which nobody can call.
        match &self.live {
            Some(live) => live,
            None => unreachable!("a buffer that is being dropped has no callers"),
        }
    }

    fn core(&self) -> &htlb_core::Buffer<Slots> {
        &self.live().core
    }

    fn host(&self) -> &BufferHost {
        &self.live().host
    }

    /// The size in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.core().map().size().raw()
    }

    /// Whether it was truncated to nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes it can grow to.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.core().map().extents().capacity().raw()
    }

    /// The page that holds the byte at `offset`.
    ///
    /// # Errors
    /// [`Cause::RangeBeyondEnd`]; [`Cause::NotPresent`] where no page has been put there.
    pub fn page_at(&self, offset: u64) -> Result<Page, Error> {
        let asked = || format!("find the page at offset {offset}");
        let found = self
            .core()
            .map()
            .page_at(ByteOffset::new(offset))
            .map_err(|cause| Error::new(asked(), cause))?;
        let start = offset - found.offset_in_page.raw();
        let index = self
            .core()
            .map()
            .index_at(ByteOffset::new(offset))
            .map_err(|cause| Error::new(asked(), cause))?;
        let arena = self
            .arena_at(index)
            .map_err(|cause| Error::new(asked(), cause))?;
        let node = crate::host::locked(arena.stock())
            .pool()
            .knows(found.pfn)
            .map_or(NodeId::ZERO, |class| class.node);
        Ok(Page {
            offset: start,
            len: found.size.bytes(),
            address: address(found.pfn),
            physical: arena.physical(found.pfn).map(|pfn| pfn.raw() << 12),
            node,
        })
    }

    /// The offset of the byte at `address`, the inverse of [`Buffer::page_at`]; `None` where it is not in this buffer.
    #[must_use]
    pub fn offset_of(&self, address: usize) -> Option<u64> {
        let map = self.core().map();
        let (index, pfn, size) = map.frames().find(|(_, pfn, size)| {
            let start = crate::arena::address(*pfn);
            (start..start + size.bytes() as usize).contains(&address)
        })?;
        let start = map.extents().bytes_of(index)?.start().raw();
        debug_assert!(size.bytes() > 0);
        Some(start + (address - crate::arena::address(pfn)) as u64)
    }

    fn arena_at(&self, index: PageIndex) -> Result<&Arc<Arena>, Cause> {
        let part = self.core().part_of(index).ok_or(Cause::RangeBeyondEnd)?;
        self.host().arena(&part.attempt).ok_or(Cause::FrameInvalid)
    }

    /// Promises every page of `offset..offset + len` that is not there yet.
    ///
    /// # Errors
    /// [`Cause::NoRoom`] and [`Cause::OutOfPages`], with nothing promised; ranges that are not whole pages of the buffer.
    pub fn reserve(&self, offset: u64, len: u64) -> Result<(), Error> {
        let _inside = self.host().shared().enter();
        let fail = |cause| self.error(format!("reserve {len} bytes at offset {offset}"), cause);
        let range = ByteRange::at(ByteOffset::new(offset), ByteLen::new(len)).map_err(fail)?;
        driver::reserve(self.host(), self.core(), range)
            .map(drop)
            .map_err(fail)
    }

    /// Gives the pages and promises of `offset..offset + len` back. No system call.
    ///
    /// # Errors
    /// [`Cause::Pinned`] and [`Cause::Sealed`], with nothing given back; ranges that are not whole pages of the buffer.
    pub fn punch(&self, offset: u64, len: u64) -> Result<(), Error> {
        let _inside = self.host().shared().enter();
        let fail = |cause| self.error(format!("punch {len} bytes at offset {offset}"), cause);
        let range = ByteRange::at(ByteOffset::new(offset), ByteLen::new(len)).map_err(fail)?;
        driver::punch(self.host(), self.core(), range)
            .map(drop)
            .map_err(fail)
    }

    /// Makes the buffer `size` bytes long. Shrinking gives back the pages that lie wholly beyond and zeroes the rest of the one
    /// that the new end cuts; growing promises nothing.
    ///
    /// # Errors
    /// [`Cause::BeyondCapacity`]; shrinking as [`Buffer::punch`].
    pub fn truncate(&mut self, size: u64) -> Result<(), Error> {
        let fail = |this: &Self, cause| this.error(format!("resize to {size} bytes"), cause);
        let old = self.len();
        {
            let _inside = self.host().shared().enter();
            driver::truncate(self.host(), self.core(), ByteLen::new(size))
                .map_err(|cause| fail(self, cause))?;
        }
        if size < old && size > 0 {
            let cut = self.core().map().page_at(ByteOffset::new(size - 1));
            if let Ok(page) = cut {
                let used = page.offset_in_page.raw() + 1;
                let arena = self
                    .core()
                    .map()
                    .index_at(ByteOffset::new(size - 1))
                    .and_then(|index| self.arena_at(index));
                let at = address(page.pfn);
                let zeroed = arena.and_then(|arena| {
                    let (mut lease, from) =
                        self.host()
                            .hold_alone(arena, at, page.size.bytes() as usize)?;
                    if let Some(bytes) =
                        Arc::get_mut(&mut lease).and_then(|lease| lease.bytes_mut())
                    {
                        if let Some(tail) =
                            bytes.get_mut(from + used as usize..from + page.size.bytes() as usize)
                        {
                            tail.fill(0);
                        }
                    }
                    self.host().give_back(lease);
                    Ok(())
                });
                zeroed.map_err(|cause| fail(self, cause))?;
            }
        }
        self.asked = ByteLen::new(size);
        Ok(())
    }

    /// What was got: computed afresh, so it is true of now.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        let map = self.core().map();
        let mut shares = Vec::new();
        for (number, part) in self.core().parts().enumerate() {
            let mut nodes: Vec<(NodeId, PageCount)> = Vec::new();
            let mut pages = 0;
            if let Some(arena) = self.host().arena(&part.attempt) {
                let stock = crate::host::locked(arena.stock());
                let frames = map
                    .frames()
                    .filter(|(index, _, _)| map.extents().number_of(*index) == Some(number));
                for class in frames.filter_map(|(_, pfn, _)| stock.pool().knows(pfn)) {
                    pages += 1;
                    match nodes.iter_mut().find(|(node, _)| *node == class.node) {
                        Some((_, count)) => *count = PageCount::new(count.raw() + 1),
                        None => nodes.push((class.node, PageCount::ONE)),
                    }
                }
            }
            nodes.sort_unstable();
            let promised = map
                .census()
                .iter()
                .nth(number)
                .map_or(0, |(_, census)| census.promises().raw());
            shares.push(Share {
                rung: part.attempt.rung,
                size: part.attempt.size,
                pages: PageCount::new(pages + promised),
                nodes,
            });
        }
        Receipt {
            asked: self.asked,
            shares,
            refusals: self.host().refusals(),
            reserved: ByteLen::new(self.promised()),
            populated: ByteLen::new(self.populated()),
            home: self.home.clone(),
            took: self.took,
            advice: None,
        }
    }

    /// Bytes that are promised and have no page yet.
    fn promised(&self) -> u64 {
        self.core()
            .map()
            .census()
            .iter()
            .map(|(size, census)| size.bytes() * census.promises().raw())
            .sum()
    }

    /// Bytes that have a page.
    fn populated(&self) -> u64 {
        self.core()
            .map()
            .census()
            .iter()
            .map(|(size, census)| size.bytes() * census.present.raw())
            .sum()
    }

    /// An error with what the ladder met on its way.
    fn error(&self, asked: String, cause: Cause) -> Error {
        self.host()
            .refusals()
            .into_iter()
            .fold(Error::new(asked, cause), |error, refusal| {
                error.found(refusal.why)
            })
    }

    /// The addresses of `range`, if its pages are all present and follow each other in memory.
    fn straight(&self, start: u64, len: u64) -> Result<(usize, &Arc<Arena>), Cause> {
        let map = self.core().map();
        let range = ByteRange::at(ByteOffset::new(start), ByteLen::new(len))?;
        let first_index = map.index_at(range.start())?;
        let last_index = map.index_at(ByteOffset::new(range.end().raw() - 1))?;
        let first = map.page_at(range.start())?;
        let base = address(first.pfn) + first.offset_in_page.raw() as usize;
        let arena = self.arena_at(first_index)?;
        let mut next: Pfn = first.pfn;
        for index in (first_index.raw()..=last_index.raw()).map(PageIndex::new) {
            let at = map
                .extents()
                .bytes_of(index)
                .ok_or(Cause::RangeBeyondEnd)?
                .start();
            let page = map.page_at(at)?;
            let same = Arc::ptr_eq(self.arena_at(index)?, arena);
            if page.pfn != next || !same {
                return Err(Cause::NoContiguousRun);
            }
            next = Pfn::new(page.pfn.raw() + page.size.base_pages());
        }
        Ok((base, arena))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(mut live) = self.live.take() else {
            return;
        };
        let shared = Arc::clone(live.host.shared());
        if !shared.is_mine() {
            // A child's copy: the pages are the parent's. What it would lock may be locked for ever.
            std::mem::forget(live);
            return;
        }
        let inside = shared.enter();
        if let Some((owner, key)) = self.keep.take().filter(|(_, key)| live.is_as_made(key)) {
            match owner.shelf().push(key, live, self.place) {
                Ok(()) => return,
                Err(back) => live = back,
            }
        }
        release(&shared, live, self.place);
        drop(inside);
    }
}

/// The end of a buffer: its pages and promises go back. The caller is inside the gate.
pub(crate) fn release(shared: &Shared, live: Arc<Live>, place: usize) {
    shared.unregister(place);
    // INVARIANT: inspections upgrade only while the gate is closed, so this is the last owner.
    let Some(Live { mut core, host }) = Arc::into_inner(live) else {
        return;
    };
    let first = core.parts().next().copied();
    // Pins and seals borrow the buffer; one that was leaked keeps its pages, which is what it asked for.
    if driver::release(&host, &mut core).is_ok() {
        if let Some(part) = first {
            host.put_aside_back(&part.attempt, part.charge);
        }
    }
}
