// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where a page is, and which pages a device can use.
//!
//! A [`Class`] is where a page is: its node, and the narrowest [`Level`] of address bits that still covers the
//! page's **last byte**. A [`Reach`] is what a request can use: a set of nodes, and a number of address bits.
//! Linux's zones are too coarse for this: a 28-bit device can use only a part of `ZONE_DMA32`.
//!
//! Levels nest, so a reach is a prefix of them: 24 ⊂ 28 ⊂ 30 ⊂ … ⊂ 64. A mask between two levels rounds *down*:
//! a page that a device might not reach is never given to it.

use core::fmt;

use crate::error::Error;
use crate::units::{HugeSize, Pfn, BASE_SHIFT};

/// A NUMA node, 0 to 63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u8);

impl NodeId {
    /// One more than the largest node number.
    pub const COUNT: usize = 64;
    /// Node 0, which every machine has.
    pub const ZERO: Self = Self(0);

    /// Node number `raw`.
    ///
    /// # Errors
    /// [`Error::NodeInvalid`] above 63.
    pub const fn new(raw: u32) -> Result<Self, Error> {
        if raw < 64 {
            // CAST: below 64.
            #[allow(clippy::cast_possible_truncation)]
            Ok(Self(raw as u8))
        } else {
            Err(Error::NodeInvalid)
        }
    }

    /// The node number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// The mask with only this node.
    #[must_use]
    pub const fn mask(self) -> NodeMask {
        NodeMask(1 << self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A set of NUMA nodes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias = "nodemask_t")]
pub struct NodeMask(u64);

impl NodeMask {
    /// No node.
    pub const EMPTY: Self = Self(0);
    /// Every node.
    pub const ALL: Self = Self(u64::MAX);

    /// The nodes whose bits are set in `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// One bit per node, node 0 lowest.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `node` is in the set.
    #[must_use]
    pub const fn contains(self, node: NodeId) -> bool {
        self.0 & node.mask().0 != 0
    }

    /// The nodes in both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The nodes in either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether every node of this set is in `other`.
    #[must_use]
    pub const fn is_subset_of(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Whether no node is in the set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number of nodes in the set.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// The lowest node of the set.
    #[must_use]
    pub const fn first(self) -> Option<NodeId> {
        if self.0 == 0 {
            None
        } else {
            // CAST: trailing_zeros of a non-zero u64 is below 64.
            #[allow(clippy::cast_possible_truncation)]
            Some(NodeId(self.0.trailing_zeros() as u8))
        }
    }

    /// The nodes of the set in ascending order.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        let mut rest = self;
        core::iter::from_fn(move || {
            let node = rest.first()?;
            rest = Self(rest.0 & !node.mask().0);
            Some(node)
        })
    }
}

impl fmt::Display for NodeMask {
    /// In the kernel's list form: `0-1,4`, `all`, `none`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => return f.write_str("all"),
            Self::EMPTY => return f.write_str("none"),
            _ => {}
        }
        let mut run: Option<(NodeId, NodeId)> = None;
        let mut comma = "";
        let mut print = |f: &mut fmt::Formatter<'_>, (first, last): (NodeId, NodeId)| {
            let done = if first == last {
                write!(f, "{comma}{first}")
            } else {
                write!(f, "{comma}{first}-{last}")
            };
            comma = ",";
            done
        };
        for node in self.iter() {
            run = match run {
                Some((first, last)) if last.0.checked_add(1) == Some(node.0) => Some((first, node)),
                Some(done) => {
                    print(f, done)?;
                    Some((node, node))
                }
                None => Some((node, node)),
            };
        }
        run.map_or(Ok(()), |done| print(f, done))
    }
}

impl fmt::Debug for NodeMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A DMA mask as its number of address bits, 24 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias = "DMA_BIT_MASK")]
pub struct AddressBits(u8);

impl AddressBits {
    /// Every address.
    pub const ALL: Self = Self(64);

    /// A mask of `bits` bits.
    ///
    /// # Errors
    /// [`Error::DmaMaskInvalid`] outside 24 to 64: below 24 bits (16 MiB) the pool keeps no level.
    pub const fn new(bits: u32) -> Result<Self, Error> {
        if bits >= 24 && bits <= 64 {
            // CAST: at most 64.
            #[allow(clippy::cast_possible_truncation)]
            Ok(Self(bits as u8))
        } else {
            Err(Error::DmaMaskInvalid)
        }
    }

    /// The number of bits.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// The highest address that the mask covers.
    #[must_use]
    pub const fn last_address(self) -> u64 {
        u64::MAX >> 64u32.wrapping_sub(self.0 as u32)
    }

    /// Whether the last byte of the page that begins at `pfn` is covered.
    #[must_use]
    pub const fn covers(self, pfn: Pfn, size: HugeSize) -> bool {
        match last_byte(pfn, size) {
            Some(last) => last <= self.last_address(),
            None => false,
        }
    }

    /// The widest level that lies wholly below this mask.
    #[must_use]
    pub const fn level(self) -> Level {
        let mut level = 0u8;
        let mut rest: &[u8] = &Level::BITS;
        while let [bits, tail @ ..] = rest {
            if *bits > self.0 {
                break;
            }
            level = level.wrapping_add(1);
            rest = tail;
        }
        // `new` refuses fewer bits than the first level has, so `level` is at least one here.
        Level(level.saturating_sub(1))
    }
}

const fn last_byte(pfn: Pfn, size: HugeSize) -> Option<u64> {
    match pfn.raw().checked_add(size.base_pages()) {
        Some(end) if end <= u64::MAX >> BASE_SHIFT => Some((end << BASE_SHIFT).wrapping_sub(1)),
        _ => None,
    }
}

/// A nested class of addresses: those below 2^[`Level::bits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Level(u8);

impl Level {
    /// The address bits of each level, narrowest (scarcest) first.
    pub const BITS: [u8; Self::COUNT] = [24, 26, 28, 30, 31, 32, 34, 36, 40, 44, 48, 64];
    /// The number of levels.
    pub const COUNT: usize = 12;
    /// The widest level, which covers every address.
    pub const WIDEST: Self = Self(11);

    /// Level number `index`, 0 the narrowest.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index < Self::COUNT {
            // CAST: below COUNT.
            #[allow(clippy::cast_possible_truncation)]
            Some(Self(index as u8))
        } else {
            None
        }
    }

    /// The place in [`Level::BITS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The address bits of this level.
    #[must_use]
    pub const fn bits(self) -> u8 {
        let mut skip = self.0;
        let mut rest: &[u8] = &Self::BITS;
        while let [bits, tail @ ..] = rest {
            if skip == 0 {
                return *bits;
            }
            skip = skip.wrapping_sub(1);
            rest = tail;
        }
        64
    }

    /// The narrowest level that covers the last byte of the page that begins at `pfn`.
    #[must_use]
    pub const fn of(pfn: Pfn, size: HugeSize) -> Self {
        let last = match last_byte(pfn, size) {
            Some(last) => last,
            None => return Self::WIDEST,
        };
        let used = u64::BITS.wrapping_sub(last.leading_zeros());
        let mut level = 0u8;
        let mut rest: &[u8] = &Self::BITS;
        while let [bits, tail @ ..] = rest {
            if *bits as u32 >= used {
                break;
            }
            level = level.wrapping_add(1);
            rest = tail;
        }
        Self(level)
    }
}

/// Where a page is: node and level. The unit in which the ledger and the pool count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Class {
    /// The node that holds the page.
    pub node: NodeId,
    /// The narrowest level that covers its last byte.
    pub level: Level,
}

impl Class {
    /// The classes of a machine with all 64 nodes.
    pub const COUNT: usize = NodeId::COUNT * Level::COUNT;

    /// The class of a page.
    #[must_use]
    pub const fn of(pfn: Pfn, size: HugeSize, node: NodeId) -> Self {
        Self {
            node,
            level: Level::of(pfn, size),
        }
    }

    /// A dense number, node-major: `node * Level::COUNT + level`.
    #[must_use]
    pub const fn index(self) -> usize {
        // At most 63 * 12 + 11.
        (self.node.0 as usize)
            .wrapping_mul(Level::COUNT)
            .wrapping_add(self.level.index())
    }

    /// The class with dense number `index`.
    #[must_use]
    pub const fn from_index(index: usize) -> Option<Self> {
        if index >= Self::COUNT {
            return None;
        }
        // CAST: both quotient and remainder are below 64.
        #[allow(clippy::cast_possible_truncation)]
        let (node, level) = ((index / Level::COUNT) as u8, (index % Level::COUNT) as u8);
        Some(Self {
            node: NodeId(node),
            level: Level(level),
        })
    }
}

/// What a request can use: pages on any of `nodes` whose last byte fits `bits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reach {
    nodes: NodeMask,
    level: Level,
}

impl Reach {
    /// Every page of every node.
    pub const ANY: Self = Self {
        nodes: NodeMask::ALL,
        level: Level::WIDEST,
    };

    /// The pages on `nodes` below `bits`, rounded down to a level.
    ///
    /// # Errors
    /// [`Error::NodeMaskEmpty`].
    pub const fn new(nodes: NodeMask, bits: AddressBits) -> Result<Self, Error> {
        if nodes.is_empty() {
            return Err(Error::NodeMaskEmpty);
        }
        Ok(Self {
            nodes,
            level: bits.level(),
        })
    }

    /// The nodes.
    #[must_use]
    pub const fn nodes(self) -> NodeMask {
        self.nodes
    }

    /// The widest level that may be used.
    #[must_use]
    pub const fn level(self) -> Level {
        self.level
    }

    /// Whether a page of `class` may be used.
    #[must_use]
    pub const fn covers(self, class: Class) -> bool {
        self.nodes.contains(class.node) && class.level.0 <= self.level.0
    }

    /// Whether every page in this reach is also in `other`.
    #[must_use]
    pub const fn is_within(self, other: Self) -> bool {
        self.nodes.is_subset_of(other.nodes) && self.level.0 <= other.level.0
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nodes {}, {} bits", self.nodes, self.level.bits())
    }
}
