// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Sources whose length shows only at their end: pipes, standard input, files under `/proc`.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::crew::TICK;
use super::error::LoadError;
use super::source::failed;
use super::{Options, Progress, Report, Source, Span};
use crate::sys::file;

/// What a stream is asked to hold at once, where the system allows it: the usual limit for a user's pipe.
const PIPE_BYTES: i32 = 1 << 20;

/// Read while there is no memory for it yet, to see whether the stream has ended.
const AHEAD: usize = 4096;

/// Memory that grows while a stream fills it.
pub trait Sink {
    /// The next piece of memory: it follows the pieces given before, which are all full, `filled` bytes in all.
    ///
    /// Called only when there is at least one byte to put there, so a sink never grows for nothing.
    ///
    /// # Errors
    /// Why there is no more; the load ends with [`LoadError::Sink`].
    fn grow(&mut self, filled: u64) -> io::Result<Span<'_>>;
}

/// Fills memory from a source to its end; a source with a length is read as a stream too.
///
/// The rest of the last piece is zeroed. `progress` is called about ten times a second.
///
/// # Errors
/// [`LoadError::Sink`], [`LoadError::Io`], [`LoadError::Cancelled`].
///
/// ```
/// use htlb_user::load::{fill_stream, Options, Sink, Source, Span};
/// struct Chunks(Vec<Box<[u8]>>);
/// impl Sink for Chunks {
///     fn grow(&mut self, _filled: u64) -> std::io::Result<Span<'_>> {
///         self.0.push(vec![1; 4096].into_boxed_slice());
///         Ok(Span::new(self.0.last_mut().unwrap()))
///     }
/// }
/// let mut chunks = Chunks(Vec::new());
/// let report = fill_stream(&Source::open("/proc/version".as_ref())?, &mut chunks, &Options::default(), |_| {})?;
/// assert_eq!(chunks.0.concat()[..report.bytes as usize], std::fs::read("/proc/version").unwrap());
/// # Ok::<(), htlb_user::load::LoadError>(())
/// ```
pub fn fill_stream(
    source: &Source,
    sink: &mut dyn Sink,
    options: &Options<'_>,
    mut progress: impl FnMut(Progress),
) -> Result<Report, LoadError> {
    let mut stream = Stream {
        source,
        options,
        bytes: 0,
        requests: 0,
        told: Instant::now(),
    };
    let started = stream.told;
    file::widen_pipe(source.buffered(), PIPE_BYTES);
    let mut ahead = [0; AHEAD];
    loop {
        let seen = stream.read(&mut Span::new(&mut ahead), &mut progress)?;
        if seen == 0 {
            break;
        }
        let mut seen = &ahead[..seen];
        while !seen.is_empty() {
            let mut span = sink.grow(stream.bytes).map_err(LoadError::Sink)?;
            if span.is_empty() {
                return Err(LoadError::Sink(io::Error::from_raw_os_error(libc::ENOSPC)));
            }
            let written = span.write(seen);
            seen = &seen[written..];
            stream.bytes += written as u64;
            let mut rest = span.split_at(written).1;
            while !rest.is_empty() {
                let found = stream.read(&mut rest, &mut progress)?;
                if found == 0 {
                    break;
                }
                stream.bytes += found as u64;
                rest = rest.split_at(found).1;
            }
            rest.zero();
        }
    }
    source.check_unchanged()?;
    progress(stream.progress());
    Ok(Report {
        bytes: stream.bytes,
        elapsed: started.elapsed(),
        direct_bytes: 0,
        buffered_bytes: stream.bytes,
        requests: stream.requests,
        in_flight_max: 1,
    })
}

struct Stream<'a> {
    source: &'a Source,
    options: &'a Options<'a>,
    bytes: u64,
    requests: u64,
    told: Instant,
}

impl Stream<'_> {
    /// Reads once into the front of the span; 0 at the end of the stream.
    fn read(
        &mut self,
        span: &mut Span<'_>,
        progress: &mut impl FnMut(Progress),
    ) -> Result<usize, LoadError> {
        let error = |error| failed("read", self.source.path(), error);
        let mut ready = false;
        while !ready {
            if self
                .options
                .cancel
                .is_some_and(|cancel| cancel.load(Ordering::Relaxed))
            {
                return Err(LoadError::Cancelled);
            }
            if self.told.elapsed() >= TICK {
                self.told = Instant::now();
                progress(self.progress());
            }
            ready = file::wait_readable(self.source.buffered(), TICK).map_err(error)?;
        }
        self.requests += 1;
        let front = span.reborrow().split_at(self.options.request_bytes()).0;
        file::read_next(self.source.buffered(), &mut [front]).map_err(error)
    }

    fn progress(&self) -> Progress {
        Progress {
            bytes: self.bytes,
            total: self.source.len(),
        }
    }
}
