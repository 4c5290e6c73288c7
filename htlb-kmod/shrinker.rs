// SPDX-License-Identifier: GPL-2.0-only
//! What is given back when the machine is short of memory: surplus pages that are free and promised to nobody, and pages in
//! limbo whose last holder is gone. A page of the pool stays: it is there because somebody asked for it.
//!
//! Whoever asks may hold any lock of the kernel's, so that nothing here waits for what may take long: a stock that somebody else has
//! is passed over, and so is everything while the gate is closed. Limbo's lock is held for moments, and never across an
//! allocation.

use htlb_core::HugeSize;

use crate::machine::{Machine, SIZES};

impl Machine {
    /// How many base pages could be given back now, perhaps.
    pub(crate) fn reclaimable(&self) -> u64 {
        SIZES.into_iter().fold(0, |sum, size| {
            let pages = self.idle_surplus(size).saturating_add(self.limbo().len(Some(size)) as u64);
            sum.saturating_add(pages.saturating_mul(size.base_pages()))
        })
    }

    /// Surplus pages that are free, as far as no promise needs them.
    fn idle_surplus(&self, size: HugeSize) -> u64 {
        let Some(lock) = self.stock(size) else { return 0 };
        let counts = lock.try_with(|stock| stock.counts());
        counts.map_or(0, |counts| counts.surplus.raw().min(counts.free.raw().saturating_sub(counts.reserved.raw())))
    }

    /// Gives back about `most` base pages; says how many, or nothing where that would mean to wait.
    pub(crate) fn reclaim(&self, most: u64) -> Option<u64> {
        let pass = self.try_enter()?;
        let mut freed = 0u64;
        // What comes home to the pool stays there; what came as surplus leaves.
        self.limbo().retry(self);
        for size in SIZES {
            let Some(lock) = self.stock(size) else { continue };
            while freed < most {
                let Some(Some(frame)) = lock.try_with(|stock| stock.drop_surplus()) else { break };
                self.let_go(frame);
                freed = freed.saturating_add(size.base_pages());
            }
        }
        self.leave(pass);
        Some(freed)
    }
}
