// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The pages of a process: what it has of each kind, and the way to more.

mod audit;
mod device;
mod shared;

use std::sync::{Arc, Mutex};

use htlb_core::gate::Gate;
use htlb_core::ledger::Counts;
use htlb_core::{AddressBits, HugeSize, NodeId, PageCount, Request, Rung, Sizes, Topology};

use crate::arena::{Arena, Kin};
use crate::buffer::BufferBuilder;
use crate::error::Error;
use crate::locks::locked;
use crate::sys::fork::Birthplace;
use crate::system::{self, Root};
use crate::waiters::Waiters;

pub use audit::CheckError;
pub use device::DeviceUse;
pub(crate) use device::{Source, Wanted};
pub(crate) use shared::{back_off, Shared};

/// The huge-page pools of a process.
///
/// Cheap to clone; all clones are the same pools. Pages that buffers gave up stay here, populated, until
/// [`Pools::trim`] or the last clone and buffer are gone. A forked child inherits none of it.
///
/// ```
/// use htlb_user::Pools;
/// let pools = Pools::new()?;
/// let mut buffer = pools.buffer(3 << 20).create()?;
/// buffer.as_mut_slice()?[..5].copy_from_slice(b"hello");
/// assert_eq!(&buffer.as_slice()?[..5], b"hello");
/// println!("{}", buffer.receipt());
/// # Ok::<(), htlb_user::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pools {
    shared: Arc<Shared>,
}

/// What to do with pages that are free again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retention {
    /// They stay, populated, for the next buffer.
    #[default]
    Keep,
    /// They go back to the system at once.
    Return,
}

/// Choices for [`Pools`].
///
/// ```
/// use htlb_core::{HugeSize, PageCount, Rung};
/// use htlb_user::pools::{Pools, Retention};
/// let pools = Pools::builder()
///     .retention(Retention::Return)
///     .threads(2)
///     .limit(Rung::System, HugeSize::MIB2, PageCount::new(64))
///     .build()?;
/// assert!(pools.state().iter().all(|pool| pool.counts.nr.is_zero()));
/// # Ok::<(), htlb_user::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct PoolsBuilder {
    retention: Retention,
    threads: Option<usize>,
    limits: Vec<(Rung, HugeSize, PageCount)>,
    root: Root,
    device: DeviceUse,
}

impl PoolsBuilder {
    /// What to do with pages that are free again; they stay unless said otherwise.
    pub const fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Threads that populate; as many as CPUs are allowed unless said otherwise. Zero is one.
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// The most pages of `size` that this process takes from a rung of the ladder; unlimited unless said otherwise.
    ///
    /// The two hugetlb rungs have one limit. Memory that is attached or shareable does not count.
    pub fn limit(mut self, rung: Rung, size: HugeSize, pages: PageCount) -> Self {
        self.limits.push((rung, size, pages));
        self
    }

    /// Whether pages come from the kernel module's `/dev/htlb`; where it is loaded, unless said otherwise.
    ///
    /// ```
    /// use htlb_user::pools::{DeviceUse, Pools};
    /// let buffer = Pools::builder().device(DeviceUse::Never).build()?.buffer(4 << 20).create()?;
    /// assert!(!buffer.receipt().to_string().contains("htlb.ko"));
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    pub const fn device(mut self, device: DeviceUse) -> Self {
        self.device = device;
        self
    }

    /// Reads `/sys` and `/proc`, and looks for `/dev/htlb`, below another folder.
    pub fn system_root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// The pools, without a page yet.
    ///
    /// # Errors
    /// What `/sys` says that cannot be understood; that there is none is not an error.
    pub fn build(self) -> Result<Pools, Error> {
        let device = Source::open(self.device, &self.root);
        let topology = learn(&self.root, &device)?;
        let huge = topology.sizes.iter().map(|size| (Kin::Hugetlb, size));
        let others = [
            (Kin::Transparent, HugeSize::MIB2),
            (Kin::Base, HugeSize::BASE),
        ];
        let arenas = huge
            .chain(others)
            .map(|(kin, size)| Arena::new(kin, size, topology.nodes).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::new("make the pools", error))?;
        for arena in &arenas {
            if self.retention == Retention::Return {
                locked(arena.stock())
                    .ledger_mut()
                    .set_overcommit(PageCount::new(u64::MAX >> 16));
            }
            for (rung, size, pages) in &self.limits {
                if kin_of(*rung) == arena.kin() && *size == arena.size() {
                    arena.limit(*pages);
                }
            }
        }
        let cpus = || crate::sys::numa::allowed_cpus().map_or(1, |cpus| cpus.len());
        Ok(Pools {
            shared: Arc::new(Shared {
                root: self.root,
                device,
                birthplace: Birthplace::here(),
                topology,
                arenas,
                retention: self.retention,
                threads: self.threads.unwrap_or_else(cpus).max(1),
                gate: Gate::new(),
                waiters: Waiters::new(),
                live: Mutex::default(),
                shelves: Mutex::default(),
                limbo: Mutex::default(),
            }),
        })
    }
}

/// What policy is to know of this machine.
fn learn(root: &Root, device: &Source) -> Result<Topology, Error> {
    let machine = system::topology::read(root)
        .map_err(|error| Error::system("learn the topology", &error))?;
    let mut sizes = system::pools::sizes(root)
        .map_err(|error| Error::system("learn the page sizes", &error))?;
    sizes.extend(device.sizes());
    let mut transparent = match system::thp::read(root).ok().flatten() {
        Some(thp) => thp.anonymous(HugeSize::MIB2) != system::thp::When::Never,
        None => false,
    };
    if !root.path("/sys/kernel/mm").exists() {
        // Where nothing is said the kernel has to be asked: a wrong guess costs one failed attempt.
        sizes.extend(system::pools::default_size(root).ok().flatten());
        transparent = true;
    }
    let disabled = crate::sys::process::thp_disabled().unwrap_or(false);
    let usable = machine.usable();
    Ok(Topology {
        nodes: if usable.is_empty() {
            NodeId::ZERO.mask()
        } else {
            usable
        },
        local: usable.first().unwrap_or(NodeId::ZERO),
        sizes: Sizes::new(sizes),
        transparent: (transparent && !disabled).then_some(HugeSize::MIB2),
        dma_zone: AddressBits::new(24).unwrap_or(AddressBits::ALL),
    })
}

/// The state of one pool of a process, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolState {
    /// Where its pages come from; the system's hugetlb pool is [`Rung::System`].
    pub rung: Rung,
    /// Their size.
    pub size: HugeSize,
    /// Pages, free ones, promises and surplus.
    pub counts: Counts,
}

impl Pools {
    /// Pools as this machine allows: every huge-page size, transparent huge pages, base pages.
    ///
    /// # Errors
    /// As [`PoolsBuilder::build`].
    pub fn new() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Choices first.
    pub fn builder() -> PoolsBuilder {
        PoolsBuilder {
            retention: Retention::Keep,
            threads: None,
            limits: Vec::new(),
            root: Root::host(),
            device: DeviceUse::default(),
        }
    }

    /// A buffer of `bytes` bytes: choices first, then [`BufferBuilder::create`].
    pub fn buffer(&self, bytes: u64) -> BufferBuilder {
        BufferBuilder::new(Arc::clone(&self.shared), bytes)
    }

    /// A buffer for a request that was made elsewhere; what the request says stands.
    ///
    /// ```
    /// use htlb_core::{ByteLen, Request};
    /// use htlb_user::Pools;
    /// let request = Request::builder(ByteLen::new(10_000)).page(htlb_core::PageChoice::Base).build()?;
    /// let buffer = Pools::new()?.buffer_for(request).create()?;
    /// assert_eq!(buffer.len(), 10_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn buffer_for(&self, request: Request) -> BufferBuilder {
        BufferBuilder::for_request(Arc::clone(&self.shared), request)
    }

    /// What policy knows of this machine.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.shared.topology
    }

    /// Every pool of this process: hugetlb by ascending page size, then transparent, then base pages. None in a forked child.
    #[must_use]
    pub fn state(&self) -> Vec<PoolState> {
        if !self.shared.is_mine() {
            return Vec::new();
        }
        let state = |arena: &Arc<Arena>| PoolState {
            rung: match arena.kin() {
                Kin::Hugetlb => Rung::System,
                Kin::Transparent => Rung::Transparent,
                Kin::Base => Rung::Base,
            },
            size: arena.size(),
            counts: locked(arena.stock()).counts(),
        };
        self.shared.arenas.iter().map(state).collect()
    }

    /// Gives every free page that no promise needs back to the system, those that owners keep included; says how many
    /// bytes that was.
    pub fn trim(&self) -> u64 {
        let Ok(_inside) = self.shared.enter() else {
            return 0;
        };
        self.shared.gather_all();
        let all = PageCount::new(u64::MAX);
        self.shared
            .arenas
            .iter()
            .map(|arena| arena.trim(all).raw() * arena.size().bytes())
            .sum()
    }

    /// Compares every count with what buffers really hold, while nothing moves.
    ///
    /// It waits for those who are populating or punching; newcomers wait for it, a millisecond at most before they
    /// have their turn.
    ///
    /// # Errors
    /// [`CheckError`]: a broken rule of the core's, or a caller that cannot ask.
    pub fn check(&self) -> Result<(), CheckError> {
        self.shared.check()
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

const fn kin_of(rung: Rung) -> Kin {
    match rung {
        Rung::Pool | Rung::System => Kin::Hugetlb,
        Rung::Transparent => Kin::Transparent,
        Rung::Base => Kin::Base,
    }
}
