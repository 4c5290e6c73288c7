// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pools of one process as the suite wants them: so many pages of 2 MiB, and not one more.

use std::sync::{Arc, Mutex};

use htlb_core::driver::Commitment;
use htlb_core::ledger::Counts;
use htlb_core::{
    ByteLen, ByteOffset, ByteRange, Error as Cause, HugeSize, NodePolicy, PageChoice, PageCount,
    Pfn, Reach, Rung, Supply,
};
use htlb_tests::conformance::{
    Limits, Machine, MachineSpec, Order, OwnerId, Pages, Produce, Unavailable,
};
use htlb_tests::host::PoolLease;
use htlb_tests::skip::NO_DEVICE;

use super::{plain, Tested};
use crate::arena::{refused, Fresh, Kin};
use crate::buffer::{Layout, Populate};
use crate::device::Device;
use crate::error::Error;
use crate::locks::locked;
use crate::pools::{DeviceUse, PoolsBuilder};
use crate::sys::window::{Backing, Fork, Window};
use crate::system::Root;
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

    /// On 2 MiB pages of the kernel module, which gets what its pool lacks from the system.
    ///
    /// # Errors
    /// It is not loaded, or this user may not use it.
    pub(super) fn device(spec: &MachineSpec<'_>) -> Result<Self, Unavailable> {
        let pages = pages_of(spec)?;
        let device = Device::open().and_then(|device| Ok(device.stats(MIB2, None)?));
        if device.is_err() {
            return Err(Unavailable(NO_DEVICE.into()));
        }
        let pools = limits(Rung::System, pages).device(DeviceUse::Only);
        Self::over(spec, Rung::System, pools, None)?.filled(pages)
    }

    /// On transparent huge pages, which take no privilege and nothing of the pool.
    ///
    /// # Errors
    /// They are off, or memory is too fragmented for them.
    pub(super) fn transparent(spec: &MachineSpec<'_>) -> Result<Self, Unavailable> {
        Self::new(spec, Rung::Transparent, pages_of(spec)?, None)
    }

    /// On 2 MiB of base pages wherever a transparent huge page would be: any machine has those.
    ///
    /// # Errors
    /// None of the machine's: only what no process is.
    pub(super) fn base(spec: &MachineSpec<'_>) -> Result<Self, Unavailable> {
        let pages = pages_of(spec)?;
        // Where nothing is said of transparent huge pages, they are taken for granted.
        let pools = limits(Rung::Transparent, pages).system_root(Root::at("/nonexistent"));
        let process = Self::over(spec, Rung::Transparent, pools, None)?;
        if pages > 0 {
            process.adopt(PageCount::new(pages)).unwrap();
        }
        Ok(process.with(pages))
    }

    fn new(
        spec: &MachineSpec<'_>,
        rung: Rung,
        pages: u64,
        lease: Option<PoolLease>,
    ) -> Result<Self, Unavailable> {
        Self::over(spec, rung, limits(rung, pages), lease)?.filled(pages)
    }

    /// Itself, with so many pages from the start: they come all at once.
    fn filled(self, pages: u64) -> Result<Self, Unavailable> {
        if pages > 0 {
            let all = self.pools.buffer(pages * MIB2.bytes()).strict();
            let all = match self.rung {
                Rung::Transparent => all.transparent(),
                _ => all.page_size(MIB2),
            };
            drop(all.create().map_err(unavailable)?);
        }
        Ok(self.with(pages))
    }

    fn over(
        spec: &MachineSpec<'_>,
        rung: Rung,
        pools: PoolsBuilder,
        lease: Option<PoolLease>,
    ) -> Result<Self, Unavailable> {
        Ok(Self {
            owners: Mutex::new(vec![None]),
            pools: pools.build().map_err(unavailable)?,
            rung,
            kept: u64::try_from(spec.magazine).unwrap() * MIB2.bytes(),
            _lease: lease,
        })
    }

    /// Itself, with so many pages, all of them free.
    fn with(self, pages: u64) -> Self {
        let counts = self.counts(MIB2, None);
        assert_eq!((counts.nr.raw(), counts.free.raw()), (pages, pages));
        self
    }

    /// Takes memory in as transparent huge pages without asking whether it is.
    fn adopt(&self, pages: PageCount) -> Result<(), Cause> {
        let range = ByteRange::at(ByteOffset::ZERO, MIB2.len_of(pages)?)?;
        let guarded = ByteLen::new(range.len().raw() + MIB2.bytes());
        let window = Window::reserve(Backing::Private, guarded, MIB2, Fork::Exclude);
        let window = window.map_err(refused)?;
        window.map(range).map_err(refused)?;
        window.populate_write(range)?;
        let fresh = Fresh {
            window: Arc::new(window),
            range,
            reach: Reach::ANY,
            nodes: NodePolicy::Default,
            supply: Supply::Persistent,
            device: None,
        };
        let arena = self.pools.shared().arena(Kin::Transparent, MIB2);
        arena.unwrap().adopt(fresh, |_| ())
    }

    /// The owner of that number; nobody for the first.
    fn owner_of(&self, owner: OwnerId) -> Option<Owner> {
        locked(&self.owners)[owner].clone()
    }
}

fn unavailable(error: Error) -> Unavailable {
    Unavailable(error.to_string())
}

/// Pools that take so many pages of 2 MiB from this rung, and huge pages from no other.
fn limits(rung: Rung, pages: u64) -> PoolsBuilder {
    let other = match rung {
        Rung::Transparent => Rung::System,
        _ => Rung::Transparent,
    };
    Pools::builder()
        .device(DeviceUse::Never)
        .limit(rung, MIB2, PageCount::new(pages))
        .limit(other, MIB2, PageCount::ZERO)
        .limit(Rung::System, HugeSize::GIB1, PageCount::ZERO)
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
