// SPDX-License-Identifier: GPL-2.0-only
//! Every reason of the core as an errno, the same as user space's table gives.

use htlb_core::Error as Reason;
use kernel::prelude::*;

/// The errno that Linux's own calls give for the same condition.
pub(crate) fn errno(reason: Reason) -> Error {
    match reason {
        Reason::SizeZero
        | Reason::PageSizeInvalid
        | Reason::AlignmentInvalid
        | Reason::AlignmentUnreachable
        | Reason::ContiguityInvalid
        | Reason::DmaMaskInvalid
        | Reason::DmaMaskTooNarrow
        | Reason::GfpZoneConflict
        | Reason::GfpMovablePinned
        | Reason::GfpMobilityConflict
        | Reason::GfpNofailCostly
        | Reason::GfpNofailAtomic
        | Reason::GfpRetryConflict
        | Reason::GfpThisNodeWithoutNode
        | Reason::GfpReservesConflict
        | Reason::GfpZoneExceedsDmaMask
        | Reason::NodeMaskEmpty
        | Reason::NodeMaskOffline
        | Reason::NodeInvalid
        | Reason::RangeEmpty
        | Reason::RangeReversed
        | Reason::RangeUnaligned
        | Reason::AccountMinimumAboveMaximum
        | Reason::AccountInvalid
        | Reason::AccountParentInvalid
        | Reason::FrameInvalid
        | Reason::FrameUnaligned
        | Reason::FrameSizeMismatch
        | Reason::SlotsMismatch
        | Reason::ExtentsInvalid
        | Reason::RecordFlags => EINVAL,
        Reason::SizeTooLarge | Reason::RangeOverflow | Reason::CounterOverflow | Reason::PinOverflow => EOVERFLOW,
        Reason::PageSizeUnsupported => EOPNOTSUPP,
        Reason::RangeBeyondEnd => ENXIO,
        Reason::BeyondCapacity => EFBIG,
        Reason::NoRoom
        | Reason::OvercommitLimit
        | Reason::OutOfPages
        | Reason::OutOfMetadata
        | Reason::NoContiguousRun => ENOMEM,
        Reason::AccountLimit => EDQUOT,
        Reason::AccountBusy | Reason::Pinned => EBUSY,
        Reason::OutOfReach => EFAULT,
        Reason::Poisoned | Reason::FillFailed => EIO,
        Reason::NotPresent => ENODATA,
        Reason::Sealed => EPERM,
        Reason::WouldDeadlock => EDEADLK,
        Reason::Interrupted => EINTR,
        Reason::Closed => EAGAIN,
        Reason::RecordSize => E2BIG,
    }
}
