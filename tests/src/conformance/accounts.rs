// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Limits and guaranteed minima.

use htlb_core::driver::Commitment::{Promised, Unpromised};
use htlb_core::{Error, HugeSize};

use super::rig::{pages, strict, PAGE};
use super::{Limits, OwnerId, Rig};

fn account(rig: &Rig<'_>, max: Option<u64>, min: u64) -> Result<OwnerId, Error> {
    let size = HugeSize::MIB2;
    rig.owner(Some(Limits { size, max, min }))
}

pub(super) fn a_limit_holds_for_promises_and_pages(rig: &Rig<'_>) {
    let owner = account(rig, Some(3), 0).expect("an account");
    let before = rig.counts();
    assert_eq!(
        rig.of(owner, strict(4), Promised).err(),
        Some(Error::AccountLimit)
    );
    assert_eq!(rig.counts(), before);
    let first = rig
        .of(owner, strict(2), Promised)
        .expect("within the limit");
    let second = rig
        .of(owner, strict(3), Unpromised)
        .expect("holes are free");
    assert!(second.fault(0).is_ok());
    assert_eq!(second.fault(PAGE), Err(Error::AccountLimit));
    assert_eq!(second.reserve(pages(1, 2)), Err(Error::AccountLimit));
    assert_eq!(
        first.populate(pages(0, 2)),
        Ok(2),
        "a promise is charged already"
    );
    assert_eq!(first.punch(pages(0, 1)).map(|gone| gone.pages), Ok(1));
    assert_eq!(second.reserve(pages(1, 2)), Ok(1));
    drop((first, second));
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn a_minimum_is_kept_free_for_its_owner(rig: &Rig<'_>) {
    let owner = account(rig, None, 2).expect("it fits");
    assert_eq!(rig.nr_free_reserved(), (4, 4, 2));
    assert_eq!(rig.of(0, strict(3), Promised).err(), Some(Error::NoRoom));
    let other = rig.promised(2);
    let own = rig
        .of(owner, strict(2), Promised)
        .expect("what was guaranteed");
    assert_eq!(rig.nr_free_reserved(), (4, 4, 4));
    assert_eq!(
        rig.of(owner, strict(1), Promised).err(),
        Some(Error::NoRoom)
    );
    assert_eq!(other.populate(pages(0, 2)), Ok(2));
    assert_eq!(own.populate(pages(0, 2)), Ok(2));
    assert_eq!(rig.nr_free_reserved(), (4, 0, 0));
    drop(own);
    assert_eq!(rig.nr_free_reserved(), (4, 2, 2), "guaranteed again");
    drop(other);
    assert_eq!(rig.close(owner), Ok(()));
    assert_eq!(rig.nr_free_reserved(), (4, 4, 0));
}

pub(super) fn a_minimum_that_cannot_be_promised_is_refused(rig: &Rig<'_>) {
    let buffer = rig.promised(1);
    let before = rig.counts();
    assert_eq!(account(rig, None, 2), Err(Error::NoRoom));
    assert_eq!(rig.counts(), before);
    let owner = account(rig, None, 1).expect("one is left");
    assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
    assert_eq!(rig.close(owner), Ok(()));
}

/// Private copies with a minimum-guarantee account leaked one promise per run.
pub(super) fn a_minimum_comes_back_after_every_use(rig: &Rig<'_>) {
    let owner = account(rig, Some(3), 2).expect("it fits");
    let before = rig.counts();
    for round in 0..8 {
        let count = 1 + round % 3;
        let buffer = rig.of(owner, strict(count), Promised).expect("pages");
        assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
        if round % 2 == 0 {
            assert!(buffer.punch(pages(0, 1)).is_ok());
        }
        drop(buffer);
        assert_eq!(rig.counts(), before, "round {round}");
    }
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn a_minimum_comes_back_after_failures_too(rig: &Rig<'_>) {
    let owner = account(rig, None, 2).expect("it fits");
    let before = rig.counts();
    for _ in 0..3 {
        let promised = rig.of(owner, strict(2), Promised).expect("pages");
        let holes = rig.of(owner, strict(2), Unpromised).expect("holes");
        for buffer in [&promised, &holes] {
            let held = rig.counts();
            let made = buffer.populate_with(pages(0, 1), &mut |_| Err(Error::FillFailed));
            assert_eq!(made, Err(Error::FillFailed));
            assert_eq!(rig.counts(), held);
        }
        assert_eq!(holes.reserve(pages(0, 2)), Err(Error::NoRoom));
        drop((promised, holes));
        assert_eq!(rig.counts(), before);
    }
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn an_account_in_use_is_not_closed(rig: &Rig<'_>) {
    let owner = account(rig, None, 0).expect("an account");
    let buffer = rig.of(owner, strict(1), Promised).expect("a page");
    assert_eq!(rig.close(owner), Err(Error::AccountBusy));
    assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
    assert_eq!(rig.close(owner), Err(Error::AccountBusy));
    drop(buffer);
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn a_minimum_above_the_maximum_is_refused(rig: &Rig<'_>) {
    assert_eq!(
        account(rig, Some(1), 2),
        Err(Error::AccountMinimumAboveMaximum)
    );
    let owner = account(rig, Some(2), 2).expect("equal is legal");
    assert_eq!(rig.close(owner), Ok(()));
}
