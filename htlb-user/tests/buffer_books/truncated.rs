// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers that become shorter, and longer again.

use htlb_core::{ByteLen, Error as Cause};
use htlb_user::pools::Pools;

use super::buffer_support::{base, cause, PAGE};
use super::{base_limited, PIECE};

#[test]
fn truncate_to_nothing_and_grow_again() {
    let pools = base_limited(PIECE);
    let mut buffer = pools
        .buffer(3 * PAGE)
        .base_pages()
        .capacity(6 * PAGE)
        .create()
        .unwrap();
    buffer.as_mut_slice().unwrap().fill(0xee);
    assert_eq!(buffer.truncate(PAGE + 100).unwrap().pages.raw(), 1);
    assert_eq!(buffer.truncate(0).unwrap().pages.raw(), 2);
    assert!(buffer.is_empty() && buffer.as_slice().unwrap().is_empty());
    assert!(buffer.as_mut_slice().unwrap().is_empty());
    assert_eq!(buffer.raw_parts().unwrap().1, 0);
    let (_, free, reserved) = base(&pools);
    assert_eq!(
        (free, reserved),
        (PIECE - 3, 0),
        "three wait beyond the old size"
    );
    assert_eq!(buffer.truncate(6 * PAGE).unwrap().pages.raw(), 0);
    assert_eq!(
        buffer.reserve(0, 6 * PAGE).unwrap(),
        3 * PAGE,
        "of which three are had"
    );
    assert_eq!(buffer.receipt().reserved, ByteLen::new(6 * PAGE));
    assert_eq!(buffer.populate(0, 6 * PAGE).unwrap(), 6 * PAGE);
    let mut bytes = vec![1; 6 * PAGE as usize];
    buffer.read_at(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert_eq!(base(&pools), (PIECE, PIECE - 6, 0));
    drop(buffer);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
}

#[test]
fn what_a_truncate_cuts_off_is_zero_when_it_comes_back() {
    let pools = Pools::new().unwrap();
    let mut buffer = pools.buffer(2 * PAGE).base_pages().create().unwrap();
    buffer.as_mut_slice().unwrap().fill(7);
    buffer.truncate(PAGE + 10).unwrap();
    assert_eq!(
        cause(buffer.read_at(PAGE + 10, &mut [0])),
        Cause::RangeBeyondEnd
    );
    buffer.truncate(2 * PAGE).unwrap();
    let bytes = buffer.as_slice().unwrap();
    let (kept, cut) = bytes.split_at(PAGE as usize + 10);
    assert!(kept.iter().all(|byte| *byte == 7) && cut.iter().all(|byte| *byte == 0));
}
