// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What is in a page when it comes into being.

use htlb_core::driver::Commitment::Promised;
use htlb_core::Error;

use super::rig::{pages, strict, Buf, PAGE};
use super::{InHand, Rig};

/// Places that a partial clear would miss: the ends of base pages, and of the page.
const PLACES: [u64; 7] = [0, 1, 4095, 4096, PAGE / 2, PAGE - 4096, PAGE - 1];

fn scribble(buffer: &Buf<'_>, count: u64) {
    for page in 0..count {
        for place in PLACES {
            buffer
                .write(page * PAGE + place, &[0x5a])
                .expect("a page to write to");
        }
    }
}

fn assert_zero(buffer: &Buf<'_>, page: u64, from: u64) {
    for place in PLACES.into_iter().filter(|place| *place >= from) {
        assert_eq!(
            buffer.byte(page * PAGE + place),
            0,
            "at {place} of page {page}"
        );
    }
}

/// A page of the driver's path reached user space unzeroed.
pub(super) fn a_page_is_zero_whoever_had_it_before(rig: &Rig<'_>) {
    for _ in 0..2 {
        let mut first = rig.promised(3);
        assert_eq!(first.populate(pages(0, 3)), Ok(3));
        for page in 0..3 {
            assert_zero(&first, page, 0);
        }
        scribble(&first, 3);
        assert!(first.release().is_ok());
        let other = rig.owner(None).expect("an owner");
        let second = rig.of(other, strict(3), Promised).expect("its pages");
        assert_eq!(second.populate(pages(0, 3)), Ok(3));
        for page in 0..3 {
            assert_zero(&second, page, 0);
        }
        scribble(&second, 3);
    }
}

pub(super) fn a_hole_reads_as_zeroes(rig: &Rig<'_>) {
    let buffer = rig.promised(2);
    assert_eq!(buffer.page_at(PAGE), Err(Error::NotPresent));
    assert_zero(&buffer, 1, 0);
    assert!(buffer.page_at(PAGE).is_ok());
    assert_eq!(rig.nr_free_reserved(), (2, 1, 1));
}

pub(super) fn contents_stay(rig: &Rig<'_>) {
    let buffer = rig.promised(4);
    assert_eq!(buffer.populate(pages(0, 4)), Ok(4));
    for page in 0..4u8 {
        let at = u64::from(page) * PAGE;
        buffer.write(at, &[page + 1]).expect("a page");
        buffer.write(at + PAGE - 1, &[page + 0x81]).expect("a page");
    }
    // Across the border of two pages.
    buffer
        .write(2 * PAGE - 2, &[7, 8, 9, 10])
        .expect("two pages");
    let mut border = [0; 6];
    buffer.read(2 * PAGE - 3, &mut border).expect("two pages");
    assert_eq!(border, [0, 7, 8, 9, 10, 0]);
    for page in [0u8, 3] {
        let at = u64::from(page) * PAGE;
        assert_eq!(
            (buffer.byte(at), buffer.byte(at + PAGE - 1)),
            (page + 1, page + 0x81)
        );
    }
}

pub(super) fn populating_twice_changes_nothing(rig: &Rig<'_>) {
    let buffer = rig.promised(4);
    assert_eq!(buffer.populate(pages(1, 3)), Ok(2));
    buffer.write(PAGE, b"here").expect("a page");
    let (page, before) = (buffer.page_at(PAGE), rig.counts());
    assert_eq!(buffer.populate(pages(1, 3)), Ok(0));
    assert_eq!((buffer.page_at(PAGE), rig.counts()), (page, before));
    assert_eq!(buffer.byte(PAGE), b'h');
    assert_eq!(buffer.populate(pages(0, 4)), Ok(2), "only what was missing");
}

/// Asks (a) and (c) of the idea: driven by the driver, and found at an offset that was never faulted.
pub(super) fn a_page_is_found_before_the_first_fault(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    assert_eq!(buffer.page_at(0), Err(Error::NotPresent));
    assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
    let mut frames = Vec::new();
    for page in 0..3 {
        let at = buffer.page_at(page * PAGE + 5).expect("it was populated");
        assert_eq!((at.size.bytes(), at.offset_in_page.raw()), (PAGE, 5));
        frames.push(at.pfn);
    }
    frames.sort_unstable();
    frames.dedup();
    assert_eq!(frames.len(), 3, "each page has a frame of its own");
}

/// libhugetlbfs, `truncate_sigbus_versus_oom`.
pub(super) fn past_the_end_is_a_range_error_even_without_pages(rig: &Rig<'_>) {
    let all = rig.promised(1);
    assert_eq!(all.populate(pages(0, 1)), Ok(1));
    let empty = rig.unpromised(1);
    assert_eq!(empty.fault(0), Err(Error::NoRoom));
    for offset in [PAGE, PAGE + 1, u64::MAX] {
        assert_eq!(empty.fault(offset), Err(Error::RangeBeyondEnd));
        assert_eq!(empty.page_at(offset), Err(Error::RangeBeyondEnd));
    }
}

pub(super) fn a_producer_fills_pages_in_place(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    let mut seen = Vec::new();
    let made = buffer.populate_with(pages(0, 3), &mut |page| {
        let number = u8::try_from(page.offset() / PAGE).expect("few pages") + 1;
        seen.push((page.offset(), page.len()));
        page.write(0, &vec![number; usize::try_from(PAGE).expect("it fits")]);
        Ok(PAGE)
    });
    assert_eq!(made, Ok(3));
    assert_eq!(seen, [(0, PAGE), (PAGE, PAGE), (2 * PAGE, PAGE)]);
    for page in 0..3 {
        let number = u8::try_from(page).expect("few pages") + 1;
        assert_eq!(buffer.byte(page * PAGE + 99), number);
        assert_eq!(buffer.byte(page * PAGE + PAGE - 1), number);
    }
    let again = buffer.populate_with(pages(0, 3), &mut |_| panic!("every page is there"));
    assert_eq!(again, Ok(0));
}

pub(super) fn a_short_fill_leaves_no_stale_byte(rig: &Rig<'_>) {
    for (round, written) in [0, 1, 4095, 4096, 4097, PAGE / 2 + 1, PAGE - 1]
        .into_iter()
        .enumerate()
    {
        let owner = rig.owner(None).expect("an owner");
        let buffer = rig.of(owner, strict(2), Promised).expect("pages");
        let made = buffer.populate_with(pages(0, 2), &mut |page| {
            // Nothing beyond what is told.
            for at in PLACES.into_iter().filter(|at| *at < written) {
                page.write(at, &[0x77]);
            }
            // A producer that is short has still written all that it says.
            let bytes = vec![0x77; usize::try_from(written).expect("it fits")];
            page.write(0, &bytes);
            Ok(written)
        });
        assert_eq!(made, Ok(2), "round {round}");
        for page in 0..2 {
            assert_zero(&buffer, page, written);
            if written > 0 {
                assert_eq!(buffer.byte(page * PAGE + written - 1), 0x77);
                assert_eq!(buffer.byte(page * PAGE + written), 0);
            }
        }
        scribble(&buffer, 2);
    }
}

/// Restore exactly what was consumed: a promise.
pub(super) fn a_failing_producer_leaves_the_slot_as_it_was(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    let before = rig.counts();
    for _ in 0..3 {
        let made = buffer.populate_with(pages(1, 2), &mut |_| Err(Error::FillFailed));
        assert_eq!(made, Err(Error::FillFailed));
        assert_eq!(rig.counts(), before);
        assert_eq!(buffer.page_at(PAGE), Err(Error::NotPresent));
    }
    assert_eq!(rig.of(0, strict(1), Promised).err(), Some(Error::NoRoom));
    let mut calls = 0;
    let made = buffer.populate_with(pages(0, 3), &mut |_| {
        calls += 1;
        if calls == 3 {
            Err(Error::Poisoned)
        } else {
            Ok(0)
        }
    });
    assert_eq!(made, Err(Error::Poisoned), "those before it stay");
    assert_eq!(rig.nr_free_reserved(), (3, 1, 1));
    assert_eq!(buffer.populate(pages(0, 3)), Ok(1));
}

/// Restore exactly what was consumed: none.
pub(super) fn a_failing_producer_without_a_promise_takes_none(rig: &Rig<'_>) {
    let buffer = rig.unpromised(3);
    let before = rig.counts();
    let made = buffer.populate_with(pages(0, 1), &mut |_| Err(Error::FillFailed));
    assert_eq!((made, rig.counts()), (Err(Error::FillFailed), before));
    let _all = rig.promised(3);
    let made = buffer.populate_with(pages(0, 1), &mut |_| panic!("there is no page"));
    assert_eq!(made, Err(Error::NoRoom));
}

pub(super) fn a_producer_that_claims_too_much_has_failed(rig: &Rig<'_>) {
    let buffer = rig.promised(1);
    for written in [PAGE + 1, u64::MAX] {
        let made = buffer.populate_with(pages(0, 1), &mut |_| Ok(written));
        assert_eq!(made, Err(Error::FillFailed));
        assert_eq!(rig.nr_free_reserved(), (1, 1, 1));
    }
}

pub(super) fn a_producer_that_touches_its_own_page_gets_an_error(rig: &Rig<'_>) {
    let buffer = rig.promised(2);
    let raw = buffer.raw();
    let made = buffer.populate_with(pages(1, 2), &mut |page| {
        assert_eq!(raw.fault(page.offset()), Err(Error::WouldDeadlock));
        assert_eq!(raw.fault(page.offset() + 5), Err(Error::WouldDeadlock));
        assert_eq!(raw.page_at(page.offset()), Err(Error::NotPresent));
        Ok(0)
    });
    assert_eq!(made, Ok(1));
    assert!(buffer.fault(PAGE).is_ok());
}

pub(super) fn a_producer_may_touch_other_pages(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    let raw = buffer.raw();
    let made = buffer.populate_with(pages(1, 2), &mut |page| {
        raw.write(0, b"below").expect("a lower page");
        raw.write(2 * PAGE, b"above")
            .expect("a higher page that nobody has");
        page.write(0, b"it");
        Ok(2)
    });
    assert_eq!(made, Ok(1));
    assert_eq!(
        [0, PAGE, 2 * PAGE].map(|at| buffer.byte(at)),
        [b'b', b'i', b'a']
    );
    assert_eq!(rig.nr_free_reserved(), (3, 0, 0));
}

pub(super) fn what_a_failed_producer_wrote_is_never_seen(rig: &Rig<'_>) {
    let owner = rig.owner(None).expect("an owner");
    {
        let buffer = rig.of(owner, strict(2), Promised).expect("a page");
        // The pool gives a zeroed page first, if it has one.
        let made = buffer.populate_with(pages(0, 1), &mut |page: &mut dyn InHand| {
            for place in PLACES {
                page.write(place, &[0x99]);
            }
            Err(Error::FillFailed)
        });
        assert_eq!(made, Err(Error::FillFailed));
    }
    let other = rig.promised(2);
    assert_eq!(other.populate(pages(0, 2)), Ok(2));
    assert_zero(&other, 0, 0);
    assert_zero(&other, 1, 0);
}
