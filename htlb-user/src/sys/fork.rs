// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Whether this is still the process that it was, without a system call.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Once;

static FORKS: AtomicU32 = AtomicU32::new(0);
static WATCH: Once = Once::new();

extern "C" fn in_child() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Which process this is, counted from the first that asked: a child has another answer than its parent.
///
/// Knows of every `fork` that goes through the C library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u32);

impl Generation {
    /// That of the calling process.
    #[must_use]
    pub fn current() -> Self {
        WATCH.call_once(|| {
            // SAFETY: the handler is a function of the program, which is never unloaded while it runs; it does one atomic
            // addition, which is safe in the child of a threaded process. A refusal (no memory) leaves forks unseen.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
        Self(FORKS.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another_process() {
        let parent = Generation::current();
        assert_eq!(parent, Generation::current());
        // SAFETY: the child calls nothing but an atomic load and _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let other = Generation::current() != parent;
            // SAFETY: ends the child at once, without handlers of the parent.
            unsafe { libc::_exit(i32::from(other)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above, into a live integer.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 1);
        assert_eq!(parent, Generation::current());
    }
}
