// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a buffer has got, computed when it is asked.

use std::collections::BTreeMap;
use std::ops::Range;

use htlb_core::{ByteLen, HugeSize, NodeId, PageCount, PageIndex, Rung};

use super::Buffer;
use crate::receipt::{Giver, Receipt, Share};

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
            let pages = PageCount::new(census.frames().raw() + promised);
            self.add_shares(
                &mut shares,
                part.attempt.rung,
                size,
                pages,
                extent.first()..end,
            );
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

    /// Adds what each giver gave of an extent of `pages` pages.
    fn add_shares(
        &self,
        shares: &mut Vec<Share>,
        rung: Rung,
        size: HugeSize,
        pages: PageCount,
        extent: Range<PageIndex>,
    ) {
        #[derive(Default)]
        struct Given {
            pages: u64,
            nodes: BTreeMap<NodeId, u64>,
        }
        let shown = |device: Option<Rung>| match device {
            Some(of_device) => (Giver::Device, of_device),
            None => (Giver::Kernel, rung),
        };
        let mut given: BTreeMap<(Giver, Rung), Given> = BTreeMap::new();
        let frames = self.core().map().frames();
        for (index, pfn, _) in frames.filter(|(index, _, _)| extent.contains(index)) {
            let Ok(arena) = self.arena_at(index) else {
                continue;
            };
            let of = given.entry(shown(arena.device(pfn))).or_default();
            of.pages += 1;
            if let Some(node) = arena.node(pfn) {
                *of.nodes.entry(node).or_default() += 1;
            }
        }
        let found: u64 = given.values().map(|of| of.pages).sum();
        if found < pages.raw() || given.is_empty() {
            // Pages that are promised have no giver yet, unless all there are have the same.
            let device = self.arena_at(extent.start).ok();
            let device = device.and_then(|arena| arena.sole_device());
            given.entry(shown(device)).or_default().pages += pages.raw().saturating_sub(found);
        }
        shares.extend(given.into_iter().rev().map(|((giver, rung), of)| {
            Share {
                giver,
                rung,
                size,
                pages: PageCount::new(of.pages),
                nodes: of
                    .nodes
                    .into_iter()
                    .map(|(node, pages)| (node, PageCount::new(pages)))
                    .collect(),
            }
        }));
    }
}
