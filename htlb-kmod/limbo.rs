// SPDX-License-Identifier: GPL-2.0-only
//! Pages that left their slots while somebody outside still held them: they stay charged, and are looked at again
//! whenever somebody wants a page, until the last holder lets go.
//!
//! Room for every page of the stocks is pledged when the page comes in, since sending one here must not fail.

use core::sync::atomic::{AtomicUsize, Ordering};

use htlb_core::{Attempt, Charge, Condition, Error as Reason, Exclusive, Frame, HugeSize, Returned};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Mutex};

use crate::ffi::page::{self, Page};
use crate::machine::Machine;

/// A page that somebody holds.
pub(crate) struct Held {
    frame: Frame,
    attempt: Attempt,
    charge: Charge,
}

/// The pages in limbo.
#[pin_data]
pub(crate) struct Limbo {
    #[pin]
    held: Mutex<KVVec<Held>>,
    /// How many pages the stocks have had room pledged for.
    pledged: AtomicUsize,
}

impl Limbo {
    /// Nobody.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            held <- new_mutex!(KVVec::new(), "htlb::limbo"),
            pledged: AtomicUsize::new(0),
        })
    }

    /// Makes sure that one page more could be sent here.
    pub(crate) fn pledge(&self) -> Result<(), Reason> {
        let wanted = self.pledged.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if self.held.lock().capacity() >= wanted {
            return Ok(());
        }
        // Allocated with no lock held: a shrinker takes it.
        let Ok(mut bigger) = KVVec::with_capacity(wanted.saturating_mul(2), GFP_KERNEL) else {
            self.unpledge();
            return Err(Reason::OutOfMetadata);
        };
        let mut held = self.held.lock();
        if held.capacity() >= wanted {
            drop(held);
            return Ok(());
        }
        for page in held.drain_all() {
            // INVARIANT: the new one is larger.
            let pushed = bigger.push_within_capacity(page);
            debug_assert!(pushed.is_ok());
        }
        core::mem::swap(&mut *held, &mut bigger);
        drop(held);
        Ok(())
    }

    /// A page left the stocks.
    pub(crate) fn unpledge(&self) {
        self.pledged.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many pages are here, of one size or of all.
    pub(crate) fn len(&self, size: Option<HugeSize>) -> usize {
        let held = self.held.lock();
        held.iter().filter(|held| size.is_none_or(|size| held.frame.size() == size)).count()
    }

    /// Sends a page here.
    pub(crate) fn send(&self, frame: Frame, attempt: &Attempt, charge: Charge) {
        let held = Held { frame, attempt: *attempt, charge };
        // INVARIANT: room was pledged when the page came in.
        let pushed = self.held.lock().push_within_capacity(held);
        debug_assert!(pushed.is_ok());
    }

    /// Puts back every page that nobody holds any more. Takes no sleeping lock that is held across an allocation, so
    /// that a shrinker may call it; inside the gate.
    pub(crate) fn retry(&self, machine: &Machine) {
        loop {
            let found = {
                let mut held = self.held.lock();
                let at = held.iter().position(|held| {
                    Page::owned(held.frame.pfn(), held.frame.size()).is_some_and(Page::is_exclusive)
                });
                at.and_then(|at| held.remove(at).ok())
            };
            let Some(Held { frame, attempt, charge }) = found else { return };
            let left = match machine.stock_of(&attempt) {
                Some(lock) => match lock.with(|stock| stock.put(frame, charge, Condition::Dirty)) {
                    Returned::Kept => continue,
                    Returned::Leaves(frame) => frame,
                },
                None => frame,
            };
            machine.let_go(left);
        }
    }
}

impl Machine {
    /// Gives a page that left the stocks to the system.
    pub(crate) fn let_go(&self, frame: Frame) {
        self.limbo().unpledge();
        page::free(frame);
    }
}
