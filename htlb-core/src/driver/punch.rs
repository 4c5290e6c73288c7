// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Taking pages and promises away: punch, truncate, and the end of a buffer.

use crate::buffer::{Buffer, Part};
use crate::driver::{give_back, wake};
use crate::error::Error;
use crate::frame::Condition;
use crate::host::{Host, Reclaim};
use crate::ledger::Promise;
use crate::lock::Exclusive;
use crate::page_map::{RangeClaim, Removed};
use crate::request::Fill;
use crate::step::Stop;
use crate::stock::Returned;
use crate::units::{ByteLen, ByteOffset, ByteRange, PageCount, PageIndex};

/// What was taken away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Punched {
    /// Pages.
    pub pages: PageCount,
    /// Promises of pages that had not come yet.
    pub promises: PageCount,
}

/// Gives back the pages and promises of `range`, after every mapping of them is gone.
///
/// Linux keeps the reservation of a punched page that was never touched; here a punched range is a hole, and nothing
/// stays behind for it.
///
/// # Errors
/// [`Error::Pinned`] and [`Error::Sealed`], with nothing taken away; [`Error::Interrupted`], where what was taken away so far
/// stays so; ranges as for [`crate::page_map::PageMap::pages`].
#[doc(alias = "hugetlbfs_punch_hole")]
pub fn punch<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    range: ByteRange,
) -> Result<Punched, Error> {
    let map = buffer.map();
    let slots = map.pages(range)?;
    let claim = until_claimed(host, buffer, || {
        map.claim_range(slots, |what| host.wake(map, what))
    })?;
    empty(host, buffer, claim)
}

/// Makes the buffer `size` bytes long, and gives back what lies wholly beyond. Growing promises nothing.
///
/// A page that the new end cuts stays with what it holds; zeroing what lies beyond is the front end's, which can
/// reach the page under its pin or seal.
///
/// # Errors
/// [`Error::BeyondCapacity`] for more than was fixed at creation; shrinking as [`punch`]: one that is interrupted leaves the
/// size as it was, and some holes below it.
#[doc(alias = "hugetlb_vmtruncate")]
pub fn truncate<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    size: ByteLen,
) -> Result<Punched, Error> {
    let map = buffer.map();
    if size >= map.size() {
        map.grow(size)?;
        return Ok(Punched::default());
    }
    let claim = until_claimed(host, buffer, || {
        map.truncate(size, |what| host.wake(map, what))
    })?;
    empty(host, buffer, claim)
}

/// Gives back everything: the end of a buffer. Afterwards it is all holes, and may be dropped.
///
/// # Errors
/// [`Error::Pinned`] and [`Error::Sealed`], with nothing given back.
#[doc(alias = "remove_inode_hugepages")]
pub fn release<H: Host>(host: &H, buffer: &mut Buffer<H::Slots>) -> Result<Punched, Error> {
    let fill = buffer.placement().fill;
    give_up(host, buffer, fill)
}

/// As [`release`]; with [`Fill::Zeroed`] the owner keeps nothing.
pub(super) fn give_up<H: Host>(
    host: &H,
    buffer: &mut Buffer<H::Slots>,
    fill: Fill,
) -> Result<Punched, Error> {
    let (map, parts) = buffer.take_apart();
    let extents = *map.extents();
    let whole = ByteRange::at(ByteOffset::ZERO, extents.capacity())?;
    let drained = map.drain()?;
    host.unmap(whole);
    let mut gone = Gone::default();
    for (index, removed) in drained {
        let part = extents
            .number_of(index)
            .and_then(|number| parts.get(number))
            .and_then(Option::as_ref);
        if let Some(part) = part {
            gone.give_back(host, part, fill, removed);
        }
    }
    gone.flush(host);
    Ok(gone.total)
}

fn until_claimed<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    mut claim: impl FnMut() -> Result<RangeClaim, Stop>,
) -> Result<RangeClaim, Error> {
    loop {
        match claim() {
            Ok(claim) => return Ok(claim),
            Err(Stop::Wait(what)) => host.wait(buffer.map(), what, None)?,
            Err(Stop::Fail(error)) => return Err(error),
            Err(Stop::Metadata { .. }) => return Err(Error::OutOfMetadata),
        }
    }
}

/// How many pages a punch takes away between two looks at whether it should go on: 128 MiB of base pages.
const STRETCH: u64 = 1 << 15;

/// Empties a claimed range, unless it is interrupted between two stretches.
fn empty<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    mut claim: RangeClaim,
) -> Result<Punched, Error> {
    let map = buffer.map();
    let mut gone = Gone::default();
    let mut outcome = Ok(());
    while !claim.count().is_zero() {
        if host.is_interrupted() {
            outcome = Err(Error::Interrupted);
            break;
        }
        let (first, end) = claim.remaining();
        let end = PageIndex::new(end.raw().min(first.raw().saturating_add(STRETCH)));
        if let Some(range) = map.extents().bytes_between(first, end) {
            host.unmap(range);
        }
        while claim.remaining().0 < end {
            let Some(emptied) = map.next_removed(&mut claim) else {
                break;
            };
            if let Some(part) = buffer.part_of(emptied.index) {
                gone.give_back(host, part, buffer.placement().fill, emptied.removed);
            }
            wake(host, map, emptied.wake);
        }
    }
    gone.flush(host);
    map.end_range(claim, |what| host.wake(map, what));
    outcome.map(|()| gone.total)
}

/// Counts what went, and gathers promises: a run of them is one visit to the ledger.
#[derive(Default)]
struct Gone {
    total: Punched,
    gathered: Option<(Part, Promise)>,
}

impl Gone {
    fn give_back<H: Host>(&mut self, host: &H, part: &Part, fill: Fill, removed: Removed) {
        match removed {
            Removed::Nothing => {}
            Removed::Promise(_) => {
                self.total.promises = one_more(self.total.promises);
                let one = Promise::mint(part.charge.reach, part.charge.account, PageCount::ONE);
                self.gathered = match self.gathered.take() {
                    Some((of, many)) if of == *part => match many.merge(one) {
                        Ok(more) => Some((of, more)),
                        Err((many, one)) => {
                            give_back(host, &of.attempt, many);
                            Some((of, one))
                        }
                    },
                    Some((of, many)) => {
                        give_back(host, &of.attempt, many);
                        Some((*part, one))
                    }
                    None => Some((*part, one)),
                };
            }
            Removed::Frame(frame) => {
                self.total.pages = one_more(self.total.pages);
                let Reclaim::Free(frame) = host.reclaim(frame, &part.attempt, part.charge) else {
                    return;
                };
                let kept = match fill {
                    Fill::DirtyWithinOwner => host.keep(frame, &part.attempt),
                    Fill::Zeroed => Err(frame),
                };
                let Err(frame) = kept else { return };
                let left = match host.stock(&part.attempt) {
                    Some(stock) => {
                        match stock.with(|stock| stock.put(frame, part.charge, Condition::Dirty)) {
                            Returned::Kept => return,
                            Returned::Leaves(frame) => frame,
                        }
                    }
                    None => frame,
                };
                host.free(left, &part.attempt);
            }
        }
    }

    fn flush<H: Host>(&mut self, host: &H) {
        if let Some((part, promise)) = self.gathered.take() {
            give_back(host, &part.attempt, promise);
        }
    }
}

fn one_more(count: PageCount) -> PageCount {
    PageCount::new(count.raw().saturating_add(1))
}
