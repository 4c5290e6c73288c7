// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Choices for a buffer, and the making of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use htlb_core::driver::{self, Commitment};
use htlb_core::{
    policy, AddressBits, Attempt, ByteLen, Charge, Contiguity, Error as Cause, Fallback, Fill,
    Host, HugeSize, NodePolicy, PageChoice, PageCount, PageIndex, Placement, Request,
    RequestBuilder, Rung,
};

use super::{Access, Buffer, Live, PageMut};
use crate::arena::Binding;
use crate::error::Error;
use crate::host::BufferHost;
use crate::owner::{Key, Owner};
use crate::pools::Shared;
use crate::receipt::Home;

/// Whether the pages of a buffer follow each other in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// They do, so that it is one slice; all pages have one size.
    #[default]
    Straight,
    /// They need not: each rung of the ladder gives what it has, and no page of the pool is left over for its place.
    Scattered,
}

/// When pages come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Populate {
    /// Before the buffer is handed out.
    #[default]
    Now,
    /// They are promised now, and come with [`Buffer::populate`]: such a buffer is [`Layout::Scattered`].
    Later,
    /// Neither: each page is taken when it is populated, if there is one.
    Unpromised,
}

/// Choices for a [`Buffer`].
#[derive(Debug)]
#[must_use = "a builder does nothing until create() is called"]
pub struct BufferBuilder {
    pub(super) shared: Arc<Shared>,
    request: RequestBuilder,
    size: u64,
    pub(super) capacity: u64,
    page: PageChoice,
    contiguity: Contiguity,
    layout: Layout,
    populate: Populate,
    owner: Option<Owner>,
    pub(super) threads: usize,
    nodes: NodePolicy,
    shareable: bool,
}

impl BufferBuilder {
    pub(crate) fn new(shared: Arc<Shared>, size: u64) -> Self {
        Self {
            threads: shared.threads(),
            shared,
            request: Request::builder(ByteLen::new(size)),
            size,
            capacity: size,
            page: PageChoice::Automatic,
            contiguity: Contiguity::Pages,
            layout: Layout::Straight,
            populate: Populate::Now,
            owner: None,
            nodes: NodePolicy::Default,
            shareable: false,
        }
    }

    /// Begin with huge pages of this size.
    pub const fn page_size(mut self, size: HugeSize) -> Self {
        self.request = self.request.page_size(size);
        self.page = if size.order() == 0 {
            PageChoice::Base
        } else {
            PageChoice::Huge(size)
        };
        self
    }

    /// Begin with transparent huge pages.
    pub const fn transparent(mut self) -> Self {
        self.request = self.request.page(PageChoice::Transparent);
        self.page = PageChoice::Transparent;
        self
    }

    /// Base pages.
    pub const fn base_pages(self) -> Self {
        self.page_size(HugeSize::BASE)
    }

    /// The first choice of page size, or an error.
    pub const fn strict(mut self) -> Self {
        self.request = self.request.strict();
        self
    }

    /// What may be tried where the first choice is short; anything unless said otherwise.
    pub const fn fallback(mut self, fallback: Fallback) -> Self {
        self.request = self.request.fallback(fallback);
        self
    }

    /// On which nodes; verified after allocation.
    pub const fn nodes(mut self, nodes: NodePolicy) -> Self {
        self.request = self.request.nodes(nodes);
        self.nodes = nodes;
        self
    }

    /// Only pages that a device with this DMA mask can reach; checked against `/proc/self/pagemap`, so it needs
    /// `CAP_SYS_ADMIN`, and hugetlb pages, which alone stay where they are.
    pub const fn dma_mask(mut self, bits: AddressBits) -> Self {
        self.request = self.request.dma_mask(bits);
        self
    }

    /// How much is physically contiguous; checked as for [`BufferBuilder::dma_mask`] where it is more than one page.
    pub const fn contiguity(mut self, contiguity: Contiguity) -> Self {
        self.request = self.request.contiguity(contiguity);
        self.contiguity = contiguity;
        self
    }

    /// Whether the pages follow each other in memory; they do unless said otherwise.
    pub const fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// When pages come; before the buffer is handed out unless said otherwise.
    pub const fn populate(mut self, populate: Populate) -> Self {
        self.populate = populate;
        self
    }

    /// The bytes that the buffer may grow to.
    pub const fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// Pages may hold what buffers of the same owner left there, instead of zeroes.
    pub fn owner(mut self, owner: &Owner) -> Self {
        self.request = self.request.fill(Fill::DirtyWithinOwner);
        self.owner = Some(owner.clone());
        self
    }

    /// Threads that populate it; those of the pools unless said otherwise.
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Memory in a file of its own, that [`Buffer::share`] passes on.
    pub const fn shareable(mut self) -> Self {
        self.shareable = true;
        self
    }

    /// The buffer, zeroed.
    ///
    /// # Errors
    /// The request cannot be, or no rung of its ladder has the pages: the error says what each rung had.
    pub fn create(self) -> Result<Buffer, Error> {
        self.make(None)
    }

    /// The buffer, filled in place by `produce`, which is called for each page, from several threads, before anybody
    /// can see the page; it says how many bytes it wrote from the start of the page, and the rest is zero.
    ///
    /// # Errors
    /// As [`BufferBuilder::create`]; what `produce` says.
    pub fn create_with<F>(self, produce: F) -> Result<Buffer, Error>
    where
        F: Fn(&mut PageMut<'_>) -> std::io::Result<usize> + Sync,
    {
        self.make(Some(&produce))
    }

    fn make(self, produce: Option<&super::fill::Produce<'_>>) -> Result<Buffer, Error> {
        let asked = || format!("make a buffer of {} bytes", self.size);
        let request = self
            .request
            .build()
            .map_err(|cause| Error::new(asked(), cause))?;
        let straight = self.layout == Layout::Straight && self.populate == Populate::Now;
        let key = Key {
            request,
            capacity: self.capacity,
            layout: self.layout,
        };
        let keep = self
            .owner
            .as_ref()
            .filter(|_| straight && !self.shareable)
            .map(|owner| (owner.clone(), key));
        if let (Some((owner, key)), None) = (&keep, &produce) {
            if let Some((live, place)) = owner.shelf().pop(key) {
                return Ok(Buffer {
                    live: Some(live),
                    place,
                    keep,
                    home: Home::Private,
                    access: Access::InPlace,
                    took: Duration::ZERO,
                    asked: request.size(),
                });
            }
        }
        let began = Instant::now();
        let placement = policy::resolve(&request, self.shared.topology())
            .map_err(|cause| Error::new(asked(), cause))?;
        let binding = if self.nodes.is_strict() {
            Binding::Strict
        } else {
            Binding::Preferred
        };
        let commitment = match self.populate {
            Populate::Unpromised => Commitment::Unpromised,
            Populate::Now | Populate::Later => Commitment::Promised,
        };
        let shared = Arc::clone(&self.shared);
        let inside = shared.enter();
        let made = if self.shareable {
            self.make_shareable(&placement, binding)
        } else {
            let host = BufferHost::new(Arc::clone(&self.shared), None, binding, self.threads);
            let core = if straight {
                self.make_straight(&host, &placement)
            } else {
                driver::plan(&host, &placement, commitment)
                    .and_then(|plan| plan.build(&host, ByteLen::new(self.capacity)))
            };
            match core {
                Ok(core) => Ok((core, host, Home::Private)),
                Err(cause) => Err((cause, host.refusals())),
            }
        };
        let (core, host, home) = made.map_err(|(cause, refusals)| {
            refusals
                .into_iter()
                .fold(Error::new(asked(), cause), |error, refusal| {
                    error.found(refusal.why)
                })
        })?;
        let live = Arc::new(Live { core, host });
        let place = shared.register(&live);
        let mut buffer = Buffer {
            live: Some(live),
            place,
            keep,
            home,
            access: Access::InPlace,
            took: began.elapsed(),
            asked: ByteLen::new(self.size),
        };
        if self.populate == Populate::Now {
            // What fails here gives everything back when the buffer is dropped.
            buffer.populate_all(produce)?;
        }
        if self.contiguity != Contiguity::Pages {
            buffer.check_contiguity(self.contiguity)?;
        }
        drop(inside);
        buffer.took = began.elapsed();
        Ok(buffer)
    }

    /// A buffer whose pages follow each other, from the first rung that has such a run.
    fn make_straight(
        &self,
        host: &BufferHost,
        placement: &Placement,
    ) -> Result<htlb_core::Buffer<crate::arena::Slots>, Cause> {
        let mut refusal = Cause::NoRoom;
        for attempt in placement.attempts() {
            if self.page == PageChoice::Automatic && is_wasteful(attempt, self.size) {
                continue;
            }
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
    ) -> Result<htlb_core::Buffer<crate::arena::Slots>, Cause> {
        let pages = attempt.size.pages_for(ByteLen::new(self.capacity));
        let charge = Charge {
            reach: attempt.reach,
            account: host.account(attempt),
        };
        self.set_aside(host, attempt, charge, pages, placement)?;
        let core = driver::plan(host, &placement.only(attempt), Commitment::Unpromised)
            .and_then(|plan| plan.build(host, ByteLen::new(self.capacity)));
        if core.is_err() {
            host.put_aside_back(attempt, charge);
        }
        core
    }

    /// Finds a run in the pool, or gets one from the system.
    fn set_aside(
        &self,
        host: &BufferHost,
        attempt: &Attempt,
        charge: Charge,
        pages: PageCount,
        placement: &Placement,
    ) -> Result<(), Cause> {
        let mut first = host.take_aside(attempt, charge, pages);
        if first.is_err() && self.shared.empty_shelves() > 0 {
            // What owners kept is free now, dirty for everyone.
            first = host.take_aside(attempt, charge, pages);
        }
        match (first, attempt.rung) {
            (Err(Cause::NoContiguousRun | Cause::NoRoom), Rung::Pool) => Err(Cause::NoRoom),
            (Err(Cause::NoContiguousRun | Cause::NoRoom), _) => {
                if let Err(cause) = host.grow(attempt, placement.preferred(PageIndex::ZERO), pages)
                {
                    host.refuse(attempt, cause, pages);
                    return Err(cause);
                }
                host.take_aside(attempt, charge, pages)
            }
            (outcome, _) => outcome,
        }
    }
}

/// Whether rounding up to this page size wastes more than an eighth of what was asked.
const fn is_wasteful(attempt: &Attempt, size: u64) -> bool {
    let page = attempt.size.bytes();
    let waste = size.div_ceil(page) * page - size;
    waste > size / 8 && attempt.size.order() > HugeSize::MIB2.order()
}
