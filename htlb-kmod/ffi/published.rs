// SPDX-License-Identifier: GPL-2.0-only
//! The one machine, for entry points that are given no pointer of ours: opening the device, and other modules' calls.

use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::ForeignOwnable;

use crate::machine::Machine;

static MACHINE: AtomicPtr<c_void> = AtomicPtr::new(core::ptr::null_mut());

/// Keeps the machine published until it is dropped, which is when the module goes.
pub(crate) struct Published(());

impl Published {
    /// Publishes the machine. Called once, when the module is loaded.
    pub(crate) fn new(machine: Arc<Machine>) -> Self {
        let foreign = machine.into_foreign();
        // ORDER: release, so that whoever finds the pointer finds what it points to.
        let before = MACHINE.swap(foreign, Ordering::AcqRel);
        debug_assert!(before.is_null());
        Self(())
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let foreign = MACHINE.swap(core::ptr::null_mut(), Ordering::AcqRel);
        if !foreign.is_null() {
            // SAFETY: it came from `into_foreign` in `new`, and the swap made it ours alone. Nobody borrows it now: code of
            // this module runs for others only while they hold a reference to the module, and it is being unloaded.
            drop(unsafe { <Arc<Machine> as ForeignOwnable>::from_foreign(foreign) });
        }
    }
}

/// The machine, or `ENODEV` while the module is being loaded.
pub(crate) fn machine() -> Result<Arc<Machine>> {
    // ORDER: acquire, the other half of `new`.
    let foreign = MACHINE.load(Ordering::Acquire);
    if foreign.is_null() {
        return Err(ENODEV);
    }
    // SAFETY: it came from `into_foreign`, and is given up only when the module goes, which is not while its code runs.
    let borrow: ArcBorrow<'_, Machine> = unsafe { <Arc<Machine> as ForeignOwnable>::borrow(foreign) };
    Ok(borrow.into())
}
