// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pools of one process as the suite wants them: so many pages of 2 MiB, and not one more.

use std::sync::Mutex;

use htlb_core::driver::Commitment;
use htlb_core::ledger::Counts;
use htlb_core::{
    ByteOffset, ByteRange, Error as Cause, HugeSize, PageChoice, PageCount, Pfn, Rung,
};
use htlb_tests::conformance::{
    Limits, Machine, MachineSpec, Order, OwnerId, Pages, Produce, Unavailable,
};
use htlb_tests::host::PoolLease;

use super::{plain, Tested};
use crate::buffer::{Layout, Populate};
use crate::error::Error;
use crate::host::locked;
use crate::{Owner, Pools};

const MIB2: HugeSize = HugeSize::MIB2;

/// A process under test.
#[derive(Debug)]
pub(super) struct Process {
    // ORDER: the pages go back to the system before the right to them ends.
    owners: Mutex<Vec<Option<Owner>>>,
    pools: Pools,
    /// Where the suite's huge pages come from.
    rung: Rung,
    /// What each owner keeps at most, in bytes.
    kept: u64,
    _lease: Option<PoolLease>,
}

impl Process {
    /// On the system's pool of 2 MiB pages.
    ///
    /// # Errors
    /// The pool cannot be had, or is too small.
    pub(super) fn hugetlb(spec: &MachineSpec<'_>) -> Result<Self, Unavailable> {
        let pages = pages_of(spec)?;
        let lease = PoolLease::with_pages(MIB2, PageCount::new(pages))
            .map_err(|why| Unavailable(why.to_string()))?;
        Self::new(spec, Rung::System, pages, Some(lease))
    }

    /// On transparent huge pages, which take no privilege and nothing of the pool.
    ///
    /// # Errors
    /// They are off, or memory is too fragmented for them.
    pub(super) fn transparent(spec: &MachineSpec<'_>) -> Result<Self, Unavailable> {
        Self::new(spec, Rung::Transparent, pages_of(spec)?, None)
    }

    fn new(
        spec: &MachineSpec<'_>,
        rung: Rung,
        pages: u64,
        lease: Option<PoolLease>,
    ) -> Result<Self, Unavailable> {
        let unavailable = |error: Error| Unavailable(error.to_string());
        let other = match rung {
            Rung::Transparent => Rung::System,
            _ => Rung::Transparent,
        };
        let pools = Pools::builder()
            .limit(rung, MIB2, PageCount::new(pages))
            .limit(other, MIB2, PageCount::ZERO)
            .limit(Rung::System, HugeSize::GIB1, PageCount::ZERO)
            .build()
            .map_err(unavailable)?;
        let process = Self {
            owners: Mutex::new(vec![None]),
            pools,
            rung,
            kept: u64::try_from(spec.magazine).unwrap() * MIB2.bytes(),
            _lease: lease,
        };
        if pages > 0 {
            // All at once, so that the pool has them from the start.
            let all = process.pools.buffer(pages * MIB2.bytes()).strict();
            let all = match rung {
                Rung::Transparent => all.transparent(),
                _ => all.page_size(MIB2),
            };
            drop(all.create().map_err(unavailable)?);
            let counts = process.counts(MIB2, None);
            assert_eq!((counts.nr.raw(), counts.free.raw()), (pages, pages));
        }
        Ok(process)
    }

    /// The owner of that number; nobody for the first.
    fn owner_of(&self, owner: OwnerId) -> Option<Owner> {
        locked(&self.owners)[owner].clone()
    }
}

/// The 2 MiB pages that a case is to have.
fn pages_of(spec: &MachineSpec<'_>) -> Result<u64, Unavailable> {
    let plain = spec.nodes == 1
        && spec.overcommit.is_empty()
        && spec.system.is_empty()
        && spec.pools.iter().all(|pool| pool.size == MIB2);
    match plain {
        true => Ok(spec.pools.iter().map(|pool| pool.pages).sum()),
        false => Err(Unavailable(format!("a process cannot be had as {spec:?}"))),
    }
}

impl Machine for Process {
    fn owner(&self, limits: Option<Limits>) -> Result<OwnerId, Cause> {
        assert!(limits.is_none(), "owners have no account");
        let mut owners = locked(&self.owners);
        owners.push(Some(Owner::keeping(&self.pools, self.kept)));
        Ok(owners.len() - 1)
    }

    fn close(&self, owner: OwnerId) -> Result<(), Cause> {
        drop(locked(&self.owners)[owner].take());
        Ok(())
    }

    fn create<'m>(
        &'m self,
        owner: OwnerId,
        order: &Order,
        produce: Option<Produce<'_>>,
    ) -> Result<Box<dyn Pages + 'm>, Cause> {
        let request = order.request;
        let mut builder = self
            .pools
            .buffer_for(request)
            .layout(Layout::Scattered)
            .capacity(order.capacity.raw())
            .populate(match order.commitment {
                Commitment::Promised => Populate::Later,
                Commitment::Unpromised => Populate::Unpromised,
            });
        if self.rung == Rung::Transparent && request.page() == PageChoice::Huge(MIB2) {
            builder = builder.transparent();
        }
        if let Some(owner) = self.owner_of(owner) {
            builder = builder.owner(&owner);
        }
        let tested = Tested::new(plain(builder.create())?);
        if produce.is_some() {
            let all = ByteRange::at(ByteOffset::ZERO, request.size())?;
            tested.populate(all, produce)?;
        }
        Ok(Box::new(tested))
    }

    fn counts(&self, size: HugeSize, node: Option<u32>) -> Counts {
        assert_eq!(node, None, "which node has a page is the system's affair");
        let pools = self.pools.state();
        let mut pools = pools.iter();
        pools
            .find(|pool| pool.rung == self.rung && pool.size == size)
            .map_or_else(Counts::default, |pool| pool.counts)
    }

    fn resize(&self, _size: HugeSize, _node: u32, _pages: u64) -> Result<u64, Cause> {
        unreachable!("the system's pools are not the process's to resize")
    }

    fn demote(&self, _node: u32) -> Result<(), Cause> {
        unreachable!("the system's pages are not the process's to break")
    }

    fn hold(&self, _page: Pfn) {
        unreachable!("nobody outside a process holds its pages")
    }

    fn let_go(&self, _page: Pfn) {
        unreachable!("nobody outside a process holds its pages")
    }

    fn check(&self) -> Result<(), String> {
        self.pools.check().map_err(|broken| broken.to_string())
    }
}
