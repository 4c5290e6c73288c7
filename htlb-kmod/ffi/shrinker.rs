// SPDX-License-Identifier: GPL-2.0-only
//! The kernel asks for memory back.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;

use crate::machine::Machine;

/// `SHRINK_STOP`: nothing can be given back now.
const STOP: c_ulong = c_ulong::MAX;
/// `SHRINK_EMPTY`: there is nothing.
const EMPTY: c_ulong = c_ulong::MAX - 1;
/// `DEFAULT_SEEKS`: what is given back costs as much to get again as a page of a file.
const SEEKS: c_int = 2;

/// Answers the kernel until it is dropped.
///
/// # Invariants
///
/// A registered shrinker whose private data is an `Arc<Machine>`.
pub(crate) struct Shrinker(NonNull<bindings::shrinker>);

// SAFETY: it is only registered and freed, which any thread may do.
unsafe impl Send for Shrinker {}
// SAFETY: as above.
unsafe impl Sync for Shrinker {}

impl Shrinker {
    /// For this machine.
    pub(crate) fn new(machine: Arc<Machine>) -> Result<Self> {
        // SAFETY: a plain name, without anything to format.
        let shrinker = unsafe { bindings::shrinker_alloc(0, c"htlb".as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        // SAFETY: ours alone until it is registered; the functions fit the private data.
        unsafe {
            let record = shrinker.as_ptr();
            (*record).count_objects = Some(count);
            (*record).scan_objects = Some(scan);
            (*record).seeks = SEEKS;
            (*record).private_data = machine.into_foreign();
            bindings::shrinker_register(record);
        }
        // INVARIANT: registered above.
        Ok(Self(shrinker))
    }
}

impl Drop for Shrinker {
    fn drop(&mut self) {
        // SAFETY: registered, by the invariants; the data is read while the record is there.
        let machine = unsafe { (*self.0.as_ptr()).private_data };
        // SAFETY: as above. It returns when nobody is in `count` or `scan` any more.
        unsafe { bindings::shrinker_free(self.0.as_ptr()) };
        // SAFETY: it came from `into_foreign`, and nobody borrows it any more.
        drop(unsafe { <Arc<Machine> as ForeignOwnable>::from_foreign(machine) });
    }
}

/// # Safety
///
/// Called by the kernel with a shrinker of ours.
unsafe extern "C" fn count(shrinker: *mut bindings::shrinker, _: *mut bindings::shrink_control) -> c_ulong {
    // SAFETY: by the contract, and by the invariants, which hold until `shrinker_free` has waited for us.
    let machine: ArcBorrow<'_, Machine> = unsafe { <Arc<Machine> as ForeignOwnable>::borrow((*shrinker).private_data) };
    match machine.reclaimable() {
        0 => EMPTY,
        // CAST: both have 64 bits.
        pages => pages as c_ulong,
    }
}

/// # Safety
///
/// As [`count`], with a record that is valid during the call.
unsafe extern "C" fn scan(shrinker: *mut bindings::shrinker, control: *mut bindings::shrink_control) -> c_ulong {
    // SAFETY: as in `count`.
    let machine: ArcBorrow<'_, Machine> = unsafe { <Arc<Machine> as ForeignOwnable>::borrow((*shrinker).private_data) };
    // SAFETY: by the contract.
    let most = unsafe { (*control).nr_to_scan };
    match machine.reclaim(most as u64) {
        Some(freed) => {
            // SAFETY: by the contract.
            unsafe { (*control).nr_scanned = most.max(freed as c_ulong) };
            freed as c_ulong
        }
        None => STOP,
    }
}
