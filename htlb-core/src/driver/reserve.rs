// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Promising the holes of a range.

use crate::buffer::Buffer;
use crate::driver::{give_back, shed, with_stock};
use crate::error::Error;
use crate::host::Host;
use crate::ledger::Promise;
use crate::page_map::Extents;
use crate::step::Stop;
use crate::units::{ByteRange, PageCount};

/// Promises every hole of `range`, so that no later access there can fail for want of a page; all of them or none. Says
/// how many pages that was. What is promised or present already is passed over.
///
/// Where free pages are short, the system is asked first, as the buffer's ladder allows.
///
/// # Errors
/// [`Error::NoRoom`], also for a hole that no stock serves, which nobody can promise; [`Error::AccountLimit`], what the host says of its system; ranges as for
/// [`crate::page_map::PageMap::pages`].
#[doc(alias = "hugetlb_reserve_pages")]
#[doc(alias = "region_chg")]
pub fn reserve<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    range: ByteRange,
) -> Result<PageCount, Error> {
    let map = buffer.map();
    let slots = map.pages(range)?;
    let wake = |what| host.wake(map, what);
    let claim = loop {
        match map.claim_holes(slots, wake) {
            Ok(claim) => break claim,
            Err(Stop::Wait(what)) => host.wait(map, what, None)?,
            Err(Stop::Fail(error)) => return Err(error),
            Err(Stop::Metadata { .. }) => return Err(Error::OutOfMetadata),
        }
    };
    let mut promises: [Option<Promise>; Extents::MAX] = [const { None }; Extents::MAX];
    let wanted = *claim.holes();
    let mut pages = 0u64;
    for ((kept, part), (_, holes)) in promises.iter_mut().zip(buffer.parts()).zip(wanted.iter()) {
        if holes.is_zero() {
            continue;
        }
        match promise_all(host, part, *holes) {
            Ok(promise) => *kept = Some(promise),
            Err(error) => {
                for (promise, part) in promises.into_iter().zip(buffer.parts()) {
                    match promise {
                        Some(promise) => give_back(host, &part.attempt, promise),
                        None => shed(host, &part.attempt),
                    }
                }
                map.abort_promises(claim, wake);
                return Err(error);
            }
        }
        pages = pages.saturating_add(holes.raw());
    }
    // INVARIANT: as many slots become Promised as there are promises; from here on the slots are where they live.
    map.commit_promises(claim, wake);
    Ok(PageCount::new(pages))
}

/// A promise of all of `pages`: at once where there is room, else after asking the system for what is missing.
fn promise_all<H: Host>(
    host: &H,
    part: &crate::buffer::Part,
    pages: PageCount,
) -> Result<Promise, Error> {
    loop {
        let refused = match with_stock(host, &part.attempt, |stock| {
            stock.reserve(part.charge, pages)
        }) {
            Err(Error::NoRoom) => Error::NoRoom,
            outcome => return outcome,
        };
        let missing = with_stock(host, &part.attempt, |stock| {
            stock.shortage(part.charge, pages)
        })?;
        // Nothing is missing where somebody gave pages back in between: try again.
        if !missing.is_zero()
            && host
                .supply(&part.attempt, part.charge.reach.nodes(), missing)?
                .is_zero()
        {
            return Err(refused);
        }
    }
}
