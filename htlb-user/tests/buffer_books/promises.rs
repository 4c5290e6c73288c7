// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A promise is kept: what is promised can be had, and what would break a promise is refused.

use htlb_core::{ByteLen, Error as Cause};
use htlb_user::buffer::Populate;
use htlb_user::pools::Pools;

use super::buffer_support::{base, cause, PAGE};
use super::{base_limited, PIECE};

#[test]
fn promised_populated_punched_released() {
    let pools = base_limited(PIECE);
    let buffer = pools
        .buffer(10 * PAGE)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    assert_eq!(base(&pools), (PIECE, PIECE, 10));
    assert_eq!(buffer.receipt().reserved, ByteLen::new(10 * PAGE));
    assert_eq!(cause(buffer.as_slice()), Cause::NotPresent);
    assert_eq!(buffer.populate(0, 4 * PAGE).unwrap(), 4 * PAGE);
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 6));
    assert_eq!(buffer.populate(0, 5 * PAGE).unwrap(), PAGE);
    assert_eq!(buffer.populate(0, 5 * PAGE).unwrap(), 0);
    let gone = buffer.punch(4 * PAGE, 2 * PAGE).unwrap();
    assert_eq!((gone.pages.raw(), gone.promises.raw()), (1, 1));
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 4));
    assert_eq!(buffer.reserve(0, 10 * PAGE).unwrap(), 2 * PAGE);
    assert_eq!(buffer.reserve(0, 10 * PAGE).unwrap(), 0);
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 6));
    assert_eq!(buffer.receipt().populated, ByteLen::new(4 * PAGE));
    drop(buffer);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
    assert_eq!(pools.trim(), PIECE * PAGE);
    assert_eq!(base(&pools), (0, 0, 0));
}

#[test]
fn a_later_buffer_is_populated_whole() {
    let pools = Pools::new().unwrap();
    let size = 3 * PAGE + 17;
    let buffer = pools
        .buffer(size)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    assert_eq!(buffer.populate(0, size).unwrap(), 4 * PAGE);
    assert_eq!(buffer.as_slice().unwrap().len() as u64, size);
    pools.check().unwrap();
}

fn is_short(cause: Cause) -> bool {
    matches!(cause, Cause::NoRoom | Cause::OutOfPages)
}

#[test]
fn two_that_do_not_fit() {
    let pools = base_limited(PIECE);
    let later = |pages: u64| {
        let builder = pools.buffer(pages * PAGE).base_pages();
        builder.populate(Populate::Later).create()
    };
    let first = later(PIECE * 2 / 3).unwrap();
    let before = base(&pools);
    assert!(is_short(cause(later(PIECE * 2 / 3))));
    assert_eq!(base(&pools), before);
    // Neither one that takes its pages at once, nor one that is straight.
    let now = pools.buffer(PIECE * PAGE).base_pages();
    assert!(is_short(cause(now.create())));
    let holes = pools
        .buffer(PIECE * PAGE)
        .base_pages()
        .populate(Populate::Unpromised)
        .create()
        .unwrap();
    assert!(is_short(cause(holes.populate(0, PIECE * PAGE))));
    let (_, free, reserved) = base(&pools);
    assert_eq!(
        (free, reserved),
        (reserved, PIECE * 2 / 3),
        "no promise was broken"
    );
    assert_eq!(first.populate(0, first.len()).unwrap(), first.len());
    base(&pools);
    drop((first, holes));
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
}
