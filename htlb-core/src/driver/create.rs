// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Making a buffer, physically contiguous if that was asked.

use super::fill::{fill, sound, Taken};
use super::punch::give_up;
use super::{plan, shed, wake, with_stock, Commitment, Content};
use crate::buffer::Buffer;
use crate::error::Error;
use crate::frame::Condition;
use crate::host::Host;
use crate::ledger::Promise;
use crate::lock::Exclusive;
use crate::page_map::Claim;
use crate::policy::{Attempt, Placement};
use crate::request::{Contiguity, Fill};
use crate::units::{ByteLen, HugeSize, PageCount, PageIndex};

/// A buffer for the request, that can grow to `capacity` bytes.
///
/// A contiguous one lies on one rung of the ladder, all its pages of one size, and is populated at once with `content`,
/// because a run is taken when it is reserved. Any other is promised, or not, and populated later; `content` is not used.
///
/// # Errors
/// What the last rung said, with nothing kept: those of [`plan()`], [`Error::NoContiguousRun`], and those of `content`.
/// [`Error::Poisoned`] where a page of a run is bad; where another page could stand for it, it has left the pool, and who
/// asks again gets another run.
pub fn create<H: Host>(
    host: &H,
    placement: &Placement,
    commitment: Commitment,
    capacity: ByteLen,
    content: &mut Content<'_>,
) -> Result<Buffer<H::Slots>, Error> {
    let run = match placement.contiguity {
        Contiguity::Pages => return plan(host, placement, commitment)?.build(host, capacity),
        Contiguity::Runs(run) => run,
        Contiguity::Whole => placement.size(),
    };
    let mut refusal = Error::NoContiguousRun;
    for attempt in placement.attempts() {
        let one_rung = placement.only(attempt);
        let mut buffer = match plan(host, &one_rung, Commitment::Promised) {
            Ok(plan) => plan.build(host, capacity)?,
            Err(error @ (Error::AccountLimit | Error::OutOfMetadata | Error::Interrupted)) => {
                return Err(error)
            }
            Err(error) => {
                refusal = error;
                continue;
            }
        };
        match place_runs(host, &buffer, run, content) {
            Ok(()) => {
                // Pages that came one by one for the promise, before a run could be had.
                shed(host, attempt);
                return Ok(buffer);
            }
            Err(error) => {
                // Nobody has seen the buffer, so its owner has nothing in it to keep.
                give_up(host, &mut buffer, Fill::Zeroed)?;
                shed(host, attempt);
                match error {
                    Error::NoContiguousRun
                    | Error::NoRoom
                    | Error::OutOfPages
                    | Error::OutOfReach
                    | Error::OvercommitLimit => refusal = error,
                    // The producer or the host failed: no other rung would help.
                    error => return Err(error),
                }
            }
        }
    }
    Err(refusal)
}

/// Fills a new buffer of one extent with runs.
fn place_runs<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    run: ByteLen,
    content: &mut Content<'_>,
) -> Result<(), Error> {
    let part = *buffer.parts().next().ok_or(Error::SizeZero)?;
    let size = part.attempt.size;
    let mut next = 0u64;
    let mut left = size.pages_for(buffer.placement().size()).raw();
    let most = size.pages_for(run).raw();
    while left > 0 {
        let pages = PageCount::new(left.min(most));
        let (mut frames, condition) = take_run(host, buffer, &part.attempt, pages)?;
        let mut outcome = Ok(());
        for index in (next..).take(usize::try_from(pages.raw()).unwrap_or(usize::MAX)) {
            // INVARIANT: nobody else has the buffer yet, and a run has as many frames as it was asked for.
            let Ok(Claim::Granted(claim)) = buffer
                .map()
                .claim(PageIndex::new(index), |what| host.wake(buffer.map(), what))
            else {
                outcome = Err(Error::NoContiguousRun);
                break;
            };
            let page = frames
                .next()
                .ok_or(Error::NoContiguousRun)
                .and_then(|frame| {
                    let page = Taken::promised(frame, condition);
                    sound(host, buffer.placement(), &part, PageIndex::new(index), page)
                });
            let filled = match page {
                Ok(page) => fill(host, buffer, &part, claim, page, content).map(drop),
                Err(error) => {
                    let (_, owed) = buffer.map().abort(claim);
                    wake(host, buffer.map(), owed);
                    Err(error)
                }
            };
            if filled.is_err() {
                outcome = filled;
                break;
            }
        }
        if let Some(stock) = host.stock(&part.attempt) {
            for frame in frames {
                // INVARIANT: its slot is Promised still, and has its promise again.
                let stray = stock
                    .with(|stock| stock.untake(frame, part.charge, condition))
                    .err();
                if let Some(frame) = stray {
                    host.free(frame, &part.attempt);
                }
            }
        }
        outcome?;
        next = next.saturating_add(pages.raw());
        left = left.saturating_sub(pages.raw());
    }
    Ok(())
}

/// Trades as many promises for a contiguous run.
fn take_run<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    attempt: &Attempt,
    pages: PageCount,
) -> Result<(H::Run, Condition), Error> {
    let part = *buffer.parts().next().ok_or(Error::SizeZero)?;
    let align = buffer.placement().alignment.max(HugeSize::BASE.bytes());
    let mut asked = false;
    loop {
        let outcome = with_stock(host, attempt, |stock| {
            // Under one lock: nobody can take what the promises held before the run is taken, or they are given again.
            stock.release(Promise::mint(part.charge.reach, part.charge.account, pages));
            host.take_run(stock, part.charge, pages, align)
                .inspect_err(|_| {
                    let again = stock.reserve(part.charge, pages);
                    debug_assert!(again.is_ok());
                })
        });
        match outcome {
            Err(Error::NoContiguousRun | Error::NoRoom) if !asked => {
                asked = true;
                host.supply_run(attempt, pages, align)?;
            }
            outcome => return outcome,
        }
    }
}
