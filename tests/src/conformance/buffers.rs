// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Punch, truncate, grow, pin, seal, release.

use htlb_core::driver::Commitment::Promised;
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error};

use super::rig::{pages, strict, Buf, PAGE};
use super::{Gone, Order, Rig};

const NOTHING: Gone = Gone {
    pages: 0,
    promises: 0,
};

pub(super) fn a_punch_gives_pages_and_promises_back(rig: &Rig<'_>) {
    let buffer = rig.promised(5);
    assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
    assert_eq!(rig.nr_free_reserved(), (6, 4, 3));
    assert_eq!(
        buffer.punch(pages(1, 4)),
        Ok(Gone {
            pages: 1,
            promises: 2
        })
    );
    assert_eq!(rig.nr_free_reserved(), (6, 5, 1));
    assert_eq!(buffer.punch(pages(1, 4)), Ok(NOTHING));
    assert_eq!(buffer.page_at(PAGE), Err(Error::NotPresent));
    assert!(buffer.page_at(0).is_ok());
    let other = rig.promised(4);
    assert_eq!(
        other.populate(pages(0, 4)),
        Ok(4),
        "what was punched can be used"
    );
    assert_eq!(
        buffer.populate(pages(4, 5)),
        Ok(1),
        "and what was not is kept"
    );
}

pub(super) fn a_punched_page_reads_as_zeroes(rig: &Rig<'_>) {
    let buffer = rig.promised(2);
    for round in 0..3 {
        buffer.write(5, b"secret").expect("a page");
        buffer.write(PAGE + 5, b"stays").expect("a page");
        assert!(buffer.punch(pages(0, 1)).is_ok());
        assert_eq!(buffer.byte(5), 0, "round {round}");
        assert_eq!(buffer.byte(PAGE + 5), b's');
    }
}

pub(super) fn a_pinned_page_stays(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    assert_eq!(buffer.pin(0), Err(Error::NotPresent));
    assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
    buffer.write(PAGE, b"pinned").expect("a page");
    let (there, before) = (buffer.page_at(PAGE), rig.counts());
    assert_eq!(buffer.pin(PAGE), Ok(()));
    for range in [pages(0, 3), pages(1, 2), pages(1, 3)] {
        assert_eq!(buffer.punch(range), Err(Error::Pinned));
        assert_eq!((buffer.page_at(PAGE), rig.counts()), (there, before));
    }
    assert_eq!(buffer.truncate(PAGE), Err(Error::Pinned));
    assert_eq!(buffer.raw().size(), ByteLen::new(3 * PAGE));
    assert_eq!(
        buffer.punch(pages(2, 3)),
        Ok(Gone {
            pages: 0,
            promises: 1
        })
    );
    assert_eq!(
        buffer.truncate(2 * PAGE),
        Ok(NOTHING),
        "beyond the pin there is no objection"
    );
    assert_eq!(buffer.byte(PAGE), b'p');
    buffer.unpin(PAGE);
    assert_eq!(
        buffer.punch(pages(0, 2)),
        Ok(Gone {
            pages: 2,
            promises: 0
        })
    );
}

pub(super) fn each_pin_counts(rig: &Rig<'_>) {
    let buffer = rig.promised(1);
    assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
    for _ in 0..3 {
        assert_eq!(buffer.pin(17), Ok(()));
    }
    for _ in 0..3 {
        assert_eq!(buffer.punch(pages(0, 1)), Err(Error::Pinned));
        buffer.unpin(17);
    }
    assert_eq!(buffer.punch(pages(0, 1)).map(|gone| gone.pages), Ok(1));
}

pub(super) fn a_sealed_buffer_keeps_every_page(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
    let before = rig.counts();
    assert_eq!((buffer.seal(), buffer.seal()), (Ok(()), Ok(())));
    for _ in 0..2 {
        assert_eq!(buffer.punch(pages(0, 3)), Err(Error::Sealed));
        assert_eq!(buffer.truncate(PAGE), Err(Error::Sealed));
        assert_eq!(rig.counts(), before);
        buffer.unseal();
    }
    assert_eq!(
        buffer.truncate(PAGE),
        Ok(Gone {
            pages: 1,
            promises: 1
        })
    );
}

pub(super) fn filling_goes_on_under_a_seal(rig: &Rig<'_>) {
    let buffer = rig.unpromised(3);
    assert_eq!(buffer.seal(), Ok(()));
    assert_eq!(buffer.reserve(pages(0, 2)), Ok(2));
    assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
    buffer.unseal();
}

/// Linux, `memfd_pin_folios`: pin, unpin, close, and the page was never returned.
pub(super) fn pin_unpin_and_close_return_the_page(rig: &Rig<'_>) {
    for _ in 0..3 {
        let mut buffer = rig.promised(2);
        assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
        for page in [0, 1] {
            assert_eq!(buffer.pin(page * PAGE), Ok(()));
        }
        for page in [1, 0] {
            buffer.unpin(page * PAGE);
        }
        assert_eq!(buffer.release().map(|gone| gone.pages), Ok(2));
        assert_eq!(rig.nr_free_reserved(), (2, 2, 0));
    }
}

pub(super) fn a_buffer_with_pins_or_seals_is_not_released(rig: &Rig<'_>) {
    let mut buffer = rig.promised(2);
    assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
    let before = rig.counts();
    assert_eq!(buffer.pin(0), Ok(()));
    assert_eq!(
        (buffer.release(), rig.counts()),
        (Err(Error::Pinned), before)
    );
    buffer.unpin(0);
    assert_eq!(buffer.seal(), Ok(()));
    assert_eq!(
        (buffer.release(), rig.counts()),
        (Err(Error::Sealed), before)
    );
    buffer.unseal();
    assert_eq!(
        buffer.release(),
        Ok(Gone {
            pages: 1,
            promises: 1
        })
    );
}

/// libhugetlbfs, `truncate_reserve_wraparound`.
pub(super) fn truncate_then_touch_is_a_range_error(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    assert_eq!(buffer.populate(pages(1, 2)), Ok(1));
    assert_eq!(
        buffer.truncate(PAGE),
        Ok(Gone {
            pages: 1,
            promises: 1
        })
    );
    assert_eq!(rig.nr_free_reserved(), (4, 4, 1));
    for _ in 0..3 {
        assert_eq!(buffer.fault(PAGE), Err(Error::RangeBeyondEnd));
        assert_eq!(buffer.populate(pages(0, 2)), Err(Error::RangeBeyondEnd));
        assert_eq!(buffer.reserve(pages(1, 2)), Err(Error::RangeBeyondEnd));
        assert_eq!(rig.nr_free_reserved(), (4, 4, 1));
    }
    assert_eq!(
        buffer.truncate(0),
        Ok(Gone {
            pages: 0,
            promises: 1
        })
    );
    assert_eq!(buffer.fault(0), Err(Error::RangeBeyondEnd));
    assert_eq!(rig.nr_free_reserved(), (4, 4, 0));
}

fn growing<'r>(rig: &'r Rig<'_>, size: u64, capacity: u64) -> Buf<'r> {
    let order = Order {
        request: strict(size).build().expect("legal"),
        commitment: Promised,
        capacity: ByteLen::new(capacity * PAGE),
    };
    rig.create(0, &order, None).expect("pages")
}

pub(super) fn what_a_truncate_cut_off_does_not_come_back(rig: &Rig<'_>) {
    let buffer = growing(rig, 2, 3);
    buffer.write(100, b"kept").expect("a page");
    buffer.write(PAGE - 4, b"cut").expect("a page");
    buffer.write(PAGE + 100, b"gone").expect("a page");
    assert_eq!(
        buffer.truncate(PAGE / 2),
        Ok(Gone {
            pages: 1,
            promises: 0
        })
    );
    assert_eq!(buffer.read(PAGE / 2, &mut [0]), Err(Error::RangeBeyondEnd));
    assert_eq!(buffer.truncate(2 * PAGE), Ok(NOTHING));
    assert_eq!(
        [100, PAGE - 4, PAGE + 100].map(|at| buffer.byte(at)),
        [b'k', 0, 0]
    );
}

pub(super) fn a_truncate_keeps_the_page_that_it_cuts(rig: &Rig<'_>) {
    let buffer = rig.promised(3);
    assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
    let page = buffer.page_at(PAGE);
    assert_eq!(
        buffer.truncate(PAGE + 1),
        Ok(Gone {
            pages: 1,
            promises: 0
        })
    );
    assert_eq!(buffer.page_at(PAGE), page);
    assert_eq!(buffer.page_at(PAGE + 1), Err(Error::RangeBeyondEnd));
    assert_eq!(rig.nr_free_reserved(), (3, 1, 0));
    assert_eq!(
        buffer.truncate(PAGE),
        Ok(Gone {
            pages: 1,
            promises: 0
        })
    );
}

pub(super) fn a_buffer_grows_up_to_its_capacity(rig: &Rig<'_>) {
    let buffer = growing(rig, 1, 4);
    assert_eq!(
        rig.nr_free_reserved(),
        (4, 4, 1),
        "only the size is promised"
    );
    assert_eq!(buffer.fault(PAGE), Err(Error::RangeBeyondEnd));
    assert_eq!(buffer.truncate(5 * PAGE), Err(Error::BeyondCapacity));
    assert_eq!(buffer.raw().size(), ByteLen::new(PAGE));
    assert_eq!(buffer.truncate(3 * PAGE), Ok(NOTHING));
    assert_eq!(
        rig.nr_free_reserved(),
        (4, 4, 1),
        "growing promises nothing"
    );
    assert_eq!(buffer.reserve(pages(0, 3)), Ok(2));
    assert_eq!(buffer.populate(pages(0, 3)), Ok(3));
    assert_eq!(buffer.truncate(4 * PAGE), Ok(NOTHING));
    assert!(buffer.fault(3 * PAGE).is_ok());
    assert_eq!(
        buffer.truncate(PAGE),
        Ok(Gone {
            pages: 3,
            promises: 0
        })
    );
}

pub(super) fn ranges_that_make_no_sense_are_errors(rig: &Rig<'_>) {
    let range = |start, end| ByteRange::new(ByteOffset::new(start), ByteOffset::new(end));
    assert_eq!(range(PAGE, PAGE), Err(Error::RangeEmpty));
    assert_eq!(range(PAGE, 0), Err(Error::RangeReversed));
    assert_eq!(range(0, u64::MAX), Err(Error::RangeOverflow));
    let at = |start, len| ByteRange::at(ByteOffset::new(start), ByteLen::new(len));
    assert_eq!(at(u64::MAX, PAGE), Err(Error::RangeOverflow));
    let buffer = rig.promised(2);
    let before = rig.counts();
    for (start, end, error) in [
        (0, 3 * PAGE, Error::RangeBeyondEnd),
        (2 * PAGE, 3 * PAGE, Error::RangeBeyondEnd),
        (1, PAGE, Error::RangeUnaligned),
        (0, PAGE + 1, Error::RangeUnaligned),
        (4096, 8192, Error::RangeUnaligned),
    ] {
        let range = range(start, end).expect("a range in itself");
        assert_eq!(buffer.reserve(range), Err(error), "{range:?}");
        assert_eq!(buffer.populate(range), Err(error), "{range:?}");
        assert_eq!(buffer.punch(range), Err(error), "{range:?}");
        assert_eq!(rig.counts(), before);
    }
}

pub(super) fn the_last_page_may_be_cut_by_the_end(rig: &Rig<'_>) {
    let buffer = rig.promised(2);
    assert_eq!(buffer.truncate(PAGE + 12345), Ok(NOTHING));
    let all = ByteRange::new(ByteOffset::ZERO, ByteOffset::new(PAGE + 12345)).expect("a range");
    assert_eq!(buffer.populate(all), Ok(2));
    assert_eq!(buffer.byte(PAGE + 12344), 0);
    assert_eq!(
        buffer.punch(all),
        Ok(Gone {
            pages: 2,
            promises: 0
        })
    );
    assert_eq!(buffer.reserve(all), Ok(2));
}

pub(super) fn a_page_held_from_outside_goes_home_later(rig: &Rig<'_>) {
    let mut buffer = rig.promised(2);
    assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
    buffer.write(0, b"in flight").expect("a page");
    let page = buffer.page_at(0).expect("a page").pfn;
    rig.hold(page);
    assert_eq!(
        buffer.punch(pages(0, 2)),
        Ok(Gone {
            pages: 2,
            promises: 0
        })
    );
    assert_eq!(rig.nr_free_reserved(), (2, 1, 0), "it is still in use");
    assert_eq!(buffer.reserve(pages(0, 2)), Err(Error::NoRoom));
    assert_eq!(buffer.populate(pages(0, 1)), Ok(1));
    assert_ne!(buffer.page_at(0).map(|at| at.pfn), Ok(page));
    rig.let_go(page);
    assert_eq!(rig.nr_free_reserved(), (2, 1, 0));
    assert_eq!(buffer.populate(pages(1, 2)), Ok(1));
    assert_eq!(buffer.page_at(PAGE).map(|at| at.pfn), Ok(page));
    assert_eq!(buffer.byte(PAGE), 0, "and cleared before it is seen again");
    assert!(buffer.release().is_ok());
}

/// Discarding a page that another mapper still holds, and its promise came back twice.
pub(super) fn a_page_held_from_outside_restores_no_promise_twice(rig: &Rig<'_>) {
    let mut buffer = rig.promised(2);
    assert_eq!(buffer.populate(pages(0, 2)), Ok(2));
    let page = buffer.page_at(PAGE).expect("a page").pfn;
    rig.hold(page);
    assert!(buffer.release().is_ok());
    assert_eq!(rig.nr_free_reserved(), (3, 2, 0));
    let next = rig.promised(2);
    assert_eq!(rig.of(0, strict(1), Promised).err(), Some(Error::NoRoom));
    rig.let_go(page);
    assert_eq!(rig.nr_free_reserved(), (3, 3, 2));
    drop(next);
}
