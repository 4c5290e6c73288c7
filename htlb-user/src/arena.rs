// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pages of one kind: a stock of the core's, and the windows that its pages lie in.
//!
//! A frame's number is its address divided by 4096, so a page is found without a table. A frame exists if and only if it is
//! populated: kernel reservations know neither nodes nor cgroups, so an unpopulated page is not a promise.
//!
//! Invariants:
//! - Every frame of the stock lies in exactly one window here, and is populated there.
//! - Windows keep an unmapped granule behind their last page, so no run of frames crosses from one into the next.
//! - The stock's lock is never held while pages come from the system or go back to it.
//!
//! [`growth`] gets pages, [`regions`] finds them and gives them back; [`crate::host`] is who asks.

mod growth;
mod regions;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use htlb_core::ledger::{Ledger, Tables};
use htlb_core::pool::Pool;
use htlb_core::{
    ByteLen, Class, Error, Exclusive, Frame, HugeSize, NodeId, NodeMask, PageCount, Pfn, Rung,
    Stock,
};

use crate::sys::lease::Lease;
use crate::sys::window::WindowError;
use crate::sys::zeroed;
use regions::Regions;

pub(crate) use growth::{Fresh, Growth};

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
    /// Anonymous or shared memory in base pages.
    Base,
}

/// The pages of one kind and size.
#[derive(Debug)]
pub(crate) struct Arena {
    kin: Kin,
    size: HugeSize,
    /// The nodes that have memory for this process; classes name no other.
    nodes: NodeMask,
    /// The most pages that there may ever be.
    most: AtomicU64,
    stock: Mutex<Stock<Words>>,
    regions: Regions,
}

impl Arena {
    /// Without pages, for memory on `nodes`.
    pub(crate) fn new(kin: Kin, size: HugeSize, nodes: NodeMask) -> Result<Self, Error> {
        let tables = Tables {
            nodes: nodes.iter().last().map_or(0, NodeId::raw) + 1,
            kinds: 8,
            accounts: 4,
        };
        let ledger = Ledger::new(words(tables.words())?, tables)?;
        let pool = Pool::new(size, words(Pool::<Words>::words(8))?)?;
        Ok(Self {
            kin,
            size,
            nodes,
            most: AtomicU64::new(u64::MAX),
            stock: Mutex::new(Stock::new(ledger, pool)),
            regions: Regions::default(),
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

    /// Never more than `pages` pages from now on; those that are there stay.
    pub(crate) fn limit(&self, pages: PageCount) {
        self.most.store(pages.raw(), Ordering::Relaxed);
    }

    /// How many more pages there may be.
    pub(crate) fn headroom(&self) -> PageCount {
        let now = self.stock.with(|stock| stock.counts().nr);
        let most = self.most.load(Ordering::Relaxed);
        PageCount::new(most.saturating_sub(now.raw()))
    }

    /// The exclusive right to `len` bytes from the page at `pfn`.
    pub(crate) fn lease(&self, pfn: Pfn, len: ByteLen) -> Result<Lease, Error> {
        self.regions.lease(pfn, len)
    }

    /// The file behind the pages, where peers may have it.
    pub(crate) fn shared_file(&self) -> Option<OwnedFd> {
        self.regions.shared_file()
    }

    /// Whether the page at `pfn` lies here.
    pub(crate) fn holds(&self, pfn: Pfn) -> bool {
        self.regions.holds(pfn)
    }

    /// Where the page is physically; `None` where the system does not say, or may move it.
    pub(crate) fn physical(&self, pfn: Pfn) -> Option<Pfn> {
        self.regions.physical(pfn, self.size)
    }

    /// The node that holds the page; `None` where the system does not say.
    pub(crate) fn node(&self, pfn: Pfn) -> Option<NodeId> {
        self.regions.node(pfn, self.size)
    }

    /// The rung of the module that gave the page, if it did.
    pub(crate) fn device(&self, pfn: Pfn) -> Option<Rung> {
        self.regions.device(pfn)
    }

    /// The rung of the module that gave every page here; `None` where there is no such one.
    pub(crate) fn sole_device(&self) -> Option<Rung> {
        self.regions.sole_device()
    }

    /// Gives a page that has left the stock back to the system.
    pub(crate) fn free(&self, frame: Frame) {
        self.regions.let_go(vec![frame], self.size);
    }

    /// Gives up to `pages` free pages that no promise needs back to the system; says how many went.
    pub(crate) fn trim(&self, pages: PageCount) -> PageCount {
        self.let_go_of(pages, |stock, most| {
            let classes: Vec<Class> = stock
                .pool()
                .classes()
                .filter(|(_, counts)| !counts.free.is_zero())
                .map(|(class, _)| class)
                .collect();
            let mut frames = Vec::new();
            for class in classes {
                while frames.len() < most {
                    let Ok(frame) = stock.shrink(class) else {
                        break;
                    };
                    frames.push(frame);
                }
            }
            while frames.len() < most {
                let Some(frame) = stock.drop_surplus() else {
                    break;
                };
                frames.push(frame);
            }
            frames
        })
    }

    /// Gives the surplus pages back that are free and that no promise needs.
    pub(crate) fn shed(&self) {
        self.let_go_of(PageCount::new(u64::MAX), |stock, most| {
            std::iter::from_fn(|| stock.drop_surplus())
                .take(most)
                .collect()
        });
    }

    /// Pulls pages out of the stock in batches, and gives each back with no lock held.
    fn let_go_of(
        &self,
        pages: PageCount,
        pull: impl Fn(&mut Stock<Words>, usize) -> Vec<Frame>,
    ) -> PageCount {
        const BATCH: u64 = 4096;
        let mut gone = 0;
        while gone < pages.raw() {
            // CAST: at most BATCH.
            let most = (pages.raw() - gone).min(BATCH) as usize;
            let frames = self.stock.with(|stock| pull(stock, most));
            if frames.is_empty() {
                break;
            }
            gone += frames.len() as u64;
            self.regions.let_go(frames, self.size);
        }
        PageCount::new(gone)
    }
}

/// The address of a frame: its number is made of it.
pub(crate) const fn address(pfn: Pfn) -> usize {
    // CAST: made of a usize by `number`.
    (pfn.raw() << 12) as usize
}

/// The number of the frame at an address.
pub(crate) const fn number(address: usize) -> Pfn {
    // CAST: usize is at most 64 bits wide on Linux.
    Pfn::new(address as u64 >> 12)
}

/// Zeroed words.
pub(crate) fn words(len: usize) -> Result<Words, Error> {
    zeroed::words(len).ok_or(Error::OutOfMetadata)
}

pub(crate) fn refused(error: WindowError) -> Error {
    match error {
        WindowError::Kernel(failure) => failure.into(),
        WindowError::Range(error) => error,
        WindowError::Leased | WindowError::Mapping => Error::FrameInvalid,
    }
}
