// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Accounts below others, and limits and minima that change.

use std::vec;
use std::vec::Vec;

use super::{class, ledger_of, pages, reach, NO_ROOM, ROOT};
use crate::error::Error;
use crate::ledger::{AccountId, Counts, Ledger, Put, Usage};
use crate::reach::{NodeMask, Reach};
use crate::step::Stop;
use crate::units::PageCount;

const LIMIT: Stop = Stop::Fail(Error::AccountLimit);
const NONE: PageCount = PageCount::ZERO;

/// A ledger of `free` pages on one node, all of one class.
fn ledger_with(free: u64) -> Ledger<Vec<u64>> {
    let mut ledger = ledger_of(1);
    ledger.grow(class(0, 11), pages(free)).unwrap();
    ledger
}

fn open(ledger: &mut Ledger<Vec<u64>>, max: Option<u64>, min: u64) -> AccountId {
    open_under(ledger, ROOT, max, min).unwrap()
}

fn open_under(
    ledger: &mut Ledger<Vec<u64>>,
    parent: AccountId,
    max: Option<u64>,
    min: u64,
) -> Result<AccountId, Stop> {
    ledger.open_account_under(parent, max.map(pages), pages(min), Reach::ANY)
}

/// Everything that an error must leave as it was.
fn facts(ledger: &Ledger<Vec<u64>>, accounts: &[AccountId]) -> (Counts, Vec<Usage>) {
    let usage = accounts.iter().map(|id| ledger.usage(*id).unwrap());
    assert_eq!(ledger.check(), Ok(()));
    (ledger.totals(), usage.collect())
}

fn used(ledger: &Ledger<Vec<u64>>, id: AccountId) -> (u64, u64) {
    assert_eq!(ledger.check(), Ok(()));
    let usage = ledger.usage(id).unwrap();
    (usage.used.raw(), usage.below.raw())
}

#[test]
fn a_user_is_charged_for_all_files_and_for_itself() {
    let mut ledger = ledger_with(9);
    let user = open(&mut ledger, Some(5), 0);
    let first = open_under(&mut ledger, user, Some(4), 0).unwrap();
    let second = open_under(&mut ledger, user, None, 0).unwrap();

    let mut promise = ledger.reserve(Reach::ANY, first, pages(3)).unwrap();
    let taken = ledger.take_free(Reach::ANY, second, NodeMask::ALL).unwrap();
    assert_eq!(used(&ledger, user), (4, 4));
    let own = ledger.reserve(Reach::ANY, user, pages(1)).unwrap();
    assert_eq!(used(&ledger, user), (5, 4));

    // Nobody below gets more, each for the user's limit; and the user neither.
    let all = [ROOT, user, first, second];
    let before = facts(&ledger, &all);
    for id in [user, first, second] {
        assert_eq!(ledger.reserve(Reach::ANY, id, pages(1)), Err(LIMIT));
        assert_eq!(ledger.shortage(Reach::ANY, id, pages(1)), Err(LIMIT));
        assert_eq!(ledger.take_free(Reach::ANY, id, NodeMask::ALL), Err(LIMIT));
        let run = ledger.take_exact(class(0, 11), Reach::ANY, id, pages(1));
        assert_eq!(run, Err(LIMIT));
    }
    assert_eq!(facts(&ledger, &all), before);
    // The other limit holds too.
    ledger.release(own);
    assert_eq!(ledger.reserve(Reach::ANY, first, pages(2)), Err(LIMIT));

    // A promise that becomes a page, and is undone, is charged once throughout.
    let one = promise.split_off(PageCount::ONE).unwrap();
    let page = ledger.take_promised(one, NodeMask::ALL).unwrap();
    assert_eq!(used(&ledger, user), (4, 4));
    let one = ledger.put_promised(page, Reach::ANY, first);
    assert_eq!(used(&ledger, user), (4, 4));
    ledger.release(one);
    assert_eq!(ledger.put(taken, Reach::ANY, second), Put::Kept);
    assert_eq!(used(&ledger, user), (2, 2));
    let page = ledger.take_free(Reach::ANY, first, NodeMask::ALL).unwrap();
    assert_eq!(ledger.remove(page, Reach::ANY, first), Ok(()));
    ledger.release(promise);
    assert_eq!(used(&ledger, user), (0, 0));
}

#[test]
fn a_minimum_below_counts_against_the_limit_above_while_unused() {
    let mut ledger = ledger_with(9);
    let user = open(&mut ledger, Some(4), 0);
    let before = facts(&ledger, &[ROOT, user]);
    assert_eq!(open_under(&mut ledger, user, None, 5), Err(LIMIT));
    assert_eq!(facts(&ledger, &[ROOT, user]), before);
    let first = open_under(&mut ledger, user, None, 3).unwrap();
    let second = open_under(&mut ledger, user, None, 0).unwrap();
    assert_eq!(used(&ledger, user), (3, 3));
    assert_eq!(ledger.reserve(Reach::ANY, second, pages(2)), Err(LIMIT));
    let other = ledger.reserve(Reach::ANY, second, pages(1)).unwrap();

    // The user's limit is reached, and what is guaranteed can still be had, to the last page.
    assert_eq!(ledger.reserve(Reach::ANY, first, pages(4)), Err(LIMIT));
    let own = ledger.reserve(Reach::ANY, first, pages(3)).unwrap();
    assert_eq!(used(&ledger, user), (4, 4));
    assert_eq!(ledger.reserve(Reach::ANY, first, pages(1)), Err(LIMIT));
    ledger.release(own);
    assert_eq!(used(&ledger, user), (4, 4), "guaranteed again");
    assert_eq!(ledger.close_account(first), Ok(()));
    assert_eq!(used(&ledger, user), (1, 1));
    ledger.release(other);
    assert_eq!(used(&ledger, user), (0, 0));
}

#[test]
fn use_out_of_the_minimums_reach_comes_on_top_of_it() {
    let mut ledger = ledger_with(4);
    ledger.grow(class(0, 3), pages(2)).unwrap();
    let low = reach(1, 3);
    let user = open(&mut ledger, Some(4), 0);
    let file = ledger
        .open_account_under(user, None, pages(2), low)
        .unwrap();
    let wide = ledger.reserve(Reach::ANY, file, pages(2)).unwrap();
    assert_eq!(used(&ledger, user), (4, 4));
    assert_eq!(ledger.reserve(Reach::ANY, file, pages(1)), Err(LIMIT));
    let near = ledger.reserve(low, file, pages(2)).unwrap();
    assert_eq!(used(&ledger, user), (4, 4));
    ledger.release(wide);
    assert_eq!(used(&ledger, user), (2, 2));
    ledger.release(near);
    assert_eq!(used(&ledger, user), (2, 2));
}

#[test]
fn only_an_account_of_the_first_level_without_a_minimum_is_a_parent() {
    let mut ledger = ledger_with(4);
    let invalid = Err(Stop::Fail(Error::AccountParentInvalid));
    let user = open(&mut ledger, None, 0);
    let file = open_under(&mut ledger, user, None, 0).unwrap();
    assert_eq!(open_under(&mut ledger, file, None, 0), invalid);
    ledger.close_account(file).unwrap();
    let gone = open_under(&mut ledger, file, None, 0);
    assert_eq!(gone, Err(Stop::Fail(Error::AccountInvalid)));
    let guaranteed = open(&mut ledger, None, 1);
    assert_eq!(open_under(&mut ledger, guaranteed, None, 0), invalid);
    // Nor does an account get a minimum while others are below it.
    let file = open_under(&mut ledger, user, None, 0).unwrap();
    let busy = Err(Stop::Fail(Error::AccountBusy));
    assert_eq!(ledger.set_minimum(user, pages(1), Reach::ANY), busy);
    ledger.set_minimum(guaranteed, NONE, Reach::ANY).unwrap();
    assert_eq!(ledger.close_account(guaranteed), Ok(()));
    let other = open_under(&mut ledger, user, None, 0).unwrap();
    for id in [file, other] {
        assert_eq!(ledger.close_account(user), Err(Error::AccountBusy));
        assert_eq!(ledger.close_account(id), Ok(()));
    }
    assert_eq!(ledger.close_account(user), Ok(()));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn the_next_account_in_a_row_has_nothing_of_the_last_one() {
    let mut ledger = ledger_with(4);
    let user = open(&mut ledger, Some(4), 0);
    let file = open_under(&mut ledger, user, None, 2).unwrap();
    ledger.close_account(file).unwrap();
    // The same row, below nobody.
    let alone = open(&mut ledger, Some(1), 0);
    let one = ledger.reserve(Reach::ANY, alone, pages(1)).unwrap();
    assert_eq!(used(&ledger, user), (0, 0));
    assert_eq!(used(&ledger, alone), (1, 0));
    ledger.release(one);
    // A parent's row, for a child.
    ledger.close_account(user).unwrap();
    let child = open_under(&mut ledger, alone, None, 0).unwrap();
    assert_eq!(ledger.reserve(Reach::ANY, child, pages(2)), Err(LIMIT));
    let one = ledger.reserve(Reach::ANY, child, pages(1)).unwrap();
    assert_eq!(used(&ledger, alone), (1, 1));
    ledger.release(one);
}

#[test]
fn families_move_with_the_tables() {
    let mut ledger = ledger_with(4);
    let user = open(&mut ledger, Some(2), 0);
    let mut files = Vec::new();
    while files.len() < 9 {
        match open_under(&mut ledger, user, None, 0) {
            Ok(file) => files.push(file),
            Err(Stop::Metadata { words, .. }) => drop(ledger.adopt(vec![7; words]).unwrap()),
            Err(stop) => unreachable!("{stop:?}"),
        }
    }
    let promises =
        [files[0], files[8]].map(|file| ledger.reserve(Reach::ANY, file, pages(1)).unwrap());
    assert_eq!(ledger.reserve(Reach::ANY, files[4], pages(1)), Err(LIMIT));
    assert_eq!(used(&ledger, user), (2, 2));
    for promise in promises {
        ledger.release(promise);
    }
    assert_eq!(used(&ledger, user), (0, 0));
}

#[test]
fn a_limit_changes_while_pages_are_in_use() {
    let mut ledger = ledger_with(9);
    let user = open(&mut ledger, None, 0);
    let file = open_under(&mut ledger, user, Some(9), 2).unwrap();
    let promise = ledger.reserve(Reach::ANY, file, pages(4)).unwrap();
    let own = ledger.reserve(Reach::ANY, user, pages(1)).unwrap();

    let all = [ROOT, user, file];
    let before = facts(&ledger, &all);
    let refused = [
        (ROOT, Some(9), Error::AccountInvalid),
        (file, Some(1), Error::AccountMinimumAboveMaximum),
        (file, Some(3), Error::AccountBusy),
        (user, Some(4), Error::AccountBusy),
    ];
    for (id, max, error) in refused {
        assert_eq!(ledger.set_limit(id, max.map(pages)), Err(error));
    }
    assert_eq!(facts(&ledger, &all), before);

    ledger.set_limit(file, Some(pages(4))).unwrap();
    ledger.set_limit(user, Some(pages(6))).unwrap();
    assert_eq!(ledger.usage(user).unwrap().max, Some(pages(6)));
    assert_eq!(ledger.reserve(Reach::ANY, file, pages(1)), Err(LIMIT));
    ledger.set_limit(file, None).unwrap();
    assert_eq!(ledger.usage(file).unwrap().max, None);
    assert_eq!(ledger.reserve(Reach::ANY, file, pages(2)), Err(LIMIT));
    ledger.set_limit(user, Some(pages(7))).unwrap();
    let more = ledger.reserve(Reach::ANY, file, pages(2)).unwrap();
    for promise in [promise, own, more] {
        ledger.release(promise);
    }
    // The minimum is what is left, and no limit goes below it, above or here.
    assert_eq!(used(&ledger, user), (2, 2));
    assert_eq!(
        ledger.set_limit(user, Some(pages(1))),
        Err(Error::AccountBusy)
    );
    ledger.close_account(file).unwrap();
    assert_eq!(ledger.set_limit(file, None), Err(Error::AccountInvalid));
    assert_eq!(ledger.set_limit(user, Some(NONE)), Ok(()));
    assert_eq!(ledger.reserve(Reach::ANY, user, pages(1)), Err(LIMIT));
}

#[test]
fn a_minimum_is_replaced_or_stays() {
    let mut ledger = ledger_with(4);
    ledger.grow(class(0, 3), pages(2)).unwrap();
    let low = reach(1, 3);
    let user = open(&mut ledger, Some(5), 0);
    let file = ledger
        .open_account_under(user, Some(pages(5)), pages(2), low)
        .unwrap();
    let others = ledger.reserve(Reach::ANY, ROOT, pages(1)).unwrap();

    let all = [ROOT, user, file];
    let before = facts(&ledger, &all);
    let refused = [
        (ROOT, 1, Reach::ANY, Error::AccountInvalid),
        (file, 6, Reach::ANY, Error::AccountMinimumAboveMaximum),
        (file, 3, low, Error::NoRoom),
    ];
    for (id, min, reach, error) in refused {
        let found = ledger.set_minimum(id, pages(min), reach);
        assert_eq!(found, Err(Stop::Fail(error)));
        assert_eq!(facts(&ledger, &all), before);
    }
    ledger.set_limit(user, Some(pages(4))).unwrap();
    let found = ledger.set_minimum(file, pages(5), Reach::ANY);
    assert_eq!(found, Err(LIMIT));
    ledger.set_limit(user, Some(pages(5))).unwrap();
    assert_eq!(facts(&ledger, &all), before);

    // What it had counts towards what it gets: only three more are needed.
    ledger.set_minimum(file, pages(5), Reach::ANY).unwrap();
    assert_eq!(used(&ledger, user), (5, 5));
    assert_eq!(ledger.available(), NONE);
    let promise = ledger.reserve(low, file, pages(1)).unwrap();
    assert_eq!(
        ledger.set_minimum(file, NONE, low),
        Err(Stop::Fail(Error::AccountBusy))
    );
    ledger.release(promise);
    ledger.release(others);
    ledger.set_minimum(file, pages(2), low).unwrap();
    assert_eq!(used(&ledger, user), (2, 2));
    assert_eq!(ledger.reserve(low, ROOT, pages(1)), Err(NO_ROOM));
    ledger.set_minimum(file, NONE, low).unwrap();
    assert_eq!(used(&ledger, user), (0, 0));
    assert_eq!(ledger.available(), pages(6));
}
