// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the model keeps for each page.

use htlb_core::page_map::Origin;
use htlb_core::{HugeSize, Pfn};

pub(super) const PARTS: [(HugeSize, u64); 3] = [
    (HugeSize::GIB1, 1),
    (HugeSize::MIB2, 3),
    (HugeSize::BASE, 3),
];
pub(super) const SLOTS: usize = 7;

/// Where each page begins, by addition alone; the last entry is the capacity.
pub(super) fn boundaries() -> Vec<u64> {
    let mut at = vec![0];
    for (size, count) in PARTS {
        for _ in 0..count {
            at.push(at[at.len() - 1] + size.bytes());
        }
    }
    at
}

pub(super) fn size_of(slot: usize) -> HugeSize {
    match slot {
        0 => HugeSize::GIB1,
        1..=3 => HugeSize::MIB2,
        _ => HugeSize::BASE,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Page {
    Hole,
    Promised,
    Filling {
        origin: Origin,
        pfn: Option<Pfn>,
        waited: bool,
    },
    /// Claimed by a punch or a change of promises, with what was there.
    Held {
        was: Was,
        waited: bool,
    },
    Present {
        pfn: Pfn,
        pins: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Was {
    Hole,
    Promised,
    Present(Pfn),
}

impl Was {
    pub(super) fn page(self) -> Page {
        match self {
            Was::Hole => Page::Hole,
            Was::Promised => Page::Promised,
            Was::Present(pfn) => Page::Present { pfn, pins: 0 },
        }
    }
}

impl Page {
    pub(super) fn is_claimed(self) -> bool {
        matches!(self, Page::Filling { .. } | Page::Held { .. })
    }

    pub(super) fn waited(self) -> bool {
        matches!(
            self,
            Page::Filling { waited: true, .. } | Page::Held { waited: true, .. }
        )
    }

    pub(super) fn pfn(self) -> Option<Pfn> {
        match self {
            Page::Present { pfn, .. } => Some(pfn),
            Page::Filling { pfn, .. } => pfn,
            Page::Held {
                was: Was::Present(pfn),
                ..
            } => Some(pfn),
            _ => None,
        }
    }
}

/// One punch or truncate under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Punch {
    pub(super) next: usize,
    pub(super) end: usize,
    pub(super) truncated_from: Option<u64>,
}
