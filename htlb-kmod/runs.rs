// SPDX-License-Identifier: GPL-2.0-only
//! A range of a buffer as a device sees it: the physically contiguous runs that it consists of.

use htlb_core::page_map::PageMap;
use htlb_core::{ByteOffset, ByteRange, Error as Reason};
use kernel::page::PAGE_SHIFT;

use crate::memory::Slots;

/// The longest run: the largest power of two that the length of a scatter-gather entry can hold.
pub(crate) const LONGEST: u64 = 1 << 31;

/// Bytes that lie one after the other in the buffer and in memory alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The physical address of the first byte.
    pub(crate) physical: u64,
    /// How many bytes, at most [`LONGEST`].
    pub(crate) len: u64,
}

/// The runs of a range, in the order of the buffer, each as long as it can be.
///
/// Whoever walks them holds a seal, so that a page once found stays where it is, and two walks find the same runs. A page that is not
/// there is [`Reason::NotPresent`], and the end of the walk: populate the range first.
#[derive(Clone)]
pub(crate) struct Runs<'a> {
    map: &'a PageMap<Slots>,
    at: u64,
    end: u64,
}

impl<'a> Runs<'a> {
    /// The runs of `range`, to the byte.
    pub(crate) fn new(map: &'a PageMap<Slots>, range: ByteRange) -> Self {
        Self { map, at: range.start().raw(), end: range.end().raw() }
    }

    /// What one page has of the rest of the range.
    fn piece(&self, at: u64) -> Result<Run, Reason> {
        let page = self.map.page_at(ByteOffset::new(at))?;
        let inside = page.offset_in_page.raw();
        let left = page.size.bytes().saturating_sub(inside);
        Ok(Run {
            physical: (page.pfn.raw() << PAGE_SHIFT).saturating_add(inside),
            len: left.min(self.end.saturating_sub(at)).min(LONGEST),
        })
    }

    fn longest(&self) -> Result<Run, Reason> {
        let mut run = self.piece(self.at)?;
        loop {
            let next = self.at.saturating_add(run.len);
            if next >= self.end {
                return Ok(run);
            }
            let piece = self.piece(next)?;
            let len = run.len.saturating_add(piece.len);
            if piece.physical != run.physical.saturating_add(run.len) || len > LONGEST {
                return Ok(run);
            }
            run.len = len;
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let run = self.longest();
        self.at = match &run {
            Ok(run) => self.at.saturating_add(run.len),
            Err(_) => self.end,
        };
        Some(run)
    }
}
