// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Guards that overlap, and guards that are forgotten.

use htlb_core::Error as Cause;
use htlb_user::buffer::Layout;

use super::buffer_support::{base, cause, PAGE};
use super::{base_limited, PIECE};

#[test]
fn readers_may_overlap_in_any_way() {
    let pools = base_limited(PIECE);
    let buffer = pools
        .buffer(6 * PAGE)
        .base_pages()
        .create_with(|page| {
            let number = (page.offset() / PAGE) as u8;
            page.bytes().fill(number);
            Ok(page.bytes().len())
        })
        .unwrap();
    let middle = buffer.slice(2 * PAGE + 5, PAGE).unwrap();
    let whole = buffer.as_slice().unwrap();
    let left = buffer.slice(0, 3 * PAGE).unwrap();
    let right = buffer.slice(3 * PAGE, 3 * PAGE).unwrap();
    assert_eq!((middle[0], *middle.last().unwrap()), (2, 3));
    assert_eq!(whole.len() as u64, 6 * PAGE);
    for (at, byte) in whole.iter().enumerate() {
        assert_eq!(*byte as usize, at / PAGE as usize);
    }
    assert_eq!((left[0], right[0]), (0, 3));
    let mut copied = [0; 2];
    buffer.read_at(4 * PAGE - 1, &mut copied).unwrap();
    assert_eq!(copied, [3, 4]);
    for range in [(0, PAGE), (5 * PAGE, PAGE), (0, 6 * PAGE)] {
        assert_eq!(cause(buffer.punch(range.0, range.1)), Cause::Sealed);
    }
    drop((left, middle));
    assert_eq!(cause(buffer.punch(0, PAGE)), Cause::Sealed);
    drop((whole, right));
    assert_eq!(base(&pools), (PIECE, PIECE - 6, 0));
    // Each page can be taken out of what was read as one.
    for page in [3, 0, 5, 1] {
        assert_eq!(buffer.punch(page * PAGE, PAGE).unwrap().pages.raw(), 1);
        base(&pools);
    }
    assert_eq!(buffer.slice(2 * PAGE, PAGE).unwrap()[7], 2);
    drop(buffer);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
}

#[test]
fn guards_that_are_forgotten_cost_pages_and_nothing_else() {
    let pools = base_limited(PIECE);
    let whole = || pools.buffer(4 * PAGE).base_pages().create();

    let mut written = whole().unwrap();
    std::mem::forget(written.as_mut_slice().unwrap());
    assert_eq!(cause(written.as_mut_slice()), Cause::Pinned);
    assert_eq!(cause(written.as_slice()), Cause::Pinned);
    drop(written);
    assert_eq!(
        base(&pools),
        (PIECE, PIECE - 4, 0),
        "in limbo, and nobody gets them"
    );
    for _ in 0..3 {
        let mut other = whole().unwrap();
        other.as_mut_slice().unwrap().fill(1);
    }

    let read = whole().unwrap();
    std::mem::forget(read.as_slice().unwrap());
    assert_eq!(cause(read.punch(0, PAGE)), Cause::Sealed);
    drop(read);
    assert_eq!(base(&pools), (PIECE, PIECE - 8, 0));

    let pinned = whole().unwrap();
    std::mem::forget(pinned.pin(0).unwrap());
    drop(pinned);
    assert_eq!(base(&pools), (PIECE, PIECE - 12, 0));

    let all = pools
        .buffer((PIECE - 12) * PAGE)
        .base_pages()
        .layout(Layout::Scattered);
    assert_eq!(all.create().unwrap().len(), (PIECE - 12) * PAGE);
    assert_eq!(base(&pools), (PIECE, PIECE - 12, 0));
}
