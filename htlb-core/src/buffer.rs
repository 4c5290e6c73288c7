// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One buffer: its page map, and what each extent of it was chosen from.

use crate::sync::AtomicU64;

use crate::ledger::AccountId;
use crate::page_map::{Extents, PageMap};
use crate::policy::{Attempt, Placement};
use crate::stock::Charge;
use crate::units::PageIndex;

/// The pages of one size in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The rung of the ladder that serves it.
    pub attempt: Attempt,
    /// Who answers for its pages.
    pub charge: Charge,
}

/// A buffer: what was asked, what was got, and which page is where.
#[derive(Debug)]
pub struct Buffer<S> {
    map: PageMap<S>,
    parts: [Option<Part>; Extents::MAX],
    placement: Placement,
}

impl<S: AsRef<[AtomicU64]>> Buffer<S> {
    pub(crate) const fn new(
        map: PageMap<S>,
        parts: [Option<Part>; Extents::MAX],
        placement: Placement,
    ) -> Self {
        Self {
            map,
            parts,
            placement,
        }
    }

    /// Offset to page.
    #[must_use]
    pub const fn map(&self) -> &PageMap<S> {
        &self.map
    }

    /// The map for its only owner, and beside it what is needed to give its pages back.
    pub(crate) fn take_apart(&mut self) -> (&mut PageMap<S>, &[Option<Part>; Extents::MAX]) {
        (&mut self.map, &self.parts)
    }

    /// What was asked.
    #[must_use]
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The account that pays.
    #[must_use]
    pub fn account(&self) -> AccountId {
        self.parts()
            .next()
            .map_or(AccountId::ROOT, |part| part.charge.account)
    }

    /// The parts, in the order of the extents.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().flatten()
    }

    /// The part that holds the page at `index`.
    #[must_use]
    pub fn part_of(&self, index: PageIndex) -> Option<&Part> {
        self.parts
            .get(self.map.extents().number_of(index)?)?
            .as_ref()
    }
}
