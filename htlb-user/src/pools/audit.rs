// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Comparing all books of a process while nothing moves.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use htlb_core::gate::Closing;
use htlb_core::stock::{Held, Violation};

use super::shared::{back_off, Shared};
use crate::buffer::Live;
use crate::locks::locked;

/// How long newcomers are kept waiting for those inside, before they are let in again and the inspection tries anew.
const PATIENCE: Duration = Duration::from_millis(1);

/// Why [`Pools::check`](super::Pools::check) did not find everything in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// A rule of the core's is broken, which is a bug of this library.
    Broken(Violation),
    /// It was called by a producer, whose own page is between two places.
    InsideProducer,
    /// It was called in a forked child, which has none of the pages.
    ForkedChild,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(violation) => write!(f, "the books do not agree: {violation:?}"),
            Self::InsideProducer => f.write_str("a producer cannot check what it is changing"),
            Self::ForkedChild => f.write_str("a forked child has none of the pages"),
        }
    }
}

impl std::error::Error for CheckError {}

impl Shared {
    /// See [`Pools::check`](super::Pools::check).
    pub(super) fn check(&self) -> Result<(), CheckError> {
        if !self.is_mine() {
            return Err(CheckError::ForkedChild);
        }
        if self.depth() > 0 {
            return Err(CheckError::InsideProducer);
        }
        let closing = self.drain();
        // What is dropped in here, as the last one to have it, gives its pages back behind the closed gate.
        let inspector = self.enter_as_worker();
        let outcome = self.audit();
        drop(inspector);
        // Whoever waits for the gate looks again by itself.
        let _ = self.gate.reopen(closing);
        outcome.map_err(CheckError::Broken)
    }

    /// Closes the gate when nobody is inside. Somebody inside may wait for a newcomer, so the gate does not stay closed
    /// for long before everybody has left.
    fn drain(&self) -> Closing {
        let mut rounds = 0;
        loop {
            let Ok(closing) = self.gate.close() else {
                back_off(&mut rounds);
                continue;
            };
            let since = Instant::now();
            while since.elapsed() < PATIENCE {
                if self.gate.is_drained(&closing) {
                    return closing;
                }
                std::thread::yield_now();
            }
            let _ = self.gate.reopen(closing);
            std::thread::sleep(PATIENCE);
        }
    }

    fn audit(&self) -> Result<(), Violation> {
        let live: Vec<Arc<Live>> = {
            let registry = locked(&self.live);
            let buffers = registry.all.iter().flatten().filter_map(Weak::upgrade);
            buffers.chain(registry.kept.iter().cloned()).collect()
        };
        let shelves = locked(&self.shelves).clone();
        for arena in &self.arenas {
            let kept: u64 = shelves.iter().map(|shelf| shelf.pages_of(arena)).sum();
            let limbo = locked(&self.limbo)
                .iter()
                .filter(|page| Arc::ptr_eq(&page.arena, arena))
                .count() as u64;
            let stock = locked(arena.stock());
            let mut held = Held {
                promises: 0,
                pages: kept.saturating_add(limbo),
            };
            for buffer in &live {
                let own = buffer.held(arena, &stock);
                held.promises = held.promises.saturating_add(own.promises);
                held.pages = held.pages.saturating_add(own.pages);
            }
            stock.audit(held)?;
        }
        live.iter().try_for_each(|buffer| {
            let limbo = locked(&self.limbo);
            let of_own = |page: &&super::shared::Limbo| buffer.owns(&page.arena);
            buffer.check_own(limbo.iter().filter(of_own).count() as u64)
        })
    }
}
