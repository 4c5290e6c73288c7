// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What somebody wants: validated once, then never doubted.

use bitflags::bitflags;

use crate::error::Error;
use crate::gfp::{Gfp, Mobility};
use crate::reach::{AddressBits, NodeId, NodeMask};
use crate::units::{ByteLen, HugeSize};

/// Which page size to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PageChoice {
    /// The largest sizes that fit whole into the buffer.
    #[default]
    Automatic,
    /// Pages of this size, from a huge-page pool or the system.
    Huge(HugeSize),
    /// Huge pages that the system makes and breaks by itself.
    #[doc(alias = "THP")]
    Transparent,
    /// Base pages.
    Base,
}

/// On which nodes the pages are to lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[doc(alias = "mempolicy")]
pub enum NodePolicy {
    /// The caller's node first, then any.
    #[default]
    Default,
    /// Only these nodes (`MPOL_BIND`).
    Bind(NodeMask),
    /// This node first, then any (`MPOL_PREFERRED`).
    Preferred(NodeId),
    /// These nodes first, then any (`MPOL_PREFERRED_MANY`).
    PreferredMany(NodeMask),
    /// Page by page over these nodes, and no others (`MPOL_INTERLEAVE`, but strict).
    Interleave(NodeMask),
}

impl NodePolicy {
    /// The nodes that the policy names; every node where it names none.
    #[must_use]
    pub const fn named(self) -> NodeMask {
        match self {
            Self::Default => NodeMask::ALL,
            Self::Preferred(node) => node.mask(),
            Self::Bind(mask) | Self::PreferredMany(mask) | Self::Interleave(mask) => mask,
        }
    }

    /// Whether pages may lie on no other node than the named ones.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        matches!(self, Self::Bind(_) | Self::Interleave(_))
    }
}

/// How much of the buffer must be physically contiguous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Contiguity {
    /// Each page for itself.
    #[default]
    Pages,
    /// Runs of this many bytes, the last perhaps shorter.
    Runs(ByteLen),
    /// The whole buffer.
    Whole,
}

/// What a page holds when it is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zeroes.
    #[default]
    Zeroed,
    /// Zeroes, or what the same owner left there.
    DirtyWithinOwner,
}

bitflags! {
    /// What may be tried where the first choice is short. Empty is *strict*: that page size, or an error.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Fallback: u8 {
        /// Smaller huge pages.
        const SMALLER = 1 << 0;
        /// Transparent huge pages.
        const TRANSPARENT = 1 << 1;
        /// Base pages.
        const BASE = 1 << 2;
    }
}

impl Fallback {
    /// The chosen page size, or an error.
    pub const STRICT: Self = Self::empty();
    /// Anything that works.
    pub const ANY: Self = Self::all();
}

/// A valid request for a buffer.
///
/// ```
/// use htlb_core::{AddressBits, ByteLen, Error, HugeSize, Request};
/// let request = Request::builder(ByteLen::new(64 << 20))
///     .page_size(HugeSize::MIB2)
///     .strict()
///     .dma_mask(AddressBits::new(32)?)
///     .build()?;
/// assert_eq!(request.size().raw(), 64 << 20);
/// assert_eq!(Request::builder(ByteLen::ZERO).build(), Err(Error::SizeZero));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    size: ByteLen,
    page: PageChoice,
    gfp: Option<Gfp>,
    mobility: Mobility,
    dma_mask: AddressBits,
    nodes: NodePolicy,
    contiguity: Contiguity,
    alignment: u64,
    fill: Fill,
    fallback: Fallback,
}

impl Request {
    /// A request for `size` bytes with every choice left to the machine: largest pages that fit, any node,
    /// any address, zeroed, and any fallback.
    pub const fn builder(size: ByteLen) -> RequestBuilder {
        RequestBuilder {
            request: Self {
                size,
                page: PageChoice::Automatic,
                gfp: None,
                mobility: Mobility::Pinned,
                dma_mask: AddressBits::ALL,
                nodes: NodePolicy::Default,
                contiguity: Contiguity::Pages,
                alignment: HugeSize::BASE.bytes(),
                fill: Fill::Zeroed,
                fallback: Fallback::ANY,
            },
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn size(&self) -> ByteLen {
        self.size
    }

    /// The first choice of page size.
    #[must_use]
    pub const fn page(&self) -> PageChoice {
        self.page
    }

    /// The GFP mask that the request carries, if it carries one.
    #[must_use]
    pub const fn gfp(&self) -> Option<Gfp> {
        self.gfp
    }

    /// Whether pages may be migrated.
    #[must_use]
    pub const fn mobility(&self) -> Mobility {
        self.mobility
    }

    /// The address bits that the device drives.
    #[must_use]
    pub const fn dma_mask(&self) -> AddressBits {
        self.dma_mask
    }

    /// The node policy.
    #[must_use]
    pub const fn nodes(&self) -> NodePolicy {
        self.nodes
    }

    /// The physical contiguity.
    #[must_use]
    pub const fn contiguity(&self) -> Contiguity {
        self.contiguity
    }

    /// The physical alignment of each page or run, in bytes.
    #[must_use]
    pub const fn alignment(&self) -> u64 {
        self.alignment
    }

    /// What a page holds when it is handed out.
    #[must_use]
    pub const fn fill(&self) -> Fill {
        self.fill
    }

    /// What may be tried after the first choice.
    #[must_use]
    pub const fn fallback(&self) -> Fallback {
        self.fallback
    }

    /// The largest page that the request may get, where it names one.
    const fn largest_page(&self) -> HugeSize {
        match self.page {
            PageChoice::Huge(size) => size,
            PageChoice::Automatic | PageChoice::Transparent => HugeSize::GIB1,
            PageChoice::Base => HugeSize::BASE,
        }
    }
}

/// The largest request: one more huge page fits above it, so rounding up to whole pages cannot overflow.
const LARGEST: u64 = ByteLen::MAX.raw() >> 1;

/// Collects the choices of a [`Request`]; [`RequestBuilder::build`] checks them.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct RequestBuilder {
    request: Request,
}

impl From<Request> for RequestBuilder {
    /// The choices of a request, to change some of them.
    fn from(request: Request) -> Self {
        Self { request }
    }
}

impl RequestBuilder {
    /// Replaces the size that the builder was made with.
    pub const fn size(mut self, size: ByteLen) -> Self {
        self.request.size = size;
        self
    }

    /// Begin with pages of `size`.
    pub const fn page_size(self, size: HugeSize) -> Self {
        self.page(if size.order() == 0 {
            PageChoice::Base
        } else {
            PageChoice::Huge(size)
        })
    }

    /// Begin with this choice.
    pub const fn page(mut self, page: PageChoice) -> Self {
        self.request.page = page;
        self
    }

    /// Replaces the default GFP mask for pages from outside the pool.
    pub const fn gfp(mut self, gfp: Gfp) -> Self {
        self.request.gfp = Some(gfp);
        self
    }

    /// Whether pages may be migrated; pinned unless said otherwise.
    pub const fn mobility(mut self, mobility: Mobility) -> Self {
        self.request.mobility = mobility;
        self
    }

    /// Only pages that a device with this mask can reach.
    pub const fn dma_mask(mut self, bits: AddressBits) -> Self {
        self.request.dma_mask = bits;
        self
    }

    /// On which nodes.
    pub const fn nodes(mut self, nodes: NodePolicy) -> Self {
        self.request.nodes = nodes;
        self
    }

    /// How much is physically contiguous.
    pub const fn contiguity(mut self, contiguity: Contiguity) -> Self {
        self.request.contiguity = contiguity;
        self
    }

    /// Physical alignment of each page or run, in bytes.
    pub const fn alignment(mut self, bytes: u64) -> Self {
        self.request.alignment = bytes;
        self
    }

    /// What pages hold when they are handed out.
    pub const fn fill(mut self, fill: Fill) -> Self {
        self.request.fill = fill;
        self
    }

    /// What may be tried where the first choice is short.
    pub const fn fallback(mut self, fallback: Fallback) -> Self {
        self.request.fallback = fallback;
        self
    }

    /// The first choice, or an error.
    pub const fn strict(self) -> Self {
        self.fallback(Fallback::STRICT)
    }

    /// The request, if it can be met by some machine.
    ///
    /// # Errors
    /// [`Error::SizeZero`], [`Error::SizeTooLarge`], [`Error::NodeMaskEmpty`], [`Error::DmaMaskTooNarrow`],
    /// [`Error::AlignmentInvalid`], [`Error::AlignmentUnreachable`], [`Error::ContiguityInvalid`],
    /// [`Error::GfpThisNodeWithoutNode`], [`Error::GfpZoneExceedsDmaMask`], and those of [`Gfp::validate`].
    pub const fn build(self) -> Result<Request, Error> {
        let request = self.request;
        if request.size.is_zero() {
            return Err(Error::SizeZero);
        }
        if request.size.raw() > LARGEST {
            return Err(Error::SizeTooLarge);
        }
        if request.nodes.named().is_empty() {
            return Err(Error::NodeMaskEmpty);
        }
        if let PageChoice::Huge(size) = request.page {
            if size.bytes().wrapping_sub(1) > request.dma_mask.last_address() {
                return Err(Error::DmaMaskTooNarrow);
            }
        }
        if !request.alignment.is_power_of_two() || request.alignment < HugeSize::BASE.bytes() {
            return Err(Error::AlignmentInvalid);
        }
        let run = match request.contiguity {
            Contiguity::Pages => 0,
            Contiguity::Runs(len) => {
                if len.is_zero() || len.raw() > request.size.raw() {
                    return Err(Error::ContiguityInvalid);
                }
                len.raw()
            }
            Contiguity::Whole => request.size.raw(),
        };
        let natural = request.largest_page().bytes();
        if request.alignment > natural && request.alignment > run.next_power_of_two() {
            return Err(Error::AlignmentUnreachable);
        }
        if let Some(gfp) = request.gfp {
            if let Err(error) = gfp.validate(request.largest_page().order(), request.mobility) {
                return Err(error);
            }
            if gfp.contains(Gfp::THISNODE) && matches!(request.nodes, NodePolicy::Default) {
                return Err(Error::GfpThisNodeWithoutNode);
            }
            if gfp.contains(Gfp::HIGHMEM) && request.dma_mask.raw() <= 32 {
                return Err(Error::GfpZoneExceedsDmaMask);
            }
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests;
