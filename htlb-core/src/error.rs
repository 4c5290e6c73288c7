// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why the core said no.
//!
//! One closed, `Copy` enumeration: no numbers and no strings that a front end would have to parse.
//! Each front end maps every arm in one table, to an errno, a `vm_fault_t` or an `io::Error`, and adds
//! what was asked, what was found and what to do next, because only it knows the words of its user.
//!
//! An `Err` from any function of this crate means that no fact changed: every counter, slot and frame is
//! as it was before the call.

use core::fmt;

macro_rules! errors {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal, $errno:ident;)+) => {
        /// Why a request, a promise or a page was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Error {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Error {
            /// Every arm, in declaration order: for front ends that want to prove their table complete.
            pub const ALL: &'static [Error] = &[$(Error::$name,)+];

            /// One line in English, without a full stop.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Error::$name => $text,)+ }
            }

            /// The errno that Linux's own calls give for the same condition.
            #[cfg(feature = "userspace")]
            #[must_use]
            pub const fn errno(self) -> i32 {
                match self { $(Error::$name => libc::$errno,)+ }
            }
        }
    };
}

errors! {
    // ---- the request -------------------------------------------------------------------------------
    /// A buffer of no bytes was asked for.
    SizeZero => "the size is zero", EINVAL;
    /// The size, rounded up to whole pages, exceeds `isize::MAX` bytes.
    SizeTooLarge => "the size does not fit the address space", EOVERFLOW;
    /// The page size is not a power of two, or not between the base page and 16 GiB.
    PageSizeInvalid => "no such page size", EINVAL;
    /// The alignment is not a power of two, or smaller than a base page.
    AlignmentInvalid => "the alignment is not a power of two of at least one base page", EINVAL;
    /// The alignment exceeds what a page, or a contiguous run of the asked length, can give.
    AlignmentUnreachable => "no page or run of the asked kind has that alignment", EINVAL;
    /// A contiguous run longer than the buffer, or of no pages.
    ContiguityInvalid => "the contiguous run is empty or longer than the buffer", EINVAL;
    /// The DMA mask has no bits, more than 64, or fewer than the narrowest level the pool knows.
    DmaMaskInvalid => "the DMA mask is outside 24 to 64 bits", EINVAL;
    /// The DMA mask is narrower than one page of the asked size.
    DmaMaskTooNarrow => "no page of that size fits below the DMA mask", EINVAL;
    /// The page size differs from every size in use here.
    PageSizeUnsupported => "this machine has no pages of that size", EOPNOTSUPP;

    // ---- GFP flags ---------------------------------------------------------------------------------
    /// More than one of `DMA`, `DMA32` and `HIGHMEM`.
    GfpZoneConflict => "more than one zone modifier in the GFP mask", EINVAL;
    /// `MOVABLE` for a page that a device pins.
    GfpMovablePinned => "MOVABLE in the GFP mask of a page that will be pinned", EINVAL;
    /// `MOVABLE` with `RECLAIMABLE`: a page has one mobility type.
    GfpMobilityConflict => "MOVABLE and RECLAIMABLE in one GFP mask", EINVAL;
    /// `NOFAIL` above the costly order (3): the kernel does not promise it.
    GfpNofailCostly => "NOFAIL at a costly order", EINVAL;
    /// `NOFAIL` without `DIRECT_RECLAIM`: a call that may not sleep cannot be promised success.
    GfpNofailAtomic => "NOFAIL without DIRECT_RECLAIM", EINVAL;
    /// More than one of `NOFAIL`, `NORETRY` and `RETRY_MAYFAIL`.
    GfpRetryConflict => "more than one of NOFAIL, NORETRY and RETRY_MAYFAIL", EINVAL;
    /// `THISNODE` while the request names no node.
    GfpThisNodeWithoutNode => "THISNODE in the GFP mask of a request that names no node", EINVAL;
    /// `MEMALLOC` with `NOMEMALLOC`.
    GfpReservesConflict => "MEMALLOC and NOMEMALLOC in one GFP mask", EINVAL;
    /// A zone modifier that contradicts the DMA mask: it allows addresses that the device cannot reach, or
    /// forbids the fallback that the request asks for.
    GfpZoneExceedsDmaMask => "the zone modifier allows addresses above the DMA mask", EINVAL;

    // ---- nodes -------------------------------------------------------------------------------------
    /// The node mask is empty.
    NodeMaskEmpty => "the node mask is empty", EINVAL;
    /// The node mask names no node that has memory.
    NodeMaskOffline => "none of the named nodes has memory", EINVAL;
    /// A node number above 63.
    NodeInvalid => "no such node", EINVAL;

    // ---- ranges ------------------------------------------------------------------------------------
    /// The range has no bytes.
    RangeEmpty => "the range is empty", EINVAL;
    /// The range ends before it begins.
    RangeReversed => "the range ends before it begins", EINVAL;
    /// The range does not begin and end on a page boundary of the extent that it touches.
    RangeUnaligned => "the range does not begin and end on page boundaries", EINVAL;
    /// Offset plus length wraps, or exceeds `isize::MAX`.
    RangeOverflow => "offset plus length does not fit the address space", EOVERFLOW;
    /// The range ends past the end of the buffer.
    RangeBeyondEnd => "the range ends past the end of the buffer", ENXIO;
    /// The new size exceeds the capacity that was fixed when the buffer was created.
    BeyondCapacity => "the size exceeds the capacity fixed at creation", EFBIG;

    // ---- promises and pages ------------------------------------------------------------------------
    /// Promises already given, together with this one, cannot all be kept from the free pages.
    NoRoom => "too few free pages that no promise needs", ENOMEM;
    /// The account's maximum.
    AccountLimit => "the account's limit is reached", EDQUOT;
    /// The account's guaranteed minimum exceeds its maximum.
    AccountMinimumAboveMaximum => "the account's minimum exceeds its maximum", EINVAL;
    /// No such account, or it is still in use.
    AccountInvalid => "no such account", EINVAL;
    /// The account still holds pages or promises, or more of them than a new limit allows, or accounts below it.
    AccountBusy => "the account still holds pages, promises or other accounts", EBUSY;
    /// An account that is itself below another, or has a guaranteed minimum, cannot have accounts below it.
    AccountParentInvalid => "an account below another, or with a minimum, can have none below it", EINVAL;
    /// As many surplus pages as the overcommit limit allows.
    OvercommitLimit => "the overcommit limit is reached", ENOMEM;
    /// The allocator outside the pool had no page.
    OutOfPages => "the system has no page of that kind", ENOMEM;
    /// The host had no memory for tables.
    OutOfMetadata => "no memory for the tables", ENOMEM;
    /// No physically contiguous run of the asked length is free.
    NoContiguousRun => "no contiguous run of that length is free", ENOMEM;
    /// The page lies outside what the device or the node policy can reach.
    OutOfReach => "the page lies outside the reach of the request", EFAULT;
    /// A page that the pool already knows, or does not know.
    FrameInvalid => "the pool does not know that page, or knows it already", EINVAL;
    /// A page whose first frame number is not aligned to its size, or beyond 40 bits.
    FrameUnaligned => "the frame number is not aligned to the page size", EINVAL;
    /// A counter would exceed its width.
    CounterOverflow => "a counter would overflow", EOVERFLOW;
    /// The memory of the page went bad.
    Poisoned => "the page has a memory error", EIO;

    // ---- the page map ------------------------------------------------------------------------------
    /// No page has been put at that offset.
    NotPresent => "no page is present at that offset", ENODATA;
    /// A page in the range is pinned.
    Pinned => "a page in the range is pinned", EBUSY;
    /// The buffer is sealed against punch and truncate.
    Sealed => "the buffer is sealed", EPERM;
    /// A page has as many pins, or a buffer as many seals, as can be counted.
    PinOverflow => "too many pins or seals", EOVERFLOW;
    /// The caller is filling the very page that it asks for.
    WouldDeadlock => "waiting would deadlock: the caller is filling that page", EDEADLK;
    /// A frame of another size than the pages of the extent that it is put into.
    FrameSizeMismatch => "the page is not of the size that this part of the buffer has", EINVAL;
    /// Slots were given for fewer or more pages than the extents have.
    SlotsMismatch => "the slots do not match the extents", EINVAL;
    /// Extents that are not in descending page size, not contiguous, or empty.
    ExtentsInvalid => "the extents are not contiguous and in descending page size", EINVAL;

    // ---- the world ---------------------------------------------------------------------------------
    /// A fatal signal ended a wait.
    Interrupted => "interrupted", EINTR;
    /// The gate is closed for an inspection.
    Closed => "closed for inspection", EAGAIN;
    /// The device or the producer that fills the page reported a failure.
    FillFailed => "filling the page failed", EIO;
    /// A record of another version: shorter than any known, or with a non-zero tail that this version does not know.
    RecordSize => "the record has a size, or a tail, that this version does not know", E2BIG;
    /// Flags, or reserved fields, that this version does not know.
    RecordFlags => "unknown flags, or reserved fields that are not zero", EINVAL;
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl core::error::Error for Error {}

#[cfg(feature = "userspace")]
mod std_side {
    extern crate std;

    impl From<super::Error> for std::io::Error {
        /// Keeps the core's words as the message and the errno's kind.
        fn from(error: super::Error) -> Self {
            let kind = std::io::Error::from_raw_os_error(error.errno()).kind();
            std::io::Error::new(kind, error)
        }
    }
}
