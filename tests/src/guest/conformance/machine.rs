// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The module's pools, as a case wants them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use htlb_core::driver::Commitment;
use htlb_core::ledger::Counts;
use htlb_core::{
    ByteLen, Contiguity, Error, HugeSize, NodeId, NodePolicy, PageCount, Pfn, Request,
};
use htlb_user::buffer::Populate;
use htlb_user::device::{Account, Device, DeviceError};

use rustix::thread::{sched_setaffinity, CpuSet};

use super::super::probe::Probe;
use super::super::rest;
use super::buffer::Tested;
use super::low;
use crate::conformance::{
    Limits, Machine, MachineSpec, Order, OwnerId, Pages, PoolSpec, Produce, Unavailable,
};

const SIZES: [HugeSize; 2] = [HugeSize::MIB2, HugeSize::GIB1];
/// All of its memory lies below 4 GiB.
pub(super) const LOW_NODE: u32 = 0;
/// All of its memory lies above.
const HIGH_NODE: u32 = 1;
/// By how many pages a pool grows until it has a run.
const RUN_MARGIN: u64 = 24;
/// How long the module may take to see that a page is held no more.
const PATIENCE: Duration = Duration::from_secs(5);

/// The module under test.
#[derive(Debug)]
pub(super) struct Kernel {
    device: Device,
    owners: Mutex<Vec<Option<Device>>>,
    pub(super) probe: Probe,
    /// How many nodes the case knows of.
    nodes: u32,
}

/// Whether a pool's pages are to lie in one run: the suite's machines are made so, the kernel's allocator gives what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// As they come.
    Whatever,
    /// In one run, which begins where a run of four may.
    Wanted,
}

/// What a call was about, where the errno alone does not say what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// A range of a buffer.
    Range,
    /// A buffer to be made.
    Request,
    /// An account.
    Account,
    /// Something that no argument can be wrong of.
    Other,
}

/// The reason in the core's words. `EINVAL` stands for many; each call here leaves one, since requests are checked before.
pub(super) fn cause(error: &DeviceError, about: About) -> Error {
    match (error.cause(), error.errno(), about) {
        (Some(cause), _, _) => cause,
        (None, libc::EINVAL, About::Range) => Error::RangeUnaligned,
        (None, libc::EINVAL, About::Request) => Error::AlignmentUnreachable,
        (None, libc::EINVAL, About::Account) => Error::AccountMinimumAboveMaximum,
        _ => panic!("{error}"),
    }
}

fn unavailable(error: DeviceError) -> Unavailable {
    Unavailable(error.to_string())
}

fn len_of(size: HugeSize, pages: u64) -> ByteLen {
    size.len_of(PageCount::new(pages)).expect("few pages")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a failing case left there is only dropped.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open() -> Result<Device, Unavailable> {
    Device::open().map_err(|error| Unavailable(format!("/dev/htlb: {error}")))
}

impl Kernel {
    /// As described.
    ///
    /// # Errors
    /// This guest has no such memory.
    pub(super) fn new(spec: &MachineSpec<'_>, runs: Runs) -> Result<Self, Unavailable> {
        if spec.nodes > 2 || spec.transparent {
            return Err(Unavailable(format!("the guest cannot be had as {spec:?}")));
        }
        let probe =
            Probe::open().map_err(|error| Unavailable(format!("/dev/htlb_probe: {error}")))?;
        let kernel = Self {
            device: open()?,
            owners: Mutex::new(vec![Some(open()?)]),
            probe,
            nodes: spec.nodes,
        };
        kernel.empty()?;
        if spec.nodes == 1 && spec.pools.iter().any(|pool| pool.below < 64) {
            // The case knows of one node, so the nearer of the two must not be that of the scarcer pages.
            run_on(HIGH_NODE).map_err(|error| Unavailable(format!("node 1: {error}")))?;
        }
        let (scattered, plain): (Vec<PoolSpec>, Vec<PoolSpec>) =
            spec.pools.iter().partition(|pool| pool.below < 32);
        if let (Runs::Wanted, [pool], 1) = (runs, spec.pools, spec.nodes) {
            kernel.fill_with_a_run(pool)?;
        } else if scattered.is_empty() {
            kernel.fill(&plain)?;
        } else {
            // Those below 4 GiB have to be told apart too.
            let (low, high): (Vec<PoolSpec>, Vec<PoolSpec>) =
                spec.pools.iter().partition(|pool| pool.below < 64);
            low::fill(&kernel.device, &low)?;
            kernel.fill(&high)?;
        }
        for (size, pages) in spec.overcommit {
            let most = len_of(*size, *pages);
            kernel
                .device
                .allow_surplus(*size, most)
                .map_err(unavailable)?;
        }
        Ok(kernel)
    }

    /// The guest's node for a case's: see the module's documentation.
    const fn node(&self, number: u32, below: u32) -> u32 {
        match (self.nodes, below) {
            (2.., _) => number,
            (_, 64..) => HIGH_NODE,
            _ => LOW_NODE,
        }
    }

    fn fill(&self, pools: &[PoolSpec]) -> Result<(), Unavailable> {
        for (done, pool) in pools.iter().enumerate() {
            let node = self.node(pool.node, pool.below);
            let before: u64 = pools
                .iter()
                .take(done)
                .filter(|other| {
                    other.size == pool.size && self.node(other.node, other.below) == node
                })
                .map(|other| other.pages)
                .sum();
            let wanted = len_of(pool.size, before + pool.pages);
            let got = self
                .device
                .resize(pool.size, Some(node_id(node)), wanted)
                .map_err(unavailable)?;
            if got != wanted {
                return Err(Unavailable(format!(
                    "node {node} gives {} bytes of {} in {} pages",
                    got.raw(),
                    wanted.raw(),
                    pool.size
                )));
            }
        }
        Ok(())
    }

    /// Makes a pool of a run: of a larger one, all goes but what a contiguous buffer has.
    fn fill_with_a_run(&self, pool: &PoolSpec) -> Result<(), Unavailable> {
        let node = node_id(self.node(pool.node, pool.below));
        let request = Request::builder(len_of(pool.size, pool.pages))
            .page_size(pool.size)
            .nodes(NodePolicy::Bind(node.mask()))
            .contiguity(Contiguity::Whole)
            .strict();
        let request = match pool.pages {
            4.. => request.alignment(4 * pool.size.bytes()),
            _ => request,
        };
        let request = request.build().expect("a legal request");
        let mut grown = pool.pages;
        loop {
            grown += RUN_MARGIN;
            let more = PoolSpec {
                pages: grown,
                ..*pool
            };
            self.fill(&[more])?;
            match self.device.create(&request, request.size(), Populate::Now) {
                Ok(_run) => return self.fill(&[*pool]),
                Err(error) if grown > 8 * RUN_MARGIN => return Err(unavailable(error)),
                Err(_) => {}
            }
        }
    }

    /// No page and no surplus of any size.
    fn empty(&self) -> Result<(), Unavailable> {
        for size in SIZES {
            self.device
                .allow_surplus(size, ByteLen::new(0))
                .map_err(unavailable)?;
            for node in [LOW_NODE, HIGH_NODE] {
                self.device
                    .resize(size, Some(node_id(node)), ByteLen::new(0))
                    .map_err(unavailable)?;
            }
            let left = self.device.stats(size, None).map_err(unavailable)?.total;
            assert_eq!(left, 0, "{size} pages that an earlier case left");
        }
        Ok(())
    }

    /// Whether the pool has so many bytes free that nobody is promised.
    fn has(&self, size: HugeSize, bytes: u64) -> bool {
        self.device
            .stats(size, None)
            .is_ok_and(|stats| stats.available >= bytes)
    }
}

/// Has this thread, and those that it starts, run on the processor of a node, of the same number in this guest.
fn run_on(node: u32) -> rustix::io::Result<()> {
    let mut processors = CpuSet::new();
    processors.set(usize::try_from(node).unwrap_or(usize::MAX));
    sched_setaffinity(None, &processors)
}

pub(super) fn node_id(number: u32) -> NodeId {
    NodeId::new(number).expect("few nodes")
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // A case that has failed may have left something; the next one says so.
        let _ = self.empty();
    }
}

impl Machine for Kernel {
    fn owner(&self, limits: Option<Limits>) -> Result<OwnerId, Error> {
        let device = Device::open().expect("the device opens");
        if let Some(Limits { size, max, min }) = limits {
            let most = max.map(|pages| len_of(size, pages));
            device
                .limit(Account::ThisFile, size, most, len_of(size, min))
                .map_err(|error| cause(&error, About::Account))?;
        }
        let mut owners = locked(&self.owners);
        owners.push(Some(device));
        Ok(owners.len() - 1)
    }

    fn close(&self, owner: OwnerId) -> Result<(), Error> {
        drop(locked(&self.owners)[owner].take());
        Ok(())
    }

    fn create<'m>(
        &'m self,
        owner: OwnerId,
        order: &Order,
        produce: Option<Produce<'_>>,
    ) -> Result<Box<dyn Pages + 'm>, Error> {
        assert!(produce.is_none(), "what is there at first is zero");
        let request = &order.request;
        let populate = match order.commitment {
            Commitment::Promised => Populate::Later,
            Commitment::Unpromised => Populate::Unpromised,
        };
        let owners = locked(&self.owners);
        let device = owners[owner].as_ref().expect("an open owner");
        let made = device.create(request, order.capacity, populate);
        drop(owners);
        match made {
            Ok(buffer) => Ok(Box::new(Tested::new(self, buffer))),
            Err(error) => Err(match cause(&error, About::Request) {
                // One errno for both: it is the run that is missing where the pages are there.
                Error::NoRoom
                    if request.contiguity() != Contiguity::Pages
                        && self.has(HugeSize::MIB2, request.size().raw()) =>
                {
                    Error::NoContiguousRun
                }
                cause => cause,
            }),
        }
    }

    fn counts(&self, size: HugeSize, node: Option<u32>) -> Counts {
        let node = node.map(|number| node_id(self.node(number, 64)));
        let stats = self.device.stats(size, node).expect("it has such a pool");
        let pages = |bytes: u64| PageCount::new(bytes / size.bytes());
        Counts {
            nr: pages(stats.total),
            free: pages(stats.free),
            reserved: pages(stats.reserved),
            surplus: pages(stats.surplus),
        }
    }

    fn resize(&self, size: HugeSize, node: u32, pages: u64) -> Result<u64, Error> {
        let node = node_id(self.node(node, 64));
        self.device
            .resize(size, Some(node), len_of(size, pages))
            .map(|reached| reached.raw() / size.bytes())
            .map_err(|error| cause(&error, About::Other))
    }

    fn demote(&self, _node: u32) -> Result<(), Error> {
        unreachable!("the module breaks no page")
    }

    fn hold(&self, page: Pfn) {
        self.probe.hold(page.raw()).expect("a page of the machine");
    }

    fn let_go(&self, page: Pfn) {
        let limbo = || {
            let stats = self.device.stats(HugeSize::MIB2, None);
            stats.expect("it has such a pool").limbo
        };
        let before = limbo();
        self.probe.let_go(page.raw()).expect("a page that is held");
        // Nobody tells the module: it looks now and then, and whenever it needs a page.
        let began = Instant::now();
        while before > 0 && limbo() >= before && began.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&self) -> Result<(), String> {
        rest::check()
    }
}
