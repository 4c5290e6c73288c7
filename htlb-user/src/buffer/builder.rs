// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Choices for a buffer, and the making of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use htlb_core::driver::{self, Commitment};
use htlb_core::{
    policy, AddressBits, Attempt, ByteLen, Charge, Contiguity, Error as Cause, Fallback, Fill,
    Host, HugeSize, NodePolicy, PageChoice, Placement, Request, RequestBuilder, Rung,
};

use super::fill::Produce;
use super::{Access, Buffer, Keeper, Live, PageMut};
use crate::arena::Slots;
use crate::error::Error;
use crate::host::BufferHost;
use crate::owner::{Key, Owner};
use crate::pools::Shared;
use crate::receipt::{Home, Refusal};

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
///
/// ```
/// use htlb_core::HugeSize;
/// use htlb_user::buffer::Populate;
/// use htlb_user::Pools;
/// let pools = Pools::new()?;
/// // 4 MiB in 2 MiB pages where they can be had, else in what there is, to come when they are needed.
/// let buffer = pools
///     .buffer(4 << 20)
///     .page_size(HugeSize::MIB2)
///     .populate(Populate::Later)
///     .create()?;
/// assert_eq!(buffer.populate(0, 4 << 20)?, 4 << 20);
/// # Ok::<(), htlb_user::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a builder does nothing until create() is called"]
pub struct BufferBuilder {
    pub(super) shared: Arc<Shared>,
    request: RequestBuilder,
    size: u64,
    capacity: Option<u64>,
    page: PageChoice,
    contiguity: Contiguity,
    layout: Layout,
    populate: Populate,
    owner: Option<Owner>,
    fill: Option<Fill>,
    pub(super) threads: usize,
    pub(super) nodes: NodePolicy,
    backing: Backing,
}

/// What a buffer lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backing {
    /// The pools of the process.
    Pools,
    /// A file of its own.
    File,
}

/// What is put into a buffer when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Produced {
    Nothing,
    Content,
}

/// What a buffer is made of, or why not.
pub(super) type Made = Result<(htlb_core::Buffer<Slots>, BufferHost, Home), (Cause, Vec<Refusal>)>;

impl BufferBuilder {
    pub(crate) fn new(shared: Arc<Shared>, size: u64) -> Self {
        Self {
            threads: shared.threads(),
            shared,
            request: Request::builder(ByteLen::new(size)),
            size,
            capacity: None,
            page: PageChoice::Automatic,
            contiguity: Contiguity::Pages,
            layout: Layout::Straight,
            populate: Populate::Now,
            owner: None,
            fill: None,
            nodes: NodePolicy::Default,
            backing: Backing::Pools,
        }
    }

    pub(crate) fn for_request(shared: Arc<Shared>, request: Request) -> Self {
        let mut builder = Request::builder(request.size())
            .page(request.page())
            .mobility(request.mobility())
            .dma_mask(request.dma_mask())
            .nodes(request.nodes())
            .contiguity(request.contiguity())
            .alignment(request.alignment())
            .fallback(request.fallback());
        if let Some(gfp) = request.gfp() {
            builder = builder.gfp(gfp);
        }
        Self {
            request: builder,
            page: request.page(),
            contiguity: request.contiguity(),
            nodes: request.nodes(),
            fill: Some(request.fill()),
            ..Self::new(shared, request.size().raw())
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
    ///
    /// The system is not asked for contiguous pages: a run of several is luck. It is a straight buffer, populated now.
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

    /// The bytes that the buffer may grow to; its size unless said otherwise. A straight or shareable buffer has the
    /// pages for all of them from the start.
    pub const fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Pages may hold what buffers of the same owner left there, instead of zeroes.
    pub fn owner(mut self, owner: &Owner) -> Self {
        self.owner = Some(owner.clone());
        self
    }

    /// What pages hold that no producer fills: zeroes, or with an owner what that left, unless said otherwise.
    pub const fn fill(mut self, fill: Fill) -> Self {
        self.fill = Some(fill);
        self
    }

    /// Threads that populate it; those of the pools unless said otherwise. Zero is one.
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Memory in a file of its own, that [`Buffer::share`] passes on.
    pub const fn shareable(mut self) -> Self {
        self.backing = Backing::File;
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
    /// With another [`Populate`] than [`Populate::Now`] it is not called.
    ///
    /// ```
    /// let pools = htlb_user::Pools::new()?;
    /// let buffer = pools.buffer(10_000).base_pages().create_with(|page| {
    ///     let text = format!("at {}", page.offset());
    ///     page.bytes()[..text.len()].copy_from_slice(text.as_bytes());
    ///     Ok(text.len())
    /// })?;
    /// assert_eq!(&buffer.slice(8192, 8)?[..], b"at 8192\0");
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`BufferBuilder::create`]; what `produce` says.
    pub fn create_with<F>(self, produce: F) -> Result<Buffer, Error>
    where
        F: Fn(&mut PageMut<'_>) -> std::io::Result<usize> + Sync,
    {
        self.make(Some(&produce))
    }

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

    fn make(self, produce: Option<&Produce<'_>>) -> Result<Buffer, Error> {
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
            Backing::Pools => self.make_private(&placement),
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
