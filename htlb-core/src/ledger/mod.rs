// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who may have how many pages: promises, accounts, surplus, and the witness that proves every promise can be kept.
//!
//! One [`Ledger`] per page size. It counts pages by [`Class`](crate::Class), never names one: which page of the
//! class it is, the [`pool`](crate::pool) says. A page exists for the ledger from [`Ledger::grow`] to
//! [`Ledger::shrink`], and is free or in use; a free one may be needed by a promise.
//!
//! Linux keeps one reservation count for the whole machine (`mm/hugetlb.c: hugetlb_acct_memory`), blind to nodes and
//! DMA masks, so a reservation that was granted can fail at the fault. Here a promise is granted only if **all
//! outstanding promises can be kept at once**, each from pages that it can use. That is shown by a *witness*: an
//! assignment of free pages to promises, re-arranged whenever a new promise or a taken page needs it.
//!
//! ```text
//!  grow/shrink        reserve ──► Promise ──► take_promised ──► page in use ──► put
//!  grow_surplus          ▲           │             │ ▲                           │
//!  retire/absorb         └─ release ─┘             └─┴─ put_promised (undo)      └──► free, or surplus that leaves
//! ```
//!
//! # Invariants
//!
//! [`Ledger::check`] tests them all:
//!
//! - I1: in every class, `free ≤ nr`.
//! - I2: in every class, pages assigned to kinds plus slack are exactly the free ones; every kind has exactly as many
//!   assigned as are promised to it, all of them within its reach.
//! - I3: in every class, `surplus ≤ nr`.
//! - I4: the totals are the sums over classes and kinds.
//! - I5: every account has `used ≤ max`, and what is unused of its minimum is promised; an account with others below
//!   it is charged for exactly what they have.
//! - Everything in use, or promised, is charged to exactly one account; nothing came back that was never given.
//!
//! An `Err` left every count as it was; the witness may be arranged differently. `release` and the `put`s cannot
//! fail. Nothing here allocates: a reach or an account that the tables have no place for ends with
//! [`Stop::Metadata`], which [`Ledger::adopt`] answers.
//!
//! # Example
//!
//! ```
//! use htlb_core::ledger::{AccountId, Ledger, Put, Tables};
//! use htlb_core::{Class, Error, HugeSize, NodeId, NodeMask, PageCount, Pfn, Reach, Stop};
//!
//! let tables = Tables { nodes: 1, kinds: 4, accounts: 2 };
//! let mut ledger = Ledger::new(vec![0; tables.words()], tables)?;
//! let class = Class::of(Pfn::new(0), HugeSize::MIB2, NodeId::ZERO);
//! ledger.grow(class, PageCount::new(2))?;
//!
//! let mut promise = ledger.reserve(Reach::ANY, AccountId::ROOT, PageCount::new(2))?;
//! // Both pages are promised, so nobody else gets one:
//! let refused = ledger.take_free(Reach::ANY, AccountId::ROOT, NodeMask::ALL);
//! assert_eq!(refused, Err(Stop::Fail(Error::NoRoom)));
//!
//! let one = promise.split_off(PageCount::ONE).expect("it has two");
//! let taken = ledger.take_promised(one, NodeMask::ALL).expect("a promise is kept");
//! ledger.release(promise);
//! assert_eq!(ledger.put(taken, Reach::ANY, AccountId::ROOT), Put::Kept);
//! assert_eq!(ledger.check(), Ok(()));
//! # Ok::<(), Stop>(())
//! ```

mod account;
mod charge;
mod check;
mod count;
mod promise;
mod reserve;
mod supply;
mod tables;
mod take;
#[cfg(test)]
mod tests;
mod witness;
mod words;

pub use account::AccountId;
pub use check::Violation;
pub use count::{Counts, Usage};
pub use promise::Promise;
pub use tables::Tables;
pub use take::Put;

use crate::error::Error;
use crate::reach::Reach;
use crate::step::Stop;
use tables::{OfAccount, OfKind, OPEN};
use words::Words;

/// The promises, accounts and counts of one page size.
///
/// `M` is the memory of its tables, given by the host: a boxed slice, a kernel vector, an array.
#[derive(Debug)]
#[doc(alias = "hstate")]
#[doc(alias = "hugepage_subpool")]
pub struct Ledger<M> {
    words: Words<M>,
    /// Rows of kinds that have ever been used; those beyond are blank.
    kinds: usize,
    /// The kind found last: most calls ask for the same one again.
    recent: usize,
    /// Searches made, so that a kind's own note tells whether this one followed it.
    searches: u64,
    totals: Sums,
    overcommit: u64,
    strays: u64,
}

/// What [`Counts`] gives out, and the part of `reserved` that minima hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    nr: u64,
    free: u64,
    surplus: u64,
    reserved: u64,
    minima: u64,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// A ledger without pages and promises, and with the root account, in `memory`, whose content does not matter.
    ///
    /// # Errors
    /// [`Error::NodeInvalid`] for no node or more than 64, [`Error::OutOfMetadata`] where `memory` is shorter than
    /// [`Tables::words`] or `tables` leaves no place for the root account.
    pub fn new(memory: M, tables: Tables) -> Result<Self, Error> {
        let mut words = Words::new(memory, tables)?;
        words.account_set(AccountId::ROOT.index(), OfAccount::State, OPEN);
        words.account_set(AccountId::ROOT.index(), OfAccount::Max, u64::MAX);
        Ok(Self {
            words,
            kinds: 0,
            recent: 0,
            searches: 0,
            totals: Sums::default(),
            overcommit: 0,
            strays: 0,
        })
    }

    /// Moves the tables to the memory that a [`Stop::Metadata`] asked for, and returns the block that is now unused,
    /// for the host to free with no lock held.
    ///
    /// Where another thread's answer came first, that block is `bigger` itself.
    ///
    /// # Errors
    /// `bigger` back with [`Error::OutOfMetadata`] where it is shorter than the tables are now.
    pub fn adopt(&mut self, bigger: M) -> Result<M, (M, Error)> {
        self.words.adopt(bigger)
    }

    /// What the tables have room for.
    #[must_use]
    pub fn tables(&self) -> Tables {
        self.words.tables()
    }

    /// The request for larger tables.
    fn need(&self) -> Stop {
        match self.words.tables().grown() {
            Some(larger) => Stop::Metadata {
                table: crate::step::Table::Ledger,
                words: larger.words(),
            },
            None => Stop::Fail(Error::OutOfMetadata),
        }
    }

    /// The kind of `reach`, if there is one.
    #[inline]
    fn kind(&mut self, reach: Reach) -> Option<usize> {
        if self.recent < self.kinds && self.words.kind_is(self.recent, reach) {
            return Some(self.recent);
        }
        let kind = (0..self.kinds).find(|&kind| self.words.kind_is(kind, reach))?;
        self.recent = kind;
        Some(kind)
    }

    /// The kind of `reach`, made in an idle or a blank row if there is none.
    ///
    /// A row stays its reach's own as long as a promise, a page in use or an account's minimum names it: what they
    /// give back must find it, since giving back cannot fail.
    fn kind_or_new(&mut self, reach: Reach) -> Result<usize, Stop> {
        if let Some(kind) = self.kind(reach) {
            return Ok(kind);
        }
        let kind = match (0..self.kinds).find(|&kind| self.is_idle(kind)) {
            Some(idle) => idle,
            None if self.kinds < usize::from(self.words.tables().kinds) => {
                let blank = self.kinds;
                self.kinds = blank.saturating_add(1);
                blank
            }
            None => return Err(self.need()),
        };
        let level = reach.level().index() as u64;
        self.words
            .kind_set(kind, OfKind::Nodes, reach.nodes().bits());
        self.words.kind_set(kind, OfKind::Level, level);
        self.recent = kind;
        Ok(kind)
    }

    fn is_idle(&self, kind: usize) -> bool {
        // An account's unused minimum needs no look: the account is counted.
        [OfKind::Promised, OfKind::Held, OfKind::Accounts]
            .into_iter()
            .all(|field| self.words.kind(kind, field) == 0)
    }

    /// Notes that something came back that was never given.
    fn stray(&mut self) {
        self.strays = self.strays.saturating_add(1);
    }
}
