// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One request's reads: direct as far as that goes, then through the page cache.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::error::LoadError;
use super::requests::{advance, truncate, Request};
use super::source::failed;
use super::{Report, Source};
use crate::sys::file::{self, Alignment, Span};

/// Reads a source of known length, for any number of threads, and counts.
#[derive(Debug)]
pub(super) struct Reader<'s> {
    source: &'s Source,
    len: u64,
    /// The file system refused a direct read that was aligned as it asked; it will refuse the others too.
    refused: AtomicBool,
    direct_bytes: AtomicU64,
    buffered_bytes: AtomicU64,
    requests: AtomicU64,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
}

impl<'s> Reader<'s> {
    pub(super) fn new(source: &'s Source) -> Result<Self, LoadError> {
        let len = source.len().ok_or_else(|| LoadError::Unsized {
            path: source.path().to_owned(),
        })?;
        Ok(Self {
            source,
            len,
            refused: AtomicBool::new(false),
            direct_bytes: AtomicU64::new(0),
            buffered_bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
        })
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// The unit of direct reads: what request sizes and padding are rounded up to.
    pub(super) fn block(&self) -> usize {
        self.source
            .direct()
            .map_or(1, |(_, alignment)| alignment.offset)
    }

    /// Reads all of the request's bytes, and gives back the memory behind them, whose content is now undefined.
    pub(super) fn read<'m>(&self, request: Request<'m>) -> Result<Vec<Span<'m>>, LoadError> {
        let Request {
            offset,
            len,
            mut pieces,
        } = request;
        let mut done = 0;
        if let Some((fd, alignment)) = self.source.direct() {
            while done < len && self.may_read_direct(offset + done as u64, &pieces, alignment) {
                match self.once(|| file::read_at(fd, &mut pieces, offset + done as u64)) {
                    Ok(0) => break,
                    Ok(found) => {
                        // A file that has grown fills the padding: that is not this request's, and
                        // `check_unchanged` will tell.
                        let found = found.min(len - done);
                        self.direct_bytes.fetch_add(found as u64, Ordering::Relaxed);
                        advance(&mut pieces, found);
                        done += found;
                    }
                    Err(error) if is_refusal(&error) => {
                        self.refused.store(true, Ordering::Relaxed);
                        break;
                    }
                    Err(error) => return Err(self.failed(offset + done as u64, error)),
                }
            }
        }
        while done < len {
            let (mut rest, place) = (Vec::new(), offset + done as u64);
            std::mem::swap(&mut rest, &mut pieces);
            let mut wanted: Vec<_> = rest.iter_mut().map(Span::reborrow).collect();
            truncate(&mut wanted, len - done);
            let found = self
                .once(|| file::read_at(self.source.buffered(), &mut wanted, place))
                .map_err(|error| self.failed(place, error))?;
            if found == 0 {
                return Err(LoadError::Short {
                    path: self.source.path().to_owned(),
                    expected: self.len,
                    found: place,
                });
            }
            self.buffered_bytes
                .fetch_add(found as u64, Ordering::Relaxed);
            pieces = rest;
            advance(&mut pieces, found);
            done += found;
        }
        Ok(pieces)
    }

    /// Whether everything lies as direct I/O wants it. After a short read it may not.
    fn may_read_direct(&self, offset: u64, pieces: &[Span<'_>], alignment: Alignment) -> bool {
        !self.refused.load(Ordering::Relaxed)
            && !pieces.is_empty()
            && offset % alignment.offset as u64 == 0
            && pieces.iter().all(|piece| {
                piece.address() % alignment.memory == 0 && piece.len() % alignment.offset == 0
            })
    }

    fn once(&self, read: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        let flying = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.in_flight_max.fetch_max(flying, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let result = read();
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        result
    }

    fn failed(&self, offset: u64, error: io::Error) -> LoadError {
        // The kernel could not even copy to the memory. Which of these it says depends on the file system.
        if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::ENOMEM)) {
            return LoadError::NoPage { offset };
        }
        failed(
            &format!("read at byte {offset} of"),
            self.source.path(),
            error,
        )
    }

    pub(super) fn report(&self, started: Instant) -> Report {
        Report {
            bytes: self.len,
            elapsed: started.elapsed(),
            direct_bytes: self.direct_bytes.load(Ordering::Relaxed),
            buffered_bytes: self.buffered_bytes.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            in_flight_max: self.in_flight_max.load(Ordering::Relaxed),
        }
    }
}

/// Whether direct I/O is impossible, rather than failed: for this file, or (`EFAULT`) into memory that cannot be pinned.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOTBLK | libc::EFAULT)
    )
}
