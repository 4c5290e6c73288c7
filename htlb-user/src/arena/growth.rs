// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages from the system: mapped, populated, verified, classified, and only then known to the stock.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use htlb_core::{
    ByteOffset, ByteRange, Class, Condition, Error, Exclusive, Frame, HugeSize, Level, NodeId,
    NodePolicy, PageCount, Pfn, Reach, Rung, Stock, Stop, Supply,
};

use super::regions::{Nodes, Region};
use super::{number, refused, words, Arena, Kin, Words};
use crate::parallel;
use crate::sys::memfd::{Kind, Memfd};
use crate::sys::numa::{Existing, Place, Policy};
use crate::sys::pagemap;
use crate::sys::populate::PopulateError;
use crate::sys::window::{Advice, Backing, Fork, Window};

/// How to grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    /// Pages.
    pub(crate) pages: PageCount,
    /// What the pages must be.
    pub(crate) reach: Reach,
    /// Where the kernel is to look for them.
    pub(crate) nodes: NodePolicy,
    /// Whether they stay when they are free again.
    pub(crate) supply: Supply,
    /// Threads that populate.
    pub(crate) threads: usize,
    /// The rung of the module that serves it, where the memory is the module's.
    pub(crate) device: Option<Rung>,
}

/// A populated window whose pages the stock does not know yet.
#[derive(Debug)]
pub(crate) struct Fresh {
    pub(crate) window: Arc<Window>,
    pub(crate) range: ByteRange,
    /// What the pages must be.
    pub(crate) reach: Reach,
    /// Whether they must be where the policy says.
    pub(crate) nodes: NodePolicy,
    pub(crate) supply: Supply,
    /// As in [`Growth`].
    pub(crate) device: Option<Rung>,
}

impl Arena {
    /// Gets pages from the system, all in one window, and puts them into the stock. All or none. `then` sees them there
    /// before anybody else can take one.
    ///
    /// # Errors
    /// [`Error::OutOfPages`] where the system is short; [`Error::OutOfReach`] where it gave pages that the reach does not
    /// cover, or does not say where they are; [`Error::SizeTooLarge`]; [`Error::Poisoned`].
    pub(crate) fn grow<T>(
        &self,
        growth: &Growth,
        then: impl FnMut(&mut Stock<Words>) -> T,
    ) -> Result<T, Error> {
        let backing = match self.kin {
            Kin::Hugetlb => Backing::Sole(Memfd::new(Kind::Hugetlb(self.size))?),
            Kin::Transparent | Kin::Base => Backing::Private,
        };
        self.grow_in(growth, backing, then)
    }

    /// As [`Arena::grow`], in this memory.
    pub(crate) fn grow_in<T>(
        &self,
        growth: &Growth,
        backing: Backing,
        then: impl FnMut(&mut Stock<Words>) -> T,
    ) -> Result<T, Error> {
        let narrow = growth.reach.level() < Level::WIDEST;
        if narrow && self.kin != Kin::Hugetlb && growth.device.is_none() {
            // Such pages may be moved by the system at any time.
            return Err(Error::OutOfReach);
        }
        if growth.pages > self.headroom() {
            return Err(Error::OutOfPages);
        }
        let len = self.size.len_of(growth.pages)?;
        let guarded = len
            .checked_add(self.size.bytes())
            .ok_or(Error::SizeTooLarge)?;
        let window = Window::reserve(backing, guarded, self.size, Fork::Exclude);
        let window = Arc::new(window.map_err(refused)?);
        let range = ByteRange::at(ByteOffset::ZERO, len)?;
        window.extend_file(len).map_err(refused)?;
        window.map(range).map_err(refused)?;
        if self.kin == Kin::Transparent {
            window.advise(range, Advice::HugePage).map_err(refused)?;
        }
        self.place(&window, range, growth)?;
        populate(&window, range, self.size, growth.threads)?;
        if self.kin == Kin::Transparent {
            let huge = pagemap::huge_mapped(&window, range).map_err(refused)?;
            if huge.bytes < len {
                // Called huge only where it is.
                return Err(Error::OutOfPages);
            }
        }
        let fresh = Fresh {
            window,
            range,
            reach: growth.reach,
            nodes: growth.nodes,
            supply: growth.supply,
            device: growth.device,
        };
        self.adopt(fresh, then)
    }

    /// Tells the kernel where to look.
    fn place(&self, window: &Window, range: ByteRange, growth: &Growth) -> Result<(), Error> {
        if self.nodes.count() <= 1 {
            return Ok(());
        }
        let within = growth.reach.nodes();
        let policy = match growth.nodes {
            NodePolicy::Default => return Ok(()),
            NodePolicy::Bind(_) => Policy::Bind(within),
            NodePolicy::Interleave(mask) => Policy::Interleave(mask.and(within)),
            NodePolicy::Preferred(node) => Policy::Preferred(node),
            NodePolicy::PreferredMany(mask) => Policy::PreferredMany(mask),
        };
        match window.mbind(range, policy, Existing::Ignore) {
            // Pages that must be somewhere are not left to chance.
            Err(_) if growth.nodes.is_strict() => Err(Error::OutOfReach),
            // A preference that the kernel does not know is a preference not met.
            _ => Ok(()),
        }
    }

    /// Takes in the pages of a populated window, which hold zeroes or what peers put there. All or none. `then` sees them
    /// in the stock before anybody else can take one.
    pub(crate) fn adopt<T>(
        &self,
        fresh: Fresh,
        mut then: impl FnMut(&mut Stock<Words>) -> T,
    ) -> Result<T, Error> {
        let (region, classes) = self.classify(&fresh)?;
        let base = region.window.base().as_ptr().addr();
        // The window is known before its first page can be taken.
        self.regions.insert(region);
        loop {
            let outcome = self.stock.with(|stock| {
                self.add_all(stock, base, &classes, fresh.supply)
                    .map(|()| then(stock))
            });
            let error = match outcome {
                Ok(value) => return Ok(value),
                Err(Stop::Metadata { table, words: len }) => match words(len) {
                    Ok(bigger) => {
                        drop(self.stock.with(|stock| stock.adopt(table, bigger)));
                        continue;
                    }
                    Err(error) => error,
                },
                Err(Stop::Fail(error)) => error,
                // INVARIANT: no operation of a stock waits.
                Err(Stop::Wait(_)) => Error::Closed,
            };
            self.regions.remove(base);
            return Err(error);
        }
    }

    /// Finds out where the pages of a window are, and whether that is where they must be.
    fn classify(&self, fresh: &Fresh) -> Result<(Region, Vec<Class>), Error> {
        let Fresh {
            window,
            range,
            reach,
            nodes: policy,
            supply: _,
            device,
        } = fresh;
        let live = self.size.whole_pages_in(range.len()).raw();
        let count = usize::try_from(live).map_err(|_| Error::SizeTooLarge)?;
        let physical = match self.kin {
            Kin::Transparent | Kin::Base if device.is_none() => Box::default(),
            Kin::Hugetlb | Kin::Transparent | Kin::Base => physical_of(window, *range),
        };
        // The module has verified what the system does not tell this process.
        let unknown_level = match device {
            Some(_) => reach.level(),
            None => Level::WIDEST,
        };
        let nodes = self.nodes_of(window, *range)?;
        let spare = reach.nodes().and(self.nodes).first();
        let class = |page: usize| {
            let node = nodes.of(page);
            let class = Class {
                // Where the system does not say, no promise is broken by taking it for any node that will do.
                node: node
                    .filter(|node| self.nodes.contains(*node))
                    .or(spare)
                    .unwrap_or(NodeId::ZERO),
                level: physical
                    .get(page)
                    .map_or(unknown_level, |pfn| Level::of(Pfn::new(*pfn), self.size)),
            };
            let unknown = node.is_none() && policy.is_strict() && device.is_none();
            match reach.covers(class) && !unknown {
                true => Ok(class),
                false => Err(Error::OutOfReach),
            }
        };
        let classes = (0..count).map(class).collect::<Result<_, _>>()?;
        let region = Region {
            window: Arc::clone(window),
            physical,
            nodes,
            live,
            device: *device,
        };
        Ok((region, classes))
    }

    /// Adds every page of the window at `base`, or none.
    fn add_all(
        &self,
        stock: &mut Stock<Words>,
        base: usize,
        classes: &[Class],
        supply: Supply,
    ) -> Result<(), Stop> {
        let pfn = |page: usize| number(base + page * self.size.bytes() as usize);
        let count = classes.len() as u64;
        let most = self.most.load(Ordering::Relaxed);
        if stock.counts().nr.raw().saturating_add(count) > most {
            return Err(Error::OutOfPages.into());
        }
        stock.pool().room_for(
            classes
                .iter()
                .enumerate()
                .map(|(page, class)| (pfn(page), *class)),
        )?;
        for (page, class) in classes.iter().enumerate() {
            let frame = Frame::new(pfn(page), self.size)?;
            // INVARIANT: the pool has room, the nodes are the ledger's, and the overcommit limit of a process is out of
            // reach: only the first page could be refused, and then none is there.
            stock
                .add(frame, *class, Condition::Clean, supply)
                .map_err(|(_, stop)| stop)?;
        }
        Ok(())
    }

    fn nodes_of(&self, window: &Window, range: ByteRange) -> Result<Nodes, Error> {
        if let (1, Some(only)) = (self.nodes.count(), self.nodes.first()) {
            return Ok(Nodes::All(only));
        }
        let places = window.nodes(range).map_err(refused)?;
        let nodes = places.into_iter().map(|place| match place {
            Place::On(node) => Some(node),
            Place::Absent | Place::Unknown => None,
        });
        Ok(Nodes::Each(nodes.collect()))
    }
}

/// Populates in parallel.
fn populate(
    window: &Window,
    range: ByteRange,
    size: HugeSize,
    threads: usize,
) -> Result<(), Error> {
    let pages = size.pages_for(range.len()).raw();
    // Populating keeps the address space from changing, which a thread that starts does: parts are so small that it waits
    // for a millisecond at most, and so large that the call is not what costs.
    let least = (4_u64 << 20).div_ceil(size.bytes());
    let most = (16_u64 << 20).div_ceil(size.bytes());
    let fair = pages.div_ceil((threads.clamp(1, 1024) as u64) * 4);
    let share = match threads {
        0 | 1 => pages,
        _ => fair.clamp(least, most),
    } * size.bytes();
    let mut parts = Vec::new();
    let mut start = range.start().raw();
    while start < range.end().raw() {
        let end = start.saturating_add(share).min(range.end().raw());
        parts.push(ByteRange::new(
            ByteOffset::new(start),
            ByteOffset::new(end),
        )?);
        start = end;
    }
    parallel::each(threads, &parts, |part| match window.populate_write(*part) {
        Ok(_) => Ok(0),
        Err(PopulateError::Shortage(_)) => Err(Error::OutOfPages),
        Err(error) => Err(error.into()),
    })
    .map(drop)
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
