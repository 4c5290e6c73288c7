// SPDX-License-Identifier: GPL-2.0-only
//! The entries of a scatter-gather table: the runs of a range, cut where a device wants an entry to end.

use htlb_core::Error as Reason;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

use crate::buffer::DmaBuffer;
use crate::error::errno;
use crate::ffi::sg::{Device, SgTable};
use crate::runs::{Run, Runs};

/// How a device wants its entries.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// The longest entry, in bytes.
    pub(crate) longest: u64,
    /// No entry has addresses on both sides of a multiple of this plus one.
    pub(crate) boundary: u64,
}

/// Runs, in pieces that keep to the limits.
#[derive(Clone)]
pub(crate) struct Segments<I> {
    runs: I,
    rest: Option<Run>,
    limits: Limits,
}

impl<I: Iterator<Item = Result<Run, Reason>>> Segments<I> {
    /// The runs, cut. An entry has at least one base page, which every device can take.
    pub(crate) fn new(runs: I, limits: Limits) -> Self {
        let base = PAGE_SIZE as u64;
        let limits = Limits {
            longest: (limits.longest & !(base - 1)).max(base),
            boundary: limits.boundary | (base - 1),
        };
        Self { runs, rest: None, limits }
    }
}

impl<I: Iterator<Item = Result<Run, Reason>>> Iterator for Segments<I> {
    type Item = Result<Run, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        let run = match self.rest.take() {
            Some(rest) => rest,
            None => match self.runs.next()? {
                Ok(run) => run,
                Err(reason) => return Some(Err(reason)),
            },
        };
        let boundary = self.limits.boundary;
        let before = (boundary - (run.physical & boundary)).saturating_add(1);
        let len = run.len.min(self.limits.longest).min(before);
        if len < run.len {
            let physical = run.physical.saturating_add(len);
            self.rest = Some(Run { physical, len: run.len.saturating_sub(len) });
        }
        Some(Ok(Run { len, ..run }))
    }
}

/// The table of a range for a device, not mapped yet. The buffer is sealed, and the range populated.
///
/// `EFAULT` where a page lies outside of what the device reaches: bouncing would leave what it writes elsewhere.
pub(crate) fn table(buffer: &DmaBuffer, device: Device<'_>, range: htlb_core::ByteRange) -> Result<SgTable> {
    let segments = Segments::new(Runs::new(buffer.map(), range), device.limits());
    let mut entries = 0u32;
    for segment in segments.clone() {
        if !device.reaches(&segment.map_err(errno)?) {
            return Err(errno(Reason::OutOfReach));
        }
        entries = entries.checked_add(1).ok_or(EOVERFLOW)?;
    }
    let mut table = SgTable::new(entries)?;
    table.fill(segments.map(|segment| segment.map_err(errno)))?;
    Ok(table)
}
