// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which page: free pages by class, whole chunks kept whole, clean ones known.
//!
//! The [ledger](crate::ledger) decides how many pages a caller may have and of which [`Class`]; the pool picks
//! *which* page of that class. It knows the pages of one size, from one page to many tebibytes, and keeps two
//! bits for each.
//!
//! # Shape
//!
//! Pages are grouped into *chunks*: those of one class in one *region* of 512 pages, aligned like the next
//! page-table level (1 GiB for 2 MiB pages). A chunk with free pages hangs on one of the six lists of its class's
//! *shelf*: partly or wholly free, and dirty, mixed or clean. A directory leads from a region to its chunks.
//!
//! ```text
//! take: class ─► shelf ─► first chunk of the first list that has one ─► lowest fitting page
//! put:  frame ─► region ─► chunk ─► bit                    (no list is walked, nothing is allocated)
//! ```
//!
//! A page is taken from a partly free chunk before a wholly free one is broken, so that whole ones stay for
//! [runs](Pool::find_run) and for the larger page size. Among equals a page of the preferred [`Condition`] is
//! taken; a page that comes back is dirty unless its owner cleared it.
//!
//! # Invariants
//!
//! - A page is in at most one chunk, and is there unknown, taken, free and dirty, or free and clean; there is no
//!   fifth state to store.
//! - A chunk without pages is no chunk: its record is reused. A shelf without chunks likewise.
//! - Counts of chunks and shelves are sums over what they hold; [`Pool::check`] compares them.
//! - Whatever a later call must not fail on happens in [`Pool::add`]: `take`, `put` and `remove` need no memory.
//!
//! The tables live in memory of the host, `M`. [`Stop::Metadata`] says when they are full; the host allocates
//! without its lock and hands the memory to [`Pool::adopt`].

mod check;
mod chunk;
mod directory;
mod layout;
mod place;
mod run;
mod search;
mod shelf;
mod records;
mod tables;

pub use check::Violation;
pub use run::{FoundRun, Run};

use chunk::{bit, Bin, Planes, NONE};
use layout::Layout;
use place::Place;
use records::Records;
use tables::Tables;

use crate::error::Error;
use crate::frame::{Condition, Frame};
use crate::reach::Class;
use crate::step::Stop;
use crate::units::{HugeSize, PageCount, Pfn};

/// How many pages the pool knows, of one class or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages that were added and not removed, free or taken.
    #[doc(alias = "nr_huge_pages")]
    pub known: PageCount,
    /// Free pages.
    #[doc(alias = "free_huge_pages")]
    pub free: PageCount,
    /// Free pages that hold only zeroes.
    pub clean: PageCount,
}

/// The pages of one size, free and taken.
///
/// ```
/// use htlb_core::pool::Pool;
/// use htlb_core::{Class, Condition, Error, Frame, HugeSize, NodeId, Pfn};
///
/// let size = HugeSize::MIB2;
/// let mut pool = Pool::new(size, vec![0; Pool::<Vec<u64>>::words(1)])?;
/// let class = Class::of(Pfn::new(512), size, NodeId::ZERO);
/// pool.add(Frame::new(Pfn::new(512), size)?, class, Condition::Clean).unwrap();
///
/// let (frame, condition) = pool.take(class, Condition::Clean).unwrap();
/// assert_eq!((frame.pfn().raw(), condition), (512, Condition::Clean));
/// assert_eq!(pool.put(frame, Condition::Dirty), Ok(class));
/// assert_eq!(pool.condition(Pfn::new(512)), Some(Condition::Dirty));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[doc(alias = "hstate")]
pub struct Pool<M> {
    size: HugeSize,
    tables: Tables<M>,
    chunks: Records,
    shelves: Records,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Pool<M> {
    /// The 64-bit words of memory that `chunks` chunks need; `usize::MAX` where the address space is too small.
    ///
    /// A chunk is up to 512 pages of one class. Memory aligned to a cache line is best.
    #[must_use]
    pub fn words(chunks: u32) -> usize {
        Layout::new(chunks).map_or(usize::MAX, |layout| layout.words())
    }

    /// A pool that knows no page, with tables in `memory`, whatever that holds.
    ///
    /// # Errors
    /// [`Error::OutOfMetadata`] where `memory` is too short for one chunk.
    pub fn new(size: HugeSize, memory: M) -> Result<Self, Error> {
        let layout = Layout::fitting(memory.as_ref().len()).ok_or(Error::OutOfMetadata)?;
        Ok(Self {
            size,
            tables: Tables::new(memory, layout),
            chunks: Records::EMPTY,
            shelves: Records::EMPTY,
        })
    }

    /// Moves the tables to `bigger`, and returns the memory that the host may now free.
    ///
    /// That is the old memory, or `bigger` itself where it holds no more chunks than there are: another caller
    /// was faster, and nothing changes.
    #[must_use = "the host's memory, to be freed"]
    pub fn adopt(&mut self, bigger: M) -> M {
        let layout = match Layout::fitting(bigger.as_ref().len()) {
            Some(layout) if layout.chunks > self.tables.layout.chunks => layout,
            _ => return bigger,
        };
        let mut tables = Tables::new(bigger, layout);
        tables.copy_from(&self.tables, self.chunks.begun(), self.shelves.begun());
        core::mem::replace(&mut self.tables, tables).into_memory()
    }

    /// The page size.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.size
    }

    /// The chunks that the tables have room for.
    #[must_use]
    pub const fn chunks(&self) -> u32 {
        self.tables.layout.chunks
    }

    /// The chunks that hold pages.
    #[must_use]
    pub const fn chunks_used(&self) -> u32 {
        self.chunks.used()
    }

    /// Makes a page known, and free.
    ///
    /// # Errors
    /// The frame, with [`Stop::Metadata`] where the tables are full, or [`Error::FrameInvalid`] for a page that is known
    /// already or of another size.
    #[doc(alias = "prep_and_add_allocated_folios")]
    pub fn add(
        &mut self,
        frame: Frame,
        class: Class,
        condition: Condition,
    ) -> Result<(), (Frame, Stop)> {
        if frame.size() != self.size || self.locate(frame.pfn()).is_some() {
            return Err((frame, Error::FrameInvalid.into()));
        }
        let (region, page) = self.split(frame.pfn());
        let chunk = match self.chunk_of(region, class) {
            Some(chunk) => chunk,
            None => match self.need(1) {
                Ok(()) => self.open_chunk(region, class),
                Err(stop) => return Err((frame, stop)),
            },
        };
        let old = self.tables.header(chunk);
        let mut new = old;
        new.known = new.known.wrapping_add(1);
        self.free_page(Place { chunk, page }, condition, old, new);
        Ok(())
    }

    /// Makes sure that adding all of `pages` cannot fail: for callers that must know before they change anything.
    ///
    /// Pages of one class and region should follow each other; a chunk that is left and come back to is counted twice.
    ///
    /// # Errors
    /// [`Stop::Metadata`] where the tables are too small; [`Error::FrameInvalid`] or [`Error::FrameUnaligned`] for a page
    /// that is known already or cannot be a frame.
    pub fn room_for(&self, pages: impl IntoIterator<Item = (Pfn, Class)>) -> Result<(), Stop> {
        let mut chunks = 0u32;
        let mut last = None;
        for (pfn, class) in pages {
            let (region, _) = self.split(Frame::new(pfn, self.size)?.into_pfn());
            if self.locate(pfn).is_some() {
                return Err(Error::FrameInvalid.into());
            }
            if last != Some((region, class)) && self.chunk_of(region, class).is_none() {
                chunks = chunks.saturating_add(1);
            }
            last = Some((region, class));
        }
        self.need(chunks)
    }

    /// Takes a free page of `class`, of the preferred condition if that breaks no whole chunk; says what condition it is in.
    ///
    /// A caller that needs zeroes asks for clean pages, and clears a dirty one after it let go of its lock.
    #[doc(alias = "dequeue_hugetlb_folio_node_exact")]
    #[inline]
    pub fn take(&mut self, class: Class, prefer: Condition) -> Option<(Frame, Condition)> {
        let shelf = self.tables.shelf_of(class)?;
        let chunk = Bin::order(prefer)
            .into_iter()
            .map(|bin| self.tables.head(shelf, bin))
            .find(|chunk| *chunk != NONE)?;
        let old = self.tables.header(chunk);
        let condition = match prefer {
            Condition::Clean if old.clean == 0 => Condition::Dirty,
            Condition::Dirty if old.clean == old.free => Condition::Clean,
            _ => prefer,
        };
        let page = match condition {
            Condition::Clean => self.tables.first(chunk, Planes::clean),
            Condition::Dirty => self.tables.first(chunk, Planes::dirty),
        }?;
        let mut new = old;
        new.free = new.free.wrapping_sub(1);
        if condition == Condition::Clean {
            new.clean = new.clean.wrapping_sub(1);
        }
        let planes = self.tables.planes(chunk, page).took(bit(page));
        self.tables.set_planes(chunk, page, planes);
        self.tables.settle(chunk, old, new);
        Some((
            Frame::mint(self.pfn(old.region, page), self.size),
            condition,
        ))
    }

    /// Makes a taken page free again, dirty unless its owner cleared it.
    ///
    /// # Errors
    /// The frame, where no such page was taken from this pool: it came from outside, and its owner frees it to the system.
    #[doc(alias = "enqueue_hugetlb_folio")]
    #[inline]
    pub fn put(&mut self, frame: Frame, condition: Condition) -> Result<Class, Frame> {
        let Some((place, class)) = self.locate_taken(&frame) else {
            return Err(frame);
        };
        let old = self.tables.header(place.chunk);
        self.free_page(place, condition, old, old);
        Ok(class)
    }

    /// Forgets a taken page: it leaves the pool for good, and its frame stays with the caller.
    ///
    /// # Errors
    /// [`Error::FrameInvalid`] where no such page was taken from this pool.
    #[doc(alias = "remove_hugetlb_folio")]
    pub fn remove(&mut self, frame: &Frame) -> Result<Class, Error> {
        let (Place { chunk, page }, class) = self.locate_taken(frame).ok_or(Error::FrameInvalid)?;
        let old = self.tables.header(chunk);
        let mut new = old;
        new.known = new.known.wrapping_sub(1);
        let planes = self.tables.planes(chunk, page).without(bit(page));
        self.tables.set_planes(chunk, page, planes);
        self.tables.settle(chunk, old, new);
        if new.known == 0 {
            self.close_chunk(chunk);
        }
        Ok(class)
    }

    /// The class of a page, free or taken, if the pool knows it.
    #[must_use]
    pub fn knows(&self, pfn: Pfn) -> Option<Class> {
        let place = self.locate(pfn)?;
        self.tables.class_on(self.tables.header(place.chunk).shelf)
    }

    /// The condition of a free page; `None` where the page is taken or unknown.
    #[must_use]
    pub fn condition(&self, pfn: Pfn) -> Option<Condition> {
        let Place { chunk, page } = self.locate(pfn)?;
        let planes = self.tables.planes(chunk, page);
        if planes.clean() & bit(page) != 0 {
            Some(Condition::Clean)
        } else if planes.dirty() & bit(page) != 0 {
            Some(Condition::Dirty)
        } else {
            None
        }
    }

    /// The pages of one class.
    #[must_use]
    pub fn counts(&self, class: Class) -> Counts {
        self.tables
            .shelf_of(class)
            .map_or(Counts::default(), |shelf| self.tables.counts_on(shelf))
    }

    /// The pages of every class that has any, in no particular order.
    pub fn classes(&self) -> impl Iterator<Item = (Class, Counts)> + '_ {
        self.shelves_in_use()
            .filter_map(|shelf| Some((self.tables.class_on(shelf)?, self.tables.counts_on(shelf))))
    }

    /// The pages of all classes.
    #[must_use]
    pub fn total(&self) -> Counts {
        let add = |a: PageCount, b: PageCount| PageCount::new(a.raw().wrapping_add(b.raw()));
        // A sum over pages of at most 2^40 base pages cannot wrap.
        self.classes()
            .fold(Counts::default(), |sum, (_, counts)| Counts {
                known: add(sum.known, counts.known),
                free: add(sum.free, counts.free),
                clean: add(sum.clean, counts.clean),
            })
    }

    /// The first frame numbers of the wholly free chunks of a class: 512 pages each, together one page of the next size.
    pub fn whole_chunks(&self, class: Class) -> impl Iterator<Item = Pfn> + '_ {
        self.tables
            .shelf_of(class)
            .into_iter()
            .flat_map(|shelf| Bin::WHOLE.into_iter().map(move |bin| (shelf, bin)))
            .flat_map(|(shelf, bin)| self.tables.list(shelf, bin))
            .map(|(_, header)| self.pfn(header.region, 0))
    }
}
