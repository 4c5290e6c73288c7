// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The books of a stock, against themselves and against those who hold its pages.

use super::Stock;
use crate::buffer::{Buffer, Part};

/// What a stock has given out, as those who got it count it: the other side of its books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Promises that live in slots and in values under way.
    pub promises: u64,
    /// Pages in slots, magazines and limbo, and those on their way to be freed.
    pub pages: u64,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Stock<M> {
    /// Whether the ledger, the pool, and their common counts are in order.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), Violation> {
        self.ledger.check().map_err(Violation::Ledger)?;
        self.pool.check().map_err(Violation::Pool)?;
        for (class, counts) in self.pool.classes() {
            if self.ledger.class(class).free != counts.free {
                return Err(Violation::FreeDiffers);
            }
        }
        if self.ledger.totals().free != self.pool.total().free {
            return Err(Violation::FreeDiffers);
        }
        Ok(())
    }

    /// What the slots of a buffer hold of this stock; pages that came from outside the pool do not count.
    #[must_use]
    pub fn held_by<S: AsRef<[crate::sync::AtomicU64]>>(
        &self,
        buffer: &Buffer<S>,
        serves: impl Fn(&Part) -> bool,
    ) -> Held {
        let mut held = Held::default();
        for (part, (_, census)) in buffer.parts().zip(buffer.map().census().iter()) {
            if serves(part) {
                held.promises = held.promises.saturating_add(census.promises().raw());
            }
        }
        let own = buffer.map().frames().filter(|(index, pfn, _)| {
            buffer.part_of(*index).is_some_and(&serves) && self.pool.knows(*pfn).is_some()
        });
        held.pages = own.fold(0, |pages, _| pages.saturating_add(1));
        held
    }

    /// [`Stock::check`], and whether what is held elsewhere is what is missing here: I6 and I9. True only of a machine at
    /// rest; see [`crate::gate`].
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn audit(&self, held: Held) -> Result<(), Violation> {
        self.check()?;
        let totals = self.ledger.totals();
        let promised = held.promises.checked_add(self.ledger.unused_minima().raw());
        if promised != Some(totals.reserved.raw()) {
            return Err(Violation::PromisesDiffer);
        }
        if totals.nr.raw().checked_sub(totals.free.raw()) != Some(held.pages) {
            return Err(Violation::PagesDiffer);
        }
        Ok(())
    }
}

/// A broken rule of a stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// One of I1 to I6.
    Ledger(crate::ledger::Violation),
    /// The pool's own books.
    Pool(crate::pool::Violation),
    /// The ledger counts other free pages than the pool has.
    FreeDiffers,
    /// I6: promises in slots, claims and unused minima are not what the ledger promised.
    PromisesDiffer,
    /// I9: a page is in no place, or in two.
    PagesDiffer,
}
