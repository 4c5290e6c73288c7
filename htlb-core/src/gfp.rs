// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! GFP masks by name, and the combinations that cannot work.
//!
//! The bits are this crate's own: in the kernel their positions move between versions and configurations, so the
//! kernel front end translates them name by name. The composites mean what they mean in `include/linux/gfp_types.h`.

use bitflags::bitflags;

use crate::error::Error;

/// The order above which the kernel no longer tries hard by itself (`PAGE_ALLOC_COSTLY_ORDER`).
pub const COSTLY_ORDER: u8 = 3;

bitflags! {
    /// How and where the system's page allocator may look for a page.
    ///
    /// ```
    /// use htlb_core::Gfp;
    /// assert!(Gfp::HIGHUSER.contains(Gfp::KERNEL | Gfp::HARDWALL | Gfp::HIGHMEM));
    /// assert!(!Gfp::TRANSHUGE_LIGHT.intersects(Gfp::RECLAIM));
    /// ```
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[doc(alias = "gfp_t")]
    pub struct Gfp: u32 {
        /// Only `ZONE_DMA`: on x86 the first 16 MiB.
        const DMA = 1 << 0;
        /// High memory is welcome; no effect on 64-bit machines.
        const HIGHMEM = 1 << 1;
        /// Only memory below 4 GiB.
        const DMA32 = 1 << 2;
        /// The page can be migrated.
        const MOVABLE = 1 << 3;
        /// The page can be reclaimed by a shrinker.
        const RECLAIMABLE = 1 << 4;
        /// May use the high-priority reserves.
        const HIGH = 1 << 5;
        /// May start I/O to reclaim.
        const IO = 1 << 6;
        /// May call into file systems to reclaim.
        const FS = 1 << 7;
        /// The caller may sleep in reclaim.
        const DIRECT_RECLAIM = 1 << 8;
        /// May wake the background reclaimer.
        const KSWAPD_RECLAIM = 1 << 9;
        /// The page is returned zeroed.
        const ZERO = 1 << 10;
        /// A compound page.
        const COMP = 1 << 11;
        /// No warning in the log on failure.
        const NOWARN = 1 << 12;
        /// Retry while progress is made, then fail.
        const RETRY_MAYFAIL = 1 << 13;
        /// Never fail.
        const NOFAIL = 1 << 14;
        /// One light attempt.
        const NORETRY = 1 << 15;
        /// May use all reserves.
        const MEMALLOC = 1 << 16;
        /// May use no reserves.
        const NOMEMALLOC = 1 << 17;
        /// Keep to the cpuset of the caller.
        const HARDWALL = 1 << 18;
        /// Only the named node.
        const THISNODE = 1 << 19;
        /// Charge the page to the caller's memory cgroup.
        const ACCOUNT = 1 << 20;
        /// The caller will write to the page soon.
        const WRITE = 1 << 21;

        /// Both kinds of reclaim.
        const RECLAIM = Self::DIRECT_RECLAIM.bits() | Self::KSWAPD_RECLAIM.bits();
        /// Atomic context, may use reserves.
        const ATOMIC = Self::HIGH.bits() | Self::KSWAPD_RECLAIM.bits();
        /// The ordinary kernel allocation.
        const KERNEL = Self::RECLAIM.bits() | Self::IO.bits() | Self::FS.bits();
        /// [`Gfp::KERNEL`], charged.
        const KERNEL_ACCOUNT = Self::KERNEL.bits() | Self::ACCOUNT.bits();
        /// May not sleep, may fail.
        const NOWAIT = Self::KSWAPD_RECLAIM.bits() | Self::NOWARN.bits();
        /// May sleep, starts no I/O.
        const NOIO = Self::RECLAIM.bits();
        /// May sleep, calls no file system.
        const NOFS = Self::RECLAIM.bits() | Self::IO.bits();
        /// For user space, addressable by the kernel.
        const USER = Self::KERNEL.bits() | Self::HARDWALL.bits();
        /// For user space, anywhere.
        const HIGHUSER = Self::USER.bits() | Self::HIGHMEM.bits();
        /// For user space, anywhere, movable.
        const HIGHUSER_MOVABLE = Self::HIGHUSER.bits() | Self::MOVABLE.bits();
        /// A transparent huge page without reclaim.
        const TRANSHUGE_LIGHT = (Self::HIGHUSER_MOVABLE.bits() | Self::COMP.bits() | Self::NOMEMALLOC.bits() | Self::NOWARN.bits())
            & !Self::RECLAIM.bits();
        /// A transparent huge page, with direct reclaim.
        const TRANSHUGE = Self::TRANSHUGE_LIGHT.bits() | Self::DIRECT_RECLAIM.bits();
    }
}

/// Whether the page may be moved after a device or a mapping has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mobility {
    /// It stays where it is: devices may hold its address.
    #[default]
    Pinned,
    /// The system may migrate it.
    Movable,
}

impl Gfp {
    /// The zone modifiers.
    pub const ZONES: Self = Self::DMA.union(Self::DMA32).union(Self::HIGHMEM);

    /// The mask for huge pages where a request carries none.
    ///
    /// Mirrors `mm/hugetlb.c: htlb_alloc_mask`, with the flags that every huge allocation adds there.
    #[must_use]
    #[doc(alias = "htlb_alloc_mask")]
    pub const fn huge_default(mobility: Mobility) -> Self {
        match mobility {
            Mobility::Pinned => Self::HIGHUSER,
            Mobility::Movable => Self::HIGHUSER_MOVABLE,
        }
        .union(Self::COMP)
        .union(Self::NOWARN)
    }

    /// Refuses the combinations that the allocator rejects, ignores or cannot honour for a page of `order`.
    ///
    /// # Errors
    /// [`Error::GfpZoneConflict`], [`Error::GfpMobilityConflict`], [`Error::GfpMovablePinned`],
    /// [`Error::GfpRetryConflict`], [`Error::GfpNofailAtomic`], [`Error::GfpNofailCostly`],
    /// [`Error::GfpReservesConflict`]: one for each rule, the first that is broken.
    ///
    /// ```
    /// use htlb_core::{Error, Gfp, Mobility};
    /// let both = Gfp::KERNEL | Gfp::DMA | Gfp::DMA32;
    /// assert_eq!(both.validate(9, Mobility::Pinned), Err(Error::GfpZoneConflict));
    /// assert_eq!(Gfp::HIGHUSER.validate(9, Mobility::Pinned), Ok(()));
    /// ```
    pub const fn validate(self, order: u8, mobility: Mobility) -> Result<(), Error> {
        if self.intersection(Self::ZONES).bits().count_ones() > 1 {
            return Err(Error::GfpZoneConflict);
        }
        if self.contains(Self::MOVABLE.union(Self::RECLAIMABLE)) {
            return Err(Error::GfpMobilityConflict);
        }
        if self.contains(Self::MOVABLE) && matches!(mobility, Mobility::Pinned) {
            return Err(Error::GfpMovablePinned);
        }
        let retries = Self::NOFAIL.union(Self::NORETRY).union(Self::RETRY_MAYFAIL);
        if self.intersection(retries).bits().count_ones() > 1 {
            return Err(Error::GfpRetryConflict);
        }
        if self.contains(Self::NOFAIL) {
            if !self.contains(Self::DIRECT_RECLAIM) {
                return Err(Error::GfpNofailAtomic);
            }
            if order > COSTLY_ORDER {
                return Err(Error::GfpNofailCostly);
            }
        }
        if self.contains(Self::MEMALLOC.union(Self::NOMEMALLOC)) {
            return Err(Error::GfpReservesConflict);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_own_error() {
        let pinned = |gfp: Gfp, order| gfp.validate(order, Mobility::Pinned);
        for zones in [
            Gfp::DMA | Gfp::DMA32,
            Gfp::DMA | Gfp::HIGHMEM,
            Gfp::DMA32 | Gfp::HIGHMEM,
        ] {
            assert_eq!(pinned(Gfp::KERNEL | zones, 0), Err(Error::GfpZoneConflict));
        }
        assert_eq!(
            pinned(Gfp::HIGHUSER_MOVABLE, 9),
            Err(Error::GfpMovablePinned)
        );
        assert_eq!(Gfp::HIGHUSER_MOVABLE.validate(9, Mobility::Movable), Ok(()));
        assert_eq!(
            (Gfp::HIGHUSER_MOVABLE | Gfp::RECLAIMABLE).validate(9, Mobility::Movable),
            Err(Error::GfpMobilityConflict)
        );
        assert_eq!(
            pinned(Gfp::KERNEL | Gfp::NOFAIL | Gfp::NORETRY, 0),
            Err(Error::GfpRetryConflict)
        );
        assert_eq!(
            pinned(Gfp::NOFAIL | Gfp::KSWAPD_RECLAIM, 0),
            Err(Error::GfpNofailAtomic)
        );
        assert_eq!(pinned(Gfp::KERNEL | Gfp::NOFAIL, COSTLY_ORDER), Ok(()));
        assert_eq!(
            pinned(Gfp::KERNEL | Gfp::NOFAIL, COSTLY_ORDER + 1),
            Err(Error::GfpNofailCostly)
        );
        assert_eq!(
            pinned(Gfp::KERNEL | Gfp::MEMALLOC | Gfp::NOMEMALLOC, 0),
            Err(Error::GfpReservesConflict)
        );
    }

    #[test]
    fn composites_are_the_kernel_s() {
        assert_eq!(
            Gfp::KERNEL,
            Gfp::DIRECT_RECLAIM | Gfp::KSWAPD_RECLAIM | Gfp::IO | Gfp::FS
        );
        assert_eq!(Gfp::USER, Gfp::KERNEL | Gfp::HARDWALL);
        assert_eq!(Gfp::TRANSHUGE & Gfp::RECLAIM, Gfp::DIRECT_RECLAIM);
        assert_eq!(Gfp::ATOMIC, Gfp::HIGH | Gfp::KSWAPD_RECLAIM);
        for (mobility, movable) in [(Mobility::Pinned, false), (Mobility::Movable, true)] {
            let mask = Gfp::huge_default(mobility);
            assert_eq!(mask.contains(Gfp::MOVABLE), movable);
            assert_eq!(mask.validate(9, mobility), Ok(()));
        }
    }
}
