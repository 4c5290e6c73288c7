// SPDX-License-Identifier: GPL-2.0-only
//! What a page in limbo needs of the kernel: the module stays loaded while there is one, and somebody looks at it now and
//! then, because its last holder does not tell us.

use super::published;

extern "C" {
    fn htlb_c_limbo_enter();
    fn htlb_c_limbo_leave();
    fn htlb_c_limbo_stop();
}

/// A page in limbo.
pub(crate) struct Stay(());

impl Stay {
    /// Keeps the module, and has somebody look from now on. Called by code that keeps the module itself: on behalf of an open file.
    pub(crate) fn begin() -> Self {
        // SAFETY: takes a reference to the module, which is loaded and not going, and queues work that `Watch` ends.
        unsafe { htlb_c_limbo_enter() };
        Self(())
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // SAFETY: gives up the reference of `begin`. Whoever calls this does it for an open file, or in the work that unloading
        // waits for, so that the code does not go under it.
        unsafe { htlb_c_limbo_leave() };
    }
}

/// Ends the looking when it is dropped: by the module, before its machine.
pub(crate) struct Watch(());

impl Watch {
    /// There is one, the module's.
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: may sleep; nothing is in limbo, since the module is going, so nobody queues the work again.
        unsafe { htlb_c_limbo_stop() };
    }
}

/// Puts back what nobody holds any more; says whether something is left.
#[no_mangle]
extern "C" fn htlb_rs_limbo_retry() -> bool {
    published::machine().is_ok_and(|machine| machine.look_into_limbo())
}
