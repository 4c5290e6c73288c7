// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages for a range, by several threads.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use htlb_core::{ByteLen, ByteOffset, ByteRange, HugeSize};

use crate::locks::locked;
use crate::sys::numa;
use crate::sys::populate::PopulateError;
use crate::sys::window::{Advice, Window};

/// What a thread populates at once, in bytes, if a page is not larger.
const CHUNK: u64 = 32 << 20;

/// How a named buffer gets its pages.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// The threads that populate; the CPUs that this process may use where nobody says.
    pub threads: Option<NonZeroUsize>,
    /// Raise this from another thread, or from a signal handler, to stop.
    pub cancel: Option<&'a AtomicBool>,
    /// Called by any of the threads with the bytes that have got their pages since the last call.
    pub progress: Option<&'a (dyn Fn(u64) + Sync)>,
}

impl Options<'_> {
    fn threads(&self) -> usize {
        self.threads.map_or_else(
            || numa::allowed_cpus().map_or(1, |cpus| cpus.len()),
            NonZeroUsize::get,
        )
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel
            .is_some_and(|cancel| cancel.load(Ordering::Relaxed))
    }
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// Which pages to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Those of the window's file.
    Plain,
    /// Transparent huge pages of this size, where the kernel finds them.
    Transparent(HugeSize),
}

/// Why not every page of a range could be put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Failed(PopulateError),
}

/// Puts a page under every part of `range`, which is mapped; those that are there stay.
///
/// `page` is the unit that no two threads share.
pub(super) fn populate(
    window: &Window,
    range: ByteRange,
    page: HugeSize,
    how: How,
    options: &Options<'_>,
) -> Result<(), Stop> {
    let chunk = CHUNK.max(page.bytes());
    let next = AtomicU64::new(range.start().raw());
    let failure = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let work = || {
        while !stop.load(Ordering::Relaxed) && !options.is_cancelled() {
            let start = next.fetch_add(chunk, Ordering::Relaxed);
            let end = start.saturating_add(chunk).min(range.end().raw());
            let Ok(part) = ByteRange::new(ByteOffset::new(start), ByteOffset::new(end)) else {
                return;
            };
            match populate_part(window, part, how) {
                Ok(()) => {
                    if let Some(progress) = options.progress {
                        progress(end - start);
                    }
                }
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    let mut first = locked(&failure);
                    first.get_or_insert(error);
                }
            }
        }
    };
    // CAST: at most as many as there are threads.
    let chunks = range.len().raw().div_ceil(chunk);
    let more = (options.threads() as u64).min(chunks).saturating_sub(1);
    thread::scope(|scope| {
        for _ in 0..more {
            let named = thread::Builder::new().name("htlb-populate".to_owned());
            // Out of threads: those that exist do the work.
            if named.spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let failed = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    match failed {
        Some(error) => Err(Stop::Failed(error)),
        None if options.is_cancelled() => Err(Stop::Cancelled),
        None => Ok(()),
    }
}

fn populate_part(window: &Window, part: ByteRange, how: How) -> Result<(), PopulateError> {
    if let How::Transparent(size) = how {
        let _ = window.advise(part, Advice::HugePage);
        // One base page in each is enough for the kernel to make the rest of it, so that little is cleared twice. Where the
        // advice alone is heeded, that page is huge already.
        let mut start = part.start().raw();
        while start < part.end().raw() {
            let base = ByteLen::new(window.granule().bytes());
            let one = ByteRange::at(ByteOffset::new(start), base);
            window.populate_write(one.map_err(|e| PopulateError::Window(e.into()))?)?;
            start = start.saturating_add(size.bytes());
        }
        // Refused before Linux 6.1, and where memory is fragmented: base pages then, and the receipt counts.
        let _ = window.advise(part, Advice::Collapse);
    }
    window.populate_write(part).map(drop)
}
