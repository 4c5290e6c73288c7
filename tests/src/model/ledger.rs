// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a ledger must answer, by trying every set of classes (Hall's condition).
//!
//! [`run`] feeds one list of operations to a [`Ledger`](htlb_core::ledger::Ledger) and to a `World`, which holds nothing but the claims
//! themselves, and compares every answer and, after every step, every count.

use arbitrary::Arbitrary;
use htlb_core::{AddressBits, Class, Level, NodeId, NodeMask, PageCount, Reach};

mod machine;
mod world;

use machine::Machine;

/// The nodes of the machine.
const NODES: u8 = 3;
/// The levels in use: the narrowest, one between, the widest.
const LEVELS: [usize; 3] = [0, 5, 11];
/// The classes of the machine.
const CLASSES: usize = NODES as usize * LEVELS.len();

/// A number of pages: mostly a few, sometimes absurd.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Amount(u8);

impl Amount {
    fn pages(self) -> PageCount {
        PageCount::new(match self.0 {
            255 => u64::MAX,
            254 => u64::MAX / 2,
            few => u64::from(few % 7),
        })
    }
}

/// Some nodes and a level.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Where {
    nodes: u8,
    level: u8,
}

impl Where {
    fn nodes(self) -> NodeMask {
        NodeMask::from_bits(u64::from(self.nodes & 7))
    }

    fn reach(self) -> Reach {
        let nodes = match self.nodes & 7 {
            0 => NodeMask::ALL,
            _ => self.nodes(),
        };
        let level = Level::from_index(LEVELS[usize::from(self.level) % LEVELS.len()]).unwrap();
        Reach::new(nodes, AddressBits::new(u32::from(level.bits())).unwrap()).unwrap()
    }

    fn class(self) -> Class {
        // One in sixteen lies on a node that the tables do not know.
        let node = match self.nodes % 16 {
            15 => 40,
            n => n % NODES,
        };
        Class {
            node: NodeId::new(u32::from(node)).unwrap(),
            level: Level::from_index(LEVELS[usize::from(self.level) % LEVELS.len()]).unwrap(),
        }
    }
}

/// One of those that exist, by any number.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Nth(u8);

impl Nth {
    fn of(self, len: usize) -> Option<usize> {
        usize::from(self.0).checked_rem(len)
    }
}

/// One call of the ledger.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs)] // Each is the method of its name, with its arguments.
pub enum Op {
    Grow(Where, Amount),
    GrowSurplus(Where, Amount),
    Shrink(Where, Amount),
    SetOvercommit(Amount),
    Retire(Where, Amount),
    Absorb(Where, Amount),
    DropSurplus,
    Reserve(Where, Nth, Amount),
    Shortage(Where, Nth, Amount),
    Release(Nth),
    Split(Nth, Amount),
    Merge(Nth, Nth),
    TakePromised(Nth, Where),
    PutPromised(Nth),
    TakeFree(Where, Nth, Where),
    TakeExact(Where, Where, Nth, Amount),
    Put(Nth),
    Remove(Nth),
    Exchange(Nth, Where),
    OpenAccount(Amount, Amount, Where),
    CloseAccount(Nth),
    OpenAccountUnder(Nth, Amount, Amount, Where),
    SetLimit(Nth, Amount),
    SetMinimum(Nth, Amount, Where),
    /// The host has no memory for the next table that is asked for.
    FailTables,
    /// The host answers a request that is no longer open, or with too little.
    AdoptAnyway(Amount),
}

/// Runs every operation on a ledger and on the model, with `check()` and a comparison of all counts after each, then
/// gives everything back and expects the counts of an empty machine.
///
/// # Panics
/// Where the ledger answers something else than the model.
pub fn run(ops: &[Op]) {
    let mut machine = Machine::new();
    for &op in ops {
        machine.apply(op);
        machine.compare();
    }
    machine.drain();
}
