// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Putting pages where there are none.
//!
//! Claim the slot first, take the page second, fill it with nothing held, publish it last. Two that populate the same
//! page: one claims, the other waits, and both end with one page and one charge.

use crate::buffer::{Buffer, Part};
use crate::driver::{give_back, shed, wake, with_stock};
use crate::error::Error;
use crate::frame::{Condition, Frame};
use crate::host::{Blank, Contents, Host};
use crate::ledger::Promise;
use crate::lock::Exclusive;
use crate::page_map::{Claim, Located, Origin, SlotClaim};
use crate::policy::{Attempt, Placement};
use crate::reach::NodeMask;
use crate::request::{Contiguity, Fill};
use crate::step::Stop;
use crate::stock::Returned;
use crate::units::{ByteOffset, ByteRange, PageCount, PageIndex};

/// What goes into a page before anybody sees it.
pub enum Content<'a> {
    /// Zeroes, or what the owner left there where the request says so.
    Zeroes,
    /// What the producer writes. It says how many bytes it wrote from the start of the page; the rest is zeroed. An
    /// error leaves the page out of the buffer.
    Producer(&'a mut dyn FnMut(&Blank) -> Result<u64, Error>),
}

/// How a page came to be present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It was there.
    Already,
    /// It was put there now.
    Now,
}

/// A frame for a slot, what it holds, and how to undo the taking.
pub(super) struct Taken {
    frame: Frame,
    holds: Contents,
    source: Source,
}

impl Taken {
    /// A page had for the slot's promise.
    pub(super) fn promised(frame: Frame, condition: Condition) -> Self {
        Self {
            frame,
            holds: condition.into(),
            source: Source::Promise,
        }
    }
}

/// What a page was had for, which is what its return restores.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// For the slot's promise.
    Promise,
    /// For nothing: the pool had one that no promise needed.
    Pool,
    /// From the system, for this buffer alone.
    System,
    /// From what is set aside for the buffer or its owner, charged already. A promise that the slot has stays until the
    /// page is there.
    Owner,
}

/// Makes sure that the page at `index` is present.
///
/// `holding` is the lowest slot of the same buffer that the caller has claimed itself, if it is inside a producer.
///
/// # Errors
/// [`Error::NoRoom`], [`Error::OutOfPages`], [`Error::AccountLimit`] for a page that was not promised;
/// [`Error::Poisoned`] where no other page can be had for a bad one; [`Error::WouldDeadlock`] for a page that the caller is
/// filling; what the host says of waiting, clearing or producing.
pub fn populate_page<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    index: PageIndex,
    content: &mut Content<'_>,
    holding: Option<PageIndex>,
) -> Result<(Located, Filled), Error> {
    let map = buffer.map();
    let part = buffer.part_of(index).ok_or(Error::RangeBeyondEnd)?;
    let claim = loop {
        match map.claim(index, |what| host.wake(map, what)) {
            Ok(Claim::Granted(claim)) => break claim,
            Ok(Claim::Present(page)) => return Ok((page, Filled::Already)),
            Err(Stop::Wait(what)) => host.wait(map, what, holding)?,
            Err(Stop::Fail(error)) => return Err(error),
            Err(Stop::Metadata { .. }) => return Err(Error::OutOfMetadata),
        }
    };
    let taken = take(host, buffer, part, &claim)
        .and_then(|taken| sound(host, buffer.placement(), part, index, taken));
    let taken = match taken {
        Ok(taken) => taken,
        Err(error) => {
            let (_, owed) = map.abort(claim);
            wake(host, map, owed);
            return Err(error);
        }
    };
    fill(host, buffer, part, claim, taken, content)
}

/// Fills a page that has been found for a claimed slot, and publishes it.
pub(super) fn fill<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    part: &Part,
    claim: SlotClaim,
    Taken {
        frame,
        holds,
        source,
    }: Taken,
    content: &mut Content<'_>,
) -> Result<(Located, Filled), Error> {
    let map = buffer.map();
    let condition = if holds == Contents::Zeroes {
        Condition::Clean
    } else {
        Condition::Dirty
    };
    let offset = map
        .extents()
        .bytes_of(claim.index())
        .map_or(0, |bytes| bytes.start().raw());
    let filled = match map.attach(claim, frame) {
        Ok(filled) => filled,
        Err(refused) => {
            restore(
                host,
                part,
                refused.claim.index(),
                refused.frame,
                source,
                condition,
            );
            let (_, owed) = map.abort(refused.claim);
            wake(host, map, owed);
            return Err(refused.error);
        }
    };
    let blank = Blank {
        pfn: filled.pfn(),
        size: filled.size(),
        offset,
        condition,
    };
    let outcome = host.place(&blank).and_then(|()| match (content, holds) {
        (Content::Producer(produce), _) => {
            produce(&blank).and_then(|written| match blank.size.bytes().checked_sub(written) {
                Some(0) => Ok(()),
                Some(_) if holds == Contents::Zeroes => Ok(()),
                Some(_) => host.clear(&blank, written),
                None => Err(Error::FillFailed),
            })
        }
        (Content::Zeroes, Contents::Anything) => host.clear(&blank, 0),
        (Content::Zeroes, Contents::Zeroes | Contents::OwnData) => Ok(()),
    });
    match outcome {
        Ok(()) => {
            if source != Source::Promise && filled.origin() == Origin::Promised {
                // A page that was set aside is charged already, so nothing is left for the promise to give.
                let unused = Promise::mint(part.charge.reach, part.charge.account, PageCount::ONE);
                give_back(host, &part.attempt, unused);
            }
            let (page, owed) = map.commit(filled);
            wake(host, map, owed);
            Ok((page, Filled::Now))
        }
        Err(error) => {
            // The slot stays claimed until the page is back, so that nobody finds the promise missing.
            let (claim, frame) = map.detach(filled);
            restore(host, part, claim.index(), frame, source, Condition::Dirty);
            let (_, owed) = map.abort(claim);
            wake(host, map, owed);
            Err(error)
        }
    }
}

/// Finds a page for a claimed slot: the owner's own, the promised one, a free one, or one from the system.
fn take<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    part: &Part,
    claim: &SlotClaim,
) -> Result<Taken, Error> {
    let Part { attempt, charge } = part;
    let placement = buffer.placement();
    let prefer = placement.preferred(claim.index());
    let fill = placement.fill;
    let of_pool = |(frame, condition): (Frame, Condition), source| Taken {
        frame,
        holds: condition.into(),
        source,
    };
    let own = host.own(attempt, claim.index());
    let promise = match claim.origin() {
        Origin::Promised => Some(Promise::mint(charge.reach, charge.account, PageCount::ONE)),
        Origin::Hole => None,
    };
    match (own, promise) {
        (Some((frame, holds)), _) => {
            let holds = match (holds, fill) {
                (Contents::OwnData, Fill::Zeroed) => Contents::Anything,
                (holds, _) => holds,
            };
            Ok(Taken {
                frame,
                holds,
                source: Source::Owner,
            })
        }
        (None, Some(promise)) => {
            let stock = host.stock(attempt).ok_or(Error::NoRoom)?;
            stock
                .with(|stock| stock.take(promise, prefer, fill))
                .map(|page| of_pool(page, Source::Promise))
                // INVARIANT: the slot was Promised, so this stock gave the promise; one that came back is a bug that
                // check() names, and the slot still has it.
                .map_err(|_promise| Error::NoRoom)
        }
        (None, None) => {
            let mut refusal = Error::NoRoom;
            if host.stock(attempt).is_some() {
                let free = |stock: &mut crate::stock::Stock<H::Words>| {
                    stock.take_free(*charge, prefer, fill)
                };
                loop {
                    match with_stock(host, attempt, free) {
                        Ok(page) => return Ok(of_pool(page, Source::Pool)),
                        Err(Error::NoRoom) => {}
                        Err(error) => {
                            shed(host, attempt);
                            return Err(error);
                        }
                    }
                    match host.supply(attempt, prefer, PageCount::ONE) {
                        // Somebody else may take it first: look again.
                        Ok(more) if !more.is_zero() => {}
                        Ok(_) => break,
                        Err(Error::Interrupted) => return Err(Error::Interrupted),
                        Err(error) => {
                            refusal = error;
                            break;
                        }
                    }
                }
            }
            match host.page(attempt, prefer) {
                Ok(page) => Ok(of_pool(page, Source::System)),
                // The stock's reason is the better one where there is a stock.
                Err(Error::OutOfPages) if host.stock(attempt).is_some() => Err(refusal),
                Err(error) => Err(error),
            }
        }
    }
}

/// A page with good memory, for the same promise or the same charge, in place of a bad one that the stock gave.
///
/// Where no other is to spare, one that is promised to somebody else serves who has a promise too, and the bad one waits for the
/// last of them. In a run nothing else can serve: the bad page only leaves, so that the next run is another.
///
/// # Errors
/// [`Error::Poisoned`]: what was taken is restored.
pub(super) fn sound<H: Host>(
    host: &H,
    placement: &Placement,
    part: &Part,
    index: PageIndex,
    mut taken: Taken,
) -> Result<Taken, Error> {
    let Part { attempt, charge } = part;
    let (prefer, fill) = (placement.preferred(index), placement.fill);
    let of_run = placement.contiguity != Contiguity::Pages;
    let mut may_swap = taken.source == Source::Promise && !of_run;
    while let (Source::Promise | Source::Pool, Some(stock)) = (taken.source, host.stock(attempt)) {
        if !host.is_poisoned(&taken.frame) {
            break;
        }
        match stock.with(|stock| stock.exchange(&taken.frame, *charge, prefer, fill)) {
            Ok((frame, condition)) => {
                host.free(core::mem::replace(&mut taken.frame, frame), attempt);
                taken.holds = condition.into();
                if !of_run {
                    continue;
                }
            }
            // Somebody else may take what comes first: look again.
            Err(Error::NoRoom) if more(host, attempt, prefer) => continue,
            Err(_) if may_swap => {
                may_swap = false;
                let (frame, condition) = stock.with(|stock| stock.swap(taken.frame, fill));
                (taken.frame, taken.holds) = (frame, condition.into());
                continue;
            }
            Err(_) => {}
        }
        restore(
            host,
            part,
            index,
            taken.frame,
            taken.source,
            Condition::Dirty,
        );
        return Err(Error::Poisoned);
    }
    Ok(taken)
}

/// Whether the system gave the stock a page.
fn more<H: Host>(host: &H, attempt: &Attempt, prefer: NodeMask) -> bool {
    let came = host.supply(attempt, prefer, PageCount::ONE);
    came.is_ok_and(|pages| !pages.is_zero())
}

/// Undoes [`take`]. The slot is still claimed, and goes back to its origin afterwards.
fn restore<H: Host>(
    host: &H,
    part: &Part,
    index: PageIndex,
    frame: Frame,
    source: Source,
    condition: Condition,
) {
    let Part { attempt, charge } = part;
    let put = |frame| match host.stock(attempt) {
        Some(stock) => match stock.with(|stock| stock.put(frame, *charge, condition)) {
            Returned::Kept => None,
            Returned::Leaves(frame) => Some(frame),
        },
        None => Some(frame),
    };
    let left = match (source, host.stock(attempt)) {
        // INVARIANT: the slot goes back to Promised, which is where the promise that comes of this lives.
        (Source::Promise, Some(stock)) => {
            stock.with(|stock| stock.untake(frame, *charge, condition).err())
        }
        (Source::Owner, _) => host.set_aside(frame, attempt, index).err().and_then(put),
        (Source::Promise | Source::Pool, _) => put(frame),
        (Source::System, _) => Some(frame),
    };
    if let Some(frame) = left {
        host.free(frame, attempt);
    }
    if source == Source::Pool {
        // A surplus page may have come for this one, and another have been taken.
        shed(host, attempt);
    }
}

/// Makes sure that every page of `range` is present; says how many were put there now.
///
/// # Errors
/// Those of [`populate_page`]; the pages put there so far stay. Ranges as for [`crate::page_map::PageMap::pages`].
pub fn populate<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    range: ByteRange,
    content: &mut Content<'_>,
) -> Result<PageCount, Error> {
    let mut now = 0u64;
    for index in buffer.map().pages(range)?.iter() {
        if let (_, Filled::Now) = populate_page(host, buffer, index, content, None)? {
            now = now.saturating_add(1);
        }
    }
    Ok(PageCount::new(now))
}

/// The page at `offset`, put there if need be: what a page fault asks for.
///
/// # Errors
/// [`Error::RangeBeyondEnd`] past the end, even where no page could be had; else those of [`populate_page`].
#[doc(alias = "hugetlb_fault")]
pub fn fault<H: Host>(
    host: &H,
    buffer: &Buffer<H::Slots>,
    offset: ByteOffset,
) -> Result<Located, Error> {
    let index = buffer.map().index_at(offset)?;
    let (mut page, _) = populate_page(host, buffer, index, &mut Content::Zeroes, None)?;
    if let Some(bytes) = buffer.map().extents().bytes_of(index) {
        page.offset_in_page = ByteOffset::new(offset.raw().saturating_sub(bytes.start().raw()));
    }
    Ok(page)
}
