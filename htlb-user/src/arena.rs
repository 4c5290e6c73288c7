// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pages of one kind: a stock of the core's, and the windows that its pages lie in.
//!
//! A frame's number is its address divided by 4096, so a page is found without a table. A frame exists if and only if it is
//! populated: kernel reservations know neither nodes nor cgroups, so an unpopulated page is not a promise.
//!
//! Invariants:
//! - Every frame of the stock lies in exactly one window here, and is populated there.
//! - Windows keep an unmapped granule behind their last page, so no run of frames crosses from one into the next.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use htlb_core::ledger::{Ledger, Tables};
use htlb_core::pool::Pool;
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Class, Condition, Error, Exclusive, Frame, HugeSize, Level,
    NodeId, NodeMask, PageCount, Pfn, Reach, Stock, Stop, Supply,
};

use crate::sys::lease::Lease;
use crate::sys::memfd::{Kind, Memfd};
use crate::sys::numa::{Existing, Place, Policy};
use crate::sys::pagemap;
use crate::sys::populate::PopulateError;
use crate::sys::window::{Advice, Backing, Fork, Window, WindowError};

/// Memory for a page map's slots.
pub(crate) type Slots = Box<[AtomicU64]>;
/// Memory for tables.
pub(crate) type Words = Box<[u64]>;

/// What kind of pages these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kin {
    /// From the system's hugetlb pool.
    Hugetlb,
    /// Anonymous memory that asks for transparent huge pages.
    Transparent,
    /// Anonymous memory in base pages.
    Base,
}

/// A window, and where its pages are physically, as far as the system says.
#[derive(Debug)]
struct Region {
    window: Arc<Window>,
    /// The physical frame number of each page; empty where it cannot be known or may change.
    physical: Box<[u64]>,
    /// Pages that have not gone back to the system.
    live: u64,
}

/// How to grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// Pages.
    pub(crate) pages: PageCount,
    /// What the pages must be.
    pub(crate) reach: Reach,
    /// Whether `reach` leaves nodes out.
    pub(crate) binding: Binding,
    /// Where they had best be.
    pub(crate) prefer: NodeMask,
    /// Whether they stay when they are free again.
    pub(crate) supply: Supply,
    /// Threads that populate.
    pub(crate) threads: usize,
}

/// Whether pages may lie elsewhere if the wanted nodes are short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// Nowhere else.
    Strict,
    /// Anywhere.
    Preferred,
}

/// The pages of one kind and size.
#[derive(Debug)]
pub(crate) struct Arena {
    kin: Kin,
    size: HugeSize,
    stock: Mutex<Stock<Words>>,
    regions: RwLock<BTreeMap<usize, Region>>,
}

impl Arena {
    /// Without pages, for nodes below `nodes`.
    pub(crate) fn new(kin: Kin, size: HugeSize, nodes: u8) -> Result<Self, Error> {
        let tables = Tables {
            nodes,
            kinds: 8,
            accounts: 4,
        };
        let ledger = Ledger::new(words(tables.words()), tables)?;
        let pool = Pool::new(size, words(Pool::<Words>::words(8)))?;
        Ok(Self {
            kin,
            size,
            stock: Mutex::new(Stock::new(ledger, pool)),
            regions: RwLock::new(BTreeMap::new()),
        })
    }

    pub(crate) const fn kin(&self) -> Kin {
        self.kin
    }

    pub(crate) const fn size(&self) -> HugeSize {
        self.size
    }

    pub(crate) const fn stock(&self) -> &Mutex<Stock<Words>> {
        &self.stock
    }

    /// Gets pages from the system, all in one window, populated, verified, and puts them into the stock. All or none.
    ///
    /// # Errors
    /// [`Error::OutOfPages`] where the system is short; [`Error::OutOfReach`] where it gave pages that the reach does not
    /// cover, or does not say where they are; [`Error::OvercommitLimit`]; [`Error::Poisoned`].
    pub(crate) fn grow(&self, growth: &Growth) -> Result<(), Error> {
        let backing = match self.kin {
            Kin::Hugetlb => Backing::Sole(Memfd::new(Kind::Hugetlb(self.size))?),
            Kin::Transparent | Kin::Base => Backing::Private,
        };
        self.grow_in(growth, backing)
    }

    /// As [`Arena::grow`], in this memory.
    pub(crate) fn grow_in(&self, growth: &Growth, backing: Backing) -> Result<(), Error> {
        let narrow = growth.reach.level() < Level::WIDEST;
        if narrow && self.kin != Kin::Hugetlb {
            // Such pages may be moved by the system at any time.
            return Err(Error::OutOfReach);
        }
        let len = self.size.len_of(growth.pages)?;
        let guard = len
            .checked_add(self.size.bytes())
            .ok_or(Error::SizeTooLarge)?;
        let window =
            Arc::new(Window::reserve(backing, guard, self.size, Fork::Exclude).map_err(refused)?);
        let range = ByteRange::at(ByteOffset::ZERO, len)?;
        window.extend_file(len).map_err(refused)?;
        window.map(range).map_err(refused)?;
        if self.kin == Kin::Transparent {
            window.advise(range, Advice::HugePage).map_err(refused)?;
        }
        let policy = match (growth.binding, growth.prefer.first()) {
            (Binding::Strict, _) => Some(Policy::Bind(growth.reach.nodes())),
            (Binding::Preferred, Some(node)) if growth.prefer.count() == 1 => {
                Some(Policy::Preferred(node))
            }
            (Binding::Preferred, Some(_)) => Some(Policy::PreferredMany(growth.prefer)),
            (Binding::Preferred, None) => None,
        };
        if let Some(policy) = policy {
            match (
                window.mbind(range, policy, Existing::Ignore),
                growth.binding,
            ) {
                (Err(error), Binding::Strict) => return Err(refused(error)),
                // A preference that the kernel does not know is a preference not met.
                _ => {}
            }
        }
        populate(&window, range, self.size, growth.threads)?;
        if self.kin == Kin::Transparent {
            let huge = pagemap::huge_mapped(&window, range).map_err(refused)?;
            if huge.bytes < len {
                // Called huge only where it is.
                return Err(Error::OutOfPages);
            }
        }
        self.adopt(window, range, growth.reach, growth.supply, Condition::Clean)
    }

    /// Takes in the pages of a populated window.
    pub(crate) fn adopt(
        &self,
        window: Arc<Window>,
        range: ByteRange,
        reach: Reach,
        supply: Supply,
        condition: Condition,
    ) -> Result<(), Error> {
        let pages = self.size.whole_pages_in(range.len()).raw();
        let physical = if self.kin == Kin::Hugetlb {
            physical_of(&window, range)
        } else {
            Box::default()
        };
        let nodes = window.nodes(range).map_err(refused)?;
        let class = |page: usize| Class {
            node: match nodes.get(page) {
                Some(Place::On(node)) => *node,
                _ => NodeId::ZERO,
            },
            level: physical
                .get(page)
                .map_or(Level::WIDEST, |pfn| Level::of(Pfn::new(*pfn), self.size)),
        };
        let count = usize::try_from(pages).map_err(|_| Error::SizeTooLarge)?;
        if (0..count).any(|page| !reach.covers(class(page))) {
            return Err(Error::OutOfReach);
        }
        let base = window.base().as_ptr().addr();
        {
            // The window is known before its first page can be taken.
            let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
            regions.insert(
                base,
                Region {
                    window,
                    physical: physical.clone(),
                    live: pages,
                },
            );
        }
        let mut outcome = Ok(());
        for page in 0..count {
            let frame = Frame::new(self.pfn_at(base, page), self.size)?;
            if outcome.is_ok() {
                if let Err((frame, error)) = self.add(frame, class(page), condition, supply) {
                    outcome = Err(error);
                    self.free(frame);
                }
            } else {
                self.free(frame);
            }
        }
        outcome
    }

    fn add(
        &self,
        frame: Frame,
        class: Class,
        condition: Condition,
        supply: Supply,
    ) -> Result<(), (Frame, Error)> {
        let mut frame = frame;
        loop {
            match self
                .stock
                .with(|stock| stock.add(frame, class, condition, supply))
            {
                Ok(()) => return Ok(()),
                Err((back, Stop::Metadata { table, words: len })) => {
                    frame = back;
                    let bigger = words(len);
                    drop(self.stock.with(|stock| stock.adopt(table, bigger)));
                }
                Err((back, Stop::Fail(error))) => return Err((back, error)),
                Err((back, Stop::Wait(_))) => return Err((back, Error::Closed)),
            }
        }
    }

    const fn pfn_at(&self, base: usize, page: usize) -> Pfn {
        Pfn::new((base as u64 >> 12) + page as u64 * self.size.base_pages())
    }

    /// The exclusive right to the bytes of `len` bytes from the page at `pfn`.
    pub(crate) fn lease(&self, pfn: Pfn, len: ByteLen) -> Result<Lease, Error> {
        let at = address(pfn);
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let (base, region) = regions
            .range(..=at)
            .next_back()
            .ok_or(Error::FrameInvalid)?;
        let range = ByteRange::at(ByteOffset::new((at - base) as u64), len)?;
        region.window.lease(range).map_err(refused)
    }

    /// The file behind the pages, where peers may have it.
    pub(crate) fn shared_file(&self) -> Option<OwnedFd> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions
            .values()
            .find_map(|region| region.window.shared_file()?.try_clone_to_owned().ok())
    }

    /// Whether the page at `pfn` lies here.
    pub(crate) fn holds(&self, pfn: Pfn) -> bool {
        let at = address(pfn);
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let found = regions.range(..=at).next_back();
        found.is_some_and(|(base, region)| at - base < region.window.len().raw() as usize)
    }

    /// Where the page is physically; `None` where the system does not say, or may move it.
    pub(crate) fn physical(&self, pfn: Pfn) -> Option<Pfn> {
        let at = address(pfn);
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let (base, region) = regions.range(..=at).next_back()?;
        let page = (at - base) as u64 >> self.size.shift();
        region
            .physical
            .get(usize::try_from(page).ok()?)
            .copied()
            .map(Pfn::new)
    }

    /// Gives a page back to the system, and its window with the last one.
    pub(crate) fn free(&self, frame: Frame) {
        let at = address(frame.into_pfn());
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let Some((&base, region)) = regions.range_mut(..=at).next_back() else {
            return;
        };
        let range = ByteRange::at(
            ByteOffset::new((at - base) as u64),
            ByteLen::new(self.size.bytes()),
        );
        if let Ok(range) = range {
            // A page that is refused here stays with its window, and goes with it.
            let _ = region.window.discard(range);
        }
        region.live = region.live.saturating_sub(1);
        if region.live == 0 {
            regions.remove(&base);
        }
    }

    /// Gives up to `pages` free pages that no promise needs back to the system; says how many went.
    pub(crate) fn trim(&self, pages: PageCount) -> PageCount {
        let mut gone = 0;
        while gone < pages.raw() {
            let frame = self.stock.with(|stock| {
                let classes: Vec<Class> = stock
                    .pool()
                    .classes()
                    .filter(|(_, counts)| !counts.free.is_zero())
                    .map(|(class, _)| class)
                    .collect();
                classes
                    .into_iter()
                    .find_map(|class| stock.shrink(class).ok())
            });
            let Some(frame) = frame else { break };
            self.free(frame);
            gone += 1;
        }
        PageCount::new(gone)
    }
}

/// The address of a frame: its number is made of it.
pub(crate) const fn address(pfn: Pfn) -> usize {
    (pfn.raw() << 12) as usize
}

/// Zeroed words.
pub(crate) fn words(len: usize) -> Words {
    vec![0; len].into_boxed_slice()
}

pub(crate) fn refused(error: WindowError) -> Error {
    match error {
        WindowError::Kernel(failure) => failure.into(),
        WindowError::Range(error) => error,
        WindowError::Leased | WindowError::Mapping => Error::FrameInvalid,
    }
}

/// Populates in parallel, each thread a part of its own.
fn populate(
    window: &Window,
    range: ByteRange,
    size: HugeSize,
    threads: usize,
) -> Result<(), Error> {
    let pages = size.pages_for(range.len()).raw();
    let share = pages.div_ceil(threads.max(1) as u64).max(1);
    let parts: Vec<ByteRange> = (0..pages)
        .step_by(usize::try_from(share).unwrap_or(usize::MAX))
        .filter_map(|first| {
            let start = range.start().raw() + first * size.bytes();
            let end = (start + share * size.bytes()).min(range.end().raw());
            ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)).ok()
        })
        .collect();
    let one = |part: &ByteRange| match window.populate_write(*part) {
        Ok(_) => Ok(()),
        Err(PopulateError::Shortage(_)) => Err(Error::OutOfPages),
        Err(error) => Err(error.into()),
    };
    if let [only] = parts.as_slice() {
        return one(only);
    }
    thread::scope(|scope| {
        let workers: Vec<_> = parts
            .iter()
            .map(|part| scope.spawn(move || one(part)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(Err(Error::OutOfPages)))
            .fold(Ok(()), Result::and)
    })
}

/// The physical frame of each page, or nothing where the system hides one.
fn physical_of(window: &Window, range: ByteRange) -> Box<[u64]> {
    let known = |entries: Vec<pagemap::Entry>| {
        entries
            .iter()
            .map(|entry| entry.pfn().map(Pfn::raw))
            .collect()
    };
    pagemap::entries(window, range)
        .ok()
        .and_then(known)
        .map(Vec::into_boxed_slice)
        .unwrap_or_default()
}
