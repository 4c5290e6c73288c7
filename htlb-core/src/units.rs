// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Numbers with their units.
//!
//! A byte offset, a page index, a page count and a frame number are all `u64` to the machine; mixing two of
//! them up is how page-index bugs are made. Here each is a type. Arithmetic between units is a named
//! function that checks; there are no operators, since an overflow in the kernel is a panic.

use core::fmt;

use crate::error::Error;

/// `log2` of the base page: 4 KiB, the unit of [`Pfn`].
pub const BASE_SHIFT: u32 = 12;

/// The largest page order this crate handles: 16 GiB (`powerpc` and `arm64` have it).
pub const MAX_ORDER: u8 = 22;

macro_rules! unit {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u64);

        impl $name {
            /// Zero.
            pub const ZERO: Self = Self(0);

            /// Wraps a raw number of this unit.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The raw number.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// Whether this is zero.
            #[must_use]
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }

            /// The sum, or `None` on overflow.
            #[must_use]
            pub const fn checked_add(self, other: u64) -> Option<Self> {
                match self.0.checked_add(other) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The difference, or `None` below zero.
            #[must_use]
            pub const fn checked_sub(self, other: u64) -> Option<Self> {
                match self.0.checked_sub(other) {
                    Some(rest) => Some(Self(rest)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

unit! {
    /// A page frame number: a physical address divided by 4096.
    ///
    /// The back end says what "physical" means: the kernel's frame number, or, in user space, the place of
    /// the page in the pool's window. Forty bits, 4 PiB of memory, fit a page-map slot; see [`Pfn::MAX`].
    Pfn
}

unit! {
    /// The place of a page in a buffer or an extent, counted in pages of that extent's size.
    PageIndex
}

unit! {
    /// A number of pages, all of one size that the context names.
    PageCount
}

unit! {
    /// An offset into a buffer, in bytes.
    ByteOffset
}

unit! {
    /// A length in bytes.
    ByteLen
}

impl Pfn {
    /// The largest frame number that fits a page-map slot: 40 bits, 4 PiB of memory.
    pub const MAX: Self = Self((1 << 40) - 1);
}

impl PageCount {
    /// One page.
    pub const ONE: Self = Self(1);
}

impl ByteLen {
    /// The largest length: what a pointer offset can span.
    // CAST: isize::MAX is positive and fits u64 on every target.
    pub const MAX: Self = Self(isize::MAX as u64);
}

/// A page size: a power of two of base pages, from 4 KiB to 16 GiB.
///
/// A run-time value, not a type parameter: which sizes exist is known when the machine has booted.
///
/// ```
/// use htlb_core::{HugeSize, Error};
/// assert_eq!(HugeSize::MIB2.bytes(), 2 << 20);
/// assert_eq!(HugeSize::from_bytes(1 << 30), Ok(HugeSize::GIB1));
/// assert_eq!(HugeSize::from_bytes(3 << 20), Err(Error::PageSizeInvalid));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias = "hstate")]
pub struct HugeSize {
    order: u8,
}

impl HugeSize {
    /// The base page, 4 KiB: the last rung of every ladder.
    pub const BASE: Self = Self { order: 0 };
    /// 2 MiB, one page-middle-directory entry on x86-64.
    #[doc(alias = "PMD_SIZE")]
    pub const MIB2: Self = Self { order: 9 };
    /// 1 GiB, one page-upper-directory entry on x86-64.
    #[doc(alias = "PUD_SIZE")]
    pub const GIB1: Self = Self { order: 18 };

    /// The size of 2^`order` base pages.
    ///
    /// # Errors
    /// [`Error::PageSizeInvalid`] above [`MAX_ORDER`].
    pub const fn from_order(order: u8) -> Result<Self, Error> {
        if order <= MAX_ORDER {
            Ok(Self { order })
        } else {
            Err(Error::PageSizeInvalid)
        }
    }

    /// The size of exactly `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::PageSizeInvalid`] unless `bytes` is a power of two between 4 KiB and 16 GiB.
    pub const fn from_bytes(bytes: u64) -> Result<Self, Error> {
        if !bytes.is_power_of_two() {
            return Err(Error::PageSizeInvalid);
        }
        match bytes.trailing_zeros().checked_sub(BASE_SHIFT) {
            // CAST: trailing_zeros of a u64 is at most 64.
            #[allow(clippy::cast_possible_truncation)]
            Some(order) => Self::from_order(order as u8),
            None => Err(Error::PageSizeInvalid),
        }
    }

    /// The order: `log2` of the number of base pages.
    #[must_use]
    pub const fn order(self) -> u8 {
        self.order
    }

    /// `log2` of the size in bytes.
    #[must_use]
    pub const fn shift(self) -> u32 {
        // An order is at most MAX_ORDER, so this cannot wrap.
        BASE_SHIFT.wrapping_add(self.order as u32)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift()
    }

    /// The size in base pages, the unit of [`Pfn`].
    #[must_use]
    pub const fn base_pages(self) -> u64 {
        1 << self.order
    }

    /// The pages that `len` bytes need, the last one perhaps only partly used.
    #[must_use]
    pub const fn pages_for(self, len: ByteLen) -> PageCount {
        PageCount(len.0.div_ceil(self.bytes()))
    }

    /// The whole pages that fit into `len` bytes.
    #[must_use]
    pub const fn whole_pages_in(self, len: ByteLen) -> PageCount {
        PageCount(len.0 >> self.shift())
    }

    /// `count` pages in bytes.
    ///
    /// # Errors
    /// [`Error::SizeTooLarge`] beyond [`ByteLen::MAX`].
    pub const fn len_of(self, count: PageCount) -> Result<ByteLen, Error> {
        match count.0.checked_mul(self.bytes()) {
            Some(len) if len <= ByteLen::MAX.0 => Ok(ByteLen(len)),
            _ => Err(Error::SizeTooLarge),
        }
    }

    /// Whether a byte count or offset is a multiple of this size.
    #[must_use]
    pub const fn divides(self, bytes: u64) -> bool {
        bytes.trailing_zeros() >= self.shift() || bytes == 0
    }
}

impl fmt::Display for HugeSize {
    /// `4KiB`, `2MiB`, `1GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.shift() {
            shift @ 30.. => (self.bytes() >> 30, if shift < 40 { "GiB" } else { "?" }),
            20..=29 => (self.bytes() >> 20, "MiB"),
            _ => (self.bytes() >> 10, "KiB"),
        };
        write!(f, "{value}{unit}")
    }
}

impl fmt::Debug for HugeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A half-open range of bytes that cannot wrap and is not empty.
///
/// ```
/// use htlb_core::{ByteRange, ByteOffset, ByteLen, Error};
/// let r = ByteRange::at(ByteOffset::new(4096), ByteLen::new(8192))?;
/// assert_eq!(r.end().raw(), 12288);
/// assert_eq!(ByteRange::new(ByteOffset::new(8), ByteOffset::new(4)), Err(Error::RangeReversed));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: ByteOffset,
    end: ByteOffset,
}

impl ByteRange {
    /// The bytes from `start` up to, not including, `end`.
    ///
    /// # Errors
    /// [`Error::RangeEmpty`], [`Error::RangeReversed`], or [`Error::RangeOverflow`] beyond `isize::MAX`.
    pub const fn new(start: ByteOffset, end: ByteOffset) -> Result<Self, Error> {
        if end.0 > ByteLen::MAX.0 || start.0 > ByteLen::MAX.0 {
            Err(Error::RangeOverflow)
        } else if start.0 == end.0 {
            Err(Error::RangeEmpty)
        } else if start.0 > end.0 {
            Err(Error::RangeReversed)
        } else {
            Ok(Self { start, end })
        }
    }

    /// The `len` bytes from `start`.
    ///
    /// # Errors
    /// [`Error::RangeEmpty`] for no bytes, [`Error::RangeOverflow`] where the end wraps or exceeds `isize::MAX`.
    pub const fn at(start: ByteOffset, len: ByteLen) -> Result<Self, Error> {
        match start.0.checked_add(len.0) {
            Some(end) => Self::new(start, ByteOffset(end)),
            None => Err(Error::RangeOverflow),
        }
    }

    /// The first byte.
    #[must_use]
    pub const fn start(self) -> ByteOffset {
        self.start
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> ByteOffset {
        self.end
    }

    /// The length in bytes, at least one.
    #[must_use]
    pub const fn len(self) -> ByteLen {
        // The constructor proved start < end.
        ByteLen(self.end.0.wrapping_sub(self.start.0))
    }

    /// Never true: an empty range cannot be made. Here because a type with `len` is expected to have it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        false
    }
}
