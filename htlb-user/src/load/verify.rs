// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Reads a source once more, and compares.

use std::time::Instant;

use super::crew::Crew;
use super::error::LoadError;
use super::requests::Request;
use super::{begin, Options, Progress, Report, Source, Span};
use crate::sys::file;

/// Scratch memory begins on a page, as direct I/O wants it.
const PAGE: usize = 4096;

/// Compares the memory with the source, read again from the device where that is possible, and checks that
/// everything behind its end is zero.
///
/// # Errors
/// [`LoadError::Mismatch`] with the first byte that differs; any other [`LoadError`] if the source cannot be read.
///
/// ```
/// use htlb_user::load::{verify, LoadError, Options, Source, Span};
/// let mut memory = std::fs::read("Cargo.toml").unwrap();
/// let source = Source::open("Cargo.toml".as_ref())?;
/// verify(&source, &mut [Span::new(&mut memory)], &Options::default(), |_| {})?;
/// memory[7] ^= 1;
/// let found = verify(&source, &mut [Span::new(&mut memory)], &Options::default(), |_| {});
/// assert!(matches!(found, Err(LoadError::Mismatch { offset: 7, .. })));
/// # Ok::<(), LoadError>(())
/// ```
pub fn verify(
    source: &Source,
    spans: &mut [Span<'_>],
    options: &Options<'_>,
    progress: impl FnMut(Progress),
) -> Result<Report, LoadError> {
    let started = Instant::now();
    let (reader, mut requests) = begin(source, spans, options)?;
    if !source.is_direct() {
        // Else a buffered load would be compared with the very pages it was copied from.
        file::drop_cache(source.buffered());
    }
    let mismatch = |offset| LoadError::Mismatch {
        path: source.path().to_owned(),
        offset,
    };
    let block = reader.block();
    let crew = Crew::new(options, reader.len());
    crew.run(&mut requests, progress, || {
        let mut scratch = Vec::new();
        let reader = &reader;
        move |request: Request<'_>| {
            let room = request.len.next_multiple_of(block);
            let memory = aligned(&mut scratch, room);
            let again = Request {
                offset: request.offset,
                len: request.len,
                pieces: vec![Span::new(memory)],
            };
            reader.read(again)?;
            match first_difference(&request, aligned(&mut scratch, room)) {
                Some(at) => Err(mismatch(request.offset + at as u64)),
                None => Ok(()),
            }
        }
    })?;
    let mut offset = requests.handed_out();
    let tail: Vec<_> = requests.rest().collect();
    for span in &tail {
        if let Some(at) = span.bytes().iter().position(|byte| *byte != 0) {
            return Err(mismatch(offset + at as u64));
        }
        offset += span.len() as u64;
    }
    source.check_unchanged()?;
    Ok(reader.report(started))
}

/// `len` bytes of the scratch memory, from a page boundary.
fn aligned(scratch: &mut Vec<u8>, len: usize) -> &mut [u8] {
    scratch.resize(scratch.len().max(len + PAGE), 0);
    let start = scratch.as_ptr().align_offset(PAGE).min(PAGE);
    &mut scratch[start..][..len]
}

/// The first byte of the request's memory that is not as in `expected`, or behind its end not zero.
fn first_difference(request: &Request<'_>, expected: &[u8]) -> Option<usize> {
    let mut place = 0;
    for piece in &request.pieces {
        let found = piece.bytes();
        let (head, padding) = found.split_at(found.len().min(request.len - place.min(request.len)));
        let wanted = &expected[place.min(request.len)..][..head.len()];
        if head != wanted {
            let at = head
                .iter()
                .zip(wanted)
                .position(|(a, b)| a != b)
                .unwrap_or(0);
            return Some(place + at);
        }
        if let Some(at) = padding.iter().position(|byte| *byte != 0) {
            return Some(place + head.len() + at);
        }
        place += found.len();
    }
    None
}
