// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a buffer has got, computed when it is asked.

use std::collections::BTreeMap;

use htlb_core::{ByteLen, NodeId, PageCount, PageIndex};

use super::Buffer;
use crate::receipt::{Receipt, Share};

impl Buffer {
    /// What was got: computed afresh, so it is true of now. Looks at every page.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        let map = self.core().map();
        let (mut reserved, mut populated) = (0, 0);
        let mut shares = Vec::new();
        let parts = self.core().parts().zip(map.extents().iter());
        for ((part, extent), (size, census)) in parts.zip(map.census().iter()) {
            let first = extent.first().raw();
            let end = PageIndex::new(first + extent.pages().raw());
            let promised = census.promises().raw() + self.waiting(extent.first(), end);
            reserved += promised * size.bytes();
            populated += census.present.raw() * size.bytes();
            shares.push(Share {
                rung: part.attempt.rung,
                size,
                pages: PageCount::new(census.frames().raw() + promised),
                nodes: self.nodes_between(extent.first(), end),
            });
        }
        Receipt {
            asked: self.asked,
            shares,
            refusals: self.host().refusals(),
            reserved: ByteLen::new(reserved),
            populated: ByteLen::new(populated),
            home: self.home.clone(),
            took: self.took,
            advice: None,
        }
    }

    /// Pages of `first..end`, within the buffer's size, that are set aside for it.
    fn waiting(&self, first: PageIndex, end: PageIndex) -> u64 {
        let map = self.core().map();
        let inside = |index: PageIndex| {
            let bytes = map.extents().bytes_of(index);
            bytes.is_some_and(|bytes| bytes.start().raw() < map.size().raw())
        };
        let aside = self.host().aside();
        // INVARIANT: what is set aside is a run for the one extent of the buffer, so it begins with the first page.
        match aside.left() {
            0 => 0,
            _ => {
                let pages = (first.raw()..end.raw()).map(PageIndex::new);
                aside.left_before(pages.take_while(|index| inside(*index)).count() as u64)
            }
        }
    }

    /// The pages on each node, as the system says.
    fn nodes_between(&self, first: PageIndex, end: PageIndex) -> Vec<(NodeId, PageCount)> {
        let mut nodes: BTreeMap<NodeId, u64> = BTreeMap::new();
        let frames = self.core().map().frames();
        for (index, pfn, _) in frames.filter(|(index, _, _)| (first..end).contains(index)) {
            let node = self.arena_at(index).ok().and_then(|arena| arena.node(pfn));
            if let Some(node) = node {
                *nodes.entry(node).or_default() += 1;
            }
        }
        let counts = nodes.into_iter();
        counts
            .map(|(node, pages)| (node, PageCount::new(pages)))
            .collect()
    }
}
