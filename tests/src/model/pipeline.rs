// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Everything from the request to the page, on the simulated machine, while what the core asks for fails.
//!
//! [`run`] makes a machine and operates it: buffers of several owners, pools that change, pages that somebody outside holds. After
//! every step the machine is audited (I1 to I9, and nobody sees another's data), and besides:
//!
//! - an operation that failed changed no fact;
//! - a byte is what was written last, or zero;
//! - what was promised can be filled, whatever has happened since;
//! - when everything has been given back, no page is left.

use arbitrary::Arbitrary;
use htlb_core::HugeSize;

use crate::sim::{Call, Failing};

mod buffers;
mod machine;
mod owned;
mod supply;

use machine::Bench;

const MIB2: HugeSize = HugeSize::MIB2;
const GIB1: HugeSize = HugeSize::GIB1;

/// The most operations on one machine: more would only be slower.
const MOST: usize = 48;

/// One of those that there are, by any number.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Nth(u8);

impl Nth {
    fn of(self, len: usize) -> Option<usize> {
        usize::from(self.0).checked_rem(len)
    }
}

/// A number of pages: a few.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Few(u8);

impl Few {
    fn pages(self) -> u64 {
        u64::from(self.0 % 8)
    }
}

/// The page size of a pool.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Pool(bool);

impl Pool {
    const fn size(self) -> HugeSize {
        if self.0 {
            GIB1
        } else {
            MIB2
        }
    }
}

/// A node, or two of them.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct On(u8);

/// An offset: a fraction of the buffer's size, perhaps rounded to its pages.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct At(u8, bool);

/// What is asked for.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Shape {
    kind: Kind,
    pages: u8,
    /// Base pages more or less.
    tail: i8,
    nodes: Option<On>,
    /// A mask of 28 or 32 bits, or none.
    mask: u8,
    contiguous: Contiguous,
    dirty: bool,
    promised: bool,
    /// Room to grow, in 2 MiB pages.
    room: u8,
    produced: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    /// Huge pages or none.
    Strict,
    /// The largest pages that fit.
    Automatic,
    /// A page of 1 GiB, or smaller huge pages.
    Giant,
    Transparent,
    Base,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Contiguous {
    Pages,
    Runs,
    Whole,
}

/// What a producer does with a page.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Producer {
    /// It writes a few bytes.
    Writes(u8, u8),
    /// It writes a few bytes, and fails.
    Fails(u8),
    /// It touches the page that it fills.
    TouchesItsPage,
    /// It touches another page.
    TouchesAnother(At),
}

/// Which of the host's calls fail in the next operation.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Failure {
    number: u8,
    all: bool,
    only: Option<Nth>,
}

impl Failure {
    fn failing(self) -> Failing {
        let number = u64::from(self.number % 32);
        if self.all {
            Failing::From(number)
        } else {
            Failing::Only(number)
        }
    }

    fn only(self) -> Option<Call> {
        let kinds = [
            Call::Words,
            Call::Slots,
            Call::Supply,
            Call::Page,
            Call::SupplyRun,
            Call::Clear,
        ];
        Some(kinds[self.only?.of(kinds.len())?])
    }
}

/// One operation.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs)] // Each is what its name says, with its arguments.
pub enum Op {
    Create(Nth, Shape),
    Reserve(Nth, At, At),
    Populate(Nth, At, At),
    PopulatePage(Nth, At),
    Produce(Nth, At, At, Producer),
    Fault(Nth, At),
    Write(Nth, At, u8),
    Read(Nth, At),
    Punch(Nth, At, At),
    Truncate(Nth, At),
    Grow(Nth, u8, i8),
    Pin(Nth, At),
    Unpin(Nth),
    Seal(Nth),
    Unseal(Nth),
    Release(Nth),
    OpenAccount(Pool, Option<Few>, Few),
    CloseAccount(Nth),
    GrowPool(Pool, On, Few, u8),
    Resize(Pool, On, Few),
    Demote(On),
    DropSurplus(Pool),
    Overcommit(Pool, Few),
    Limit(Pool, Few),
    Hold(Nth, At),
    LetGo(Nth),
    EmptyMagazines(Option<Nth>),
    /// In the next operation.
    Fail(Failure),
}

/// A machine to begin with.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Start {
    two_nodes: bool,
    /// Pages of 2 MiB below 32 bits, above, and on the second node.
    low: Few,
    high: Few,
    far: Few,
    giant: bool,
    overcommit: Few,
    system: Few,
    transparent: bool,
    magazine: u8,
}

/// A machine, and what happens to it.
#[derive(Arbitrary, Clone, Debug)]
pub struct Case {
    /// The machine.
    pub start: Start,
    /// What happens.
    pub ops: Vec<Op>,
}

/// Runs every operation, with an audit after each, then gives everything back and expects no page to be left.
///
/// # Panics
/// Where one of the module's rules is broken.
pub fn run(case: &Case) {
    let machine = case.start.machine();
    let mut bench = Bench::new(&machine);
    let mut failure = None;
    for op in case.ops.iter().take(MOST) {
        match op {
            Op::Fail(next) => failure = Some(*next),
            op => bench.step(*op, failure.take()),
        }
    }
    bench.finish();
}
