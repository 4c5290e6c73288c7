// SPDX-License-Identifier: GPL-2.0-only
//! Scatter-gather tables, and the devices that they are mapped for.
#![allow(improper_ctypes)]

use core::marker::PhantomData;
use core::ptr::NonNull;

use htlb_core::{AddressBits, Error as Reason, NodeId};
use kernel::bindings;
use kernel::prelude::*;

use crate::runs::Run;
use crate::segments::Limits;

extern "C" {
    fn htlb_c_device_bits(dev: *mut bindings::device) -> u32;
    fn htlb_c_device_node(dev: *mut bindings::device) -> c_int;
    fn htlb_c_device_reaches(dev: *mut bindings::device, physical: u64, len: u64) -> bool;
    fn htlb_c_device_longest(dev: *mut bindings::device) -> u64;
    fn htlb_c_device_boundary(dev: *mut bindings::device) -> u64;
    fn htlb_c_sg_alloc(entries: u32) -> *mut bindings::sg_table;
    fn htlb_c_sg_free(table: *mut bindings::sg_table);
    fn htlb_c_sg_set(entry: *mut bindings::scatterlist, physical: u64, len: u32) -> *mut bindings::scatterlist;
    fn htlb_c_sg_map(dev: *mut bindings::device, table: *mut bindings::sg_table, direction: u32) -> c_int;
    fn htlb_c_sg_unmap(dev: *mut bindings::device, table: *mut bindings::sg_table, direction: u32);
}

/// A device of somebody else's, during a call.
///
/// # Invariants
///
/// The device exists for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    dev: NonNull<bindings::device>,
    _dev: PhantomData<&'a bindings::device>,
}

/// Who writes and who reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Direction(u32);

impl Direction {
    const ALL: [bindings::dma_data_direction; 3] = [
        bindings::dma_data_direction::DMA_BIDIRECTIONAL,
        bindings::dma_data_direction::DMA_TO_DEVICE,
        bindings::dma_data_direction::DMA_FROM_DEVICE,
    ];

    /// One of the kernel's directions in which data goes.
    pub(crate) fn new(raw: u32) -> Result<Self> {
        let known = Self::ALL.iter().any(|direction| direction.0 as u32 == raw);
        known.then_some(Self(raw)).ok_or(EINVAL)
    }

    /// As the kernel numbers it.
    pub(super) const fn raw(self) -> u32 {
        self.0
    }
}

impl Device<'_> {
    /// A device of a call's; `None` for none.
    ///
    /// # Safety
    ///
    /// `dev` is null, or exists for as long as the answer is used.
    pub(crate) unsafe fn from_raw(dev: *mut bindings::device) -> Option<Self> {
        // INVARIANT: by the contract.
        NonNull::new(dev).map(|dev| Self { dev, _dev: PhantomData })
    }

    /// The physical addresses that it reaches: its DMA mask, unless something translates for it.
    pub(crate) fn reach(self) -> Result<AddressBits, Reason> {
        // SAFETY: the device exists, by the invariants.
        AddressBits::new(unsafe { htlb_c_device_bits(self.dev.as_ptr()) })
    }

    /// The node that it is at.
    pub(crate) fn node(self) -> Option<NodeId> {
        // SAFETY: as above.
        let node = unsafe { htlb_c_device_node(self.dev.as_ptr()) };
        u32::try_from(node).ok().and_then(|node| NodeId::new(node).ok())
    }

    /// Whether it can use all of a run where it lies.
    pub(crate) fn reaches(self, run: &Run) -> bool {
        // SAFETY: as above; plain numbers beside it.
        unsafe { htlb_c_device_reaches(self.dev.as_ptr(), run.physical, run.len) }
    }

    /// How it wants the entries of a table.
    pub(crate) fn limits(self) -> Limits {
        // SAFETY: as above.
        unsafe {
            Limits {
                longest: htlb_c_device_longest(self.dev.as_ptr()),
                boundary: htlb_c_device_boundary(self.dev.as_ptr()),
            }
        }
    }

    /// The device.
    pub(super) const fn as_ptr(self) -> *mut bindings::device {
        self.dev.as_ptr()
    }
}

/// A table of our own.
///
/// # Invariants
///
/// Came from `htlb_c_sg_alloc`, and nobody else has it. Once mapped it is given away by [`SgTable::into_raw`], or unmapped.
pub(crate) struct SgTable(NonNull<bindings::sg_table>);

impl SgTable {
    /// A table of so many empty entries.
    pub(crate) fn new(entries: u32) -> Result<Self> {
        // SAFETY: allocates; may sleep, as every caller may.
        let table = unsafe { htlb_c_sg_alloc(entries) };
        // INVARIANT: new.
        NonNull::new(table).map(Self).ok_or(ENOMEM)
    }

    /// Fills the entries, in their order. Runs beyond the last entry have no place: `EOVERFLOW`.
    pub(crate) fn fill(&mut self, runs: impl Iterator<Item = Result<Run>>) -> Result {
        // SAFETY: the table is ours.
        let mut entry = unsafe { (*self.0.as_ptr()).sgl };
        for run in runs {
            let run = run?;
            if entry.is_null() {
                return Err(EOVERFLOW);
            }
            // SAFETY: `entry` is one of the table's; the frames of the run exist, since they are a buffer's.
            entry = unsafe { htlb_c_sg_set(entry, run.physical, u32::try_from(run.len)?) };
        }
        Ok(())
    }

    /// Maps it.
    pub(crate) fn map(self, device: Device<'_>, direction: Direction) -> Result<Self> {
        // SAFETY: the device exists; the table is ours and not mapped.
        kernel::error::to_result(unsafe { htlb_c_sg_map(device.dev.as_ptr(), self.0.as_ptr(), direction.0) })?;
        Ok(self)
    }

    /// Ends what [`SgTable::map`] did, with the same device and direction.
    pub(crate) fn unmap(self, device: Device<'_>, direction: Direction) {
        // SAFETY: the device exists; the table is ours and mapped.
        unsafe { htlb_c_sg_unmap(device.dev.as_ptr(), self.0.as_ptr(), direction.0) };
    }

    /// The table.
    pub(super) const fn as_ptr(&self) -> *mut bindings::sg_table {
        self.0.as_ptr()
    }

    /// Gives the table away, to C.
    pub(crate) fn into_raw(self) -> *mut bindings::sg_table {
        let table = self.0.as_ptr();
        core::mem::forget(self);
        table
    }

    /// Takes a table back that [`SgTable::into_raw`] gave away.
    ///
    /// # Safety
    ///
    /// `table` is null or came from there, and is not used any more.
    pub(crate) unsafe fn from_raw(table: *mut bindings::sg_table) -> Option<Self> {
        // INVARIANT: by the contract.
        NonNull::new(table).map(Self)
    }
}

impl Drop for SgTable {
    fn drop(&mut self) {
        // SAFETY: ours, and not mapped, by the invariants.
        unsafe { htlb_c_sg_free(self.0.as_ptr()) };
    }
}
