// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How Linux counts a subpool, where that is not how htlb counts an account.
//!
//! `mm/hugetlb.c: hugepage_subpool_get_pages` draws from the reserve `rsv_hpages` first, as an account draws from its unused
//! minimum. `hugepage_subpool_put_pages` fills the reserve up again with whatever comes back, and looks at what is in use only
//! where there is a `size=` too, and then once for a whole batch. So the reserve can be larger than what is unused of the
//! minimum: Linux then holds more back than was asked of it. htlb's unused minimum is `min - used` at every moment.

use crate::op::Limits;

/// A mount's subpool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subpool {
    pub(crate) limits: Limits,
    /// What refused faults have added to `used_hpages`, for good.
    pub(crate) leaked: u64,
    /// `rsv_hpages`.
    pub(crate) reserve: u64,
}

impl Subpool {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self {
            limits,
            leaked: 0,
            reserve: limits.min,
        }
    }

    /// `used_hpages`, which is counted only where there is a limit.
    pub(crate) fn used(&self, used: u64) -> u64 {
        self.limits.max.map_or(0, |_| used + self.leaked)
    }

    /// `f_blocks` and `f_bfree`.
    pub(crate) fn statfs(&self, used: u64) -> [u64; 2] {
        match self.limits.max {
            Some(max) => [max, max - self.used(used)],
            None if self.limits.min > 0 => [u64::MAX; 2],
            None => [0; 2],
        }
    }

    /// So many pages were had.
    pub(crate) fn draw(&mut self, pages: u64) {
        self.reserve -= self.reserve.min(pages);
    }

    /// So many come back, and `used` are left; how many of them the machine's reservations lose.
    pub(crate) fn put(&mut self, used: u64, pages: u64) -> u64 {
        if self.limits.min == 0 || self.used(used) >= self.limits.min {
            return pages;
        }
        let full = self.reserve + pages;
        self.reserve = full.min(self.limits.min);
        full - self.reserve
    }

    /// A reservation of so many pages was refused for want of pages, with `used` in use: what had been drawn goes back,
    /// unless the minimum is in use.
    pub(crate) fn refuse(&mut self, used: u64, pages: u64) {
        let drawn = self.reserve.min(pages);
        self.reserve -= drawn;
        // Drawn pages that the subpool does not want back are no reservation any more.
        let _ = self.put(used, drawn);
    }
}
