// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Down the ladder: which pages a buffer will consist of, promised before it exists.

use crate::buffer::{Buffer, Part};
use crate::driver::{give_back, promise_some};
use crate::error::Error;
use crate::host::Host;
use crate::ledger::Promise;
use crate::page_map::{Extents, PageMap};
use crate::policy::{Attempt, Placement, Rung};
use crate::request::{Contiguity, PageChoice};
use crate::stock::Charge;
use crate::units::{ByteLen, HugeSize, PageCount, PageIndex};

/// Whether pages are promised when a buffer is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Commitment {
    /// All of them: no later access can fail for want of a page.
    #[default]
    Promised,
    /// None: each page is taken when it is populated, if no promise needs it.
    #[doc(alias = "MAP_NORESERVE")]
    Unpromised,
}

/// One extent of a buffer to be.
#[derive(Debug)]
pub struct PlannedPart {
    part: Part,
    pages: PageCount,
    supplied: PageCount,
    promise: Option<Promise>,
}

impl PlannedPart {
    /// Where its pages come from.
    #[must_use]
    pub const fn part(&self) -> &Part {
        &self.part
    }

    /// How many pages it has.
    #[must_use]
    pub const fn pages(&self) -> PageCount {
        self.pages
    }

    /// Of these, how many were got from the system just now.
    #[must_use]
    pub const fn supplied(&self) -> PageCount {
        self.supplied
    }

    /// Of these, how many are promised.
    #[must_use]
    pub fn promised(&self) -> PageCount {
        self.promise
            .as_ref()
            .map_or(PageCount::ZERO, Promise::pages)
    }
}

/// What a buffer will be made of. Holds the promises: build the buffer, or cancel.
#[derive(Debug)]
#[must_use = "a dropped plan leaks its promises: build() or cancel() it"]
pub struct Plan {
    parts: [Option<PlannedPart>; Extents::MAX],
    placement: Placement,
    covered: u64,
}

/// Covers the request from the top rung of its ladder down. All of it, or an error and nothing.
///
/// Each rung gives as many pages as it can; what it lacks, the next one gives. The last page may be larger than what
/// is left of the request.
///
/// # Errors
/// What the last rung said: [`Error::NoRoom`], [`Error::OutOfPages`], [`Error::AccountLimit`], [`Error::OutOfMetadata`],
/// [`Error::AlignmentUnreachable`] where only smaller pages are left than the alignment asks for.
pub fn plan<H: Host>(
    host: &H,
    placement: &Placement,
    commitment: Commitment,
) -> Result<Plan, Error> {
    let mut plan = Plan {
        parts: [const { None }; Extents::MAX],
        placement: *placement,
        covered: 0,
    };
    let mut refusal = Error::NoRoom;
    for attempt in placement.attempts() {
        let want = plan.wanted(attempt);
        if want.is_zero() {
            continue;
        }
        if placement.contiguity == Contiguity::Pages && placement.alignment > attempt.size.bytes() {
            // A page lies on a multiple of its size, and no more can be asked of it.
            refusal = Error::AlignmentUnreachable;
            continue;
        }
        match plan.cover(host, attempt, want, commitment) {
            Ok(()) if plan.rest().is_zero() => return Ok(plan),
            Ok(()) => {}
            // Another rung cannot help an account at its limit, a host without memory, or a caller that is told to go.
            Err(error @ (Error::AccountLimit | Error::OutOfMetadata | Error::Interrupted)) => {
                plan.cancel(host);
                return Err(error);
            }
            Err(error) => refusal = error,
        }
    }
    plan.cancel(host);
    Err(refusal)
}

impl Plan {
    /// The extents, largest pages first.
    pub fn parts(&self) -> impl Iterator<Item = &PlannedPart> {
        self.parts.iter().flatten()
    }

    /// Gives every promise back.
    pub fn cancel<H: Host>(mut self, host: &H) {
        self.give_up(host);
    }

    fn give_up<H: Host>(&mut self, host: &H) {
        for part in self.parts.iter_mut().flatten() {
            if let Some(promise) = part.promise.take() {
                give_back(host, &part.part.attempt, promise);
            }
        }
    }

    /// The buffer, its promised pages marked as such. It can grow to `capacity` bytes at most; what lies beyond the
    /// request is not promised.
    ///
    /// # Errors
    /// [`Error::OutOfMetadata`], or [`Error::BeyondCapacity`] for a capacity below the request. The promises are given back.
    pub fn build<H: Host>(
        mut self,
        host: &H,
        capacity: ByteLen,
    ) -> Result<Buffer<H::Slots>, Error> {
        let map = match self.map(host, capacity) {
            Ok(map) => map,
            Err(error) => {
                self.cancel(host);
                return Err(error);
            }
        };
        let mut parts = [None; Extents::MAX];
        for ((part, planned), extent) in parts
            .iter_mut()
            .zip(self.parts.iter_mut())
            .zip(map.extents().iter())
        {
            let Some(planned) = planned else { break };
            *part = Some(planned.part);
            // INVARIANT: nobody else has the map yet, so every slot is a hole and takes its promise.
            if let Ok(claim) = map.claim_holes(extent.first_pages(planned.promised()), |_| ()) {
                map.commit_promises(claim, |_| ());
                planned.promise = None;
            }
        }
        self.give_up(host);
        Ok(Buffer::new(map, parts, self.placement))
    }

    /// Slots for the planned pages, and for what lies between them and `capacity` in pages of the last size.
    fn map<H: Host>(&self, host: &H, capacity: ByteLen) -> Result<PageMap<H::Slots>, Error> {
        if capacity < self.placement.size() {
            return Err(Error::BeyondCapacity);
        }
        let spare = ByteLen::new(capacity.raw().saturating_sub(self.covered));
        let mut extents = [(HugeSize::BASE, PageCount::ZERO); Extents::MAX];
        let mut used = 0usize;
        for (extent, planned) in extents.iter_mut().zip(self.parts()) {
            *extent = (planned.part.attempt.size, planned.pages);
            used = used.saturating_add(1);
        }
        let extents = extents.get_mut(..used).ok_or(Error::ExtentsInvalid)?;
        if let Some((size, pages)) = extents.last_mut() {
            *pages = sum(*pages, size.pages_for(spare));
        }
        let extents = Extents::new(extents)?;
        PageMap::new(host.slots(extents.slots())?, extents, self.placement.size())
    }

    /// The bytes that no part covers yet.
    const fn rest(&self) -> ByteLen {
        ByteLen::new(self.placement.size().raw().saturating_sub(self.covered))
    }

    /// How many pages this rung is to give, if it can.
    fn wanted(&self, attempt: &Attempt) -> PageCount {
        let smaller_huge = self
            .placement
            .attempts()
            .any(|lower| lower.size < attempt.size && lower.size != HugeSize::BASE);
        if smaller_huge && self.placement.page() != PageChoice::Huge(attempt.size) {
            // What is left over fits smaller huge pages better.
            attempt.size.whole_pages_in(self.rest())
        } else {
            attempt.size.pages_for(self.rest())
        }
    }

    /// Whether pages of this size may come from the system too.
    fn has_system_rung(&self, size: HugeSize) -> bool {
        self.placement
            .attempts()
            .any(|other| other.rung == Rung::System && other.size == size)
    }

    fn cover<H: Host>(
        &mut self,
        host: &H,
        attempt: &Attempt,
        want: PageCount,
        commitment: Commitment,
    ) -> Result<(), Error> {
        let charge = Charge {
            reach: attempt.reach,
            account: host.account(attempt),
        };
        if host.stock(attempt).is_none() || commitment == Commitment::Unpromised {
            // Nothing to promise: page by page, as they are populated.
            return match attempt.rung {
                Rung::Pool if self.has_system_rung(attempt.size) => Err(Error::NoRoom),
                _ => self.record(host, attempt, charge, want, PageCount::ZERO, None),
            };
        }
        let mut promise = Promise::mint(charge.reach, charge.account, PageCount::ZERO);
        let mut supplied = 0u64;
        let outcome = loop {
            let open = PageCount::new(want.raw().saturating_sub(promise.pages().raw()));
            match promise_some(host, attempt, charge, open) {
                Ok(more) => promise = join(host, attempt, promise, more),
                Err(error) => break Err(error),
            }
            let missing = PageCount::new(want.raw().saturating_sub(promise.pages().raw()));
            if missing.is_zero() || attempt.rung == Rung::Pool {
                break Ok(());
            }
            match host.supply(attempt, self.placement.preferred(PageIndex::ZERO), missing) {
                Ok(more) if !more.is_zero() => supplied = supplied.saturating_add(more.raw()),
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let pages = promise.pages();
        match outcome {
            // A rung that gave something has done its part, whatever stopped it.
            Ok(())
            | Err(Error::NoRoom | Error::OutOfPages | Error::OutOfReach | Error::OvercommitLimit)
                if !pages.is_zero() =>
            {
                self.record(
                    host,
                    attempt,
                    charge,
                    pages,
                    PageCount::new(supplied.min(pages.raw())),
                    Some(promise),
                )
            }
            outcome => {
                give_back(host, attempt, promise);
                outcome.and(Err(Error::NoRoom))
            }
        }
    }

    /// Adds `pages` pages to the extent of the same pages, or makes it.
    fn record<H: Host>(
        &mut self,
        host: &H,
        attempt: &Attempt,
        charge: Charge,
        pages: PageCount,
        supplied: PageCount,
        promise: Option<Promise>,
    ) -> Result<(), Error> {
        let bytes = attempt.size.len_of(pages)?;
        let same = |part: &PlannedPart| {
            part.part.attempt.size == attempt.size
                && (part.part.attempt.rung == Rung::Transparent)
                    == (attempt.rung == Rung::Transparent)
        };
        // Too many extents for a map, which no ladder of a real machine makes: the rung is passed over.
        let place = self
            .parts
            .iter_mut()
            .find(|place| place.as_ref().is_none_or(same))
            .ok_or(Error::ExtentsInvalid);
        let planned = match place {
            Ok(place) => place.get_or_insert(PlannedPart {
                part: Part {
                    attempt: *attempt,
                    charge,
                },
                pages: PageCount::ZERO,
                supplied: PageCount::ZERO,
                promise: None,
            }),
            Err(error) => {
                if let Some(promise) = promise {
                    give_back(host, attempt, promise);
                }
                return Err(error);
            }
        };
        // The last rung of a size stands for the extent: it can ask the system where the pool alone could not.
        planned.part = Part {
            attempt: *attempt,
            charge,
        };
        planned.pages = sum(planned.pages, pages);
        planned.supplied = sum(planned.supplied, supplied);
        planned.promise = match (planned.promise.take(), promise) {
            (Some(old), Some(new)) => Some(join(host, attempt, old, new)),
            (old, new) => old.or(new),
        };
        self.covered = self.covered.saturating_add(bytes.raw());
        Ok(())
    }
}

fn sum(a: PageCount, b: PageCount) -> PageCount {
    PageCount::new(a.raw().saturating_add(b.raw()))
}

/// One promise of two. Those of one attempt always fit; if they did not, the second would go back.
fn join<H: Host>(host: &H, attempt: &Attempt, first: Promise, second: Promise) -> Promise {
    match first.merge(second) {
        Ok(both) => both,
        Err((first, second)) => {
            give_back(host, attempt, second);
            first
        }
    }
}
