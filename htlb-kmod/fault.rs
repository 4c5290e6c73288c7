// SPDX-License-Identifier: GPL-2.0-only
//! A page fault: the page is looked up, put there if need be, and looked up again under the lock that a punch excludes.

use htlb_core::page_map::Located;
use htlb_core::{ByteOffset, Error as Reason, HugeSize};

use crate::buffer::DmaBuffer;
use crate::ffi::fault::Fault;
use crate::mapping::Entries;

/// What the kernel is told.
pub(crate) enum Reply {
    /// The page is in the kernel's record, locked.
    Locked,
    /// An entry was tried to be installed, with this outcome.
    Installed(kernel::bindings::vm_fault_t),
    /// Ask for a smaller entry.
    Fallback,
    /// Ask again.
    Retry,
    /// A fatal signal is pending, and will be seen.
    Killed,
    /// The page has a memory error.
    Poisoned,
    /// The system has no base page.
    OutOfMemory,
    /// There is no page, or no such byte.
    Signal,
}

/// Answers a fault in a mapping of the buffer.
pub(crate) fn resolve(buffer: &DmaBuffer, fault: &Fault<'_>) -> Reply {
    let offset = ByteOffset::new(fault.offset());
    let entries = fault.entries();
    if entries == Entries::Frames && fault.size() > largest_at(buffer, offset) {
        return Reply::Fallback;
    }
    loop {
        let Some(mappings) = buffer.mappings() else { return Reply::Signal };
        let look = || buffer.map().page_at(offset).ok();
        let answer = match entries {
            Entries::Folios => fault.answer_locked(mappings, look),
            Entries::Frames => fault.answer_installed(mappings, look, || buffer.size()),
        };
        if let Some(reply) = answer {
            return reply;
        }
        match buffer.fault(offset, fault) {
            Ok(Located { .. }) => {}
            Err(reason) => return refusal(buffer, offset, reason),
        }
    }
}

fn largest_at(buffer: &DmaBuffer, offset: ByteOffset) -> HugeSize {
    let index = buffer.map().index_at(offset).ok();
    index.and_then(|index| buffer.map().extents().size_of(index)).unwrap_or(HugeSize::BASE)
}

fn refusal(buffer: &DmaBuffer, offset: ByteOffset, reason: Reason) -> Reply {
    match reason {
        Reason::Closed => Reply::Retry,
        Reason::Interrupted => Reply::Killed,
        Reason::Poisoned => Reply::Poisoned,
        // Only base pages can be had by killing somebody; a lack of huge ones would be asked for again for ever.
        Reason::OutOfPages | Reason::OutOfMetadata if largest_at(buffer, offset) == HugeSize::BASE => Reply::OutOfMemory,
        _ => Reply::Signal,
    }
}
