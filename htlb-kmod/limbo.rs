// SPDX-License-Identifier: GPL-2.0-only
//! Pages that left their slots while somebody outside still held them: they stay charged, and are looked at again
//! whenever somebody wants a page, and every now and then, until the last holder lets go. Each keeps the module loaded.
//!
//! Room for every page of the stocks is pledged when the page comes in, since sending one here must not fail.

use core::sync::atomic::{AtomicUsize, Ordering};

use htlb_core::{
    Attempt, Charge, Condition, Error as Reason, Exclusive, Frame, HugeSize, PageCount, Reclaim, Returned,
};
use kernel::prelude::*;
use kernel::sync::{new_mutex, Arc, Mutex};

use crate::accounts::Payer;
use crate::ffi::limbo::Stay;
use crate::ffi::page::{self, Page};
use crate::machine::Machine;

/// A page that somebody holds.
pub(crate) struct Held {
    frame: Frame,
    attempt: Attempt,
    charge: Charge,
    /// Its account stays open, though the buffer is gone.
    payer: Arc<Payer>,
    stay: Stay,
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
    pub(crate) fn send(&self, frame: Frame, attempt: &Attempt, charge: Charge, payer: &Arc<Payer>) {
        self.keep(Held { frame, attempt: *attempt, charge, payer: payer.clone(), stay: Stay::begin() });
    }

    fn keep(&self, held: Held) {
        // INVARIANT: room was pledged when the page came in.
        let pushed = self.held.lock().push_within_capacity(held);
        debug_assert!(pushed.is_ok());
    }

    /// The next page that nobody holds any more, from `from` on; and where it was.
    fn find(&self, from: usize) -> Option<(usize, Held)> {
        let mut all = self.held.lock();
        let free = |held: &Held| Page::owned(held.frame.pfn(), held.frame.size()).is_some_and(Page::is_exclusive);
        let at = (from..all.len()).find(|at| all.get(*at).is_some_and(free))?;
        all.remove(at).ok().map(|held| (at, held))
    }

    /// Puts back every page that nobody holds any more; says how many the stocks have again. Takes no sleeping lock that is
    /// held across an allocation, so that a shrinker may call it; inside the gate.
    pub(crate) fn retry(&self, machine: &Machine) -> PageCount {
        let mut back = 0u64;
        let mut from = 0;
        // No page is looked at twice, though one may come back here.
        let mut looks = self.len(None);
        while let Some((at, Held { frame, attempt, charge, payer, stay })) = self.find(from) {
            from = at;
            let poisoned = Page::owned(frame.pfn(), frame.size()).is_some_and(Page::is_poisoned);
            match machine.stock_of(&attempt) {
                Some(lock) if poisoned => {
                    let Reclaim::Limbo = machine.bury(lock, frame, &attempt, charge, &payer) else { return PageCount::new(back) };
                }
                Some(lock) => match lock.with(|stock| stock.put(frame, charge, Condition::Dirty)) {
                    Returned::Kept => back = back.saturating_add(1),
                    Returned::Leaves(frame) => machine.let_go(frame),
                },
                None => machine.let_go(frame),
            }
            // The account may go now, the module after it.
            drop(payer);
            drop(stay);
            looks = looks.saturating_sub(1);
            if looks == 0 {
                break;
            }
        }
        PageCount::new(back)
    }
}

impl Machine {
    /// Looks into limbo as somebody whom nobody waits for; says whether something is left there.
    pub(crate) fn look_into_limbo(&self) -> bool {
        if let Some(pass) = self.try_enter() {
            self.limbo().retry(self);
            self.leave(pass);
        }
        self.limbo().len(None) > 0
    }

    /// Gives a page that left the stocks to the system.
    pub(crate) fn let_go(&self, frame: Frame) {
        self.limbo().unpledge();
        page::free(frame);
    }
}
