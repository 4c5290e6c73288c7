// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers that come and go.

use htlb_core::driver::{Commitment, Content};
use htlb_core::{
    AddressBits, Blank, ByteLen, Contiguity, Error, Fallback, Fill, HugeSize, NodePolicy,
    PageChoice, Request, Rung,
};

use super::machine::{unchanged, Bench, Outcome};
use super::owned::Owned;
use super::{At, Contiguous, Kind, Nth, Shape, GIB1, MIB2};

/// More would only be slower.
const MOST_BUFFERS: usize = 6;

impl Shape {
    /// The choice, what it may fall back to, and the size in bytes.
    fn pages(&self) -> (PageChoice, Fallback, u64) {
        let base = HugeSize::BASE.bytes();
        let (page, fallback, whole) = match self.kind {
            Kind::Strict => {
                let pages = u64::from(self.pages % 6) + 1;
                (
                    PageChoice::Huge(MIB2),
                    Fallback::STRICT,
                    pages * MIB2.bytes(),
                )
            }
            // At most one page's worth of base pages: each of those is a page to look at.
            Kind::Automatic => {
                let whole = if self.pages % 2 == 0 { MIB2.bytes() } else { 0 };
                let few = u64::from(self.pages / 2 % 8) * base;
                (PageChoice::Automatic, Fallback::ANY, whole + few)
            }
            Kind::Giant => (
                PageChoice::Huge(GIB1),
                Fallback::SMALLER,
                GIB1.bytes() + u64::from(self.pages % 3) * MIB2.bytes(),
            ),
            Kind::Transparent => {
                let fallback = if self.pages % 2 == 0 {
                    Fallback::BASE
                } else {
                    Fallback::STRICT
                };
                (PageChoice::Transparent, fallback, MIB2.bytes())
            }
            Kind::Base => {
                let pages = u64::from(self.pages % 16) + 1;
                (PageChoice::Base, Fallback::BASE, pages * base)
            }
        };
        let tail = i64::from(self.tail % 4) * 1000;
        (page, fallback, whole.saturating_add_signed(tail))
    }
}

impl<'m> Bench<'m> {
    fn request(&self, shape: &Shape) -> Result<Request, Error> {
        let (page, fallback, bytes) = shape.pages();
        let mut builder = Request::builder(ByteLen::new(bytes))
            .page(page)
            .fallback(fallback);
        if let Some(on) = shape.nodes {
            builder = builder.nodes(match on.0 / 4 % 3 {
                0 => NodePolicy::Bind(self.nodes(on)),
                1 => NodePolicy::Preferred(self.node(on)),
                _ => NodePolicy::Interleave(self.nodes(on)),
            });
        }
        match shape.mask % 8 {
            0 => builder = builder.dma_mask(AddressBits::new(28)?),
            1 => builder = builder.dma_mask(AddressBits::new(32)?),
            _ => {}
        }
        match shape.contiguous {
            Contiguous::Pages => {}
            Contiguous::Runs => {
                let run = ByteLen::new(2 * MIB2.bytes());
                builder = builder.contiguity(Contiguity::Runs(run));
            }
            Contiguous::Whole => builder = builder.contiguity(Contiguity::Whole),
        }
        if shape.dirty {
            builder = builder.fill(Fill::DirtyWithinOwner);
        }
        builder.build()
    }

    pub(super) fn create(&mut self, owner: Nth, shape: Shape) -> Outcome {
        if self.buffers.len() >= MOST_BUFFERS {
            return Ok(());
        }
        let request = self.request(&shape).map_err(unchanged)?;
        let owner = self.owners[owner.of(self.owners.len()).unwrap_or(0)];
        let commitment = if shape.promised {
            Commitment::Promised
        } else {
            Commitment::Unpromised
        };
        // Base pages do not get room for more: each is a slot to look at.
        let room = match shape.kind {
            Kind::Strict | Kind::Giant => u64::from(shape.room % 3) * MIB2.bytes(),
            _ => u64::from(shape.room % 3) * HugeSize::BASE.bytes(),
        };
        let capacity = ByteLen::new(request.size().raw() + room);
        let mut produced = Vec::new();
        let mut produce = |blank: &Blank| {
            produced.push(blank.offset);
            Ok(0)
        };
        let mut content = if shape.produced {
            Content::Producer(&mut produce)
        } else {
            Content::Zeroes
        };
        let made = self
            .machine
            .create(owner, &request, commitment, capacity, &mut content);
        let buffer = made.map_err(unchanged)?;
        let core = buffer.core();
        assert_eq!(core.map().size(), request.size());
        assert!(core.map().extents().capacity() >= request.size());
        let promises = core
            .parts()
            .all(|part| matches!(part.attempt.rung, Rung::Pool | Rung::System));
        let size = request.size().raw();
        let promised = (promises && shape.promised).then_some((0, size));
        self.buffers
            .push(Owned::new(buffer, request.fill(), promised));
        Ok(())
    }

    pub(super) fn release(&mut self, nth: Nth) -> Outcome {
        let Some(at) = nth.of(self.buffers.len()) else {
            return Ok(());
        };
        self.buffers[at].release().map_err(unchanged)?;
        self.buffers.swap_remove(at);
        Ok(())
    }

    pub(super) fn hold(&mut self, nth: Nth, at: At) -> Outcome {
        if let Some(buffer) = nth.of(self.buffers.len()) {
            if let Some(pfn) = self.buffers[buffer].frame(at) {
                self.machine.hold(pfn);
                self.held.push(pfn);
            }
        }
        Ok(())
    }
}
