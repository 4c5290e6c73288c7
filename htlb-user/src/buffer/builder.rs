// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Choices for a buffer; [`super::make`] makes it.

use std::sync::Arc;

use htlb_core::{
    AddressBits, ByteLen, Contiguity, Fallback, Fill, HugeSize, NodePolicy, PageChoice, Request,
    RequestBuilder,
};

use super::{Buffer, PageMut};
use crate::error::Error;
use crate::owner::Owner;
use crate::pools::Shared;

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
    pub(super) request: RequestBuilder,
    pub(super) size: u64,
    pub(super) capacity: Option<u64>,
    pub(super) page: PageChoice,
    pub(super) contiguity: Contiguity,
    pub(super) layout: Layout,
    pub(super) populate: Populate,
    pub(super) owner: Option<Owner>,
    pub(super) fill: Option<Fill>,
    pub(super) threads: usize,
    pub(super) nodes: NodePolicy,
    pub(super) backing: Backing,
}

/// What a buffer lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    /// The pools of the process.
    Pools,
    /// A file of its own.
    File,
}

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

    /// Only pages that a device with this DMA mask can reach. The kernel module sees to that; of other pages it is checked
    /// against `/proc/self/pagemap`, so it needs `CAP_SYS_ADMIN`, and hugetlb pages, which alone stay where they are.
    pub const fn dma_mask(mut self, bits: AddressBits) -> Self {
        self.request = self.request.dma_mask(bits);
        self
    }

    /// How much is physically contiguous; checked as for [`BufferBuilder::dma_mask`] where it is more than one page.
    ///
    /// The kernel module makes such runs. Without it the system is not asked for contiguous pages: a run of several is luck. It is a
    /// straight buffer, populated now.
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

    /// Memory in a file of its own, or in a buffer of the kernel module, that [`Buffer::share`] passes on.
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
}
