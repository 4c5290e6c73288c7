// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Emptying a map that nobody else uses any more: the last release of a buffer.

use super::seal::Entrant;
use super::slot::{Slot, State};
use super::{PageMap, Removed};
use crate::error::Error;
use crate::sync::AtomicU64;
use crate::units::PageIndex;

/// Empties slot after slot. What it has not reached when it is dropped stays in the map.
#[derive(Debug)]
pub struct Drain<'a, S> {
    map: &'a mut PageMap<S>,
    next: u64,
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// Empties every slot, those beyond the size included, and hands over the frames and promises.
    ///
    /// Exclusive access proves that no claim is under way: a claimed slot here is one whose claim was lost, and gives what it
    /// holds.
    ///
    /// # Errors
    /// [`Error::Pinned`] where a page still has pins, [`Error::Sealed`] where a seal lives: somebody, a device perhaps,
    /// still uses the pages.
    #[doc(alias = "remove_inode_hugepages")]
    pub fn drain(&mut self) -> Result<Drain<'_, S>, Error> {
        if self.exclusion.has(Entrant::Seal) {
            return Err(Error::Sealed);
        }
        let pinned = |slot: Slot| slot.state() == State::Present && slot.pins() > 0;
        if self
            .all_slots()
            .slots()
            .filter_map(|slot| self.cell(slot))
            .any(|cell| pinned(cell.read()))
        {
            return Err(Error::Pinned);
        }
        Ok(Drain { map: self, next: 0 })
    }
}

impl<S: AsRef<[AtomicU64]>> Iterator for Drain<'_, S> {
    type Item = (PageIndex, Removed);

    /// The next slot that held a frame or a promise.
    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let slot = self.next;
            let cell = self.map.cell(slot)?;
            self.next = slot.wrapping_add(1);
            if cell.read() == Slot::HOLE {
                continue;
            }
            let size = self.map.extents.holding_slot(slot).size();
            match Removed::from_slot(cell.publish(Slot::HOLE), size) {
                Removed::Nothing => {}
                removed => return Some((PageIndex::new(slot), removed)),
            }
        }
    }
}
