// SPDX-License-Identifier: GPL-2.0-only
//! Sleeping until something is over. The kernel's own table of hashed wait queues does the work, by a key that is never
//! looked through.

use core::ptr::without_provenance_mut;

use kernel::prelude::*;

use super::c;

/// A fatal signal ended the sleep.
pub(crate) struct Killed;

/// Which signals end a sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signals {
    /// Fatal ones.
    Fatal,
    /// None.
    Ignored,
}

/// Sleeps until `over` says so; it is asked on the queue, and after every wake-up of `key`, and must not sleep itself.
pub(crate) fn until(key: usize, signals: Signals, mut over: impl FnMut() -> bool) -> Result<(), Killed> {
    fn ask<F: FnMut() -> bool>(context: *mut c_void) -> bool {
        // SAFETY: `until` passes a pointer to its own `over`, which outlives the wait and is used by this thread only.
        let over = unsafe { &mut *context.cast::<F>() };
        over()
    }
    unsafe extern "C" fn entry<F: FnMut() -> bool>(context: *mut c_void) -> bool {
        ask::<F>(context)
    }
    fn ask_by<F: FnMut() -> bool>(_: &F) -> unsafe extern "C" fn(*mut c_void) -> bool {
        entry::<F>
    }
    let entry = ask_by(&over);
    let context = core::ptr::from_mut(&mut over).cast();
    // SAFETY: the key is only compared; `entry` fits the type of what `context` points to.
    let ended = unsafe { c::htlb_c_wait(without_provenance_mut(key), signals == Signals::Fatal, entry, context) };
    if ended == 0 {
        Ok(())
    } else {
        Err(Killed)
    }
}

/// Wakes everybody who sleeps by `key`.
pub(crate) fn wake(key: usize) {
    // SAFETY: the key is only compared.
    unsafe { c::htlb_c_wake(without_provenance_mut(key)) };
}
