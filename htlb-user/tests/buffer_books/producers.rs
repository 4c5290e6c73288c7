// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Producers that fail, are short, panic, or use the buffer that they fill.

use std::io;
use std::panic::{catch_unwind, AssertUnwindSafe};

use htlb_core::Error as Cause;
use htlb_user::buffer::Populate;
use htlb_user::pools::{CheckError, Pools};

use super::buffer_support::{base, cause, PAGE};
use super::{base_limited, PIECE};

#[test]
fn a_producer_that_fails_or_is_short() {
    let pools = base_limited(PIECE);
    let builder = || pools.buffer(4 * PAGE).base_pages().threads(1);
    let refused = builder().create_with(|page| match page.offset() {
        8192 => Err(io::Error::other("the disk is on fire")),
        _ => Ok(0),
    });
    let error = refused.unwrap_err();
    assert_eq!(error.cause(), Cause::FillFailed);
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
    assert_eq!(base(&pools), (PIECE, PIECE, 0));
    // The core's own reasons stay what they are.
    let refused = builder().create_with(|_| Err(Cause::Poisoned.into()));
    assert_eq!(cause(refused), Cause::Poisoned);
    let refused = builder().create_with(|page| Ok(page.bytes().len() + 1));
    assert_eq!(cause(refused), Cause::FillFailed);
    assert_eq!(base(&pools), (PIECE, PIECE, 0));

    let later = builder().populate(Populate::Later).create().unwrap();
    for _ in 0..3 {
        let made = later.populate_with(0, PAGE, |page| {
            page.bytes().fill(0x55);
            Err(io::Error::other("no"))
        });
        assert_eq!(cause(made), Cause::FillFailed);
        assert_eq!(base(&pools), (PIECE, PIECE, 4), "the promise stays");
    }
    later
        .populate_with(0, 4 * PAGE, |page| {
            page.bytes()[..5].copy_from_slice(b"short");
            Ok(5)
        })
        .unwrap();
    let mut bytes = vec![0; 4 * PAGE as usize];
    later.read_at(0, &mut bytes).unwrap();
    for page in bytes.chunks(PAGE as usize) {
        assert!(page.starts_with(b"short") && page[5..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(base(&pools), (PIECE, PIECE - 4, 0));
}

#[test]
fn a_panic_in_a_producer_leaves_nothing_claimed() {
    for threads in [1, 3] {
        let pools = base_limited(PIECE);
        let buffer = pools
            .buffer(6 * PAGE)
            .base_pages()
            .threads(threads)
            .populate(Populate::Later)
            .create()
            .unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            buffer.populate_with(0, 6 * PAGE, |page| {
                assert_ne!(page.offset(), 2 * PAGE, "a producer's bug");
                Ok(0)
            })
        }));
        let words = panicked.unwrap_err();
        assert!(words
            .downcast_ref::<String>()
            .unwrap()
            .contains("a producer's bug"));
        base(&pools);
        // Whoever comes next gets the page, and does not wait for ever.
        assert_eq!(buffer.populate(2 * PAGE, PAGE).unwrap(), PAGE);
        buffer.populate(0, 6 * PAGE).unwrap();
        assert_eq!(base(&pools), (PIECE, PIECE - 6, 0));
        drop(buffer);
        let created = catch_unwind(AssertUnwindSafe(|| {
            let builder = pools.buffer(3 * PAGE).base_pages().threads(threads);
            builder.create_with(|_| panic!("at once"))
        }));
        assert!(created.is_err());
        assert_eq!(base(&pools), (PIECE, PIECE, 0));
    }
}

#[test]
fn a_producer_may_use_the_rest_of_its_buffer_but_not_its_own_page() {
    let pools = Pools::new().unwrap();
    let buffer = pools
        .buffer(4 * PAGE)
        .base_pages()
        .populate(Populate::Later)
        .create()
        .unwrap();
    let mut calls = 0;
    buffer
        .populate_in_order(2 * PAGE, PAGE, |page| {
            calls += 1;
            let own = page.offset();
            assert_eq!(cause(buffer.populate(own, PAGE)), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.punch(own, PAGE)), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.pin(own)), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.read_at(own, &mut [0])), Cause::WouldDeadlock);
            assert_eq!(cause(buffer.slice(own, 1)), Cause::NotPresent);
            assert_eq!(pools.check(), Err(CheckError::InsideProducer));
            assert_eq!(buffer.populate(0, PAGE).unwrap(), PAGE);
            assert_eq!(buffer.populate(3 * PAGE, PAGE).unwrap(), PAGE);
            assert_eq!(buffer.slice(0, PAGE).unwrap()[0], 0);
            page.bytes()[0] = 9;
            Ok(1)
        })
        .unwrap();
    assert_eq!(calls, 1);
    assert_eq!(buffer.slice(2 * PAGE, 1).unwrap()[0], 9);
    pools.check().unwrap();
}
