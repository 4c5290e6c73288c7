// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What policy must answer: any choices on any machine, the ladder rung by rung.
//!
//! [`run`] makes a request of arbitrary choices. One that is refused broke a rule; one that is granted keeps all of them.
//! Then every rung that exists is tried in turn, and those that the request allows must be the ladder, in order.

use arbitrary::Arbitrary;
use htlb_core::{
    policy, AddressBits, ByteLen, Contiguity, Error, Fallback, Fill, Gfp, HugeSize, Mobility,
    NodeId, NodeMask, NodePolicy, PageChoice, Request, Sizes, Topology,
};

mod ladder;
mod validity;

/// A length in bytes: mostly near a multiple of some page size.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Bytes {
    /// Any at all.
    Any(u64),
    /// So many pages of this order, and some bytes more or less.
    Near(u8, Order, i8),
}

impl Bytes {
    fn raw(self) -> u64 {
        match self {
            Self::Any(raw) => raw,
            Self::Near(pages, order, by) => {
                let pages = u64::from(pages).wrapping_mul(order.size().bytes());
                pages.wrapping_add_signed(by.into())
            }
        }
    }
}

/// A page size.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Order(u8);

impl Order {
    fn size(self) -> HugeSize {
        let common = [HugeSize::MIB2, HugeSize::GIB1, HugeSize::BASE];
        let usual = common.get(usize::from(self.0 % 8)).copied();
        usual.unwrap_or_else(|| {
            let order = self.0 / 8;
            HugeSize::from_order(order).unwrap_or(HugeSize::MIB2)
        })
    }
}

/// Some nodes: mostly of the first four.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs)]
pub enum Nodes {
    Few(u8),
    Any(u64),
}

impl Nodes {
    fn mask(self) -> NodeMask {
        match self {
            Self::Few(bits) => NodeMask::from_bits(u64::from(bits & 15)),
            Self::Any(bits) => NodeMask::from_bits(bits),
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Page {
    Automatic,
    Huge(Order),
    Transparent,
    Base,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Policy {
    Default,
    Bind(Nodes),
    Preferred(u8),
    PreferredMany(Nodes),
    Interleave(Nodes),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Contiguous {
    Pages,
    Runs(Bytes),
    Whole,
}

/// All that can be chosen.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Choices {
    size: Bytes,
    page: Page,
    gfp: Option<u32>,
    movable: bool,
    dma_bits: u8,
    nodes: Policy,
    contiguity: Contiguous,
    alignment: Option<Alignment>,
    dirty: bool,
    fallback: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Alignment {
    PowerOfTwo(u8),
    Any(u64),
}

/// A machine.
#[derive(Arbitrary, Clone, Debug)]
pub struct Machine {
    nodes: Nodes,
    local: u8,
    sizes: [Option<Order>; 6],
    transparent: Option<Order>,
    dma_zone: u8,
}

/// A request, a machine, and pages to ask about.
#[derive(Arbitrary, Clone, Debug)]
pub struct Case {
    choices: Choices,
    machine: Machine,
    indices: [u64; 3],
}

/// 24 to 64, mostly one of the levels' or next to one.
fn bits(raw: u8) -> AddressBits {
    AddressBits::new(24 + u32::from(raw) % 41).unwrap()
}

fn node(raw: u8) -> NodeId {
    NodeId::new(u32::from(raw) % 64).unwrap()
}

impl Choices {
    fn builder(self) -> htlb_core::RequestBuilder {
        let mut builder = Request::builder(ByteLen::new(self.size.raw()))
            .page(match self.page {
                Page::Automatic => PageChoice::Automatic,
                Page::Huge(order) => PageChoice::Huge(order.size()),
                Page::Transparent => PageChoice::Transparent,
                Page::Base => PageChoice::Base,
            })
            .nodes(match self.nodes {
                Policy::Default => NodePolicy::Default,
                Policy::Bind(nodes) => NodePolicy::Bind(nodes.mask()),
                Policy::Preferred(one) => NodePolicy::Preferred(node(one)),
                Policy::PreferredMany(nodes) => NodePolicy::PreferredMany(nodes.mask()),
                Policy::Interleave(nodes) => NodePolicy::Interleave(nodes.mask()),
            })
            .contiguity(match self.contiguity {
                Contiguous::Pages => Contiguity::Pages,
                Contiguous::Runs(len) => Contiguity::Runs(ByteLen::new(len.raw())),
                Contiguous::Whole => Contiguity::Whole,
            })
            .dma_mask(bits(self.dma_bits))
            .mobility(if self.movable {
                Mobility::Movable
            } else {
                Mobility::Pinned
            })
            .fill(if self.dirty {
                Fill::DirtyWithinOwner
            } else {
                Fill::Zeroed
            })
            .fallback(Fallback::from_bits_truncate(self.fallback));
        if let Some(gfp) = self.gfp {
            builder = builder.gfp(Gfp::from_bits_truncate(gfp));
        }
        match self.alignment {
            Some(Alignment::PowerOfTwo(shift)) => builder.alignment(1 << (shift % 64)),
            Some(Alignment::Any(bytes)) => builder.alignment(bytes),
            None => builder,
        }
    }
}

impl Machine {
    fn topology(&self) -> Topology {
        Topology {
            nodes: self.nodes.mask(),
            local: node(self.local),
            sizes: Sizes::new(self.sizes.iter().flatten().map(|order| order.size())),
            transparent: self.transparent.map(Order::size),
            dma_zone: bits(self.dma_zone),
        }
    }
}

/// The request of these choices, or why there is none; both judged.
fn request(choices: Choices) -> Result<Request, Error> {
    let builder = choices.builder();
    let outcome = builder.build();
    match outcome {
        Ok(request) => {
            validity::is_valid(&request);
            let again = htlb_core::RequestBuilder::from(request).build();
            assert_eq!(again, Ok(request), "a request is its own choices");
        }
        Err(error) => validity::is_refused_for(choices, error),
    }
    outcome
}

/// Makes the request, resolves it, and compares the answer with the rungs that are allowed.
///
/// # Panics
/// Where policy says something else.
pub fn run(case: &Case) {
    let Ok(request) = request(case.choices) else {
        return;
    };
    let topology = case.machine.topology();
    let answer = policy::resolve(&request, &topology);
    assert_eq!(answer, policy::resolve(&request, &topology), "it is pure");
    ladder::compare(&request, &topology, &answer);
    if let Ok(placement) = answer {
        for index in case.indices {
            ladder::preferred(&request, &topology, &placement, index);
        }
    }
}
