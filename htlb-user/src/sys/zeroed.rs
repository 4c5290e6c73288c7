// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Zeroed memory for tables: refused as a value where it is too much, and touched only where it is used.

use std::alloc::{alloc_zeroed, Layout};
use std::ptr::slice_from_raw_parts_mut;
use std::sync::atomic::AtomicU64;

/// What zero bytes are a value of.
///
/// # Safety
/// All-zero bytes are a valid value of the type, which does nothing when it is dropped.
unsafe trait Zero {}

// SAFETY: an integer.
unsafe impl Zero for u64 {}
// SAFETY: the same in memory as the integer.
unsafe impl Zero for AtomicU64 {}

/// `len` zeroed words; `None` where the system refuses so much.
#[must_use]
pub fn words(len: usize) -> Option<Box<[u64]>> {
    zeroed(len)
}

/// `len` zeroed atomic words; `None` where the system refuses so much.
#[must_use]
pub fn atomics(len: usize) -> Option<Box<[AtomicU64]>> {
    zeroed(len)
}

fn zeroed<T: Zero>(len: usize) -> Option<Box<[T]>> {
    let layout = Layout::array::<T>(len).ok()?;
    if layout.size() == 0 {
        return Some(Box::default());
    }
    // SAFETY: the layout is not empty.
    let memory = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if memory.is_null() {
        return None;
    }
    // SAFETY: fresh memory of the global allocator with the layout of `[T]` of this length, and zeroes are its value.
    Some(unsafe { Box::from_raw(slice_from_raw_parts_mut(memory, len)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn zeroes_and_refusals() {
        assert_eq!(words(3).unwrap().as_ref(), [0, 0, 0]);
        assert!(words(0).unwrap().is_empty());
        let atomics = atomics(1000).unwrap();
        assert!(atomics.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        for too_many in [usize::MAX, usize::MAX / 8, 1 << 55] {
            assert!(words(too_many).is_none(), "{too_many:#x}");
        }
    }
}
