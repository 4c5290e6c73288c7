// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What an owner keeps, and who gets it.

use htlb_core::Fill;
use htlb_user::buffer::Layout;
use htlb_user::pools::Pools;
use htlb_user::Owner;

use super::buffer_support::{base, PAGE};
use super::{base_limited, PIECE};

#[test]
fn an_owner_gets_its_own_data_back_and_nobody_elses() {
    for pages in [1, 8] {
        let pools = base_limited(PIECE);
        let owner = Owner::new(&pools);
        let of = |owner: &Owner| pools.buffer(pages * PAGE).base_pages().owner(owner);
        let mut first = of(&owner).create().unwrap();
        first.as_mut_slice().unwrap().fill(0x77);
        let place = first.raw_parts().unwrap().0;
        drop(first);
        assert_eq!(base(&pools), (PIECE, PIECE - pages, 0));
        let again = of(&owner).create().unwrap();
        assert_eq!(again.raw_parts().unwrap().0, place);
        assert!(again.as_slice().unwrap().iter().all(|byte| *byte == 0x77));
        drop(again);
        let cleared = of(&owner).fill(Fill::Zeroed).create().unwrap();
        assert!(cleared.as_slice().unwrap().iter().all(|byte| *byte == 0));
        drop(cleared);
        let other = of(&Owner::new(&pools)).create().unwrap();
        assert!(other.as_slice().unwrap().iter().all(|byte| *byte == 0));
        drop(other);
        pools.trim();
        assert_eq!(base(&pools), (0, 0, 0));
    }
}

#[test]
fn a_kept_buffer_is_as_it_was_made() {
    let pools = base_limited(PIECE);
    let owner = Owner::new(&pools);
    let make = || {
        pools
            .buffer(4 * PAGE)
            .base_pages()
            .owner(&owner)
            .capacity(6 * PAGE)
    };
    let write = |byte: u8| {
        let mut buffer = make().create().unwrap();
        buffer.as_mut_slice().unwrap().fill(byte);
        buffer
    };
    for change in 0..5 {
        let mut buffer = write(0x66);
        match change {
            0 => drop(buffer.punch(PAGE, PAGE).unwrap()),
            1 => drop(buffer.truncate(PAGE).unwrap()),
            2 => drop(buffer.truncate(6 * PAGE).unwrap()),
            3 => std::mem::forget(buffer.pin(0).unwrap()),
            _ => std::mem::forget(buffer.as_mut_slice().unwrap()),
        }
        drop(buffer);
        base(&pools);
        let mut next = make().create().unwrap();
        assert_eq!((next.len(), next.capacity()), (4 * PAGE, 6 * PAGE));
        next.as_mut_slice().unwrap().fill(1);
        assert_eq!(next.punch(0, 4 * PAGE).unwrap().pages.raw(), 4, "{change}");
        base(&pools);
    }
    // Other choices, or another owner of the same pools, or the same owner in other pools.
    drop(write(0x44));
    assert_eq!(
        make().create_with(|_| Ok(0)).unwrap().as_slice().unwrap()[0],
        0
    );
    let zeroed = make().fill(Fill::Zeroed).create().unwrap();
    assert!(zeroed.as_slice().unwrap().iter().all(|byte| *byte == 0));
    let other = Pools::new().unwrap();
    let elsewhere = other
        .buffer(4 * PAGE)
        .base_pages()
        .owner(&owner)
        .capacity(6 * PAGE);
    assert_eq!(elsewhere.create().unwrap().as_slice().unwrap()[0], 0);
    drop(zeroed);
    other.check().unwrap();
    base(&pools);
    drop(owner);
    let (pages, free, reserved) = base(&pools);
    assert_eq!((pages, reserved), (PIECE, 0));
    assert!(free >= PIECE - 12, "all but what was forgotten: {free}");
}

#[test]
fn what_an_owner_keeps_serves_whoever_is_short() {
    let pools = base_limited(PIECE);
    let owner = Owner::keeping(&pools, 400 * PAGE);
    for straight in [false, true] {
        let mut kept = pools
            .buffer(400 * PAGE)
            .base_pages()
            .owner(&owner)
            .create()
            .unwrap();
        kept.as_mut_slice().unwrap().fill(0xaa);
        drop(kept);
        assert_eq!(base(&pools), (PIECE, PIECE - 400, 0));
        let layout = if straight {
            Layout::Straight
        } else {
            Layout::Scattered
        };
        let other = pools
            .buffer(300 * PAGE)
            .base_pages()
            .layout(layout)
            .create()
            .unwrap();
        let mut bytes = vec![1; 300 * PAGE as usize];
        other.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
        drop(other);
        base(&pools);
    }
    let last = Owner::new(&pools);
    drop(
        pools
            .buffer(PAGE)
            .base_pages()
            .owner(&last)
            .create()
            .unwrap(),
    );
    drop((owner, last));
    assert_eq!(
        base(&pools),
        (PIECE, PIECE, 0),
        "an owner that ends gives back what it kept"
    );
}
