// SPDX-License-Identifier: GPL-2.0-only
//! Pages at chosen places: below an address, or one after the other. The page allocator knows zones and orders only, so they are
//! looked for from the highest suitable place down: what lies lowest is of use to the narrowest masks.

use htlb_core::{Attempt, Error as Reason, Frame, Gfp, HugeSize, NodeId, PageCount, Pfn};
use kernel::prelude::*;

use crate::ffi::{page, range, system};

/// The frames of a node that lie wholly below 2^`bits`; the first is no page's, since the allocator never gives it.
fn frames(node: NodeId, bits: u8) -> (u64, u64) {
    let (start, end) = range::span(node);
    let limit = 1u64.checked_shl(u32::from(bits)).map_or(u64::MAX, |bytes| bytes >> HugeSize::BASE.shift());
    (start.max(1), end.min(limit))
}

/// The highest multiple of `step`, a power of two, from which `frames` frames fit below `end`.
fn highest(end: u64, frames: u64, step: u64) -> Option<u64> {
    end.checked_sub(frames).map(|first| first & !(step - 1))
}

/// One page on this node whose last byte is below 2^`bits`.
pub(crate) fn one(gfp: Gfp, size: HugeSize, node: NodeId, bits: u8) -> Result<Frame, Reason> {
    let (start, mut end) = frames(node, bits);
    while let Some(first) = highest(end, size.base_pages(), size.base_pages()).filter(|first| *first >= start) {
        if system::fatal_signal() {
            return Err(Reason::Interrupted);
        }
        if let Some(frame) = range::allocate_at(gfp, size, node, Pfn::new(first)) {
            return Ok(frame);
        }
        end = first;
    }
    Err(Reason::OutOfReach)
}

/// `pages` contiguous pages on this node within an attempt's reach, the first aligned to `align` bytes.
pub(crate) fn run(attempt: &Attempt, node: NodeId, pages: PageCount, align: u64) -> Result<KVVec<Frame>, Reason> {
    let size = attempt.size;
    let length = size.base_pages().checked_mul(pages.raw()).ok_or(Reason::SizeTooLarge)?;
    let step = (align >> HugeSize::BASE.shift()).max(size.base_pages());
    if !step.is_power_of_two() {
        return Err(Reason::AlignmentInvalid);
    }
    let count = usize::try_from(pages.raw()).map_err(|_| Reason::SizeTooLarge)?;
    let mut run = KVVec::with_capacity(count, GFP_KERNEL | __GFP_NOWARN).map_err(|_| Reason::OutOfMetadata)?;
    let (start, mut end) = frames(node, attempt.reach.level().bits());
    while let Some(first) = highest(end, length, step).filter(|first| *first >= start) {
        match fill(&mut run, attempt, node, first, count) {
            Ok(()) => return Ok(run),
            Err(gap) => {
                run.drain_all().for_each(page::free);
                // No run that has the gap in it can be had.
                end = gap;
            }
        }
        if system::fatal_signal() {
            return Err(Reason::Interrupted);
        }
    }
    Err(Reason::NoContiguousRun)
}

/// Takes `count` pages from `first` on; or says where there is none.
fn fill(run: &mut KVVec<Frame>, attempt: &Attempt, node: NodeId, first: u64, count: usize) -> Result<(), u64> {
    while run.len() < count {
        let at = first.saturating_add(attempt.size.base_pages().saturating_mul(run.len() as u64));
        let frame = range::allocate_at(attempt.gfp, attempt.size, node, Pfn::new(at)).ok_or(at)?;
        // INVARIANT: room for all of them was made before the first.
        run.push_within_capacity(frame).map_err(|_| at)?;
    }
    Ok(())
}
