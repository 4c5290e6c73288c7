// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Cases worth a name; every answer in general is compared with a model in `tests/tests/ledger_model.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

mod accounts;
mod promises;
mod supply;
mod wrong;

use std::vec;
use std::vec::Vec;

use super::{AccountId, Counts, Ledger, Tables};
use crate::error::Error;
use crate::reach::{AddressBits, Class, Level, NodeId, NodeMask, Reach};
use crate::step::Stop;
use crate::units::PageCount;

const ROOT: AccountId = AccountId::ROOT;
const NO_ROOM: Stop = Stop::Fail(Error::NoRoom);

fn ledger_of(nodes: u8) -> Ledger<Vec<u64>> {
    let tables = Tables {
        nodes,
        kinds: 8,
        accounts: 4,
    };
    Ledger::new(vec![u64::MAX; tables.words()], tables).unwrap()
}

fn pages(n: u64) -> PageCount {
    PageCount::new(n)
}

fn class(node: u32, level: usize) -> Class {
    Class {
        node: NodeId::new(node).unwrap(),
        level: Level::from_index(level).unwrap(),
    }
}

fn reach(nodes: u64, level: usize) -> Reach {
    let bits = AddressBits::new(u32::from(Level::BITS[level])).unwrap();
    Reach::new(NodeMask::from_bits(nodes), bits).unwrap()
}

/// Only what does not depend on how the witness lies.
fn facts(ledger: &Ledger<Vec<u64>>) -> (Counts, Vec<Counts>, PageCount) {
    let classes = ledger.words.classes();
    let of_classes = classes
        .map(|class| Counts {
            reserved: PageCount::ZERO,
            ..ledger.class(class)
        })
        .collect();
    let used = ledger.usage(ROOT).unwrap().used;
    (ledger.totals(), of_classes, used)
}
