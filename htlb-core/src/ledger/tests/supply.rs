// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Accounts with minima, surplus pages, pages that go bad.

use super::{class, ledger_of, pages, reach, NO_ROOM, ROOT};
use crate::error::Error;
use crate::ledger::{Counts, Put};
use crate::reach::{NodeMask, Reach};
use crate::step::Stop;

#[test]
fn a_minimum_that_needs_a_bad_page_keeps_it() {
    let mut ledger = ledger_of(1);
    ledger.grow(class(0, 3), pages(1)).unwrap();
    let low = reach(1, 3);
    let account = ledger.open_account(None, pages(1), low).unwrap();
    let taken = ledger.take_free(low, account, NodeMask::ALL).unwrap();
    assert_eq!(ledger.remove(taken, low, account), Err(Error::NoRoom));
    assert_eq!(ledger.usage(account).unwrap().used, pages(1));
    // A page out of the minimum's reach does not help; one within does.
    ledger.grow(class(0, 4), pages(1)).unwrap();
    assert_eq!(ledger.remove(taken, low, account), Err(Error::NoRoom));
    ledger.grow(class(0, 1), pages(1)).unwrap();
    assert_eq!(ledger.remove(taken, low, account), Ok(()));
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!(ledger.totals().nr, pages(2));
    assert_eq!(ledger.unused_minima(), pages(1));
    assert_eq!(ledger.remove(taken, low, account), Err(Error::FrameInvalid));
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn only_use_within_its_reach_counts_against_a_minimum() {
    let mut ledger = ledger_of(1);
    ledger.grow(class(0, 0), pages(2)).unwrap();
    ledger.grow(class(0, 11), pages(2)).unwrap();
    let low = reach(1, 0);
    let account = ledger.open_account(Some(pages(3)), pages(2), low).unwrap();
    let wide = ledger.reserve(Reach::ANY, account, pages(2)).unwrap();
    assert_eq!(ledger.usage(account).unwrap().unused_minimum, pages(2));
    assert_eq!(
        ledger.reserve(low, account, pages(2)),
        Err(Stop::Fail(Error::AccountLimit))
    );
    let near = ledger.reserve(low, account, pages(1)).unwrap();
    assert_eq!(ledger.usage(account).unwrap().unused_minimum, pages(1));
    ledger.release(wide);
    ledger.release(near);
    assert_eq!(ledger.usage(account).unwrap().unused_minimum, pages(2));
    assert_eq!(ledger.check(), Ok(()));
    assert_eq!(ledger.close_account(account), Ok(()));
    assert_eq!(ledger.usage(account), Err(Error::AccountInvalid));
    // The next account in that row is another one.
    let next = ledger.open_account(None, pages(0), low).unwrap();
    assert_ne!(next, account);
    assert_eq!(ledger.close_account(account), Err(Error::AccountInvalid));
    assert_eq!(ledger.totals().reserved, pages(0));
}

#[test]
fn pages_in_use_leave_after_the_pool_was_made_smaller() {
    let mut ledger = ledger_of(1);
    let here = class(0, 11);
    ledger.grow(here, pages(3)).unwrap();
    for _ in 0..3 {
        assert_eq!(ledger.take_free(Reach::ANY, ROOT, NodeMask::ALL), Ok(here));
    }
    assert_eq!(ledger.shrink(here, pages(1)), Err(NO_ROOM));
    ledger.retire(here, pages(2)).unwrap();
    assert_eq!(ledger.retire(here, pages(2)), Err(NO_ROOM));
    assert_eq!(ledger.absorb(here, pages(1)), pages(1));
    assert_eq!(ledger.put(here, Reach::ANY, ROOT), Put::Surplus);
    assert_eq!(ledger.put(here, Reach::ANY, ROOT), Put::Kept);
    assert_eq!(ledger.put(here, Reach::ANY, ROOT), Put::Kept);
    let expected = Counts {
        nr: pages(2),
        free: pages(2),
        ..Counts::default()
    };
    assert_eq!(ledger.totals(), expected);
    assert_eq!(ledger.check(), Ok(()));
}

#[test]
fn surplus_pages_are_grown_for_a_promise_and_dropped_after_it() {
    let mut ledger = ledger_of(2);
    let (near, far) = (class(0, 11), class(1, 11));
    ledger.grow(near, pages(1)).unwrap();
    ledger.set_overcommit(pages(2));
    assert_eq!(ledger.available(), pages(3));
    assert_eq!(ledger.shortage(Reach::ANY, ROOT, pages(4)), Ok(pages(3)));
    assert_eq!(
        ledger.grow_surplus(far, pages(3)),
        Err(Stop::Fail(Error::OvercommitLimit))
    );
    assert_eq!(ledger.shortage(Reach::ANY, ROOT, pages(3)), Ok(pages(2)));
    ledger.grow_surplus(far, pages(2)).unwrap();
    let promise = ledger.reserve(Reach::ANY, ROOT, pages(3)).unwrap();
    assert_eq!(ledger.drop_surplus(), None, "all of them are promised");
    ledger.release(promise);
    // A promise that could use either keeps the persistent page, not the surplus ones.
    let one = ledger.reserve(Reach::ANY, ROOT, pages(1)).unwrap();
    assert_eq!(ledger.drop_surplus(), Some(far));
    assert_eq!(ledger.drop_surplus(), Some(far));
    assert_eq!(ledger.drop_surplus(), None);
    assert_eq!(ledger.class(near).reserved, pages(1));
    ledger.release(one);
    assert_eq!(ledger.check(), Ok(()));
}
