// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Everything that can be done to the tiny machine.

use htlb_core::driver::{self, with_stock, Commitment, Content};
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Condition, Error, Exclusive, PageCount, PageIndex, Reach, Stop,
    Supply,
};

use crate::machine::{attempt, class, placement, Machine, BUFFERS, BUFFER_PAGES, MAX, PAGE, PAGES};

/// One operation. Where it names a page of a buffer, that is `[buffer, page]`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Create(usize, Commitment),
    Release(usize),
    /// A range of promises: the first page, and the one after the last.
    Reserve(usize, usize, usize),
    Populate(usize, usize),
    Punch(usize, usize, usize),
    /// Either way, to so many pages.
    Truncate(usize, usize),
    Pin(usize, usize),
    Unpin(usize, usize),
    Seal(usize),
    Unseal(usize),
    /// A page of the system becomes a persistent one.
    Grow(usize),
    /// A page leaves the pool, now if nobody needs it and else when it comes back.
    Shrink(usize),
    /// A surplus page becomes a persistent one.
    Absorb(usize),
    Overcommit(u64),
    Limit(u64),
    Minimum(u64),
}

/// Every operation.
pub(crate) fn all() -> Vec<Op> {
    let mut ops = Vec::new();
    for buffer in 0..BUFFERS {
        ops.push(Op::Create(buffer, Commitment::Promised));
        ops.push(Op::Create(buffer, Commitment::Unpromised));
        ops.push(Op::Release(buffer));
        ops.push(Op::Reserve(buffer, 0, BUFFER_PAGES));
        ops.push(Op::Punch(buffer, 0, BUFFER_PAGES));
        ops.push(Op::Seal(buffer));
        ops.push(Op::Unseal(buffer));
        for page in 0..BUFFER_PAGES {
            ops.push(Op::Reserve(buffer, page, page + 1));
            ops.push(Op::Populate(buffer, page));
            ops.push(Op::Punch(buffer, page, page + 1));
            ops.push(Op::Pin(buffer, page));
            ops.push(Op::Unpin(buffer, page));
        }
        ops.extend((0..=BUFFER_PAGES).map(|pages| Op::Truncate(buffer, pages)));
    }
    for page in 0..PAGES {
        ops.extend([Op::Grow(page), Op::Shrink(page), Op::Absorb(page)]);
    }
    ops.extend((0..=2).map(Op::Overcommit));
    ops.extend([1, MAX].map(Op::Limit));
    ops.extend([0, 1].map(Op::Minimum));
    ops
}

fn range(first: usize, end: usize, size: ByteLen) -> Result<ByteRange, Error> {
    let end = (end as u64 * PAGE).min(size.raw());
    ByteRange::new(ByteOffset::new(first as u64 * PAGE), ByteOffset::new(end))
}

fn said(stop: Stop) -> Error {
    match stop {
        Stop::Fail(error) => error,
        stop => panic!("at rest: {stop:?}"),
    }
}

/// Does it; `None` where there is nothing to do it to.
pub(crate) fn apply(machine: &mut Machine, op: Op) -> Option<Result<(), Error>> {
    machine.calls.set(0);
    let zeroes = &mut Content::Zeroes;
    let unit = |outcome: Result<_, Error>| Some(outcome.map(|_: PageCount| ()));
    match op {
        Op::Create(at, commitment) => {
            if machine.buffers[at].is_some() {
                return None;
            }
            let capacity = ByteLen::new(BUFFER_PAGES as u64 * PAGE);
            let host = machine.view(at);
            let made = driver::create(&host, &placement(at), commitment, capacity, zeroes);
            Some(made.map(|buffer| machine.buffers[at] = Some(buffer)))
        }
        Op::Release(at) => {
            let mut buffer = machine.buffers[at].take()?;
            let released = driver::release(&machine.view(at), &mut buffer);
            if released.is_err() {
                machine.buffers[at] = Some(buffer);
            }
            Some(released.map(drop))
        }
        Op::Reserve(at, first, end) => {
            let buffer = machine.buffers[at].as_ref()?;
            let range = range(first, end, buffer.map().size()).ok()?;
            unit(driver::reserve(&machine.view(at), buffer, range))
        }
        Op::Populate(at, page) => {
            let buffer = machine.buffers[at].as_ref()?;
            let range = range(page, page + 1, buffer.map().size()).ok()?;
            unit(driver::populate(&machine.view(at), buffer, range, zeroes))
        }
        Op::Punch(at, first, end) => {
            let buffer = machine.buffers[at].as_ref()?;
            let range = range(first, end, buffer.map().size()).ok()?;
            Some(driver::punch(&machine.view(at), buffer, range).map(drop))
        }
        Op::Truncate(at, pages) => {
            let buffer = machine.buffers[at].as_ref()?;
            let size = ByteLen::new(pages as u64 * PAGE);
            Some(driver::truncate(&machine.view(at), buffer, size).map(drop))
        }
        Op::Pin(at, page) => {
            let map = machine.buffers[at].as_ref()?.map();
            let index = PageIndex::new(page as u64);
            // One pin of a page shows what any number of them does.
            if map.recall_pin(index).is_some() {
                return None;
            }
            Some(map.pin(index).map(drop).map_err(said))
        }
        Op::Unpin(at, page) => {
            let map = machine.buffers[at].as_ref()?.map();
            let pin = map.recall_pin(PageIndex::new(page as u64))?;
            map.unpin(pin);
            Some(Ok(()))
        }
        Op::Seal(at) => {
            let map = machine.buffers[at].as_ref()?.map();
            if map.is_sealed() {
                return None;
            }
            Some(map.seal().map(drop).map_err(said))
        }
        Op::Unseal(at) => {
            let map = machine.buffers[at].as_ref()?.map();
            map.unseal(map.recall_seal()?);
            Some(Ok(()))
        }
        Op::Grow(page) => {
            if machine.system.get() & 1 << page == 0 {
                return None;
            }
            let grown = machine.bring(page, Condition::Clean, Supply::Persistent);
            if grown.is_ok() {
                // The page may stand in for a surplus one of another class.
                driver::shed(&machine.view(0), &attempt());
            }
            Some(grown)
        }
        Op::Shrink(page) => {
            let shrunk = machine.stock.with(|stock| stock.shrink(class(page)));
            match shrunk {
                Ok(frame) => {
                    machine.get_back(frame);
                    Some(Ok(()))
                }
                Err(_) => {
                    let retire = |stock: &mut htlb_core::Stock<_>| {
                        stock.ledger_mut().retire(class(page), PageCount::ONE)
                    };
                    Some(machine.stock.with(retire).map_err(said))
                }
            }
        }
        Op::Absorb(page) => {
            let absorb = |stock: &mut htlb_core::Stock<_>| {
                stock.ledger_mut().absorb(class(page), PageCount::ONE)
            };
            let absorbed = machine.stock.with(absorb);
            (!absorbed.is_zero()).then_some(Ok(()))
        }
        Op::Overcommit(pages) => {
            let pages = PageCount::new(pages);
            machine
                .stock
                .with(|stock| stock.ledger_mut().set_overcommit(pages));
            Some(Ok(()))
        }
        Op::Limit(max) => {
            let (account, max) = (machine.account, Some(PageCount::new(max)));
            Some(
                machine
                    .stock
                    .with(|stock| stock.ledger_mut().set_limit(account, max)),
            )
        }
        Op::Minimum(min) => {
            let (account, min) = (machine.account, PageCount::new(min));
            let host = machine.view(0);
            let set = with_stock(&host, &attempt(), |stock| {
                stock.ledger_mut().set_minimum(account, min, Reach::ANY)
            });
            if set.is_ok() {
                driver::shed(&host, &attempt());
            }
            Some(set)
        }
    }
}
