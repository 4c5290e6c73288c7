// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A create record as a request, and back: the one place where user space's numbers become the core's types.

use super::{Create, CreateFlags};
use crate::driver::Commitment;
use crate::error::Error;
use crate::gfp::{Gfp, Mobility};
use crate::reach::{AddressBits, NodeMask};
use crate::request::{Contiguity, Fallback, Fill, NodePolicy, PageChoice, Request};
use crate::units::{ByteLen, HugeSize};

impl Create {
    /// [`NodePolicy::Default`]: `nodes` is zero.
    pub const NODES_DEFAULT: u32 = 0;
    /// [`NodePolicy::Bind`].
    pub const NODES_BIND: u32 = 1;
    /// [`NodePolicy::Preferred`], or [`NodePolicy::PreferredMany`] where `nodes` has several bits.
    pub const NODES_PREFERRED: u32 = 2;
    /// [`NodePolicy::Interleave`].
    pub const NODES_INTERLEAVE: u32 = 3;

    /// What user space may say in `gfp`: where, and how hard to try. Never the reserves, never without end, and
    /// whether the caller may sleep is not its to choose.
    pub const GFP_ALLOWED: Gfp = Gfp::ZONES
        .union(Gfp::NORETRY)
        .union(Gfp::RETRY_MAYFAIL)
        .union(Gfp::THISNODE)
        .union(Gfp::ACCOUNT);

    /// The request that this record describes.
    ///
    /// # Errors
    /// [`Error::RecordFlags`] for bits, policies or reserved fields that this version does not know or does not allow;
    /// [`Error::BeyondCapacity`] for a size above the capacity; and those of [`crate::RequestBuilder::build`].
    ///
    /// ```
    /// use htlb_core::uapi::{Create, CreateFlags};
    /// use htlb_core::{Error, HugeSize, PageChoice};
    /// let mut record = Create { size: Create::SIZE, bytes: 4 << 20, page_bytes: 2 << 20, ..Create::default() };
    /// assert_eq!(record.to_request()?.page(), PageChoice::Huge(HugeSize::MIB2));
    /// record.flags = 1 << 31;
    /// assert_eq!(record.to_request(), Err(Error::RecordFlags));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn to_request(&self) -> Result<Request, Error> {
        let flags = CreateFlags::from_bits(self.flags).ok_or(Error::RecordFlags)?;
        let fallback = u8::try_from(self.fallback)
            .ok()
            .and_then(Fallback::from_bits)
            .ok_or(Error::RecordFlags)?;
        let gfp = Gfp::from_bits(self.gfp).ok_or(Error::RecordFlags)?;
        let strict = flags.contains(CreateFlags::STRICT);
        if self.reserved != 0 || !Self::GFP_ALLOWED.contains(gfp) || (strict && self.fallback != 0)
        {
            return Err(Error::RecordFlags);
        }
        if self.capacity != 0 && self.capacity < self.bytes {
            return Err(Error::BeyondCapacity);
        }

        let nodes = NodeMask::from_bits(self.nodes);
        let nodes = match (self.node_policy, nodes.first()) {
            (Self::NODES_DEFAULT, None) => NodePolicy::Default,
            (Self::NODES_BIND, _) => NodePolicy::Bind(nodes),
            (Self::NODES_PREFERRED, Some(node)) if nodes.count() == 1 => {
                NodePolicy::Preferred(node)
            }
            (Self::NODES_PREFERRED, _) => NodePolicy::PreferredMany(nodes),
            (Self::NODES_INTERLEAVE, _) => NodePolicy::Interleave(nodes),
            _ => return Err(Error::RecordFlags),
        };
        let contiguity = match (flags.contains(CreateFlags::CONTIGUOUS), self.contiguous) {
            (false, 0) => Contiguity::Pages,
            (false, run) => Contiguity::Runs(ByteLen::new(run)),
            (true, 0) => Contiguity::Whole,
            (true, _) => return Err(Error::RecordFlags),
        };
        let mobility = if flags.contains(CreateFlags::MOVABLE) {
            Mobility::Movable
        } else {
            Mobility::Pinned
        };

        let mut builder = Request::builder(ByteLen::new(self.bytes))
            .nodes(nodes)
            .contiguity(contiguity)
            .mobility(mobility);
        if self.page_bytes != 0 {
            builder = builder.page_size(HugeSize::from_bytes(self.page_bytes)?);
        }
        if self.dma_bits != 0 {
            builder = builder.dma_mask(AddressBits::new(self.dma_bits)?);
        }
        if self.alignment != 0 {
            builder = builder.alignment(self.alignment);
        }
        if !gfp.is_empty() {
            builder = builder.gfp(Gfp::USER | gfp);
        }
        if flags.contains(CreateFlags::DIRTY_WITHIN_OWNER) {
            builder = builder.fill(Fill::DirtyWithinOwner);
        }
        if strict {
            builder = builder.strict();
        } else if !fallback.is_empty() {
            builder = builder.fallback(fallback);
        }
        builder.build()
    }

    /// Whether pages are promised when the buffer is made.
    #[must_use]
    pub const fn commitment(&self) -> Commitment {
        if self.flags & CreateFlags::NORESERVE.bits() == 0 {
            Commitment::Promised
        } else {
            Commitment::Unpromised
        }
    }

    /// The record for a request that grows to `capacity` at most; transparent pages have no place in it.
    ///
    /// # Errors
    /// [`Error::PageSizeUnsupported`] for [`PageChoice::Transparent`], [`Error::RecordFlags`] for a GFP mask beyond
    /// [`Create::GFP_ALLOWED`] over [`Gfp::USER`].
    pub fn from_request(request: &Request, capacity: ByteLen) -> Result<Self, Error> {
        let mut flags = CreateFlags::CLOEXEC;
        flags.set(CreateFlags::STRICT, request.fallback() == Fallback::STRICT);
        flags.set(
            CreateFlags::DIRTY_WITHIN_OWNER,
            request.fill() == Fill::DirtyWithinOwner,
        );
        flags.set(
            CreateFlags::CONTIGUOUS,
            request.contiguity() == Contiguity::Whole,
        );
        flags.set(
            CreateFlags::MOVABLE,
            request.mobility() == Mobility::Movable,
        );
        let (node_policy, nodes) = match request.nodes() {
            NodePolicy::Default => (Self::NODES_DEFAULT, NodeMask::EMPTY),
            NodePolicy::Bind(nodes) => (Self::NODES_BIND, nodes),
            NodePolicy::Preferred(node) => (Self::NODES_PREFERRED, node.mask()),
            NodePolicy::PreferredMany(nodes) => (Self::NODES_PREFERRED, nodes),
            NodePolicy::Interleave(nodes) => (Self::NODES_INTERLEAVE, nodes),
        };
        let gfp = match request.gfp() {
            None => Gfp::empty(),
            Some(mask) if Self::GFP_ALLOWED.union(Gfp::USER).contains(mask) => {
                mask.difference(Gfp::USER)
            }
            Some(_) => return Err(Error::RecordFlags),
        };
        Ok(Self {
            size: Self::SIZE,
            flags: flags.bits(),
            bytes: request.size().raw(),
            capacity: capacity.raw(),
            page_bytes: match request.page() {
                PageChoice::Automatic => 0,
                PageChoice::Huge(size) => size.bytes(),
                PageChoice::Base => HugeSize::BASE.bytes(),
                PageChoice::Transparent => return Err(Error::PageSizeUnsupported),
            },
            alignment: request.alignment(),
            contiguous: match request.contiguity() {
                Contiguity::Runs(run) => run.raw(),
                Contiguity::Pages | Contiguity::Whole => 0,
            },
            nodes: nodes.bits(),
            node_policy,
            dma_bits: u32::from(request.dma_mask().raw()),
            gfp: gfp.bits(),
            fallback: u32::from(request.fallback().bits()),
            reserved: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::NodeId;

    #[test]
    fn a_request_survives_the_trip() {
        let node = NodeId::new(3).unwrap();
        let all = Request::builder(ByteLen::new(64 << 20)).page_size(HugeSize::MIB2);
        for builder in [
            all,
            all.strict(),
            all.nodes(NodePolicy::Preferred(node))
                .fill(Fill::DirtyWithinOwner),
            all.nodes(NodePolicy::Interleave(NodeMask::from_bits(6))),
            all.nodes(NodePolicy::Bind(node.mask()))
                .gfp(Gfp::USER | Gfp::THISNODE),
            all.contiguity(Contiguity::Whole).alignment(16 << 20),
            all.contiguity(Contiguity::Runs(ByteLen::new(4 << 20))),
            all.dma_mask(AddressBits::new(28).unwrap())
                .fallback(Fallback::SMALLER),
            all.mobility(Mobility::Movable).page(PageChoice::Base),
        ] {
            let request = builder.build().unwrap();
            let record = Create::from_request(&request, request.size()).unwrap();
            assert_eq!(record.to_request(), Ok(request));
        }
    }

    #[test]
    fn user_space_cannot_ask_for_the_reserves() {
        let of = |gfp: Gfp| Create {
            bytes: 4096,
            gfp: gfp.bits(),
            ..Create::default()
        };
        for gfp in [Gfp::MEMALLOC, Gfp::NOFAIL, Gfp::HIGH, Gfp::ZERO, Gfp::COMP] {
            assert_eq!(of(gfp).to_request(), Err(Error::RecordFlags), "{gfp:?}");
        }
        assert!(of(Gfp::DMA32).to_request().is_ok());
    }

    #[test]
    fn every_unknown_bit_is_refused() {
        let good = Create {
            bytes: 4096,
            ..Create::default()
        };
        assert!(good.to_request().is_ok());
        for bad in [
            Create {
                flags: 1 << 7,
                ..good
            },
            Create {
                fallback: 8,
                ..good
            },
            Create {
                fallback: 0x101,
                ..good
            },
            Create {
                gfp: 1 << 31,
                ..good
            },
            Create {
                reserved: 1,
                ..good
            },
            Create {
                node_policy: 4,
                ..good
            },
            Create { nodes: 1, ..good },
            Create {
                flags: CreateFlags::STRICT.bits(),
                fallback: 1,
                ..good
            },
            Create {
                flags: CreateFlags::CONTIGUOUS.bits(),
                contiguous: 4096,
                ..good
            },
        ] {
            assert_eq!(bad.to_request(), Err(Error::RecordFlags), "{bad:?}");
        }
        assert_eq!(
            Create {
                capacity: 1,
                ..good
            }
            .to_request(),
            Err(Error::BeyondCapacity)
        );
        assert_eq!(
            Create {
                dma_bits: 8,
                ..good
            }
            .to_request(),
            Err(Error::DmaMaskInvalid)
        );
        assert_eq!(
            Create {
                page_bytes: 3,
                ..good
            }
            .to_request(),
            Err(Error::PageSizeInvalid)
        );
    }
}
