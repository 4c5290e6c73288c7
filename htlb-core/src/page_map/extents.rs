// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Which page sizes a buffer is made of, and the arithmetic between offsets, slots and ranges.
//!
//! A buffer is at most three extents, none with larger pages than the one before, decided when its pages are promised and
//! immutable from then on. Since the sizes are powers of two and never ascend, every extent begins on a boundary of its
//! own page size.

use core::ops::Range;

use crate::error::Error;
use crate::units::{ByteLen, ByteOffset, ByteRange, HugeSize, PageCount, PageIndex};

/// A part of a buffer in which all pages have one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes before this extent; `u64::MAX` where the extent is not in use.
    start: u64,
    /// Slots before this extent; `u64::MAX` where the extent is not in use.
    first: u64,
    pages: u64,
    /// What to add, wrapping, to an offset in pages of this size to get its slot. The extent begins on a boundary of its
    /// page size, so this spares a lookup the subtraction of the start.
    bias: u64,
    size: HugeSize,
}

impl Extent {
    const UNUSED: Self = Self {
        start: u64::MAX,
        first: u64::MAX,
        pages: 0,
        bias: 0,
        size: HugeSize::BASE,
    };

    /// The size of its pages.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.size
    }

    /// The number of its pages.
    #[must_use]
    pub const fn pages(&self) -> PageCount {
        PageCount::new(self.pages)
    }

    /// The offset of its first byte.
    #[must_use]
    pub const fn start(&self) -> ByteOffset {
        ByteOffset::new(self.start)
    }

    /// The slot of its first page.
    #[must_use]
    pub const fn first(&self) -> PageIndex {
        PageIndex::new(self.first)
    }

    /// The slot of the page that holds `offset`, which lies in this extent.
    #[inline]
    pub(super) const fn slot_of(&self, offset: u64) -> u64 {
        offset
            .wrapping_shr(self.size.shift())
            .wrapping_add(self.bias)
    }

    /// The slots of its first `count` pages, or of all where it has fewer.
    #[must_use]
    pub fn first_pages(&self, count: PageCount) -> SlotRange {
        SlotRange::new(
            self.first,
            self.first.saturating_add(count.raw().min(self.pages)),
        )
    }

    fn slots(&self) -> Range<u64> {
        self.first..self.first.saturating_add(self.pages)
    }

    /// The offset of the page in `slot`, which is one of this extent's.
    pub(super) const fn start_of(&self, slot: u64) -> u64 {
        self.start.wrapping_add(
            slot.wrapping_sub(self.first)
                .wrapping_shl(self.size.shift()),
        )
    }

    /// The slots that this extent and `slots` have in common.
    fn common(&self, slots: &Range<u64>) -> Range<u64> {
        let start = slots.start.max(self.first);
        let end = slots.end.min(self.slots().end);
        start..end.max(start)
    }
}

/// The extents of a buffer, immutable.
///
/// ```
/// use htlb_core::page_map::Extents;
/// use htlb_core::{ByteLen, Error, HugeSize, PageCount};
/// // 1.5 GiB and 4 KiB, in as few pages as possible.
/// let extents = Extents::new(&[
///     (HugeSize::GIB1, PageCount::new(1)),
///     (HugeSize::MIB2, PageCount::new(256)),
///     (HugeSize::BASE, PageCount::new(1)),
/// ])?;
/// assert_eq!(extents.slots(), 258);
/// assert_eq!(extents.capacity(), ByteLen::new((3 << 29) + 4096));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    all: [Extent; Extents::MAX],
    slots: usize,
    capacity: u64,
}

impl Extents {
    /// The most extents that a buffer can have.
    pub const MAX: usize = 3;

    /// Extents of the given page sizes and numbers of pages, one after the other.
    ///
    /// # Errors
    /// [`Error::ExtentsInvalid`] for none, more than three, an empty one, or sizes that ascend;
    /// [`Error::SizeTooLarge`] where the whole exceeds [`ByteLen::MAX`].
    pub fn new(parts: &[(HugeSize, PageCount)]) -> Result<Self, Error> {
        if parts.is_empty() || parts.len() > Self::MAX {
            return Err(Error::ExtentsInvalid);
        }
        let mut extents = Self {
            all: [Extent::UNUSED; Self::MAX],
            slots: 0,
            capacity: 0,
        };
        let mut slots = 0u64;
        let mut larger = None;
        for (extent, &(size, count)) in extents.all.iter_mut().zip(parts) {
            if count.is_zero() || larger.is_some_and(|larger| size > larger) {
                return Err(Error::ExtentsInvalid);
            }
            larger = Some(size);
            *extent = Extent {
                start: extents.capacity,
                first: slots,
                pages: count.raw(),
                bias: slots.wrapping_sub(extents.capacity.wrapping_shr(size.shift())),
                size,
            };
            extents.capacity = extents
                .capacity
                .checked_add(size.len_of(count)?.raw())
                .filter(|&capacity| capacity <= ByteLen::MAX.raw())
                .ok_or(Error::SizeTooLarge)?;
            // A slot stands for at least 4 KiB, so this cannot overflow where the capacity did not.
            slots = slots.saturating_add(count.raw());
        }
        extents.slots = usize::try_from(slots).map_err(|_| Error::SizeTooLarge)?;
        Ok(extents)
    }

    /// The bytes of all pages together.
    #[must_use]
    pub const fn capacity(&self) -> ByteLen {
        ByteLen::new(self.capacity)
    }

    /// The slots that a page map of these extents needs: one for each page.
    #[must_use]
    pub const fn slots(&self) -> usize {
        self.slots
    }

    /// The extents, by ascending offset.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> + '_ {
        self.all.iter().filter(|extent| extent.pages > 0)
    }

    /// The bytes of the page at `index`, or `None` past the last.
    #[must_use]
    pub fn bytes_of(&self, index: PageIndex) -> Option<ByteRange> {
        let size = self.size_of(index)?;
        let start = self.holding_slot(index.raw()).start_of(index.raw());
        ByteRange::at(ByteOffset::new(start), ByteLen::new(size.bytes())).ok()
    }

    /// The page that holds `offset`, wherever the buffer ends now; `None` beyond the capacity.
    #[must_use]
    pub const fn index_of(&self, offset: ByteOffset) -> Option<PageIndex> {
        if offset.raw() < self.capacity {
            Some(PageIndex::new(self.slot_of(offset.raw())))
        } else {
            None
        }
    }

    /// The size of the page at `index`, or `None` past the last.
    #[must_use]
    pub fn size_of(&self, index: PageIndex) -> Option<HugeSize> {
        usize::try_from(index.raw())
            .is_ok_and(|slot| slot < self.slots)
            .then(|| self.holding_slot(index.raw()).size)
    }

    /// Which extent holds the page at `index`, counted from 0, or `None` past the last.
    #[must_use]
    pub fn number_of(&self, index: PageIndex) -> Option<usize> {
        self.iter()
            .position(|extent| extent.slots().contains(&index.raw()))
    }

    /// The bytes of the pages from `first` up to, not including, `end`; `None` for no page.
    #[must_use]
    pub fn bytes_between(&self, first: PageIndex, end: PageIndex) -> Option<ByteRange> {
        let last = PageIndex::new(end.raw().checked_sub(1)?);
        let (first, last) = (self.bytes_of(first)?, self.bytes_of(last)?);
        ByteRange::new(first.start(), last.end()).ok()
    }

    /// The slots of the pages that `range` covers, in a buffer that ends at `end`.
    ///
    /// The range begins and ends on page boundaries, except that it may end where the buffer ends.
    ///
    /// # Errors
    /// [`Error::RangeBeyondEnd`] past `end`, [`Error::BeyondCapacity`] where that lies past the last page,
    /// [`Error::RangeUnaligned`].
    pub fn covering(&self, range: ByteRange, end: ByteLen) -> Result<SlotRange, Error> {
        if range.end().raw() > end.raw() {
            return Err(Error::RangeBeyondEnd);
        }
        if range.end().raw() > self.capacity {
            return Err(Error::BeyondCapacity);
        }
        let (first, last) = (range.start().raw(), range.end().raw().wrapping_sub(1));
        if !self.holding(first).size.divides(first) {
            return Err(Error::RangeUnaligned);
        }
        if range.end().raw() != end.raw() && !self.holding(last).size.divides(range.end().raw()) {
            return Err(Error::RangeUnaligned);
        }
        Ok(SlotRange {
            first: self.slot_of(first),
            end: self.slot_of(last).wrapping_add(1),
        })
    }

    /// The slots that the first `len` bytes need, the last page perhaps only partly used.
    pub(super) fn slots_for(&self, len: u64) -> u64 {
        match len.checked_sub(1) {
            Some(last) => self.slot_of(last).wrapping_add(1),
            None => 0,
        }
    }

    /// The first extent, if it holds `offset`.
    #[inline]
    pub(super) const fn first_holding(&self, offset: u64) -> Option<&Extent> {
        let [first, second, _] = &self.all;
        if offset < second.start {
            Some(first)
        } else {
            None
        }
    }

    /// The extent that holds `offset`, which lies below the capacity: at most two compares.
    #[inline]
    pub(super) const fn holding(&self, offset: u64) -> &Extent {
        let [first, second, third] = &self.all;
        if offset < second.start {
            first
        } else if offset < third.start {
            second
        } else {
            third
        }
    }

    /// The slot of the page that holds `offset`, which lies below the capacity.
    pub(super) const fn slot_of(&self, offset: u64) -> u64 {
        self.holding(offset).slot_of(offset)
    }

    /// The extent that holds the slot, which is one of [`Extents::slots`].
    pub(super) const fn holding_slot(&self, slot: u64) -> &Extent {
        let [first, second, third] = &self.all;
        if slot < second.first {
            first
        } else if slot < third.first {
            second
        } else {
            third
        }
    }

    /// Cuts `slots` at the borders of the extents; empty parts included, so that it zips with [`PerExtent`].
    pub(super) fn split(
        &self,
        slots: Range<u64>,
    ) -> impl Iterator<Item = (HugeSize, Range<u64>)> + '_ {
        self.iter()
            .map(move |extent| (extent.size, extent.common(&slots)))
    }
}

/// A half-open range of pages in one buffer, by slot.
///
/// Made by [`PageMap::pages`](super::PageMap::pages) or [`Extents::covering`], which round to whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    first: u64,
    end: u64,
}

impl SlotRange {
    /// The first page.
    #[must_use]
    pub const fn first(self) -> PageIndex {
        PageIndex::new(self.first)
    }

    /// One past the last page.
    #[must_use]
    pub const fn end(self) -> PageIndex {
        PageIndex::new(self.end)
    }

    /// The number of pages, at least one.
    #[must_use]
    pub const fn count(self) -> PageCount {
        PageCount::new(self.end.saturating_sub(self.first))
    }

    /// Each page, by ascending offset.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = PageIndex> {
        self.slots().map(PageIndex::new)
    }

    pub(super) const fn slots(self) -> Range<u64> {
        self.first..self.end
    }

    pub(super) const fn new(first: u64, end: u64) -> Self {
        Self { first, end }
    }
}

/// One value for each extent of a buffer, since each page size has a ledger of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerExtent<T> {
    all: [Option<(HugeSize, T)>; Extents::MAX],
}

impl<T> PerExtent<T> {
    pub(super) fn new(extents: &Extents, mut value: impl FnMut(&Extent) -> T) -> Self {
        let mut all = [None, None, None];
        for (entry, extent) in all.iter_mut().zip(extents.iter()) {
            *entry = Some((extent.size, value(extent)));
        }
        Self { all }
    }

    /// The page size of each extent and its value, by descending size.
    pub fn iter(&self) -> impl Iterator<Item = (HugeSize, &T)> {
        self.all
            .iter()
            .flatten()
            .map(|(size, value)| (*size, value))
    }

    /// The value of the first extent with pages of `size`.
    pub fn of(&self, size: HugeSize) -> Option<&T> {
        self.iter()
            .find_map(|(own, value)| (own == size).then_some(value))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.iter_mut().flatten().map(|(_, value)| value)
    }
}
