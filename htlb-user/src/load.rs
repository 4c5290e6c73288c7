// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Fills memory from a file, by the device where the file system allows it.
//!
//! [`fill`] has several large direct reads in flight: the disk writes the target pages, no processor copies
//! them, and nothing lands in the page cache. Where direct I/O is refused, the same requests go through the
//! page cache. [`fill_stream`] takes what has no length in advance and asks a [`Sink`] for memory as it goes.
//!
//! # What a success means
//! - Every byte of the source arrived; a short read is an error.
//! - The source was the same before and after, as far as its size, inode and time stamps tell. [`verify`] reads
//!   it again and compares.
//! - Every byte of the memory behind the end of the source is zero.
//!
//! The target is a list of [`Span`]s, so that a buffer of pages that do not lie side by side is filled in one
//! go. Cutting spans into requests gives each request memory of its own, so no byte has two writers and no
//! `unsafe` is needed here.

mod crew;
mod error;
mod reader;
mod requests;
mod source;
mod stream;
mod verify;

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

pub use crate::sys::file::Span;
pub use error::LoadError;
pub use source::Source;
pub use stream::{fill_stream, Sink};
pub use verify::verify;

use crew::Crew;
use reader::Reader;
use requests::Requests;

/// How a source is read.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Requests in flight at once, each by a thread of its own; 1 to 64, and what lies outside is clamped.
    pub in_flight: usize,
    /// Bytes per request, rounded up to what direct I/O asks for; 4 KiB to 1 GiB, and what lies outside is clamped.
    pub request_bytes: usize,
    /// Raise this from another thread, or from a signal handler, to stop after the requests in flight.
    pub cancel: Option<&'a AtomicBool>,
}

impl Options<'_> {
    /// The requests in flight where nobody asks for another number.
    pub const IN_FLIGHT: usize = 4;
    /// The bytes per request where nobody asks for another number.
    pub const REQUEST_BYTES: usize = 2 << 20;

    fn in_flight(&self) -> usize {
        self.in_flight.clamp(1, 64)
    }

    fn request_bytes(&self) -> usize {
        self.request_bytes.clamp(4096, 1 << 30)
    }
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            in_flight: Self::IN_FLIGHT,
            request_bytes: Self::REQUEST_BYTES,
            cancel: None,
        }
    }
}

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that have arrived.
    pub bytes: u64,
    /// Bytes in all, if the source has a length.
    pub total: Option<u64>,
}

/// What a load did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The length of the source, in bytes.
    pub bytes: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// Bytes that the device wrote into the memory.
    pub direct_bytes: u64,
    /// Bytes that came through the page cache, or from a stream.
    pub buffered_bytes: u64,
    /// Read calls.
    pub requests: u64,
    /// The most read calls that were in flight at once.
    pub in_flight_max: usize,
}

/// Fills the memory with the source, and with zeros behind its end.
///
/// `progress` is called by this thread, about ten times a second.
///
/// # Errors
/// Any [`LoadError`]; the memory then holds a mixture and is not to be used. [`LoadError::Unsized`] for a stream.
///
/// ```
/// use htlb_user::load::{fill, Options, Source, Span};
/// let mut memory = vec![1u8; 1 << 20];
/// let source = Source::open("Cargo.toml".as_ref())?;
/// let report = fill(&source, &mut [Span::new(&mut memory)], &Options::default(), |_| {})?;
/// let text = std::fs::read("Cargo.toml").unwrap();
/// assert_eq!(report.bytes, text.len() as u64);
/// assert_eq!(&memory[..text.len()], text);
/// assert!(memory[text.len()..].iter().all(|byte| *byte == 0));
/// # Ok::<(), htlb_user::load::LoadError>(())
/// ```
pub fn fill(
    source: &Source,
    spans: &mut [Span<'_>],
    options: &Options<'_>,
    progress: impl FnMut(Progress),
) -> Result<Report, LoadError> {
    let started = Instant::now();
    let (reader, mut requests) = begin(source, spans, options)?;
    let crew = Crew::new(options, reader.len());
    crew.run(&mut requests, progress, || {
        |request| {
            reader
                .read(request)
                .map(|mut padding| padding.iter_mut().for_each(Span::zero))
        }
    })?;
    for mut span in requests.rest() {
        span.zero();
    }
    source.check_unchanged()?;
    Ok(reader.report(started))
}

/// What filling and verifying begin with: a reader of the source, and its requests over the memory.
fn begin<'s, 'm>(
    source: &'s Source,
    spans: &'m mut [Span<'_>],
    options: &Options<'_>,
) -> Result<(Reader<'s>, Requests<'m>), LoadError> {
    let reader = Reader::new(source)?;
    let found = spans
        .iter()
        .map(|span| span.len() as u64)
        .fold(0, u64::saturating_add);
    if found < reader.len() {
        return Err(LoadError::TooSmall {
            needed: reader.len(),
            found,
        });
    }
    let spans = spans.iter_mut().map(Span::reborrow).collect();
    let requests = Requests::new(spans, reader.len(), options.request_bytes(), reader.block());
    Ok((reader, requests))
}
