// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Recording in the slots what the ledger has promised.
//!
//! A reservation covers every hole of a range or none. So it claims the holes, asks the ledger for as many pages as it has
//! claimed, and publishes them as promised, or as the holes that they were where the ledger refuses. Slots that are
//! promised or present are passed over; they cannot become holes meanwhile, since a punch and a reservation exclude each
//! other (see the module `seal`). A slot that somebody fills under a promise is passed over too, since it goes back
//! to the promise at worst; one that is filled without a promise may go back to a hole, so the reservation waits for it.

use static_assertions::assert_not_impl_any;

use super::seal::Entrant;
use super::slot::{Origin, Slot, SlotCell, State};
use super::{wake_waiters, PageMap, PerExtent, SlotRange};
use crate::error::Error;
use crate::step::{Stop, WaitFor};
use crate::sync::AtomicU64;
use crate::units::{PageCount, PageIndex};

/// The exclusive right to promise the holes of a range: a reservation under way.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a lost claim hangs its waiters: commit or abort it"]
#[doc(alias = "region_chg")]
pub struct PromiseClaim {
    range: SlotRange,
    holes: PerExtent<PageCount>,
}

assert_not_impl_any!(PromiseClaim: Clone, Copy);

impl PromiseClaim {
    /// The range.
    #[must_use]
    pub const fn range(&self) -> SlotRange {
        self.range
    }

    /// The pages to promise, of each size: the claimed holes.
    #[must_use]
    pub const fn holes(&self) -> &PerExtent<PageCount> {
        &self.holes
    }
}

impl<S: AsRef<[AtomicU64]>> PageMap<S> {
    /// Claims the holes of a range, to promise them.
    ///
    /// The range may lie beyond the size, within the capacity, to promise pages before growing.
    ///
    /// # Errors
    /// [`Stop::Wait`] for a slot that is being filled without a promise or reserved by somebody else, or for
    /// [`WaitFor::Seal`] while a punch is under way. All slots are then as they were, and `wake` has been called for
    /// each that somebody began to wait for meanwhile.
    #[doc(alias = "region_chg")]
    pub fn claim_holes(
        &self,
        range: SlotRange,
        wake: impl FnMut(WaitFor),
    ) -> Result<PromiseClaim, Stop> {
        let holes = self.claim_each(range, Origin::Hole, wake)?;
        Ok(PromiseClaim { range, holes })
    }

    /// Publishes the claimed holes as promised. Cannot fail.
    #[doc(alias = "region_add")]
    pub fn commit_promises(&self, claim: PromiseClaim, wake: impl FnMut(WaitFor)) {
        self.settle(claim.range, Slot::PROMISED, Entrant::Reservation, wake);
    }

    /// Publishes the claimed holes as the holes that they were: the ledger had no room. Cannot fail.
    #[doc(alias = "region_abort")]
    pub fn abort_promises(&self, claim: PromiseClaim, wake: impl FnMut(WaitFor)) {
        self.settle(claim.range, Slot::HOLE, Entrant::Reservation, wake);
    }

    /// Makes holes of the promised slots of a range, and gives the promises of each size to release; pages stay.
    ///
    /// A seal does not forbid it.
    ///
    /// # Errors
    /// [`Stop::Wait`] for a slot that is being filled under its promise, or for [`WaitFor::Seal`] while a reservation is
    /// under way. All slots are then as they were.
    #[doc(alias = "region_del")]
    pub fn unpromise(
        &self,
        range: SlotRange,
        mut wake: impl FnMut(WaitFor),
    ) -> Result<PerExtent<PageCount>, Stop> {
        let promises = self.claim_each(range, Origin::Promised, &mut wake)?;
        self.settle(range, Slot::HOLE, Entrant::Unpromise, wake);
        Ok(promises)
    }

    /// Claims every slot of the range that is what `origin` says, and counts them.
    fn claim_each(
        &self,
        range: SlotRange,
        origin: Origin,
        wake: impl FnMut(WaitFor),
    ) -> Result<PerExtent<PageCount>, Stop> {
        let who = match origin {
            Origin::Hole => Entrant::Reservation,
            Origin::Promised => Entrant::Unpromise,
        };
        self.enter(who)?;
        let mut counts = PerExtent::new(&self.extents, |_| PageCount::ZERO);
        let parts = self.extents.split(range.slots());
        for (count, (_, part)) in counts.values_mut().zip(parts) {
            let mut claimed = 0u64;
            for slot in part {
                let cell = self.cell(slot).ok_or(Stop::Fail(Error::RangeBeyondEnd));
                match cell.and_then(|cell| claim_if(cell, origin, PageIndex::new(slot))) {
                    Ok(Outcome::Claimed) => claimed = claimed.wrapping_add(1),
                    Ok(Outcome::PassedOver) => {}
                    Err(stop) => {
                        let undo = SlotRange::new(range.slots().start, slot);
                        self.settle(undo, Slot::claimed(origin).restored(), who, wake);
                        return Err(stop);
                    }
                }
            }
            *count = PageCount::new(claimed);
        }
        Ok(counts)
    }

    /// Ends the caller's claims in the range.
    fn settle(&self, range: SlotRange, becomes: Slot, who: Entrant, mut wake: impl FnMut(WaitFor)) {
        for slot in range.slots() {
            let Some(cell) = self.cell(slot) else {
                continue;
            };
            // INVARIANT: a slot of this range that a change of promises has claimed is the caller's. It waited for those it
            // met; and one that it passed over cannot have turned into what another such change would claim, since that
            // takes a change of the opposite kind, or a punch, and they are kept out.
            let now = cell.read();
            if now.is_claimed() && now.is_for_promise() {
                wake_waiters(cell.publish(becomes), slot, &mut wake);
            }
        }
        self.leave(who, &mut wake);
    }
}

enum Outcome {
    Claimed,
    PassedOver,
}

fn claim_if(cell: SlotCell<'_>, origin: Origin, index: PageIndex) -> Result<Outcome, Stop> {
    let mut now = cell.read();
    loop {
        let wanted = match now.state() {
            State::Hole => matches!(origin, Origin::Hole),
            State::Promised => matches!(origin, Origin::Promised),
            State::Present => false,
            State::Claimed if now.is_for_promise() || now.origin() == origin => {
                return Err(Stop::Wait(WaitFor::Slot(index)))
            }
            State::Claimed => false,
        };
        if !wanted {
            return Ok(Outcome::PassedOver);
        }
        match cell.exchange(now, Slot::claimed(origin).for_promise()) {
            Ok(()) => return Ok(Outcome::Claimed),
            Err(changed) => now = changed,
        }
    }
}
