// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Dirty within owner: a page that its owner has back as it was.

use htlb_core::driver::Commitment::Promised;
use htlb_core::{AddressBits, Error, Fill};

use super::rig::{pages, strict, PAGE};
use super::{OwnerId, Rig};

fn leave_data(rig: &Rig<'_>, owner: OwnerId, count: u64) {
    let buffer = rig
        .of(owner, strict(count).fill(Fill::DirtyWithinOwner), Promised)
        .expect("pages");
    assert_eq!(buffer.populate(pages(0, count)), Ok(count));
    for page in 0..count {
        buffer.write(page * PAGE + 9, b"mine").expect("a page");
    }
}

fn first_byte(rig: &Rig<'_>, owner: OwnerId, fill: Fill) -> u8 {
    let buffer = rig
        .of(owner, strict(1).fill(fill), Promised)
        .expect("a page");
    assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
    buffer.byte(9)
}

pub(super) fn an_owner_gets_back_what_it_left(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    leave_data(rig, owner, 1);
    for _ in 0..3 {
        assert_eq!(first_byte(rig, owner, Fill::DirtyWithinOwner), b'm');
    }
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn nobody_else_gets_what_an_owner_left(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    leave_data(rig, owner, 1);
    let other = rig.owner(None).expect("another owner");
    assert_eq!(first_byte(rig, other, Fill::DirtyWithinOwner), 0);
    assert_eq!(first_byte(rig, owner, Fill::DirtyWithinOwner), b'm');
    assert_eq!(rig.close(owner), Ok(()));
    assert_eq!(rig.close(other), Ok(()));
    // All that they kept is in the pool now.
    let last = rig.owner(None).expect("an owner");
    leave_data(rig, last, 3);
    assert_eq!(rig.close(last), Ok(()));
    let third = rig.owner(None).expect("a third");
    assert_eq!(first_byte(rig, third, Fill::DirtyWithinOwner), 0);
    assert_eq!(rig.close(third), Ok(()));
}

/// What is kept is a convenience, and nobody goes without a page for it.
pub(super) fn kept_pages_serve_whoever_is_short(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    leave_data(rig, owner, 2);
    assert_eq!(rig.nr_free_reserved(), (2, 0, 0));
    let other = rig.promised(2);
    assert_eq!(other.populate(pages(0, 2)), Ok(2));
    assert_eq!(other.byte(9) | other.byte(PAGE + 9), 0);
    drop(other);
    leave_data(rig, owner, 1);
    let holes = rig.unpromised(2);
    assert_eq!(holes.populate(pages(0, 2)), Ok(2), "without a promise too");
    assert_eq!(holes.byte(9) | holes.byte(PAGE + 9), 0);
    drop(holes);
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn who_asks_for_zeroes_gets_zeroes(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    leave_data(rig, owner, 1);
    assert_eq!(first_byte(rig, owner, Fill::Zeroed), 0);
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn a_failed_fill_keeps_what_the_owner_kept(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    leave_data(rig, owner, 1);
    {
        let request = strict(1).fill(Fill::DirtyWithinOwner);
        let buffer = rig.of(owner, request, Promised).expect("a page");
        let before = rig.counts();
        for _ in 0..3 {
            let made = buffer.populate_with(pages(0, 1), &mut |_| Err(Error::FillFailed));
            assert_eq!(made, Err(Error::FillFailed));
            assert_eq!(rig.counts(), before);
        }
    }
    assert_eq!(first_byte(rig, owner, Fill::DirtyWithinOwner), b'm');
    assert_eq!(rig.close(owner), Ok(()));
}

pub(super) fn a_magazine_has_an_end(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    leave_data(rig, owner, 3);
    assert_eq!(
        rig.nr_free_reserved(),
        (4, 3, 0),
        "one is kept, the others are free"
    );
    let others = rig.promised(3);
    assert_eq!(others.populate(pages(0, 3)), Ok(3));
    assert_eq!(
        others.byte(9) | others.byte(PAGE + 9) | others.byte(2 * PAGE + 9),
        0
    );
    drop(others);
    assert_eq!(rig.close(owner), Ok(()));
}

/// A kept page is charged with the reach that it was had for.
pub(super) fn another_reach_does_not_mix_up_the_books(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    leave_data(rig, owner, 1);
    let bits = AddressBits::new(32).expect("legal");
    for _ in 0..2 {
        let request = strict(1).fill(Fill::DirtyWithinOwner).dma_mask(bits);
        let buffer = rig.of(owner, request, Promised).expect("a page");
        assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
        buffer.write(9, b"mine").expect("a page");
    }
    assert_eq!(first_byte(rig, owner, Fill::DirtyWithinOwner), b'm');
    assert_eq!(rig.close(owner), Ok(()));
}
