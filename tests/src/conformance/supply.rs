// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that come and go: surplus, resizing, demotion.

use htlb_core::driver::Commitment::Promised;
use htlb_core::{ByteLen, Error, HugeSize, Request};

use super::rig::{pages, strict, PAGE};
use super::Rig;

const MIB2: HugeSize = HugeSize::MIB2;
const GIB1: HugeSize = HugeSize::GIB1;

fn nr_surplus(rig: &Rig<'_>) -> (u64, u64) {
    let counts = rig.counts();
    (counts.nr.raw(), counts.surplus.raw())
}

/// Surplus was freed as persistent.
pub(super) fn surplus_leaves_when_it_comes_back(rig: &Rig<'_>) {
    let mut buffer = rig.promised(3);
    assert_eq!(nr_surplus(rig), (3, 2));
    assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
    assert_eq!(buffer.punch(pages(0, 2)).map(|gone| gone.pages), Ok(2));
    assert_eq!(nr_surplus(rig), (1, 0));
    assert!(buffer.release().is_ok());
    assert_eq!(
        (nr_surplus(rig), rig.nr_free_reserved()),
        ((1, 0), (1, 1, 0))
    );
}

pub(super) fn surplus_that_a_promise_got_leaves_with_the_promise(rig: &Rig<'_>) {
    let buffer = rig.promised(4);
    assert_eq!(nr_surplus(rig), (4, 3));
    assert_eq!(buffer.punch(pages(0, 2)).map(|gone| gone.promises), Ok(2));
    assert_eq!(nr_surplus(rig), (2, 1));
    assert_eq!(buffer.reserve(pages(0, 1)), Ok(1));
    assert_eq!(nr_surplus(rig), (3, 2));
    drop(buffer);
    assert_eq!(rig.nr_free_reserved(), (1, 1, 0));
}

pub(super) fn overcommit_has_a_limit(rig: &Rig<'_>) {
    let before = rig.counts();
    assert!(rig.of(0, strict(4), Promised).is_err());
    assert_eq!(rig.counts(), before);
    let most = rig.promised(3);
    assert_eq!(nr_surplus(rig), (3, 2));
    assert!(rig.of(0, strict(1), Promised).is_err());
    assert_eq!(nr_surplus(rig), (3, 2));
    drop(most);
}

pub(super) fn a_refused_request_lets_its_surplus_go(rig: &Rig<'_>) {
    let before = rig.counts();
    for count in 4..7 {
        assert!(rig.of(0, strict(count), Promised).is_err());
        assert_eq!(rig.counts(), before);
    }
    drop(rig.promised(3));
}

pub(super) fn a_refused_reservation_lets_its_surplus_go(rig: &Rig<'_>) {
    let buffer = rig.unpromised(5);
    let before = rig.counts();
    for _ in 0..2 {
        assert!(buffer.reserve(pages(0, 5)).is_err());
        assert_eq!(rig.counts(), before);
    }
    assert_eq!(buffer.reserve(pages(2, 5)), Ok(3));
}

pub(super) fn persistent_pages_stay_when_surplus_leaves(rig: &Rig<'_>) {
    let first = rig.promised(3);
    let second = rig.promised(1);
    assert_eq!(nr_surplus(rig), (4, 2));
    assert_eq!(first.populate(pages(0, 3)), Ok(3));
    assert_eq!(second.populate(pages(0, 1)), Ok(1));
    drop(first);
    assert_eq!(nr_surplus(rig), (2, 0));
    drop(second);
    assert_eq!(rig.nr_free_reserved(), (2, 2, 0));
}

pub(super) fn a_pool_grows_and_shrinks(rig: &Rig<'_>) {
    assert_eq!(rig.resize(MIB2, 0, 5), Ok(5));
    assert_eq!(rig.nr_free_reserved(), (5, 5, 0));
    let buffer = rig.promised(5);
    assert_eq!(buffer.populate(pages(0, 5)), Ok(5));
    drop(buffer);
    assert_eq!(rig.resize(MIB2, 0, 1), Ok(1));
    assert_eq!(rig.nr_free_reserved(), (1, 1, 0));
    assert_eq!(rig.resize(MIB2, 0, 0), Ok(0));
    assert!(rig.of(0, strict(1), Promised).is_err());
}

pub(super) fn growing_reports_how_far_it_came(rig: &Rig<'_>) {
    assert_eq!(rig.resize(MIB2, 0, 9), Ok(5));
    assert_eq!(rig.nr_free_reserved(), (5, 5, 0));
    assert_eq!(rig.resize(MIB2, 0, 2), Ok(2));
    assert_eq!(rig.nr_free_reserved(), (2, 2, 0));
}

/// The last free page was dissolved although it was promised.
pub(super) fn shrinking_never_breaks_a_promise(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    for target in [3, 2, 0] {
        let now = rig.resize(MIB2, 0, target).expect("an answer");
        assert_eq!(
            now, 3,
            "nothing in use can be made surplus, and three are promised"
        );
        assert_eq!(rig.nr_free_reserved(), (3, 3, 3));
    }
    assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
}

/// Shrink below in-use.
pub(super) fn pages_in_use_leave_a_shrunken_pool_when_they_come_back(rig: &Rig<'_>) {
    let mut buffer = rig.promised(3);
    assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
    assert_eq!(rig.resize(MIB2, 0, 1), Ok(1));
    assert_eq!(
        (nr_surplus(rig), rig.nr_free_reserved()),
        ((3, 2), (3, 0, 0))
    );
    assert_eq!(
        buffer.byte(2 * PAGE),
        0,
        "they stay as long as they are used"
    );
    assert!(buffer.punch(pages(0, 1)).is_ok());
    assert_eq!(nr_surplus(rig), (2, 1));
    assert!(buffer.release().is_ok());
    assert_eq!(
        (nr_surplus(rig), rig.nr_free_reserved()),
        ((1, 0), (1, 1, 0))
    );
}

pub(super) fn growing_again_keeps_what_was_to_leave(rig: &Rig<'_>) {
    let buffer = rig.promised(4);
    assert_eq!(buffer.populate(pages(0, 4)), Ok(4));
    assert_eq!(rig.resize(MIB2, 0, 1), Ok(1));
    assert_eq!(rig.resize(MIB2, 0, 3), Ok(3));
    assert_eq!(nr_surplus(rig), (4, 1));
    drop(buffer);
    assert_eq!(rig.nr_free_reserved(), (3, 3, 0));
}

pub(super) fn a_large_page_becomes_many_small_ones(rig: &Rig<'_>) {
    assert!(rig.of(0, strict(1), Promised).is_err());
    assert_eq!(rig.demote(0), Ok(()));
    assert_eq!(rig.nr_free_reserved(), (512, 512, 0));
    assert_eq!(rig.all_counts()[1].nr.raw(), 0);
    assert_eq!(rig.demote(0), Err(Error::NoRoom));
    let buffer = rig.promised(512);
    assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
    assert_eq!(buffer.populate(pages(510, 512)), Ok(2));
    assert_eq!(buffer.byte(511 * PAGE), 0);
}

pub(super) fn a_promised_large_page_is_not_broken(rig: &Rig<'_>) {
    let request = Request::builder(ByteLen::new(GIB1.bytes()))
        .page_size(GIB1)
        .strict();
    let buffer = rig.of(0, request, Promised).expect("the page");
    let before = rig.all_counts();
    assert_eq!(rig.demote(0), Err(Error::NoRoom));
    assert_eq!(rig.all_counts(), before);
    assert!(buffer.fault(GIB1.bytes() - 1).is_ok());
    assert_eq!(rig.demote(0), Err(Error::NoRoom));
    drop(buffer);
    assert_eq!(rig.demote(0), Ok(()));
}
