// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where to look for pages, and in which order.
//!
//! [`resolve`] is a pure function from a request and a machine to a ladder of [`Attempt`]s. A buffer is covered
//! from the top rung down: each rung gives as many whole pages as it can, and the receipt says which rung gave what.

use core::fmt;

use crate::error::Error;
use crate::gfp::{Gfp, Mobility};
use crate::reach::{AddressBits, NodeId, NodeMask, Reach};
use crate::request::{Contiguity, Fallback, Fill, NodePolicy, PageChoice, Request};
use crate::units::{ByteLen, HugeSize, PageIndex};

/// The most page sizes a machine can have pools of here.
pub const MAX_SIZES: usize = 4;
/// The most rungs of a ladder: pool and system for each size, transparent, base.
const MAX_ATTEMPTS: usize = 2 * MAX_SIZES + 2;

/// The page sizes of a machine, largest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    sizes: [Option<HugeSize>; MAX_SIZES],
}

impl Sizes {
    /// These sizes, in any order; base pages and repetitions are left out, and of more than four the largest stay.
    #[must_use]
    pub fn new(sizes: impl IntoIterator<Item = HugeSize>) -> Self {
        let mut kept = Self::default();
        for size in sizes {
            if size != HugeSize::BASE && !kept.contains(size) {
                let mut carried = Some(size);
                for place in &mut kept.sizes {
                    if *place < carried {
                        core::mem::swap(place, &mut carried);
                    }
                }
            }
        }
        kept
    }

    /// Whether `size` is among them.
    #[must_use]
    pub fn contains(&self, size: HugeSize) -> bool {
        self.sizes.contains(&Some(size))
    }

    /// The sizes, largest first.
    pub fn iter(&self) -> impl Iterator<Item = HugeSize> + '_ {
        self.sizes.iter().copied().flatten()
    }
}

/// What the machine has: all that policy needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The nodes that have memory.
    pub nodes: NodeMask,
    /// The caller's node.
    pub local: NodeId,
    /// The huge-page sizes, without the base page.
    pub sizes: Sizes,
    /// The size of transparent huge pages, where the system makes them for the asking.
    pub transparent: Option<HugeSize>,
    /// How far `ZONE_DMA` reaches; 24 bits on x86.
    pub dma_zone: AddressBits,
}

/// Where a rung gets its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rung {
    /// Pages that our pool owns already.
    Pool,
    /// Pages that the system's allocator gives, by the request's mask.
    System,
    /// Transparent huge pages.
    Transparent,
    /// Base pages.
    Base,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pool => "pool",
            Self::System => "system",
            Self::Transparent => "transparent",
            Self::Base => "base",
        })
    }
}

/// One rung: what to ask for, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where from.
    pub rung: Rung,
    /// Pages of this size.
    pub size: HugeSize,
    /// Only pages within this reach.
    pub reach: Reach,
    /// The mask for the system's allocator.
    pub gfp: Gfp,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} ({})", self.size, self.rung, self.reach)?;
        if self.rung != Rung::Pool {
            f.write_str(", gfp ")?;
            bitflags::parser::to_writer(&self.gfp, f)?;
        }
        Ok(())
    }
}

/// The answer of policy: a ladder, and what holds on every rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    attempts: [Option<Attempt>; MAX_ATTEMPTS],
    nodes: NodePolicy,
    online: NodeMask,
    local: NodeId,
    dma_mask: AddressBits,
    size: ByteLen,
    page: PageChoice,
    /// How much is physically contiguous.
    pub contiguity: Contiguity,
    /// The physical alignment of each page or run, in bytes.
    pub alignment: u64,
    /// What pages hold when they are handed out.
    pub fill: Fill,
}

impl Placement {
    /// The rungs, first choice first; never empty.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().flatten()
    }

    /// The same, with this one rung.
    #[must_use]
    pub fn only(&self, rung: &Attempt) -> Self {
        let mut one = *self;
        one.attempts = [None; MAX_ATTEMPTS];
        if let Some(first) = one.attempts.first_mut() {
            *first = Some(*rung);
        }
        one
    }

    /// The size that was asked for, in bytes.
    #[must_use]
    pub const fn size(&self) -> ByteLen {
        self.size
    }

    /// The page size that was asked for.
    #[must_use]
    pub const fn page(&self) -> PageChoice {
        self.page
    }

    /// The device's mask, exactly as asked: the reach has it rounded down to a level.
    #[must_use]
    pub const fn dma_mask(&self) -> AddressBits {
        self.dma_mask
    }

    /// The nodes to try first for the page at `index`.
    #[must_use]
    pub fn preferred(&self, index: PageIndex) -> NodeMask {
        match self.nodes {
            NodePolicy::Default => self.local.mask(),
            NodePolicy::Interleave(mask) => {
                let mask = mask.and(self.online);
                let turn = index
                    .raw()
                    .checked_rem(u64::from(mask.count()))
                    .unwrap_or(0);
                // CAST: the remainder of a division by at most 64.
                #[allow(clippy::cast_possible_truncation)]
                mask.iter().nth(turn as usize).map_or(mask, NodeId::mask)
            }
            // The caller's node, unless it has no memory.
            NodePolicy::Bind(mask) if mask.and(self.online).contains(self.local) => {
                self.local.mask()
            }
            named => named.named(),
        }
    }
}

impl fmt::Display for Placement {
    /// The ladder, a rung a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (attempt, place) in self.attempts().zip(1..) {
            writeln!(f, "{place}. {attempt}")?;
        }
        Ok(())
    }
}

/// Turns a request into a ladder for this machine. Pure: the same arguments give the same answer.
///
/// # Errors
/// [`Error::NodeMaskOffline`] where no named node has memory, [`Error::PageSizeUnsupported`] where the machine has
/// none of the sizes that the request allows.
///
/// ```
/// use htlb_core::{policy, AddressBits, ByteLen, HugeSize, NodeId, NodeMask, Request, Sizes, Topology};
/// let machine = Topology {
///     nodes: NodeMask::from_bits(0b11),
///     local: NodeId::ZERO,
///     sizes: Sizes::new([HugeSize::MIB2]),
///     transparent: None,
///     dma_zone: AddressBits::new(24)?,
/// };
/// let request = Request::builder(ByteLen::new(8 << 20)).page_size(HugeSize::MIB2).build()?;
/// let ladder = policy::resolve(&request, &machine)?;
/// let rungs: Vec<_> = ladder.attempts().map(|a| (a.rung.to_string(), a.size.to_string())).collect();
/// assert_eq!(rungs.len(), 3); // 2 MiB from the pool, then from the system, then base pages
/// # Ok::<(), htlb_core::Error>(())
/// ```
pub fn resolve(request: &Request, topology: &Topology) -> Result<Placement, Error> {
    let named = request.nodes().named().and(topology.nodes);
    if named.is_empty() {
        return Err(Error::NodeMaskOffline);
    }
    let nodes = if request.nodes().is_strict() {
        named
    } else {
        topology.nodes
    };
    let reach = Reach::new(nodes, request.dma_mask())?;

    let fallback = request.fallback();
    let (first, transparent, base) = match request.page() {
        PageChoice::Automatic => (Some(HugeSize::GIB1), true, true),
        PageChoice::Huge(size) => (
            Some(size),
            fallback.contains(Fallback::TRANSPARENT),
            fallback.contains(Fallback::BASE),
        ),
        PageChoice::Transparent => (None, true, fallback.contains(Fallback::BASE)),
        PageChoice::Base => (None, false, true),
    };
    // A page that the mask does not cover cannot be used, wherever it comes from.
    let covered =
        |size: HugeSize| size.bytes().wrapping_sub(1) <= request.dma_mask().last_address();
    let transparent = topology
        .transparent
        .filter(|size| transparent && covered(*size));

    let mut ladder = Ladder::default();
    for size in topology.sizes.iter() {
        let allowed = match request.page() {
            // A page larger than the buffer is a waste that nobody asked for.
            PageChoice::Automatic => Some(size) <= first && size.bytes() <= request.size().raw(),
            PageChoice::Huge(chosen) => {
                size == chosen || (size < chosen && fallback.contains(Fallback::SMALLER))
            }
            PageChoice::Transparent | PageChoice::Base => false,
        };
        if allowed && covered(size) {
            ladder.push(Rung::Pool, size);
            ladder.push(Rung::System, size);
        }
    }
    if let Some(size) = transparent {
        let allowed = match request.page() {
            PageChoice::Automatic => size.bytes() <= request.size().raw(),
            // Nor is a larger page than the one that was asked for, which its GFP mask need not allow.
            PageChoice::Huge(chosen) => size <= chosen,
            PageChoice::Transparent | PageChoice::Base => true,
        };
        if allowed {
            ladder.push(Rung::Transparent, size);
        }
    }
    if base {
        ladder.push(Rung::Base, HugeSize::BASE);
    }
    if ladder.len == 0 {
        return Err(Error::PageSizeUnsupported);
    }

    let last = ladder.len.wrapping_sub(1);
    let mut attempts = [None; MAX_ATTEMPTS];
    for (place, (attempt, rung)) in attempts.iter_mut().zip(ladder.rungs).enumerate() {
        *attempt = rung.map(|(rung, size)| Attempt {
            rung,
            size,
            reach,
            gfp: mask_for(
                request,
                topology,
                size,
                if place == last {
                    Rest::Nothing
                } else {
                    Rest::MoreRungs
                },
            ),
        });
    }
    Ok(Placement {
        attempts,
        nodes: request.nodes(),
        online: topology.nodes,
        local: topology.local,
        dma_mask: request.dma_mask(),
        size: request.size(),
        page: request.page(),
        contiguity: request.contiguity(),
        alignment: request.alignment(),
        fill: request.fill(),
    })
}

#[derive(Default)]
struct Ladder {
    rungs: [Option<(Rung, HugeSize)>; MAX_ATTEMPTS],
    len: usize,
}

impl Ladder {
    fn push(&mut self, rung: Rung, size: HugeSize) {
        if let Some(place) = self.rungs.get_mut(self.len) {
            *place = Some((rung, size));
            self.len = self.len.wrapping_add(1);
        }
    }
}

/// What follows a rung that fails.
enum Rest {
    MoreRungs,
    Nothing,
}

/// The mask for pages of `size` from the system: the request's own or the default, narrowed to the zone that the
/// DMA mask implies, and as patient as the rungs below allow.
fn mask_for(request: &Request, topology: &Topology, size: HugeSize, rest: Rest) -> Gfp {
    let huge = size != HugeSize::BASE;
    let mut gfp = match (request.gfp(), huge) {
        (Some(own), true) => own | Gfp::COMP | Gfp::NOWARN,
        (Some(own), false) => own,
        (None, true) => Gfp::huge_default(request.mobility()),
        (None, false) if request.mobility() == Mobility::Movable => Gfp::HIGHUSER_MOVABLE,
        (None, false) => Gfp::HIGHUSER,
    };
    let bits = request.dma_mask();
    if bits.raw() <= 32 && !gfp.intersects(Gfp::DMA | Gfp::DMA32) {
        gfp.remove(Gfp::HIGHMEM);
        gfp.insert(if bits <= topology.dma_zone {
            Gfp::DMA
        } else {
            Gfp::DMA32
        });
    }
    if huge && !gfp.intersects(Gfp::NOFAIL | Gfp::NORETRY | Gfp::RETRY_MAYFAIL) {
        gfp.insert(match rest {
            Rest::MoreRungs => Gfp::NORETRY,
            Rest::Nothing => Gfp::RETRY_MAYFAIL,
        });
    }
    gfp
}

#[cfg(test)]
mod tests;
