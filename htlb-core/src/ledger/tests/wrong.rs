// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Tables that are full or too short, numbers that are wrong, claims that were never given.

use std::vec;
use std::vec::Vec;

use super::{class, facts, ledger_of, pages, reach, ROOT};
use crate::error::Error;
use crate::ledger::tables::{OfAccount, OfClass, OfKind};
use crate::ledger::{Ledger, Promise, Put, Tables, Violation};
use crate::reach::{NodeId, NodeMask, Reach};
use crate::step::Stop;
use crate::units::PageCount;

#[test]
fn an_undone_take_finds_its_row_in_full_tables() {
    let mut ledger = ledger_of(1);
    ledger.grow(class(0, 11), pages(20)).unwrap();
    let promise = ledger.reserve(reach(1, 11), ROOT, pages(1)).unwrap();
    let taken = ledger.take_promised(promise, NodeMask::ALL).unwrap();
    // Its kind has no promise now, but other reaches must not take its row.
    let mut others = Vec::new();
    let full = loop {
        let other = reach(1 + 2 * (1 + others.len() as u64), 11);
        match ledger.reserve(other, ROOT, pages(1)) {
            Ok(promise) => others.push(promise),
            Err(stop) => break stop,
        }
    };
    assert_eq!(others.len(), 7);
    let larger = ledger.tables().grown().unwrap();
    let words = larger.words();
    assert_eq!(
        full,
        Stop::Metadata {
            table: crate::step::Table::Ledger,
            words
        }
    );
    let back = ledger.put_promised(taken, reach(1, 11), ROOT);
    assert_eq!(back.pages(), PageCount::ONE);
    assert_eq!(ledger.check(), Ok(()));
    // Given back for good, its row serves the next reach.
    ledger.release(back);
    assert!(ledger
        .reserve(reach(1 + 2 * 99, 11), ROOT, pages(1))
        .is_ok());
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn what_was_never_given_changes_nothing_and_is_reported() {
    let before = |ledger: &Ledger<_>| (facts(ledger), ledger.strays);
    let mut ledger = ledger_of(1);
    ledger.grow(class(0, 11), pages(2)).unwrap();
    let mut strays = 0;
    let forged = || Promise::mint(Reach::ANY, ROOT, PageCount::ONE);
    let start = facts(&ledger);

    assert_eq!(ledger.take_promised(forged(), NodeMask::ALL), Err(forged()));
    assert_eq!(before(&ledger), (start.clone(), strays));
    let lies: [fn(&mut Ledger<Vec<u64>>); 4] = [
        |ledger| ledger.release(Promise::mint(Reach::ANY, ROOT, PageCount::ONE)),
        |ledger| assert_eq!(ledger.put(class(0, 11), Reach::ANY, ROOT), Put::Kept),
        |ledger| assert_eq!(ledger.put(class(63, 11), Reach::ANY, ROOT), Put::Kept),
        |ledger| {
            let nothing = ledger.put_promised(class(0, 11), Reach::ANY, ROOT);
            assert!(nothing.pages().is_zero());
        },
    ];
    for lie in lies {
        lie(&mut ledger);
        strays += 1;
        assert_eq!(before(&ledger), (start.clone(), strays));
        assert_eq!(ledger.check(), Err(Violation::Stray(strays)));
    }

    // More than was promised, for another reach, or for another account.
    let promise = ledger.reserve(Reach::ANY, ROOT, pages(1)).unwrap();
    let other = ledger.open_account(None, pages(0), Reach::ANY).unwrap();
    let start = facts(&ledger);
    for lie in [
        Promise::mint(Reach::ANY, ROOT, pages(2)),
        Promise::mint(reach(1, 11), ROOT, pages(1)),
        Promise::mint(Reach::ANY, other, pages(1)),
    ] {
        ledger.release(lie);
        strays += 1;
        assert_eq!(before(&ledger), (start.clone(), strays));
    }
    // A promise that went through a slot is as good as the one that was given.
    let minted = Promise::mint(promise.reach(), promise.account(), promise.pages());
    drop(promise);
    ledger.release(minted);
    assert_eq!(ledger.totals().reserved, pages(0));
}

#[test]
fn check_finds_each_wrong_number() {
    fn busy() -> Ledger<Vec<u64>> {
        let mut ledger = ledger_of(1);
        ledger.grow(class(0, 11), pages(6)).unwrap();
        ledger.set_overcommit(pages(1));
        ledger.grow_surplus(class(0, 4), pages(1)).unwrap();
        let account = ledger
            .open_account(Some(pages(3)), pages(2), Reach::ANY)
            .unwrap();
        drop(ledger.reserve(Reach::ANY, account, pages(1)).unwrap());
        ledger.take_free(reach(1, 11), ROOT, NodeMask::ALL).unwrap();
        let above = ledger
            .open_account(Some(pages(2)), pages(0), Reach::ANY)
            .unwrap();
        let below = ledger
            .open_account_under(above, None, pages(1), Reach::ANY)
            .unwrap();
        drop(ledger.reserve(reach(1, 11), below, pages(1)).unwrap());
        assert_eq!(ledger.check(), Ok(()));
        ledger
    }
    type Break = fn(&mut Ledger<Vec<u64>>);
    let wide = class(0, 11);
    let cases: [(Break, Violation); 20] = [
        (
            |l| l.words.class_add(class(0, 11), OfClass::Free, 9),
            Violation::FreeAboveNr(wide),
        ),
        (
            |l| l.words.class_add(class(0, 11), OfClass::Surplus, 9),
            Violation::SurplusAboveNr(wide),
        ),
        (
            |l| l.words.class_sub(class(0, 11), OfClass::Free, 1),
            Violation::WitnessInexact(wide),
        ),
        (
            |l| l.words.slack_add(class(0, 11), 1),
            Violation::WitnessInexact(wide),
        ),
        (
            |l| l.words.slack_add(class(0, 9), u64::MAX),
            Violation::WitnessInexact(class(0, 9)),
        ),
        (
            |l| l.words.class_sub(class(0, 11), OfClass::Slack, 3),
            Violation::NodesInexact(wide),
        ),
        (
            |l| l.words.class_add(class(0, 11), OfClass::Nr, 1),
            Violation::TotalsInexact,
        ),
        (|l| l.totals.reserved += 1, Violation::TotalsInexact),
        (
            |l| l.words.kind_add(0, OfKind::Promised, 1),
            Violation::PromiseUncovered(0),
        ),
        (
            |l| l.words.kind_set(0, OfKind::Level, 4),
            Violation::WitnessOutOfReach(wide),
        ),
        (
            |l| l.words.kind_add(1, OfKind::Held, 1),
            Violation::UseInexact,
        ),
        (
            |l| l.words.account_set(1, OfAccount::Max, 0),
            Violation::AccountAboveMaximum(1),
        ),
        (
            |l| l.words.account_set(1, OfAccount::Min, 3),
            Violation::MinimumUncovered(0),
        ),
        (
            |l| l.words.account_add(0, OfAccount::Used, 1),
            Violation::ChargeInexact,
        ),
        // Account 2 has one account below it, which is 3.
        (
            |l| l.words.account_add(2, OfAccount::Below, 1),
            Violation::ChildrenInexact(2),
        ),
        (
            |l| l.words.account_add(2, OfAccount::Children, 1),
            Violation::ChildrenInexact(2),
        ),
        (
            |l| l.words.account_set(3, OfAccount::Parent, 1),
            Violation::ChildrenInexact(1),
        ),
        (
            |l| l.words.account_set(2, OfAccount::Parent, 1),
            Violation::ChildrenInexact(1),
        ),
        (
            |l| l.words.account_add(0, OfAccount::Below, 1),
            Violation::ChildrenInexact(0),
        ),
        (
            |l| l.words.account_set(2, OfAccount::Max, 0),
            Violation::AccountAboveMaximum(2),
        ),
    ];
    for (break_it, violation) in cases {
        let mut ledger = busy();
        break_it(&mut ledger);
        assert_eq!(ledger.check(), Err(violation), "{violation}");
    }
}

#[test]
fn memory_and_nodes_are_checked_at_the_door() {
    let tables = Tables {
        nodes: 2,
        kinds: 1,
        accounts: 1,
    };
    let error = |words: usize, tables| Ledger::new(vec![0; words], tables).map(drop).unwrap_err();
    assert_eq!(error(tables.words() - 1, tables), Error::OutOfMetadata);
    for nodes in [0, 65] {
        assert_eq!(
            error(1 << 20, Tables { nodes, ..tables }),
            Error::NodeInvalid
        );
    }
    let rootless = Tables {
        accounts: 0,
        ..tables
    };
    assert_eq!(error(1 << 20, rootless), Error::OutOfMetadata);

    let mut ledger = Ledger::new(vec![0; tables.words()], tables).unwrap();
    let beyond = class(2, 11);
    let invalid = Err(Stop::Fail(Error::NodeInvalid));
    assert_eq!(ledger.grow(beyond, pages(1)), invalid);
    assert_eq!(
        ledger.take_exact(beyond, Reach::ANY, ROOT, pages(1)),
        invalid
    );
    ledger.grow(class(1, 0), pages(u64::MAX)).unwrap();
    assert_eq!(
        ledger.grow(class(0, 0), pages(1)),
        Err(Stop::Fail(Error::CounterOverflow))
    );
    assert_eq!(ledger.node(NodeId::new(1).unwrap()).free, pages(u64::MAX));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn the_largest_tables_say_so() {
    let tables = Tables {
        nodes: 1,
        kinds: u16::MAX,
        accounts: u16::MAX,
    };
    assert_eq!(tables.grown(), None);
    let nearly = Tables {
        kinds: u16::MAX - 1,
        ..tables
    };
    assert_eq!(nearly.grown(), Some(tables));
}
