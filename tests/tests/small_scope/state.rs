// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a state is, and what must hold in each.

use htlb_core::driver::{self, Content};
use htlb_core::stock::Held;
use htlb_core::{
    Buffer, ByteOffset, ByteRange, Condition, Exclusive, HugeSize, PageCount, PageIndex, Rung,
};

use crate::machine::{
    attempt, class, page_of, pfn, Machine, Slots, BUFFERS, BUFFER_PAGES, MAX, PAGE, PAGES,
};

/// Every fact of a machine in one word: where each page is and in which condition, what each slot is, the buffers' sizes, rungs
/// and seals, the account, the limits, and how large the ledger's tables are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) u64);

/// Packs small numbers.
struct Packer {
    word: u64,
    used: u32,
}

impl Packer {
    fn put(&mut self, value: u64, bits: u32) {
        assert!(value < 1 << bits && self.used + bits <= u64::BITS);
        self.word |= value << self.used;
        self.used += bits;
    }
}

/// The bytes of a buffer's page.
fn bytes(page: usize) -> ByteRange {
    let start = ByteOffset::new(page as u64 * PAGE);
    ByteRange::at(start, htlb_core::ByteLen::new(PAGE)).expect("a page")
}

fn is_promised(buffer: &Buffer<Slots>, page: usize) -> bool {
    let slot = buffer.map().pages(bytes(page));
    slot.is_ok_and(|slot| {
        let census = buffer.map().census_of(slot);
        census
            .of(HugeSize::MIB2)
            .is_some_and(|of| of.promised.raw() == 1)
    })
}

impl Machine {
    /// The facts.
    ///
    /// # Errors
    /// I9: a page that is in no place, or in two. A claim that nobody has any more.
    pub(crate) fn key(&self) -> Result<Key, String> {
        let mut key = Packer { word: 0, used: 0 };
        // 0: in no slot. In slot i of buffer b: 1 + 3 b + i.
        let mut slot_of = [0u64; PAGES];
        let mut pinned = [false; PAGES];
        for (at, buffer) in self.buffers.iter().enumerate() {
            let Some(buffer) = buffer else {
                key.put(0, 2 + 2 + 1 + BUFFER_PAGES as u32);
                continue;
            };
            let map = buffer.map();
            let part = buffer.parts().next().ok_or("a buffer without a part")?;
            key.put(1 + u64::from(part.attempt.rung == Rung::System), 2);
            key.put(map.size().raw() / PAGE, 2);
            key.put(u64::from(map.is_sealed()), 1);
            for page in 0..BUFFER_PAGES {
                let index = PageIndex::new(page as u64);
                if map.is_claimed(index) {
                    return Err(format!("page {page} of buffer {at} stays claimed"));
                }
                key.put(u64::from(is_promised(buffer, page)), 1);
            }
            for (index, frame, _) in map.frames() {
                let page = page_of(frame);
                if slot_of[page] != 0 {
                    return Err(format!("I9: page {page} is in two slots"));
                }
                slot_of[page] = 1 + (at * BUFFER_PAGES) as u64 + index.raw();
                pinned[page] = map.recall_pin(index).is_some();
            }
        }
        self.stock.with(|stock| {
            for page in 0..PAGES {
                let known = stock.pool().knows(pfn(page)).is_some();
                let free = stock.pool().condition(pfn(page));
                let system = self.system.get() & 1 << page != 0;
                let places =
                    u32::from(slot_of[page] != 0) + u32::from(free.is_some()) + u32::from(system);
                if places != 1 || (system && known) {
                    return Err(format!("I9: page {page} is in {places} places"));
                }
                let place = match free {
                    Some(Condition::Clean) => 7,
                    Some(Condition::Dirty) => 8,
                    None => slot_of[page],
                };
                key.put(place, 4);
                key.put(u64::from(known), 1);
                key.put(u64::from(pinned[page]), 1);
                key.put(stock.ledger().class(class(page)).surplus.raw(), 1);
            }
            key.put(stock.ledger().overcommit().raw(), 2);
            let usage = stock.ledger().usage(self.account);
            let usage = usage.map_err(|error| format!("the account: {error:?}"))?;
            key.put(u64::from(usage.max == Some(PageCount::new(MAX))), 1);
            key.put(usage.min.raw(), 1);
            key.put(u64::from(stock.ledger().tables().kinds.ilog2()), 2);
            Ok(())
        })?;
        Ok(Key(key.word))
    }

    /// The facts when every surplus page has left that nobody needs.
    pub(crate) fn settled(&self) -> Result<Key, String> {
        let machine = self.copy();
        driver::shed(&machine.view(0), &attempt());
        machine.key()
    }

    /// I1 to I6.
    pub(crate) fn audit(&self) -> Result<(), String> {
        self.stock.with(|stock| {
            let mut held = Held::default();
            for buffer in self.buffers.iter().flatten() {
                let of_buffer = stock.held_by(buffer, |_| true);
                held.promises += of_buffer.promises;
                held.pages += of_buffer.pages;
            }
            let counts = stock.counts();
            let found = stock.audit(held);
            found.map_err(|broken| format!("{broken:?}: held {held:?}, counted {counts:?}"))
        })
    }

    /// Whether all that is promised can be had when the system gives nothing, in both orders of the slots.
    pub(crate) fn promises_hold(&self) -> Result<(), String> {
        let slots = (0..BUFFERS).flat_map(|at| (0..BUFFER_PAGES).map(move |page| (at, page)));
        let promised = slots.filter(|&(at, page)| {
            let buffer = self.buffers[at].as_ref();
            buffer.is_some_and(|buffer| is_promised(buffer, page))
        });
        let promised: Vec<_> = promised.collect();
        let backwards: Vec<_> = promised.iter().rev().copied().collect();
        for order in [promised, backwards] {
            if order.is_empty() {
                break;
            }
            let machine = self.copy();
            machine.system.set(0);
            for &(at, page) in &order {
                let buffer = machine.buffers[at].as_ref().ok_or("no buffer")?;
                let host = machine.view(at);
                let filled = driver::populate(&host, buffer, bytes(page), &mut Content::Zeroes);
                if filled != Ok(PageCount::ONE) {
                    return Err(format!(
                        "page {page} of buffer {at} was promised: {filled:?}"
                    ));
                }
            }
            machine.audit()?;
        }
        Ok(())
    }

    /// I7: when all is given back, nothing is in use, nothing is promised but a minimum, no surplus page stays that nobody
    /// needs, and every page is in the pool or with the system.
    pub(crate) fn all_comes_back(&self) -> Result<(), String> {
        let mut machine = self.copy();
        for at in 0..BUFFERS {
            let Some(mut buffer) = machine.buffers[at].take() else {
                continue;
            };
            let map = buffer.map();
            for page in 0..BUFFER_PAGES {
                if let Some(pin) = map.recall_pin(PageIndex::new(page as u64)) {
                    map.unpin(pin);
                }
            }
            if let Some(seal) = map.recall_seal() {
                map.unseal(seal);
            }
            let released = driver::release(&machine.view(at), &mut buffer);
            released.map_err(|error| format!("buffer {at} cannot be given back: {error:?}"))?;
        }
        // A surplus page that a minimum needed may be replaced by one that came back in another class.
        driver::shed(&machine.view(0), &attempt());
        machine.key()?;
        machine.audit()?;
        let (counts, minima, usage) = machine.stock.with(|stock| {
            let ledger = stock.ledger();
            (
                stock.counts(),
                ledger.unused_minima(),
                ledger.usage(machine.account),
            )
        });
        let used = usage.map(|usage| usage.used);
        let needed = counts.free == counts.reserved || counts.surplus.is_zero();
        if counts.nr != counts.free
            || counts.reserved != minima
            || used != Ok(PageCount::ZERO)
            || !needed
        {
            return Err(format!("I7: all came back, and {counts:?}, used {used:?}"));
        }
        Ok(())
    }
}

impl Key {
    /// The facts that an `Err` must leave as they were, and how many free surplus pages there are.
    ///
    /// Surplus pages are as many, not these or those: where one came for a request that was then refused, another may have
    /// left. Neither the size of tables is a fact, nor whether a free page counts as clean.
    pub(crate) fn facts(self) -> (u64, u32) {
        let pages = 2 * (2 + 2 + 1 + BUFFER_PAGES as u32);
        let tables = pages + 7 * PAGES as u32 + 2 + 1 + 1;
        let mut word = self.0 & !(0b11 << tables);
        let mut surplus = 0;
        for page in 0..PAGES as u32 {
            let at = pages + 7 * page;
            let is_free = word >> at & 0b1111 >= 7;
            let is_surplus = word >> (at + 6) & 1 == 1;
            if is_free && is_surplus {
                surplus += 1;
                // As if the system had it.
                word &= !(0b111_1111 << at);
            } else if is_free {
                word |= 0b1111 << at;
            }
        }
        (word, surplus)
    }
}
