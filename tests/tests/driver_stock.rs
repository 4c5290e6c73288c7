// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A stock whose back end makes mistakes: what is wrong is refused, and nothing is counted.

use htlb_core::ledger::{AccountId, Ledger, Tables};
use htlb_core::pool::Pool;
use htlb_core::stock::Held;
use htlb_core::{
    Charge, Class, Condition, Error, Fill, Frame, HugeSize, NodeId, NodeMask, PageCount, Pfn,
    Reach, Returned, Stock, Stop, Supply,
};

const MIB2: HugeSize = HugeSize::MIB2;
const GIB1: HugeSize = HugeSize::GIB1;
const CHARGE: Charge = Charge {
    reach: Reach::ANY,
    account: AccountId::ROOT,
};

fn stock(size: HugeSize, chunks: u32) -> Stock<Vec<u64>> {
    let tables = Tables {
        nodes: 1,
        kinds: 2,
        accounts: 2,
    };
    let ledger = Ledger::new(vec![0; tables.words()], tables).expect("legal");
    let pool = Pool::new(size, vec![0; Pool::<Vec<u64>>::words(chunks)]).expect("legal");
    Stock::new(ledger, pool)
}

fn frame(pfn: u64, size: HugeSize) -> Frame {
    Frame::new(Pfn::new(pfn), size).expect("aligned")
}

fn class(pfn: u64, size: HugeSize) -> Class {
    Class::of(Pfn::new(pfn), size, NodeId::ZERO)
}

fn add(stock: &mut Stock<Vec<u64>>, pfn: u64, condition: Condition) {
    let size = stock.size();
    stock
        .add(
            frame(pfn, size),
            class(pfn, size),
            condition,
            Supply::Persistent,
        )
        .expect("room for it");
}

#[test]
fn a_frame_of_another_size_is_not_counted() {
    let mut small = stock(MIB2, 4);
    let large = class(0, GIB1);
    let refused = small.add(frame(0, GIB1), large, Condition::Dirty, Supply::Persistent);
    assert_eq!(
        refused,
        Err((frame(0, GIB1), Stop::Fail(Error::FrameInvalid)))
    );
    assert_eq!(small.counts().nr, PageCount::ZERO);
    add(&mut small, 0, Condition::Dirty);
    let taken = small
        .take_free(CHARGE, NodeMask::ALL, Fill::Zeroed)
        .expect("one");
    let left = small.put(frame(0, GIB1), CHARGE, Condition::Dirty);
    assert_eq!(left, Returned::Leaves(frame(0, GIB1)));
    assert_eq!(
        small.retire(&frame(0, GIB1), CHARGE),
        Err(Error::FrameInvalid)
    );
    assert_eq!(
        small.audit(Held {
            promises: 0,
            pages: 1
        }),
        Ok(())
    );
    assert_eq!(small.put(taken.0, CHARGE, Condition::Dirty), Returned::Kept);
    assert_eq!(small.audit(Held::default()), Ok(()));
}

#[test]
fn a_page_is_added_once() {
    let mut stock = stock(MIB2, 4);
    add(&mut stock, 512, Condition::Clean);
    for supply in [Supply::Persistent, Supply::Surplus] {
        let again = stock.add(frame(512, MIB2), class(512, MIB2), Condition::Dirty, supply);
        assert!(matches!(again, Err((_, Stop::Fail(Error::FrameInvalid)))));
    }
    let over = stock.add(
        frame(1024, MIB2),
        class(1024, MIB2),
        Condition::Dirty,
        Supply::Surplus,
    );
    assert!(matches!(over, Err((_, Stop::Fail(Error::OvercommitLimit)))));
    assert_eq!(stock.counts().nr, PageCount::ONE);
    assert_eq!(stock.audit(Held::default()), Ok(()));
}

#[test]
fn only_a_page_in_use_is_retired() {
    let mut stock = stock(MIB2, 4);
    add(&mut stock, 512, Condition::Dirty);
    add(&mut stock, 1024, Condition::Dirty);
    let (used, _) = stock
        .take_free(CHARGE, NodeMask::ALL, Fill::Zeroed)
        .expect("one");
    let idle = 1536 - used.pfn().raw();
    assert_eq!(
        stock.retire(&frame(idle, MIB2), CHARGE),
        Err(Error::FrameInvalid)
    );
    assert_eq!(
        stock.audit(Held {
            promises: 0,
            pages: 1
        }),
        Ok(())
    );
    assert_eq!(stock.retire(&used, CHARGE), Ok(()));
    assert_eq!(stock.counts().nr, PageCount::ONE);
    assert_eq!(stock.audit(Held::default()), Ok(()));
}

#[test]
fn a_demotion_keeps_what_is_known_to_be_zero() {
    let (mut large, mut small) = (stock(GIB1, 1), stock(MIB2, 1));
    add(&mut large, 0, Condition::Clean);
    let class_of = |pfn: Pfn, size| Class::of(pfn, size, NodeId::ZERO);
    let refused = large.demote(class(0, GIB1), &mut small, class_of);
    assert!(matches!(refused, Err(Stop::Metadata { .. })));
    assert_eq!(large.pool().condition(Pfn::ZERO), Some(Condition::Clean));
    assert_eq!(
        (large.audit(Held::default()), small.audit(Held::default())),
        (Ok(()), Ok(()))
    );
    let Err(Stop::Metadata { table, words }) = refused else {
        unreachable!()
    };
    drop(small.adopt(table, vec![0; words]));
    assert_eq!(
        large.demote(class(0, GIB1), &mut small, class_of),
        Ok(Pfn::ZERO)
    );
    assert_eq!(small.pool().total().clean.raw(), 512);
    assert_eq!(
        (large.audit(Held::default()), small.audit(Held::default())),
        (Ok(()), Ok(()))
    );
    let upwards = small.demote(class(0, MIB2), &mut large, class_of);
    assert_eq!(upwards, Err(Stop::Fail(Error::PageSizeInvalid)));
}

#[test]
fn an_audit_names_what_differs() {
    use htlb_core::stock::Violation;
    let mut stock = stock(MIB2, 4);
    add(&mut stock, 512, Condition::Dirty);
    add(&mut stock, 1024, Condition::Dirty);
    let promise = stock.reserve(CHARGE, PageCount::ONE).expect("one");
    let (used, _) = stock
        .take_free(CHARGE, NodeMask::ALL, Fill::Zeroed)
        .expect("the other");
    let audit = |promises, pages| stock.audit(Held { promises, pages });
    assert_eq!(audit(1, 1), Ok(()));
    for (promises, pages, broken) in [
        (0, 1, Violation::PromisesDiffer),
        (2, 1, Violation::PromisesDiffer),
        (1, 0, Violation::PagesDiffer),
        (1, 2, Violation::PagesDiffer),
        (u64::MAX, 1, Violation::PromisesDiffer),
    ] {
        assert_eq!(audit(promises, pages), Err(broken));
    }
    stock.release(promise);
    assert_eq!(stock.put(used, CHARGE, Condition::Dirty), Returned::Kept);
    assert_eq!(stock.audit(Held::default()), Ok(()));
}
