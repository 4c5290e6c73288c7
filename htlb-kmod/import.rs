// SPDX-License-Identifier: GPL-2.0-only
//! Buffers over pages that user space donates: a device's file and a hugetlb file share them.
//!
//! The pages come from hugetlb and go back there. They enter no stock, and count for no account of ours: the donor's hugetlb
//! reservation and `hugetlb` cgroup have paid for them, and bound how many can be pinned. A buffer holds them from its
//! first byte to its end, whatever becomes of the file: the donor may shrink it, punch holes into it, or close it, and loses sight of the
//! pages by that, not we. What the donor cannot do meanwhile is forbid writing (`F_SEAL_WRITE` is `EBUSY`).
//!
//! PUNCH, and TRUNCATE to less, are `EPERM`, as for a sealed buffer: there is no page here that could be given back but
//! to the donor, who never lost it.

use core::sync::atomic::{AtomicU64, Ordering};

use htlb_core::driver::{Commitment, Content};
use htlb_core::uapi::Import;
use htlb_core::{
    ByteLen, Error as Reason, Fill, Frame, Gfp, HugeSize, Mobility, NodeId, NodeMask, PageCount, PageIndex, Pfn, Request,
};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::accounts::Payer;
use crate::backing::Backing;
use crate::buffer::{DmaBuffer, Populate};
use crate::error::errno;
use crate::ffi::file::BufferFile;
use crate::ffi::import::{HugeFile, Pins};
use crate::ffi::page::Page;
use crate::ffi::system;
use crate::machine::{Machine, SIZES};

/// How many donated pages there are on each node, for each of [`SIZES`]. A page that two imports share counts twice.
pub(crate) struct Donated([[AtomicU64; NodeId::COUNT]; SIZES.len()]);

/// The pages of one import.
pub(crate) struct Donation {
    machine: Arc<Machine>,
    pins: Pins,
    counted: usize,
}

impl Donated {
    /// None.
    pub(crate) const fn new() -> Self {
        Self([const { [const { AtomicU64::new(0) }; NodeId::COUNT] }; SIZES.len()])
    }

    fn of(&self, size: HugeSize, node: NodeId) -> Option<&AtomicU64> {
        let place = SIZES.iter().position(|known| *known == size)?;
        self.0.get(place)?.get(usize::from(node.raw()))
    }

    /// How many there are on these nodes.
    pub(crate) fn pages(&self, size: HugeSize, nodes: NodeMask) -> PageCount {
        let counts = nodes.iter().filter_map(|node| self.of(size, node));
        PageCount::new(counts.fold(0, |sum, count| sum.saturating_add(count.load(Ordering::Relaxed))))
    }
}

impl Donation {
    fn new(machine: Arc<Machine>, pins: Pins) -> Self {
        let mut this = Self { machine, pins, counted: 0 };
        for index in 0..this.pins.len() {
            if let Some(count) = this.count_of(index) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        this.counted = this.pins.len();
        this
    }

    fn count_of(&self, index: usize) -> Option<&AtomicU64> {
        let size = self.pins.page_size();
        let index = PageIndex::new(index as u64);
        let page = self.pins.page(index, self.pins.pfn(index)?, size)?;
        self.machine.donated().of(size, page.node())
    }

    /// The page at an index, to be put into its slot.
    pub(crate) fn frame(&self, index: PageIndex) -> Option<Frame> {
        Frame::new(self.pins.pfn(index)?, self.pins.page_size()).ok()
    }

    /// The page that begins at this byte of the buffer, if it is the one that was donated there.
    pub(crate) fn page(&self, offset: u64, pfn: Pfn, size: HugeSize) -> Option<Page> {
        self.pins.page(PageIndex::new(offset >> self.pins.page_size().shift()), pfn, size)
    }
}

impl Drop for Donation {
    fn drop(&mut self) {
        for index in 0..self.counted {
            if let Some(count) = self.count_of(index) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// A buffer over the pages that a record names.
pub(crate) fn import(payer: &Arc<Payer>, record: &Import) -> Result<BufferFile> {
    let file = HugeFile::of_fd(record.memfd)?;
    let size = file.page_size();
    if payer.machine().stock(size).is_none() {
        return Err(errno(Reason::PageSizeUnsupported));
    }
    if record.len == 0 {
        return Err(errno(Reason::SizeZero));
    }
    if (record.offset | record.len) & (size.bytes() - 1) != 0 {
        return Err(errno(Reason::RangeUnaligned));
    }
    record.offset.checked_add(record.len).ok_or_else(|| errno(Reason::RangeOverflow))?;
    // No file has more, and a table for it would be as large as somebody else likes.
    if record.len > system::total_memory() {
        return Err(errno(Reason::RangeBeyondEnd));
    }
    let pages = usize::try_from(record.len >> size.shift())?;
    let donation = Donation::new(payer.machine().clone(), file.pin(record.offset, pages)?);
    // What is charged to somebody else never touches a stock.
    let request = Request::builder(ByteLen::new(record.len))
        .page_size(size)
        .strict()
        .gfp(Gfp::huge_default(Mobility::Pinned) | Gfp::ACCOUNT)
        .fill(Fill::DirtyWithinOwner)
        .build()
        .map_err(errno)?;
    DmaBuffer::over(
        Backing::of_donation(payer.clone(), donation),
        &request,
        Commitment::Unpromised,
        ByteLen::new(record.len),
        Populate::Now,
        &mut Content::Zeroes,
    )
}
