// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The making of a buffer, by the choices of its builder.

use std::sync::Arc;
use std::time::{Duration, Instant};

use htlb_core::driver::{self, Commitment};
use htlb_core::{
    policy, Attempt, ByteLen, Charge, Contiguity, Error as Cause, Fill, Host, HugeSize, PageChoice,
    Placement, Request, Rung,
};

use super::builder::Backing;
use super::fill::Produce;
use super::{Access, Buffer, BufferBuilder, Keeper, Layout, Live, Populate};
use crate::arena::Slots;
use crate::error::Error;
use crate::host::BufferHost;
use crate::owner::Key;
use crate::receipt::{Home, Refusal};

/// What is put into a buffer when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Produced {
    Nothing,
    Content,
}

/// What a buffer is made of, or why not.
pub(super) type Made = Result<(htlb_core::Buffer<Slots>, BufferHost, Home), (Cause, Vec<Refusal>)>;

impl BufferBuilder {
    /// The bytes that it may grow to.
    pub(super) fn room(&self) -> ByteLen {
        ByteLen::new(self.capacity.unwrap_or(self.size))
    }

    /// When pages come: a contiguous run is taken when it is asked for.
    fn when(&self) -> Populate {
        match self.contiguity {
            Contiguity::Pages => self.populate,
            Contiguity::Runs(_) | Contiguity::Whole => Populate::Now,
        }
    }

    fn refusal(&self, cause: Cause) -> Error {
        Error::new(format!("make a buffer of {} bytes", self.size), cause)
    }

    pub(super) fn make(self, produce: Option<&Produce<'_>>) -> Result<Buffer, Error> {
        let request = self.request()?;
        let produced = match produce {
            Some(_) => Produced::Content,
            None => Produced::Nothing,
        };
        let keeper = self.keeper(request, produced);
        let keeper = match self.kept(keeper) {
            Ok(buffer) => return Ok(buffer),
            Err(keeper) => keeper,
        };
        let began = Instant::now();
        let shared = Arc::clone(&self.shared);
        let _inside = shared
            .enter()
            .map_err(|cause| self.refusal(cause).forked())?;
        let placement = self.placement(&request)?;
        let made = match self.backing {
            Backing::File => self.make_shareable(&placement),
            Backing::Pools => match self.contiguity {
                Contiguity::Pages => self.make_private(&placement),
                Contiguity::Runs(_) | Contiguity::Whole => self
                    .make_runs(&placement)
                    .unwrap_or_else(|| self.make_private(&placement)),
            },
        };
        let (core, host, home) = made.map_err(|(cause, refusals)| {
            let error = self.refusal(cause);
            refusals
                .into_iter()
                .fold(error, |error, refusal| error.found(refusal.why))
        })?;
        let mut buffer = Buffer::register(Live { core, host }, home, Access::InPlace, self.size);
        buffer.keeper = keeper;
        if self.when() == Populate::Now {
            // What fails here gives everything back when the buffer is dropped.
            buffer.populate_all(produce)?;
            buffer.check_contiguity(self.contiguity)?;
        }
        buffer.took = began.elapsed();
        Ok(buffer)
    }

    /// Who will have the memory, and whether whole.
    fn keeper(&self, request: Request, produce: Produced) -> Option<Keeper> {
        let owner = self.owner.as_ref()?.tenancy();
        let whole = request.fill() == Fill::DirtyWithinOwner
            && produce == Produced::Nothing
            && (self.when(), self.layout) == (Populate::Now, Layout::Straight)
            && self.backing == Backing::Pools
            && self.shared.keeps_pages()
            && owner.shelf().is_of(&self.shared);
        Some(Keeper {
            owner: Arc::clone(owner),
            key: whole.then_some(Key {
                request,
                room: self.room(),
                threads: self.threads,
            }),
        })
    }

    /// A buffer of the same choices that the owner has kept.
    ///
    /// # Errors
    /// Who will keep the new one, where there is none.
    fn kept(&self, keeper: Option<Keeper>) -> Result<Buffer, Option<Keeper>> {
        let found = keeper
            .as_ref()
            .filter(|_| self.shared.is_mine())
            .and_then(|Keeper { owner, key }| owner.shelf().pop_whole(key.as_ref()?));
        match found {
            Some((live, place)) => Ok(Buffer {
                live,
                place,
                keeper,
                home: Home::Private,
                access: Access::InPlace,
                took: Duration::ZERO,
                asked: ByteLen::new(self.size),
            }),
            None => Err(keeper),
        }
    }

    /// The choices, checked.
    fn request(&self) -> Result<Request, Error> {
        let fill = self.fill.unwrap_or(match self.owner {
            Some(_) => Fill::DirtyWithinOwner,
            None => Fill::Zeroed,
        });
        let request = self.request.fill(fill).build();
        let request = request.map_err(|cause| self.refusal(cause))?;
        if self.room() < request.size() {
            return Err(self.refusal(Cause::BeyondCapacity));
        }
        Ok(request)
    }

    /// The ladder for this machine.
    fn placement(&self, request: &Request) -> Result<Placement, Error> {
        policy::resolve(request, self.shared.topology()).map_err(|cause| {
            let error = self.refusal(cause);
            match (cause, self.page) {
                (Cause::PageSizeUnsupported, PageChoice::Transparent) => error
                    .found("transparent huge pages are off, for the machine or for this process")
                    .advise("as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"),
                _ => error,
            }
        })
    }

    fn make_private(&self, placement: &Placement) -> Made {
        let shelf = self.owner.as_ref().map(|owner| owner.tenancy().shelf());
        let shared = Arc::clone(&self.shared);
        let host = BufferHost::new(shared, None, shelf, self.nodes, self.threads);
        let core = match (self.when(), self.layout) {
            (Populate::Now, Layout::Straight) => self.make_straight(&host, placement),
            (Populate::Now | Populate::Later, _) => {
                driver::plan(&host, placement, Commitment::Promised)
                    .and_then(|plan| plan.build(&host, self.room()))
            }
            (Populate::Unpromised, _) => self.make_holes(&host, placement),
        };
        match core {
            Ok(core) => Ok((core, host, Home::Private)),
            Err(cause) => Err((cause, host.refusals())),
        }
    }

    /// The rungs that waste little of what they give.
    pub(super) fn rungs<'p>(&self, placement: &'p Placement) -> impl Iterator<Item = &'p Attempt> {
        let (automatic, size) = (self.page == PageChoice::Automatic, self.size);
        placement
            .attempts()
            .filter(move |attempt| !(automatic && is_wasteful(attempt, size)))
    }

    /// A buffer whose pages follow each other, from the first rung that has such a run.
    fn make_straight(
        &self,
        host: &BufferHost,
        placement: &Placement,
    ) -> Result<htlb_core::Buffer<Slots>, Cause> {
        let mut refusal = Cause::NoRoom;
        for attempt in self.rungs(placement) {
            match self.one_rung(host, placement, attempt) {
                Ok(core) => return Ok(core),
                Err(cause) => refusal = cause,
            }
        }
        Err(refusal)
    }

    fn one_rung(
        &self,
        host: &BufferHost,
        placement: &Placement,
        attempt: &Attempt,
    ) -> Result<htlb_core::Buffer<Slots>, Cause> {
        let charge = Charge {
            reach: attempt.reach,
            account: host.account(attempt),
        };
        host.set_run_aside(attempt, charge, attempt.size.pages_for(self.room()))?;
        let core = driver::plan(host, &placement.only(attempt), Commitment::Unpromised)
            .and_then(|plan| plan.build(host, self.room()));
        if core.is_err() {
            host.put_aside_back(attempt, charge);
        }
        core
    }

    /// A buffer of holes, of the first page size that could be had for all of it now: nothing is taken, but no size is
    /// chosen that there is none of.
    fn make_holes(
        &self,
        host: &BufferHost,
        placement: &Placement,
    ) -> Result<htlb_core::Buffer<Slots>, Cause> {
        let pages = |attempt: &Attempt| attempt.size.pages_for(ByteLen::new(self.size));
        let rungs = || {
            // The system's rung of a size stands for the pool's too.
            let last_of_size = |attempt: &&Attempt| {
                attempt.rung != Rung::Pool
                    || !placement
                        .attempts()
                        .any(|other| other.rung == Rung::System && other.size == attempt.size)
            };
            self.rungs(placement).filter(last_of_size)
        };
        let attempt = rungs()
            .find(|attempt| host.could_give(attempt, pages(attempt)))
            .or_else(|| rungs().last())
            .ok_or(Cause::PageSizeUnsupported)?;
        driver::plan(host, &placement.only(attempt), Commitment::Unpromised)
            .and_then(|plan| plan.build(host, self.room()))
    }
}

/// Whether rounding up to this page size wastes more than an eighth of what was asked.
const fn is_wasteful(attempt: &Attempt, size: u64) -> bool {
    let page = attempt.size.bytes();
    let waste = size
        .div_ceil(page)
        .saturating_mul(page)
        .saturating_sub(size);
    waste > size / 8 && attempt.size.order() > HugeSize::MIB2.order()
}
