// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Counting what the slots say, for `check()` and for information.
//!
//! Exact under a closed gate, or while nobody else uses the map; otherwise each slot is counted as it was when it was
//! looked at.

use super::slot::{Origin, Slot, State};
use super::{PageMap, PerExtent, SlotRange};
use crate::sync::AtomicU64;
use crate::units::{HugeSize, PageCount, PageIndex, Pfn};

/// What the slots of one extent, or of a part of it, hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Holes.
    pub holes: PageCount,
    /// Promised, and not claimed.
    pub promised: PageCount,
    /// Claimed holes, without a frame yet.
    pub claimed_holes: PageCount,
    /// Claimed promises, without a frame yet.
    pub claimed_promises: PageCount,
    /// Claimed, with a frame: being filled, or being removed.
    pub claimed_frames: PageCount,
    /// Present.
    pub present: PageCount,
    /// The pins of all present pages together.
    pub pins: u64,
}

impl Census {
    /// The promises that the ledger must still hold for these slots.
    #[must_use]
    pub const fn promises(&self) -> PageCount {
        sum(self.promised, self.claimed_promises)
    }

    /// The frames that these slots hold.
    #[must_use]
    pub const fn frames(&self) -> PageCount {
        sum(self.present, self.claimed_frames)
    }

    fn count(&mut self, slot: Slot) {
        let field = match slot.state() {
            State::Hole => &mut self.holes,
            State::Promised => &mut self.promised,
            State::Present => {
                // At most 2^51 slots with 2^20 pins: saturation is out of reach in practice.
                self.pins = self.pins.saturating_add(slot.pins());
                &mut self.present
            }
            State::Claimed if slot.holds_frame() => &mut self.claimed_frames,
            State::Claimed => match slot.origin() {
                Origin::Hole => &mut self.claimed_holes,
                Origin::Promised => &mut self.claimed_promises,
            },
        };
        *field = sum(*field, PageCount::ONE);
    }
}

const fn sum(a: PageCount, b: PageCount) -> PageCount {
    PageCount::new(a.raw().saturating_add(b.raw()))
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// Counts the slots of every extent, those beyond the size included.
    #[must_use]
    pub fn census(&self) -> PerExtent<Census> {
        self.census_of(self.all_slots())
    }

    /// Counts the slots of a range, by extent.
    #[must_use]
    pub fn census_of(&self, range: SlotRange) -> PerExtent<Census> {
        let mut counts = PerExtent::new(&self.extents, |_| Census::default());
        let parts = self.extents.split(range.slots());
        for (census, (_, part)) in counts.values_mut().zip(parts) {
            for cell in part.filter_map(|slot| self.cell(slot)) {
                census.count(cell.read());
            }
        }
        counts
    }

    /// The frames that the map answers for, present or in a claim, each with its slot.
    pub fn frames(&self) -> impl Iterator<Item = (PageIndex, Pfn, HugeSize)> + '_ {
        self.frames_of(self.all_slots())
    }

    /// [`PageMap::frames`], of a range.
    pub fn frames_of(
        &self,
        range: SlotRange,
    ) -> impl Iterator<Item = (PageIndex, Pfn, HugeSize)> + '_ {
        let mut slots = range.slots();
        core::iter::from_fn(move || {
            for slot in slots.by_ref() {
                let now = self.cell(slot)?.read();
                if now.is_present() || (now.is_claimed() && now.holds_frame()) {
                    let size = self.extents.holding_slot(slot).size();
                    return Some((PageIndex::new(slot), now.pfn(), size));
                }
            }
            None
        })
    }
}
