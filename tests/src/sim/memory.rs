// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Physical memory: which frames are whose, and what is in them.
//!
//! Frames are handed out from the highest address down, as Linux prefers its widest zone. What the system gives out is
//! either zeroed or full of another program's data, by turns, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use htlb_core::{Condition, HugeSize, NodeId, NodeMask, Pfn};

const BASE: usize = 4096;

/// Who wrote a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Writer {
    /// Nobody since it was zeroed.
    Nobody,
    /// A program that had the page before us.
    Stranger,
    /// An owner of buffers.
    Owner(u8),
}

/// Who has a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The library: a pool, a buffer, or on the way between them.
    Ours,
    /// Another program.
    Others,
}

/// One base page with contents of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Patch {
    bytes: Vec<u8>,
    writers: Vec<Writer>,
}

/// A page that was given out, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its size.
    pub size: HugeSize,
    /// Who has it.
    pub holder: Holder,
    /// What every base page holds that has no patch.
    background: (u8, Writer),
    patches: BTreeMap<u64, Patch>,
}

/// The memory of all nodes.
#[derive(Debug)]
pub struct Memory {
    nodes: Vec<(NodeId, Range<u64>)>,
    blocks: BTreeMap<u64, Block>,
    /// How many more pages of a size the system gives; no entry: as many as fit.
    left: BTreeMap<HugeSize, u64>,
    turn: u64,
}

/// Where a page may lie.
#[derive(Clone, Copy, Debug)]
pub struct Where {
    /// On these nodes.
    pub nodes: NodeMask,
    /// On these, if that is possible.
    pub prefer: NodeMask,
    /// Its last byte at most here.
    pub last_address: u64,
}

impl Memory {
    /// Empty memory: each node with its frames.
    #[must_use]
    pub fn new(nodes: Vec<(NodeId, Range<u64>)>) -> Self {
        Self {
            nodes,
            blocks: BTreeMap::new(),
            left: BTreeMap::new(),
            turn: 0,
        }
    }

    /// From now on the system has `pages` pages of this size to give, and no more.
    pub fn limit(&mut self, size: HugeSize, pages: u64) {
        self.left.insert(size, pages);
    }

    /// The node of a frame.
    #[must_use]
    pub fn node_of(&self, pfn: Pfn) -> NodeId {
        self.nodes
            .iter()
            .find(|(_, frames)| frames.contains(&pfn.raw()))
            .map_or(NodeId::ZERO, |(node, _)| *node)
    }

    /// A page of the system's.
    pub fn allocate(&mut self, size: HugeSize, at: Where) -> Option<(Pfn, Condition)> {
        let (first, condition) = self.allocate_run(size, 1, 1, at)?;
        Some((first, condition))
    }

    /// `pages` contiguous pages of the system's, the first aligned to `align` base pages.
    pub fn allocate_run(
        &mut self,
        size: HugeSize,
        pages: u64,
        align: u64,
        at: Where,
    ) -> Option<(Pfn, Condition)> {
        if self.left.get(&size).is_some_and(|left| *left < pages) {
            return None;
        }
        let near = NodeMask::from_bits(at.nodes.bits() & at.prefer.bits());
        let far = NodeMask::from_bits(at.nodes.bits() & !at.prefer.bits());
        let first = [near, far]
            .into_iter()
            .find_map(|nodes| self.find(size, pages, align, nodes, at.last_address))?;
        if let Some(left) = self.left.get_mut(&size) {
            *left -= pages;
        }
        self.turn += 1;
        let condition = if self.turn % 2 == 0 {
            Condition::Clean
        } else {
            Condition::Dirty
        };
        let background = match condition {
            Condition::Clean => (0, Writer::Nobody),
            Condition::Dirty => (0xee, Writer::Stranger),
        };
        for page in 0..pages {
            self.blocks.insert(
                first + page * size.base_pages(),
                Block {
                    size,
                    holder: Holder::Ours,
                    background,
                    patches: BTreeMap::new(),
                },
            );
        }
        Some((Pfn::new(first), condition))
    }

    fn find(
        &self,
        size: HugeSize,
        pages: u64,
        align: u64,
        nodes: NodeMask,
        last_address: u64,
    ) -> Option<u64> {
        let len = pages * size.base_pages();
        let step = size.base_pages().max(align);
        let limit = (last_address >> 12).saturating_add(1);
        let ranges = self.nodes.iter().filter(|(node, _)| nodes.contains(*node));
        for (_, frames) in ranges.rev() {
            let mut end = frames.end.min(limit);
            while end >= frames.start + len {
                let first = (end - len) / step * step;
                if first < frames.start {
                    break;
                }
                match self.overlapped(first..first + len) {
                    None => return Some(first),
                    // Nothing between here and the block's own start can be free.
                    Some(block) => end = block.min(first + len - 1),
                }
            }
        }
        None
    }

    /// The start of the last block that lies in these frames.
    fn overlapped(&self, frames: Range<u64>) -> Option<u64> {
        let (start, block) = self.blocks.range(..frames.end).next_back()?;
        (start + block.size.base_pages() > frames.start).then_some(*start)
    }

    /// Another program takes a base page: nothing larger that contains it can be had.
    ///
    /// # Panics
    /// If somebody has it already.
    pub fn occupy(&mut self, pfn: Pfn) {
        assert_eq!(self.overlapped(pfn.raw()..pfn.raw() + 1), None);
        self.blocks.insert(
            pfn.raw(),
            Block {
                size: HugeSize::BASE,
                holder: Holder::Others,
                background: (0xee, Writer::Stranger),
                patches: BTreeMap::new(),
            },
        );
    }

    /// A page goes back to the system.
    ///
    /// # Panics
    /// If it is not ours, or of another size: a double free.
    pub fn free(&mut self, pfn: Pfn, size: HugeSize) {
        let block = self.blocks.remove(&pfn.raw());
        let block = block.unwrap_or_else(|| panic!("{pfn} is freed twice"));
        assert_eq!((block.size, block.holder), (size, Holder::Ours));
        if let Some(left) = self.left.get_mut(&size) {
            *left += 1;
        }
    }

    /// Breaks a page into smaller ones, contents and all.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn split(&mut self, pfn: Pfn, into: HugeSize) {
        let whole = self.blocks.remove(&pfn.raw()).expect("a page to split");
        let step = into.base_pages();
        for part in 0..whole.size.base_pages() / step {
            let start = pfn.raw() + part * step;
            let patches = whole.patches.range(start..start + step);
            self.blocks.insert(
                start,
                Block {
                    size: into,
                    holder: whole.holder,
                    background: whole.background,
                    patches: patches.map(|(at, patch)| (*at, patch.clone())).collect(),
                },
            );
        }
    }

    /// Our pages.
    pub fn ours(&self) -> impl Iterator<Item = (Pfn, &Block)> {
        self.blocks
            .iter()
            .filter(|(_, block)| block.holder == Holder::Ours)
            .map(|(pfn, block)| (Pfn::new(*pfn), block))
    }

    /// What is in a page.
    ///
    /// # Panics
    /// If there is no such page.
    #[must_use]
    pub fn block(&self, pfn: Pfn) -> &Block {
        self.blocks.get(&pfn.raw()).expect("a page")
    }

    fn block_mut(&mut self, pfn: Pfn) -> &mut Block {
        self.blocks.get_mut(&pfn.raw()).expect("a page")
    }

    /// Zeroes a page from a byte to its end.
    pub fn clear(&mut self, pfn: Pfn, from: u64) {
        let block = self.block_mut(pfn);
        if from >= block.size.bytes() {
            return;
        }
        let kept = from.div_ceil(BASE as u64);
        let zeroes = (0, Writer::Nobody);
        for base in 0..kept {
            // Where all is zero already, only what was written and the cut need a place of their own.
            if block.background != zeroes || base + 1 == kept {
                block.patch(pfn.raw() + base);
            }
        }
        block.patches.retain(|at, _| *at < pfn.raw() + kept);
        block.background = zeroes;
        let tail = usize::try_from(from % BASE as u64).unwrap_or(0);
        if tail > 0 {
            let last = block.patch(pfn.raw() + kept - 1);
            last.bytes[tail..].fill(0);
            last.writers[tail..].fill(Writer::Nobody);
        }
    }

    /// Writes into a page.
    ///
    /// # Panics
    /// Past its end.
    pub fn write(&mut self, pfn: Pfn, at: u64, bytes: &[u8], writer: Writer) {
        let block = self.block_mut(pfn);
        assert!(
            at + bytes.len() as u64 <= block.size.bytes(),
            "past the page"
        );
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let patch = block.patch(pfn.raw() + at / BASE as u64);
            let place = usize::try_from(at % BASE as u64).unwrap_or(0);
            let (now, later) = rest.split_at(rest.len().min(BASE - place));
            patch.bytes[place..place + now.len()].copy_from_slice(now);
            patch.writers[place..place + now.len()].fill(writer);
            at += now.len() as u64;
            rest = later;
        }
    }

    /// Reads out of a page.
    pub fn read(&self, pfn: Pfn, at: u64, bytes: &mut [u8]) {
        let block = self.block(pfn);
        for (byte, at) in bytes.iter_mut().zip(at..) {
            let place = usize::try_from(at % BASE as u64).unwrap_or(0);
            *byte = match block.patches.get(&(pfn.raw() + at / BASE as u64)) {
                Some(patch) => patch.bytes[place],
                None => block.background.0,
            };
        }
    }
}

impl Block {
    fn patch(&mut self, at: u64) -> &mut Patch {
        let (byte, writer) = self.background;
        self.patches.entry(at).or_insert_with(|| Patch {
            bytes: vec![byte; BASE],
            writers: vec![writer; BASE],
        })
    }

    /// Everybody whose bytes are in the page.
    #[must_use]
    pub fn writers(&self) -> BTreeSet<Writer> {
        let mut writers = BTreeSet::new();
        let mut last = None;
        for writer in self.patches.values().flat_map(|patch| &patch.writers) {
            if last != Some(writer) {
                writers.insert(*writer);
                last = Some(writer);
            }
        }
        if (self.patches.len() as u64) < self.size.base_pages() {
            writers.insert(self.background.1);
        }
        writers
    }

    /// Whether every byte is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        let hidden = self.patches.len() as u64 == self.size.base_pages();
        (self.background.0 == 0 || hidden)
            && self
                .patches
                .values()
                .all(|patch| patch.bytes.iter().all(|byte| *byte == 0))
    }
}
