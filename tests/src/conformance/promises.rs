// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A promise is kept, is given back, and is nobody else's.

use htlb_core::driver::Commitment::{Promised, Unpromised};
use htlb_core::Error;

use super::rig::{pages, strict, PAGE};
use super::{Gone, Rig};

/// libhugetlbfs, `chunk-overcommit`.
pub(super) fn the_second_of_two_reservations_that_do_not_fit_fails(rig: &Rig<'_>) {
    let _first = rig.promised(4);
    let before = rig.counts();
    assert_eq!(rig.of(0, strict(4), Promised).err(), Some(Error::NoRoom));
    assert_eq!(rig.counts(), before);
    let other = rig.unpromised(4);
    assert_eq!(other.reserve(pages(0, 4)), Err(Error::NoRoom));
    assert_eq!(rig.counts(), before);
    assert_eq!(
        other.reserve(pages(0, 2)),
        Ok(2),
        "what is left is to be had"
    );
}

/// No SIGBUS after a successful reserve.
pub(super) fn a_granted_promise_never_fails_later(rig: &Rig<'_>) {
    let granted = rig.promised(4);
    let greedy = rig.unpromised(4);
    for page in 0..4 {
        assert_eq!(greedy.fault(page * PAGE), Err(Error::NoRoom));
        assert!(granted.fault(page * PAGE).is_ok());
    }
    assert_eq!(rig.nr_free_reserved(), (4, 0, 0));
}

/// libhugetlbfs, `noresv-preserve-resv-page`.
pub(super) fn an_unpromised_page_is_never_one_that_a_promise_needs(rig: &Rig<'_>) {
    let promised = rig.promised(2);
    let other = rig.unpromised(3);
    assert!(other.fault(0).is_ok());
    assert_eq!(rig.nr_free_reserved(), (3, 2, 2));
    assert_eq!(other.fault(PAGE), Err(Error::NoRoom));
    assert_eq!(other.populate(pages(1, 3)), Err(Error::NoRoom));
    assert_eq!(rig.nr_free_reserved(), (3, 2, 2));
    assert_eq!(promised.populate(pages(0, 2)), Ok(2));
}

/// Linux, `readahead_reserve` and `madvise_reserve`: a page that came another way needs no promise.
pub(super) fn a_reservation_covers_holes_only(rig: &Rig<'_>) {
    let buffer = rig.unpromised(5);
    assert_eq!(buffer.populate(pages(1, 2)), Ok(1));
    assert_eq!(buffer.reserve(pages(0, 3)), Ok(2));
    assert_eq!(buffer.reserve(pages(0, 3)), Ok(0), "it is promised already");
    assert_eq!(rig.nr_free_reserved(), (6, 5, 2));
    assert_eq!(buffer.reserve(pages(0, 5)), Ok(2));
    assert_eq!(rig.nr_free_reserved(), (6, 5, 4));
}

pub(super) fn a_reservation_covers_all_of_its_range_or_nothing(rig: &Rig<'_>) {
    let _three = rig.promised(3);
    let buffer = rig.unpromised(4);
    let before = rig.counts();
    assert_eq!(buffer.reserve(pages(0, 2)), Err(Error::NoRoom));
    assert_eq!(rig.counts(), before);
    assert_eq!(
        buffer.punch(pages(0, 4)),
        Ok(Gone::default()),
        "no slot kept a promise"
    );
    assert_eq!(buffer.reserve(pages(2, 3)), Ok(1));
}

/// Linux: reserved by map, allocated by the driver's path, and the promise stayed.
pub(super) fn a_populated_page_leaves_no_promise_behind(rig: &Rig<'_>) {
    let mut buffer = rig.promised(4);
    assert_eq!(rig.nr_free_reserved(), (6, 6, 4));
    for (page, left) in [(2, 3), (0, 2), (3, 1), (1, 0)] {
        assert_eq!(buffer.populate(pages(page, page + 1)), Ok(1));
        assert_eq!(rig.nr_free_reserved(), (6, 2 + left, left));
    }
    assert_eq!(
        buffer.release(),
        Ok(Gone {
            pages: 4,
            promises: 0
        })
    );
    assert_eq!(rig.nr_free_reserved(), (6, 6, 0));
}

/// libhugetlbfs, `noresv-regarded-as-resv`.
pub(super) fn an_unpromised_page_inside_a_promised_buffer_counts_once(rig: &Rig<'_>) {
    let mut buffer = rig.unpromised(4);
    assert_eq!(buffer.reserve(pages(0, 2)), Ok(2));
    assert!(buffer.fault(2 * PAGE).is_ok());
    assert_eq!(rig.nr_free_reserved(), (4, 3, 2), "it took no promise");
    assert!(buffer.fault(0).is_ok());
    assert_eq!(rig.nr_free_reserved(), (4, 2, 1), "it took its own");
    assert_eq!(
        buffer.release(),
        Ok(Gone {
            pages: 2,
            promises: 1
        })
    );
}

/// Linux, `memfd_alloc_folio` before mid-2025: it decremented a count that it had never raised.
pub(super) fn a_driver_promises_first_and_takes_then(rig: &Rig<'_>) {
    let mapped = rig.promised(3);
    let driver = rig.unpromised(2);
    assert_eq!(
        driver.populate(pages(0, 2)),
        Err(Error::NoRoom),
        "one came, the other not"
    );
    assert_eq!(rig.nr_free_reserved(), (4, 3, 3));
    assert_eq!(
        driver.punch(pages(0, 2)),
        Ok(Gone {
            pages: 1,
            promises: 0
        })
    );
    assert_eq!(driver.reserve(pages(0, 1)), Ok(1));
    assert_eq!(driver.populate(pages(0, 1)), Ok(1));
    assert_eq!(mapped.populate(pages(0, 3)), Ok(3));
}

pub(super) fn a_buffer_that_was_never_touched_gives_its_promises_back(rig: &Rig<'_>) {
    let mut buffer = rig.promised(4);
    assert_eq!(rig.nr_free_reserved(), (4, 4, 4));
    assert_eq!(
        buffer.release(),
        Ok(Gone {
            pages: 0,
            promises: 4
        })
    );
    assert_eq!(rig.nr_free_reserved(), (4, 4, 0));
}

pub(super) fn a_promise_is_not_given_twice_for_one_page(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    for _ in 0..3 {
        assert_eq!(
            buffer.populate(pages(0, 3)).map(|pages| pages <= 3),
            Ok(true)
        );
        assert_eq!(rig.nr_free_reserved(), (4, 1, 0));
        assert_eq!(
            buffer.punch(pages(0, 3)),
            Ok(Gone {
                pages: 3,
                promises: 0
            })
        );
        assert_eq!(
            rig.nr_free_reserved(),
            (4, 4, 0),
            "a punch gives the promise up"
        );
        assert_eq!(buffer.reserve(pages(0, 3)), Ok(3));
    }
}

pub(super) fn a_refused_buffer_leaves_nothing(rig: &Rig<'_>) {
    let before = rig.counts();
    for count in 4..8 {
        assert_eq!(
            rig.of(0, strict(count), Promised).err(),
            Some(Error::NoRoom)
        );
        assert_eq!(rig.counts(), before);
    }
    drop(rig.promised(3));
    assert_eq!(rig.counts(), before);
}

pub(super) fn promises_go_and_come_without_a_trace(rig: &Rig<'_>) {
    let before = rig.counts();
    for round in 0..10 {
        let mut first = rig.promised(3);
        let second = rig.of(0, strict(2), Unpromised).expect("a buffer of holes");
        assert_eq!(first.populate(pages(0, 1 + round % 3)), Ok(1 + round % 3));
        assert_eq!(second.reserve(pages(round % 2, 2)), Ok(2 - round % 2));
        assert_eq!(
            first
                .punch(pages(0, 2))
                .map(|gone| gone.pages + gone.promises),
            Ok(2)
        );
        assert!(first.release().is_ok());
        drop(second);
        assert_eq!(rig.counts(), before);
    }
}
