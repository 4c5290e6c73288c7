// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which huge page, for whom, and where in the buffer: all policy and all accounting of htlb, and nothing else.
//!
//! A driver wants a buffer of huge pages that its device can reach, filled before any program maps it, and wants to know
//! *now* whether there will be enough pages. This crate answers such questions for a Linux module and for user space
//! alike. It compiles with neither std nor alloc, has no unsafe code, no global state, no clock and no I/O. It never
//! allocates, sleeps, or touches a page: it says what is to be done, and a *host* does it. Below is the maintainers' guide.
//! The words of Linux are in the search index: look for `hugetlb_acct_memory` or `region_chg`.
//!
//! # The flow
//!
//! ```text
//!            what?           where?          may I?        which?         offset to page
//!  caller ─► request ───────► policy ───────► ledger ─────► pool ────────► page_map ─────► front end
//!            size, mask,      a ladder of     promises      bitmaps of     one atomic      page tables,
//!            nodes, fill      attempts        by reach      free pages     slot per page   scatter lists
//!                                             └──── stock: both, one lock ┘
//!            └─────────────── driver: the loops over all of them, through the traits of host ───────────┘
//! ```
//!
//! Data flows to the right, and no module of the upper line imports one to its right. What flows back is values: tokens
//! that undo what they stand for, and a [`Frame`] to free. A reader goes through the modules in this order:
//!
//! | module | what it answers |
//! |---|---|
//! | [`units`], [`error`] | numbers with their units; why the core said no |
//! | [`reach`] | where a page is ([`Class`]), and which pages a device can use ([`Reach`]) |
//! | [`frame`](mod@frame) | the right to one page, as a value that is not `Clone` |
//! | [`gfp`], [`request`] | what somebody wants, checked once |
//! | [`policy`] | from a request and a machine to a ladder of attempts; pure |
//! | [`ledger`] | how many pages for whom: promises, accounts, surplus, and the witness |
//! | [`pool`], [`magazine`] | which page of a class; pages that one owner keeps |
//! | [`stock`] | the ledger and the pool of one page size, under one lock |
//! | [`page_map`] | offset to page: slots, claims, pins, seals |
//! | [`buffer`] | a page map, and what each part of it was chosen from |
//! | [`step`], [`lock`], [`gate`] | what the core asks for, how it locks, how it is inspected at rest |
//! | [`host`] | what the core asks of the world |
//! | [`driver`] | create, reserve, populate, fault, punch, release: written once for every back end |
//! | [`uapi`] | the ioctl records that module and programs share |
//!
//! # One fact, one home
//!
//! - What the page at an offset is, its *slot* says, and nothing beside it: promised, under way, or present and where.
//! - Which pages are free, the pool's bitmaps say.
//! - How many are promised, the ledger says. Its numbers are the only ones that could be derived from elsewhere, and
//!   [`Stock::audit`] compares them with the slots.
//!
//! # Who owns a page
//!
//! The host does, from the moment it got the page from its system until [`Host::free`]. The core moves numbers. So a
//! mistake in here can lose a page or miscount one, but cannot free memory twice or free what is in use: before a page is
//! used again, the host looks for itself whether somebody still holds it ([`Host::reclaim`]), and keeps it in *limbo* if so.
//!
//! What keeps the numbers straight is that a [`Frame`] is neither `Clone` nor `Copy`. It is consumed where it is stored,
//! and minted again only by the operation that empties that place:
//!
//! ```text
//!                  ┌──────────────── Stock::take ───────────────┐
//!  system ─► Frame ─► Stock::add ─► free in the pool      Frame ─► PageMap::attach ─► slot
//!                                       ▲                                               │ next_removed
//!  system ◄─ Host::free ◄─ Frame ◄──────┴── Stock::put ◄── Host::reclaim ◄── Frame ◄────┘
//!                      (surplus, or never the pool's)          └─► limbo, until the last holder lets go
//! ```
//!
//! # A slot's life
//!
//! ```text
//!              reserve                claim              attach, commit
//!   Hole ────────────────► Promised ──────────► Claimed ──────────────► Present ⟲ pin, unpin
//!    ▲ │ ◄────────────────    ◄────────────────  ▲ │ │ ◄────────────────
//!    │ │      unpromise             abort        │ │ │ punch: claim_range
//!    │ │                                         │ │ │
//!    │ └──────────────── claim ──────────────────┘ │ │
//!    ├────────────────── abort ────────────────────┘ │
//!    └─────────── punch: next_removed ───────────────┘
//! ```
//!
//! *Claimed* is exclusive, whatever for. It remembers its origin, Hole or Promised, and an abort restores that. Whoever
//! finds a slot claimed gets [`Stop::Wait`]; the claimant's last swap says whether there is somebody to wake. The claim
//! comes first and the page second, so two that populate the same offset end with one page and one charge. A *pin* keeps
//! one page in place; a *seal* keeps all of them, with one count for the whole buffer.
//!
//! # The witness
//!
//! Linux counts reservations for the whole machine. On a machine with nodes and devices with short masks that is not
//! enough: the page that is left may be one that its owner cannot use. Here a promise is granted only if **all promises
//! together** can be kept, each with pages within its reach. The proof is kept beside the counts: an assignment of
//! free pages to promises, by class and not by page. While it is exact and nowhere negative, nobody can be let down. What
//! is assigned to no promise is *slack*, and only slack is given to those without a promise, or leaves the pool.
//!
//! When a promise finds no slack within its reach, the ledger searches for a chain of promises that can each move over by
//! one class, to where there is some. No chain, no promise, and that refusal is never wrong. An example, with two free
//! pages: one below 4 GiB on node 0, one high up on node 1.
//!
//! | step | low page, node 0 | high page, node 1 | |
//! |---|---|---|---|
//! | A: any page | | **A** | the least scarce of those that will do |
//! | B: a page of node 1 | **A** | **B** | A moves aside: it can use either |
//! | C: a page below 4 GiB | A | B | refused: neither can move, though A has taken nothing yet |
//! | B ends | A | | |
//! | C again | **C** | **A** | |
//!
//! ```
//! use htlb_core::ledger::{AccountId, Ledger, Tables};
//! use htlb_core::{AddressBits, Class, Error, HugeSize, NodeId, NodeMask, PageCount, Pfn, Reach, Stop};
//!
//! let (node0, node1) = (NodeId::new(0)?, NodeId::new(1)?);
//! let low = Class::of(Pfn::new(3 << 18), HugeSize::MIB2, node0); // at 3 GiB
//! let high = Class::of(Pfn::new(64 << 18), HugeSize::MIB2, node1); // at 64 GiB
//!
//! let tables = Tables { nodes: 2, kinds: 4, accounts: 1 };
//! let mut ledger = Ledger::new(vec![0; tables.words()], tables)?;
//! ledger.grow(low, PageCount::ONE)?;
//! ledger.grow(high, PageCount::ONE)?;
//! let mut reserve = |ledger: &mut Ledger<_>, reach| ledger.reserve(reach, AccountId::ROOT, PageCount::ONE);
//!
//! let of_node1 = Reach::new(node1.mask(), AddressBits::ALL)?;
//! let below_4gib = Reach::new(NodeMask::ALL, AddressBits::new(32)?)?;
//! let a = reserve(&mut ledger, Reach::ANY)?;
//! let b = reserve(&mut ledger, of_node1)?;
//! assert_eq!(reserve(&mut ledger, below_4gib), Err(Stop::Fail(Error::NoRoom)));
//!
//! ledger.release(b);
//! let c = reserve(&mut ledger, below_4gib)?;
//! // Taking keeps the proof: A would like node 0, but that page is the only one for C.
//! assert_eq!(ledger.take_promised(a, node0.mask()), Ok(high));
//! assert_eq!(ledger.take_promised(c, NodeMask::EMPTY), Ok(low));
//! assert_eq!(ledger.check(), Ok(()));
//! # Ok::<(), Stop>(())
//! ```
//!
//! # When something is refused
//!
//! There is one closed enumeration, [`Error`]. A front end maps every arm in one table, and adds what was
//! asked and what to do next. **An `Err` changed no fact**: counts, slots and frames are what they were, though the
//! witness may be arranged differently. Everything that can fail comes before the first change; so giving back (`put`,
//! `release`, `unpin`, `leave`, `abort`) cannot fail, and a value that was not used comes back inside the error. What
//! stays is progress: pages that [`driver::populate`] put in place before the one that failed, and holes that an interrupted
//! [`driver::punch`] has made. And free surplus pages that
//! nobody needs leave whenever somebody looks ([`driver::shed`]), also on the way to an error; one that came for what was
//! then refused may stay for one of another class that leaves instead.
//!
//! Below the driver loops an operation may also end with a [`Stop`] that is no error:
//!
//! | stop | what the caller does, with no lock held |
//! |---|---|
//! | [`Stop::Metadata`] | allocates so many words, hands them to `adopt`, frees what comes back, calls again |
//! | [`Stop::Wait`] | queues itself, takes the last look (`prepare_wait`), sleeps, calls again |
//! | [`Stop::Fail`] | reports the error |
//!
//! A lost value is a leak and nothing worse: a dropped [`Promise`](ledger::Promise) keeps its pages promised, a dropped claim
//! hangs its waiters. They are all `#[must_use]`; front ends wrap them in guards.
//!
//! # Locks
//!
//! The core makes no lock. It is given one around each stock ([`Exclusive`]); page maps and the gate are atomics. The order:
//!
//! 1. a [`Pass`](gate::Pass) through the gate, which is left before any wait;
//! 2. claims on a buffer's slots, in ascending order; who holds one waits only for lower slots;
//! 3. the lock of one stock; where two page sizes meet, in [`Stock::demote`], the larger first.
//!
//! No lock is held while the host works: while a page is allocated, cleared, copied, unmapped or filled by a device. The
//! one call under a stock's lock is [`Host::take_run`], which only takes. [`PageMap::page_at`](page_map::PageMap::page_at) is
//! wait-free, unpinning is safe in atomic context, and a claim must not be alive across an access to user memory.
//!
//! # Invariants
//!
//! | | always | looked at by |
//! |---|---|---|
//! | I1 | in every class, `free ≤ nr` | [`Ledger::check`](ledger::Ledger::check) |
//! | I2 | the witness is exact, within every reach, and nowhere negative | [`Ledger::check`](ledger::Ledger::check) |
//! | I3 | in every class, `surplus ≤ nr` | [`Ledger::check`](ledger::Ledger::check) |
//! | I4 | totals are the sums over classes, in the ledger and in the pool, and both count the same free pages | [`Stock::check`] |
//! | I5 | every account: `used ≤ max`, its minimum covered | [`Ledger::check`](ledger::Ledger::check) |
//! | I6 | what is promised is what Promised slots, claims of such slots without a frame, and unused minima add up to | [`Stock::audit`] |
//! | I7 | when all is released, all counts are those of the start | the tests |
//! | I8 | an `Err` changed no fact | the tests, by comparing before and after |
//! | I9 | a frame is in exactly one place: free, a slot, a magazine, limbo, or on its way out | [`Stock::audit`], [`Pool::check`](pool::Pool::check) |
//!
//! The tests look after every step. In a running system, a slot and the ledger are two stores, so I6 and I9 hold only
//! when nobody is between the two: close the [gate], wait until it is drained, audit, open it.
//!
//! # Writing a host
//!
//! A back end implements [`Host`] for one buffer at a time: it is the place for what the core must not know, such as whose
//! buffer this is. Then [`driver::create`], [`driver::populate`] and the others work. What it needs:
//!
//! - **Memory**: [`Host::words`] and [`Host::slots`], zeroed. An array will do: see `examples/spin_host`.
//! - **Pages**: [`Stock::add`] for those it has at the start, each with its [`Class`]; [`Host::supply`] to get more into a stock
//!   when a promise is short; [`Host::page`] for pages that belong to one buffer and never to a pool. A host without a
//!   system below it supplies none, and answers [`Error::OutOfPages`] to the last.
//! - **Contents**: [`Host::clear`]. Pages come back dirty; the driver loops clear them when somebody takes them, unlocked,
//!   unless a producer fills them.
//! - **Kept pages**, if it wants them: [`Host::own`], [`Host::keep`] and [`Host::set_aside`], over a
//!   [`Magazine`](magazine::Magazine) perhaps, so that an owner gets its own pages back as it left them.
//! - **Mappings**: [`Host::unmap`] revokes, and cannot fail; [`Host::reclaim`] then says whether the page is really free.
//! - **Waiting**: [`Host::wait`] and [`Host::wake`], over any table of wait queues. Waking too many is allowed, too few is not.
//!
//! # How to change it
//!
//! Whoever adds an operation decides first what it can fail on, then puts all of that before the first store, then gives it a
//! value that undoes it. A new fact needs a home and a line in a `check()`. A new error needs an arm in its group, and every
//! front end's table fails to compile until it has it. No operator is used on units; sums are checked, or a
//! comment says why they cannot overflow.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

#[cfg(test)]
extern crate std;

/// The README's example runs too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod units;
pub mod error;
pub mod reach;
pub mod frame;

pub mod gfp;
pub mod request;
pub mod policy;

pub mod ledger;
pub mod pool;
pub mod magazine;
pub mod stock;
pub mod page_map;
pub mod buffer;

pub mod step;
pub mod lock;
pub mod gate;
pub mod host;
pub mod driver;
pub mod uapi;
#[cfg(not(loom))]
mod sync;
/// For the models of the tests.
#[cfg(loom)]
#[allow(missing_docs)]
pub mod sync;

pub use buffer::{Buffer, Part};
pub use error::Error;
pub use frame::{Condition, Frame};
pub use gfp::{Gfp, Mobility};
pub use host::{Blank, Host, Reclaim};
pub use lock::Exclusive;
pub use policy::{Attempt, Placement, Rung, Sizes, Topology};
pub use reach::{AddressBits, Class, Level, NodeId, NodeMask, Reach};
pub use request::{Contiguity, Fallback, Fill, NodePolicy, PageChoice, Request, RequestBuilder};
pub use step::{Stop, Table, WaitFor, Waiting, Wake};
pub use stock::{Charge, Returned, Stock, Supply};
pub use units::{ByteLen, ByteOffset, ByteRange, HugeSize, PageCount, PageIndex, Pfn};
