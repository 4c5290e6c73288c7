// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One suite for every back end.
//!
//! A back end implements [`Machine`] and [`Pages`], and its test program says
//!
//! ```text
//! htlb_tests::conformance!(sim, |spec| Ok(SimMachine::new(spec)), lacks: []);
//! ```
//!
//! which makes one `#[test]` of each case. A case is a body over [`Rig`], which asks the machine to
//! [check itself](Machine::check) after every step, and a [`MachineSpec`] that says what the body needs.
//!
//! What a back end cannot do by its nature it lists under `lacks:`, by [`Ability`]. A case that needs one of those prints
//! that it does not apply, and `not_applicable` prints them all; nothing passes silently. What only *this machine* cannot do is
//! an [`Unavailable`], and is [skipped](crate::skip) with its reason.

mod accounts;
mod buffers;
mod fill;
mod owners;
mod promises;
mod reach;
mod rig;
mod supply;
mod table;
mod threads;

pub use rig::{Buf, Rig};
pub use table::CASES;

use htlb_core::driver::Commitment;
use htlb_core::ledger::Counts;
use htlb_core::page_map::Located;
use htlb_core::{ByteLen, ByteRange, Error, HugeSize, Pfn, Request, Rung};

/// What a case may need and a back end may lack by its nature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ability {
    /// Its frame numbers are physical: DMA masks, alignment and contiguous runs.
    Physical,
    /// Accounts with a limit and a guaranteed minimum.
    Accounts,
    /// Pages from the system beyond the pool, within an overcommit limit.
    Overcommit,
    /// Pools that are resized while they are in use.
    Resize,
    /// A 1 GiB page that is broken into pages of 2 MiB.
    Demote,
    /// A page that somebody outside the buffer still holds when it is punched.
    Limbo,
    /// A page that its owner gets back with what it left there.
    DirtyWithinOwner,
    /// A buffer that can grow.
    Growth,
    /// Holes that become pages when they are touched.
    Faults,
    /// A buffer that is pinned or sealed says no to its release, and an owner that has buffers to its end. Elsewhere a file is
    /// closed, which nothing refuses, and what it stood for ends with its last user.
    Refusal,
    /// Producers that run on the thread that asks for the page, so that one that needs its own page can be told.
    OwnThread,
    /// A producer for what is populated when the buffer is made.
    FilledAtBirth,
    /// A system whose huge pages are counted, so that it runs out of them at a known one.
    FiniteSystem,
}

/// The pages of one pool at the start.
#[derive(Clone, Copy, Debug)]
pub struct PoolSpec {
    /// The page size.
    pub size: HugeSize,
    /// On this node.
    pub node: u32,
    /// So many.
    pub pages: u64,
    /// Below 2 to the power of this.
    pub below: u32,
}

/// The machine that a case needs.
#[derive(Clone, Copy, Debug)]
pub struct MachineSpec<'a> {
    /// Nodes with memory, from 0 on.
    pub nodes: u32,
    /// What the pools have, exactly.
    pub pools: &'a [PoolSpec],
    /// How many surplus pages there may be of a size; none of others.
    pub overcommit: &'a [(HugeSize, u64)],
    /// How many huge pages the system gives beyond the pools; none of others. Base pages there are always.
    pub system: &'a [(HugeSize, u64)],
    /// Whether the system has transparent huge pages.
    pub transparent: bool,
    /// How many pages each owner can keep for itself.
    pub magazine: usize,
}

/// Pages on node 0, anywhere.
#[must_use]
pub const fn pool(size: HugeSize, pages: u64) -> PoolSpec {
    PoolSpec {
        size,
        node: 0,
        pages,
        below: 64,
    }
}

impl PoolSpec {
    /// The same on another node.
    #[must_use]
    pub const fn on(self, node: u32) -> Self {
        Self { node, ..self }
    }

    /// The same below a mask.
    #[must_use]
    pub const fn below(self, below: u32) -> Self {
        Self { below, ..self }
    }
}

impl<'a> MachineSpec<'a> {
    /// One node with these pools, and nothing beyond them but base pages.
    #[must_use]
    pub const fn of(pools: &'a [PoolSpec]) -> Self {
        Self {
            nodes: 1,
            pools,
            overcommit: &[],
            system: &[],
            transparent: false,
            magazine: 0,
        }
    }

    /// So many nodes.
    #[must_use]
    pub const fn nodes(self, nodes: u32) -> Self {
        Self { nodes, ..self }
    }

    /// The system has so many huge pages.
    #[must_use]
    pub const fn system(self, system: &'a [(HugeSize, u64)]) -> Self {
        Self { system, ..self }
    }

    /// So many surplus pages are allowed.
    #[must_use]
    pub const fn overcommit(self, overcommit: &'a [(HugeSize, u64)]) -> Self {
        Self { overcommit, ..self }
    }

    /// Each owner can keep so many pages.
    #[must_use]
    pub const fn magazine(self, magazine: usize) -> Self {
        Self { magazine, ..self }
    }
}

/// An owner, as the machine numbers it; 0 is there from the start.
pub type OwnerId = usize;

/// What an owner's account allows, for pages of one size.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The page size.
    pub size: HugeSize,
    /// At most so many.
    pub max: Option<u64>,
    /// Guaranteed.
    pub min: u64,
}

/// What buffer to make.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The request.
    pub request: Request,
    /// Whether its pages are promised.
    pub commitment: Commitment,
    /// How large it can grow.
    pub capacity: ByteLen,
}

/// A page that a producer fills.
pub trait InHand {
    /// Where it begins in the buffer, in bytes.
    fn offset(&self) -> u64;
    /// Its length in bytes.
    fn len(&self) -> u64;
    /// Writes into it.
    fn write(&mut self, at: u64, bytes: &[u8]);
    /// Never.
    fn is_empty(&self) -> bool {
        false
    }
}

/// Fills a page and says how many bytes it wrote from its start.
pub type Produce<'a> = &'a mut dyn FnMut(&mut dyn InHand) -> Result<u64, Error>;

/// A part of a buffer's receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    /// Pages of this size.
    pub size: HugeSize,
    /// From this rung of the ladder.
    pub rung: Rung,
    /// So many.
    pub pages: u64,
}

/// What a punch or a truncate took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Pages.
    pub pages: u64,
    /// Promises of pages that had not come yet.
    pub promises: u64,
}

/// A machine of one back end.
pub trait Machine: Sync {
    /// A new owner of buffers.
    ///
    /// # Errors
    /// Its account's minimum cannot be promised.
    fn owner(&self, limits: Option<Limits>) -> Result<OwnerId, Error>;

    /// The owner ends, and what it kept goes.
    ///
    /// # Errors
    /// It still has buffers.
    fn close(&self, owner: OwnerId) -> Result<(), Error>;

    /// A buffer; filled by `produce` where the request makes it be populated at once.
    ///
    /// # Errors
    /// Those of [`htlb_core::driver::create`].
    fn create<'m>(
        &'m self,
        owner: OwnerId,
        order: &Order,
        produce: Option<Produce<'_>>,
    ) -> Result<Box<dyn Pages + 'm>, Error>;

    /// The counts of a pool, on one node or on all.
    fn counts(&self, size: HugeSize, node: Option<u32>) -> Counts;

    /// Makes a pool so many persistent pages large, as far as that is possible; says how many it has then.
    ///
    /// # Errors
    /// Only where nothing could be tried.
    fn resize(&self, size: HugeSize, node: u32, pages: u64) -> Result<u64, Error>;

    /// Breaks one free 1 GiB page into pages of 2 MiB.
    ///
    /// # Errors
    /// [`Error::NoRoom`].
    fn demote(&self, node: u32) -> Result<(), Error>;

    /// Somebody outside holds this page from now on.
    fn hold(&self, page: Pfn);

    /// And lets it go.
    fn let_go(&self, page: Pfn);

    /// Compares all books, at rest.
    ///
    /// # Errors
    /// What is broken.
    fn check(&self) -> Result<(), String>;
}

/// A buffer of one back end. Dropping it releases it.
pub trait Pages: Sync + Send {
    /// Promises the holes of a range; says how many.
    ///
    /// # Errors
    /// Those of [`htlb_core::driver::reserve`].
    fn reserve(&self, range: ByteRange) -> Result<u64, Error>;

    /// Populates a range with zeroes, or with what `produce` writes; says how many pages came.
    ///
    /// # Errors
    /// Those of [`htlb_core::driver::populate`].
    fn populate(&self, range: ByteRange, produce: Option<Produce<'_>>) -> Result<u64, Error>;

    /// The page at an offset, put there if need be.
    ///
    /// # Errors
    /// Those of [`htlb_core::driver::fault`].
    fn fault(&self, offset: u64) -> Result<Located, Error>;

    /// The page at an offset, if it is there.
    ///
    /// # Errors
    /// Those of [`htlb_core::page_map::PageMap::page_at`].
    fn page_at(&self, offset: u64) -> Result<Located, Error>;

    /// Pins the page at an offset.
    ///
    /// # Errors
    /// Those of [`htlb_core::page_map::PageMap::pin`].
    fn pin(&self, offset: u64) -> Result<(), Error>;

    /// Gives back one pin that [`Pages::pin`] took at this offset.
    fn unpin(&self, offset: u64);

    /// Seals the buffer.
    ///
    /// # Errors
    /// Those of [`htlb_core::page_map::PageMap::seal`].
    fn seal(&self) -> Result<(), Error>;

    /// Gives back one seal.
    fn unseal(&self);

    /// Punches a range.
    ///
    /// # Errors
    /// Those of [`htlb_core::driver::punch`].
    fn punch(&self, range: ByteRange) -> Result<Gone, Error>;

    /// Makes the buffer shorter or longer.
    ///
    /// # Errors
    /// Those of [`htlb_core::driver::truncate`].
    fn truncate(&self, size: ByteLen) -> Result<Gone, Error>;

    /// Its size.
    fn size(&self) -> ByteLen;

    /// Reads as a program that has it mapped: what is not there comes into being.
    ///
    /// # Errors
    /// As [`Pages::fault`].
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error>;

    /// Writes as a program that has it mapped.
    ///
    /// # Errors
    /// As [`Pages::fault`].
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// What it is made of, by descending page size.
    fn receipt(&self) -> Vec<Got>;

    /// Gives everything back; afterwards only dropping is allowed.
    ///
    /// # Errors
    /// Those of [`htlb_core::driver::release`], and the buffer is as it was.
    fn release(&mut self) -> Result<Gone, Error>;
}

/// Why this machine, though not this kind of back end, cannot run a case.
#[derive(Clone, Debug)]
pub struct Unavailable(pub String);

/// One case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it needs of the back end.
    pub needs: &'static [Ability],
    /// What it needs of the machine.
    pub machine: MachineSpec<'static>,
    /// What it does.
    pub body: fn(&Rig<'_>),
}

impl Case {
    /// The case of that name.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn named(name: &str) -> &'static Self {
        let found = CASES.iter().find(|case| case.name == name);
        found.unwrap_or_else(|| panic!("no case is called {name}"))
    }

    /// What it needs and this back end lacks.
    #[must_use]
    pub fn lacking(&self, lacks: &[Ability]) -> Option<Ability> {
        self.needs.iter().copied().find(|need| lacks.contains(need))
    }

    /// Runs it, and checks that everything was given back.
    ///
    /// # Panics
    /// If it fails.
    pub fn run<M: Machine>(
        &self,
        back_end: &str,
        make: impl FnOnce(&MachineSpec<'_>) -> Result<M, Unavailable>,
        lacks: &[Ability],
    ) {
        if let Some(ability) = self.lacking(lacks) {
            println!("NOT APPLICABLE {back_end}::{}: {ability:?}", self.name);
            return;
        }
        if let Err(Unavailable(why)) = self.attempt(make) {
            crate::skip::skip(&format!("{back_end}::{}", self.name), &why);
        }
    }

    /// Runs it on a back end that has all that it needs, and checks that everything was given back.
    ///
    /// # Errors
    /// This machine cannot run it.
    ///
    /// # Panics
    /// If it fails.
    pub fn attempt<M: Machine>(
        &self,
        make: impl FnOnce(&MachineSpec<'_>) -> Result<M, Unavailable>,
    ) -> Result<(), Unavailable> {
        let machine = make(&self.machine)?;
        let rig = Rig::new(&machine);
        let start = rig.all_counts();
        (self.body)(&rig);
        rig.check();
        if !self.needs.contains(&Ability::Resize) && !self.needs.contains(&Ability::Demote) {
            // I7.
            assert_eq!(rig.all_counts(), start, "something was not given back");
        }
        Ok(())
    }
}
