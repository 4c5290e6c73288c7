// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A buffer: memory in the largest pages that could be had, and a receipt that says which.

mod attach;
mod builder;
mod change;
#[cfg(test)]
mod conformance;
mod copy;
mod fill;
mod guard;
mod make;
mod report;
mod share;
mod slice;

use std::sync::Arc;
use std::time::Duration;

use htlb_core::driver;
use htlb_core::stock::{Held, Violation};
use htlb_core::{ByteLen, ByteOffset, Error as Cause, Host, NodeId, PageIndex, Part, Stock};

use crate::arena::{address, Arena, Slots, Words};
use crate::error::Error;
use crate::host::BufferHost;
use crate::locks::locked;
use crate::owner::{Key, Tenancy};
use crate::pools::{back_off, Shared};
use crate::receipt::Home;

pub use builder::{BufferBuilder, Layout, Populate};
pub use fill::PageMut;
pub use guard::{PinnedPage, Sealed};
pub use share::Access;
pub use slice::{Slice, SliceMut};

/// The part of a buffer that an inspection looks at too.
#[derive(Debug)]
pub(crate) struct Live {
    core: htlb_core::Buffer<Slots>,
    host: BufferHost,
}

impl Live {
    /// What it holds of a pool of the process, or of its own pages.
    pub(crate) fn held(&self, arena: &Arc<Arena>, stock: &Stock<Words>) -> Held {
        let serves = |part: &Part| {
            self.host
                .arena(&part.attempt)
                .is_some_and(|of| Arc::ptr_eq(of, arena))
        };
        let mut held = stock.held_by(&self.core, serves);
        if self.core.parts().next().is_some_and(serves) {
            held.pages = held.pages.saturating_add(self.host.aside().left());
        }
        held
    }

    /// Whether a part of it lies in `arena`.
    pub(crate) fn uses(&self, arena: &Arc<Arena>) -> bool {
        self.core.parts().any(|part| {
            self.host
                .arena(&part.attempt)
                .is_some_and(|of| Arc::ptr_eq(of, arena))
        })
    }

    /// Whether every page that it was made with is there, of its one extent, and nobody has a hand on one.
    fn is_as_made(&self, size: ByteLen) -> bool {
        let map = self.core.map();
        let as_it_was = map.size() == size && !map.is_sealed() && self.host.leases().are_here();
        as_it_was && {
            let pages = map.extents().slots() as u64;
            let census = map.census();
            let mut extents = census.iter();
            extents.all(|(_, census)| census.present.raw() == pages && census.pins == 0)
        }
    }

    /// Whether the pages of `arena` are this buffer's alone.
    pub(crate) fn owns(&self, arena: &Arc<Arena>) -> bool {
        self.host
            .own_arena()
            .is_some_and(|own| Arc::ptr_eq(own, arena))
    }

    /// Audits the pages that are this buffer's alone, of which so many are in limbo.
    pub(crate) fn check_own(&self, limbo: u64) -> Result<(), Violation> {
        let Some(arena) = self.host.own_arena() else {
            return Ok(());
        };
        let stock = locked(arena.stock());
        let mut held = self.held(arena, &stock);
        held.pages = held.pages.saturating_add(limbo);
        stock.audit(held)
    }
}

/// Memory of a known size in pages of a known size.
///
/// Made by [`crate::Pools::buffer`]. `Send` and `Sync`: threads may populate, pin and read it at once. A forked child has
/// none of it: there every call is an error, and dropping does nothing. Only slices made before the fork must not be touched.
///
/// Dropping gives everything back. A pin, slice or seal that was leaked keeps the pages for ever.
#[derive(Debug)]
pub struct Buffer {
    // ORDER: dropped before the keeper, which may be the last one of an owner that ends, and then gives this back.
    live: Arc<Live>,
    /// Where the pools know of it.
    place: usize,
    /// Who keeps its pages, and for what request the whole of it.
    keeper: Option<Keeper>,
    home: Home,
    access: Access,
    took: Duration,
    asked: ByteLen,
}

/// Who has a buffer's memory when it is dropped.
#[derive(Debug)]
struct Keeper {
    owner: Arc<Tenancy>,
    /// The choices of a buffer that can be kept whole.
    key: Option<Key>,
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
    /// The node that holds it, where the system says it.
    pub node: Option<NodeId>,
}

impl Buffer {
    /// Makes a buffer known to inspections.
    fn register(live: Live, home: Home, access: Access, size: u64) -> Self {
        let live = Arc::new(live);
        Self {
            place: live.host.shared().register(&live),
            live,
            keeper: None,
            home,
            access,
            took: Duration::ZERO,
            asked: ByteLen::new(size),
        }
    }

    fn core(&self) -> &htlb_core::Buffer<Slots> {
        &self.live.core
    }

    fn host(&self) -> &BufferHost {
        &self.live.host
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
    /// ```
    /// let pools = htlb_user::Pools::new()?;
    /// let buffer = pools.buffer(16384).base_pages().create()?;
    /// let page = buffer.page_at(5000)?;
    /// assert_eq!((page.offset, page.len), (4096, 4096));
    /// assert_eq!(buffer.offset_of(page.address + 904), Some(5000));
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Cause::RangeBeyondEnd`]; [`Cause::NotPresent`] where no page has been put there.
    pub fn page_at(&self, offset: u64) -> Result<Page, Error> {
        self.find(offset)
            .map_err(|cause| self.error(format!("find the page at offset {offset}"), cause))
    }

    fn find(&self, offset: u64) -> Result<Page, Cause> {
        self.here()?;
        let map = self.core().map();
        let found = map.page_at(ByteOffset::new(offset))?;
        let arena = self.arena_at(map.index_at(ByteOffset::new(offset))?)?;
        Ok(Page {
            offset: offset - found.offset_in_page.raw(),
            len: found.size.bytes(),
            address: address(found.pfn),
            physical: arena.physical(found.pfn).map(|pfn| pfn.raw() << 12),
            node: arena.node(found.pfn),
        })
    }

    /// The offset of the byte at `address`, the inverse of [`Buffer::page_at`]; `None` where it is not in this buffer.
    ///
    /// Looks at one page where the buffer is straight in memory, at all of them where it is not.
    #[must_use]
    pub fn offset_of(&self, address: usize) -> Option<u64> {
        let map = self.core().map();
        let within = |start: usize, len: u64| {
            let inside = address.checked_sub(start)? as u64;
            (inside < len).then_some(inside)
        };
        // Where the first page leads to the right one, no other has to be looked at.
        if let Ok(first) = map.page_at(ByteOffset::ZERO) {
            let guess = address.checked_sub(crate::arena::address(first.pfn));
            let guess = guess.and_then(|guess| u64::try_from(guess).ok());
            if let Some((guess, Ok(page))) =
                guess.map(|guess| (guess, map.page_at(ByteOffset::new(guess))))
            {
                let start = crate::arena::address(page.pfn);
                if within(start, page.size.bytes()) == Some(page.offset_in_page.raw()) {
                    return Some(guess);
                }
            }
        }
        map.frames().find_map(|(index, pfn, size)| {
            let inside = within(crate::arena::address(pfn), size.bytes())?;
            let offset = map.extents().bytes_of(index)?.start().raw() + inside;
            (offset < map.size().raw()).then_some(offset)
        })
    }

    /// Whether this process made the buffer.
    fn here(&self) -> Result<(), Cause> {
        match self.host().shared().is_mine() {
            true => Ok(()),
            false => Err(Cause::NotPresent),
        }
    }

    fn arena_at(&self, index: PageIndex) -> Result<&Arc<Arena>, Cause> {
        let part = self.core().part_of(index).ok_or(Cause::RangeBeyondEnd)?;
        self.host().arena(&part.attempt).ok_or(Cause::FrameInvalid)
    }

    /// An error, with what the ladder met on its way where that has to do with it.
    fn error(&self, asked: String, cause: Cause) -> Error {
        let error = Error::new(asked, cause);
        if !self.host().shared().is_mine() {
            return error.forked();
        }
        match cause {
            Cause::NoRoom | Cause::OutOfPages | Cause::OutOfReach | Cause::OvercommitLimit => self
                .host()
                .refusals()
                .into_iter()
                .fold(error, |error, refusal| error.found(refusal.why)),
            Cause::Sealed if self.access != Access::InPlace => {
                error.advise("this memory is another process's: change it there")
            }
            _ => error,
        }
    }

    /// Sleeps until `what` may have changed.
    fn wait(&self, what: htlb_core::WaitFor) -> Result<(), Cause> {
        self.host().wait(self.core().map(), what, None)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // A forked child's copy: the pages are the parent's, and what it would lock may be locked for ever.
        if !self.live.host.shared().is_mine() {
            return;
        }
        let keeper = self.keeper.as_ref();
        if let Some((owner, key)) = keeper.and_then(|keeper| Some((&keeper.owner, keeper.key?))) {
            if self.live.is_as_made(key.request.size()) {
                let live = Arc::clone(&self.live);
                if owner.shelf().push_whole(key, live, self.place).is_ok() {
                    return;
                }
            }
        }
        let shared = Arc::clone(self.live.host.shared());
        if let Ok(_inside) = shared.enter() {
            release(&shared, &mut self.live, self.place, Leftovers::ToOwner);
        };
    }
}

/// Who has the pages of a buffer that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// Its owner, as far as there is one that has room.
    ToOwner,
    /// Everybody.
    ToPools,
}

/// The end of a buffer: its pages and promises go back. The caller is inside the gate.
pub(crate) fn release(shared: &Shared, live: &mut Arc<Live>, place: usize, to: Leftovers) {
    shared.unregister(place);
    // INVARIANT: inspections have others only behind the closed gate; a thread that has just given it to its owner lets go
    // at once. So this is, or soon will be, the only one.
    let mut rounds = 0;
    while Arc::strong_count(live) > 1 && rounds < 10_000 {
        back_off(&mut rounds);
    }
    let released = Arc::get_mut(live).is_some_and(|Live { core, host }| {
        if to == Leftovers::ToPools {
            host.disown();
        }
        let first = core.parts().next().copied();
        let released = driver::release(host, core).is_ok();
        if let Some(part) = first.filter(|_| released) {
            host.put_aside_back(&part.attempt, part.charge);
        }
        released
    });
    if !released {
        shared.keep(live);
    }
}
