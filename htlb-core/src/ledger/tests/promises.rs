// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Promises: granted, refused, moved aside and kept.

use std::vec;
use std::vec::Vec;

use super::{class, facts, ledger_of, pages, reach, NO_ROOM, ROOT};
use crate::ledger::{Ledger, Promise, Put};
use crate::reach::{Class, Level, NodeId, NodeMask, Reach};
use crate::step::Stop;
use crate::units::PageCount;

#[test]
fn a_second_reservation_of_two_thirds_is_refused() {
    let mut ledger = ledger_of(1);
    ledger.grow(class(0, 11), pages(9)).unwrap();
    let first = ledger.reserve(Reach::ANY, ROOT, pages(6)).unwrap();
    let before = facts(&ledger);
    assert_eq!(ledger.reserve(Reach::ANY, ROOT, pages(6)), Err(NO_ROOM));
    assert_eq!(facts(&ledger), before);
    ledger.release(first);
    assert!(ledger.reserve(Reach::ANY, ROOT, pages(9)).is_ok());
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn enough_pages_in_the_wrong_place_are_not_enough() {
    let mut ledger = ledger_of(2);
    ledger.grow(class(0, 2), pages(1)).unwrap();
    ledger.grow(class(1, 11), pages(5)).unwrap();
    let low = reach(u64::MAX, 2);
    let before = facts(&ledger);
    assert_eq!(ledger.reserve(low, ROOT, pages(2)), Err(NO_ROOM));
    assert_eq!(facts(&ledger), before);
    let _one = ledger.reserve(low, ROOT, pages(1)).unwrap();
    // The page below 28 bits is spoken for, so an unpromised taker gets another or none.
    assert_eq!(ledger.take_free(low, ROOT, NodeMask::ALL), Err(NO_ROOM));
    let near = NodeId::ZERO.mask();
    assert_eq!(ledger.take_free(Reach::ANY, ROOT, near), Ok(class(1, 11)));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn a_promise_moves_aside_along_a_chain_of_all_nodes() {
    let mut ledger = ledger_of(64);
    let mut tables = ledger.tables();
    while tables.kinds < 64 {
        tables = tables.grown().unwrap();
        ledger.adopt(vec![7; tables.words()]).unwrap();
    }
    // Kind i may use node i or i + 1, and lies on node i, since the next one is still empty.
    for node in 0..63 {
        ledger.grow(class(node, 11), pages(3)).unwrap();
        let promise = ledger
            .reserve(reach(3 << node, 11), ROOT, pages(3))
            .unwrap();
        drop(promise);
    }
    assert_eq!(ledger.reserve(reach(1, 11), ROOT, pages(1)), Err(NO_ROOM));
    ledger.grow(class(63, 11), pages(2)).unwrap();
    assert_eq!(ledger.reserve(reach(1, 11), ROOT, pages(3)), Err(NO_ROOM));
    assert_eq!(ledger.check(), Ok(()));
    let both = ledger.reserve(reach(1, 11), ROOT, pages(2)).unwrap();
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!(ledger.totals().free, ledger.totals().reserved);
    ledger.release(both);
    assert_eq!(ledger.shrink(class(0, 11), pages(2)), Ok(()));
    assert_eq!(ledger.shrink(class(0, 11), pages(1)), Err(NO_ROOM));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn the_least_scarce_page_goes_first() {
    let mut ledger = ledger_of(2);
    for level in [0, 5, 11] {
        ledger.grow(class(0, level), pages(1)).unwrap();
    }
    ledger.grow(class(1, 8), pages(1)).unwrap();
    let anywhere = NodeMask::EMPTY;
    let take = |ledger: &mut Ledger<_>| ledger.take_free(Reach::ANY, ROOT, anywhere).unwrap();
    let order = [(); 4].map(|()| take(&mut ledger));
    assert_eq!(order, [class(0, 11), class(1, 8), class(0, 5), class(0, 0)]);
    for taken in order {
        let _ = ledger.put(taken, Reach::ANY, ROOT);
    }
    // The same with promises, all of which lie on the scarce classes as well.
    let mut four = ledger.reserve(Reach::ANY, ROOT, pages(4)).unwrap();
    for expected in order {
        let one = four.split_off(PageCount::ONE).unwrap();
        // A node without pages is preferred in vain.
        assert_eq!(
            ledger.take_promised(one, NodeMask::from_bits(1 << 9)),
            Ok(expected)
        );
    }
    for taken in order {
        let _ = ledger.put(taken, Reach::ANY, ROOT);
    }
    // Near comes before wide.
    let near = NodeMask::from_bits(2);
    assert_eq!(ledger.take_free(Reach::ANY, ROOT, near), Ok(class(1, 8)));
}

#[test]
fn a_preferred_node_is_used_whenever_promises_can_move() {
    let mut ledger = ledger_of(2);
    ledger.grow(class(0, 11), pages(1)).unwrap();
    ledger.grow(class(1, 11), pages(1)).unwrap();
    // Both lie somewhere; whichever asks first gets the node that it prefers.
    for prefer in [1, 2] {
        let first = ledger.reserve(Reach::ANY, ROOT, pages(1)).unwrap();
        let other = ledger.reserve(reach(3, 10), ROOT, pages(1));
        assert_eq!(other, Err(NO_ROOM), "no page below the widest level");
        let second = ledger.reserve(reach(3, 11), ROOT, pages(1)).unwrap();
        let prefer = NodeMask::from_bits(prefer);
        let taken = ledger.take_promised(first, prefer).unwrap();
        assert_eq!(taken.node.mask(), prefer);
        assert_eq!(ledger.check(), Ok(()));
        ledger.release(second);
        assert_eq!(ledger.put(taken, Reach::ANY, ROOT), Put::Kept);
    }
}

/// A machine too large for the model: eight nodes with all levels, 40 reaches, promises held for long.
#[test]
fn a_large_machine_keeps_every_promise() {
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let mut below = move |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % n
    };
    let mut ledger = ledger_of(8);
    let mut promises: Vec<Promise> = Vec::new();
    let mut in_use: Vec<(Class, Reach)> = Vec::new();
    for node in 0..8 {
        for level in 0..Level::COUNT {
            ledger.grow(class(node, level), pages(below(9))).unwrap();
        }
    }
    let (mut granted, mut refused) = (0, 0);
    for step in 0..6000u64 {
        match below(8) {
            0..=2 => {
                let wanted = reach(1 + below(5) * 50, below(8) as usize + 4);
                match ledger.reserve(wanted, ROOT, pages(1 + below(60))) {
                    Ok(promise) => {
                        granted += 1;
                        promises.push(promise);
                    }
                    Err(Stop::Metadata { words, .. }) => {
                        drop(ledger.adopt(vec![9; words]).unwrap())
                    }
                    Err(stop) => {
                        assert_eq!(stop, NO_ROOM);
                        refused += 1;
                    }
                }
            }
            3 | 4 => {
                if let Some(mut promise) = promises.pop() {
                    while let Some(one) = promise.split_off(PageCount::ONE) {
                        let prefer = NodeMask::from_bits(1 << below(8));
                        let taken = ledger.take_promised(one, prefer).unwrap();
                        assert!(promise.reach().covers(taken));
                        in_use.push((taken, promise.reach()));
                    }
                }
            }
            5 if !promises.is_empty() => {
                let at = below(promises.len() as u64) as usize;
                ledger.release(promises.swap_remove(at));
            }
            _ => {
                for _ in 0..below(24).min(in_use.len() as u64) {
                    let at = below(in_use.len() as u64) as usize;
                    let (taken, reach) = in_use.swap_remove(at);
                    assert_eq!(ledger.put(taken, reach, ROOT), Put::Kept);
                }
            }
        }
        if step % 8 == 0 {
            assert_eq!(ledger.check(), Ok(()));
        }
    }
    assert!(
        granted > 500 && refused > 100,
        "{granted} granted, {refused} refused"
    );
}
