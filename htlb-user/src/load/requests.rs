// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Cuts a load into requests, each with the memory that it alone may write.

use crate::sys::file::{Span, MAX_PIECES};

/// One read: a range of the source and the memory for it.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// Where in the source, in bytes.
    pub(super) offset: u64,
    /// How many bytes of the source.
    pub(super) len: usize,
    /// Memory for `len` bytes, and after the last request's bytes as much more as completes a block.
    pub(super) pieces: Vec<Span<'a>>,
}

/// The requests of one load, in ascending order of offset.
///
/// # Invariants
/// `spans` is the memory that no request got yet; it begins where byte `offset` of the source belongs.
#[derive(Debug)]
pub(super) struct Requests<'a> {
    spans: std::vec::IntoIter<Span<'a>>,
    front: Option<Span<'a>>,
    offset: u64,
    handed_out: u64,
    len: u64,
    request_bytes: usize,
    block: usize,
}

impl<'a> Requests<'a> {
    /// The requests that fill `spans` with `len` bytes, `request_bytes` each; both that and the padding of the
    /// last are multiples of `block`.
    pub(super) fn new(spans: Vec<Span<'a>>, len: u64, request_bytes: usize, block: usize) -> Self {
        Self {
            spans: spans.into_iter(),
            front: None,
            offset: 0,
            handed_out: 0,
            len,
            request_bytes: request_bytes.next_multiple_of(block).max(block),
            block,
        }
    }

    /// The bytes of memory that requests got: those of the source, and the padding of the last.
    pub(super) const fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// The memory behind that; to be called when no request is left.
    pub(super) fn rest(self) -> impl Iterator<Item = Span<'a>> {
        self.front.into_iter().chain(self.spans)
    }

    fn next_piece(&mut self, at_most: usize) -> Option<Span<'a>> {
        loop {
            let span = match self.front.take() {
                Some(span) => span,
                None => self.spans.next()?,
            };
            if !span.is_empty() {
                let (piece, rest) = span.split_at(at_most);
                self.front = Some(rest);
                return Some(piece);
            }
        }
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = Request<'a>;

    fn next(&mut self) -> Option<Request<'a>> {
        let left = self.len.checked_sub(self.offset).filter(|left| *left > 0)?;
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(self.request_bytes);
        // The device reads whole blocks: the last one may end behind the last byte, if the memory does too.
        let room = wanted.next_multiple_of(self.block);
        let (mut pieces, mut found) = (Vec::with_capacity(1), 0);
        while found < room && pieces.len() < MAX_PIECES {
            let Some(piece) = self.next_piece(room - found) else {
                break;
            };
            found += piece.len();
            pieces.push(piece);
        }
        self.handed_out += found as u64;
        let len = found.min(wanted);
        let request = Request {
            offset: self.offset,
            len,
            pieces,
        };
        // INVARIANT: the request got the memory up to the source's byte `offset + len`; padding follows only the
        // last byte.
        self.offset = self.offset.checked_add(u64::try_from(len).ok()?)?;
        (len > 0).then_some(request)
    }
}

/// Drops the first `n` bytes of the pieces: those that have arrived.
pub(super) fn advance(pieces: &mut Vec<Span<'_>>, mut n: usize) {
    let mut whole = 0;
    for piece in pieces.iter() {
        if piece.len() > n {
            break;
        }
        n -= piece.len();
        whole += 1;
    }
    pieces.drain(..whole);
    if let (true, Some(first)) = (n > 0, pieces.first_mut()) {
        let taken = std::mem::replace(first, Span::new(&mut []));
        *first = taken.split_at(n).1;
    }
}

/// Drops every byte after the first `n`.
pub(super) fn truncate(pieces: &mut Vec<Span<'_>>, mut n: usize) {
    let mut keep = 0;
    for piece in pieces.iter_mut() {
        if n == 0 {
            break;
        }
        if piece.len() > n {
            let taken = std::mem::replace(piece, Span::new(&mut []));
            *piece = taken.split_at(n).0;
        }
        n -= piece.len();
        keep += 1;
    }
    pieces.truncate(keep);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(
        spans: &mut [Vec<u8>],
        len: u64,
        request: usize,
        block: usize,
    ) -> (Vec<(u64, usize, usize)>, usize) {
        let spans: Vec<_> = spans.iter_mut().map(|span| Span::new(span)).collect();
        let mut requests = Requests::new(spans, len, request, block);
        let found = requests
            .by_ref()
            .map(|r| (r.offset, r.len, r.pieces.iter().map(Span::len).sum()))
            .collect();
        (found, requests.rest().map(|span| span.len()).sum())
    }

    #[test]
    fn the_last_request_is_padded_to_a_block_where_memory_allows() {
        let mut memory = [vec![0; 64]];
        assert_eq!(
            cut(&mut memory, 21, 16, 8),
            (vec![(0, 16, 16), (16, 5, 8)], 40)
        );
        let mut memory = [vec![0; 21]];
        assert_eq!(
            cut(&mut memory, 21, 16, 8),
            (vec![(0, 16, 16), (16, 5, 5)], 0)
        );
    }

    #[test]
    fn a_request_crosses_spans_and_skips_empty_ones() {
        let mut memory = [vec![0; 3], vec![], vec![0; 30]];
        assert_eq!(
            cut(&mut memory, 20, 16, 8),
            (vec![(0, 16, 16), (16, 4, 8)], 9)
        );
    }

    #[test]
    fn a_request_takes_no_more_pieces_than_one_call() {
        let mut memory = vec![vec![0u8; 1]; MAX_PIECES + 5];
        let (found, rest) = cut(&mut memory, MAX_PIECES as u64 + 5, 1 << 20, 1);
        assert_eq!(
            found,
            vec![(0, MAX_PIECES, MAX_PIECES), (MAX_PIECES as u64, 5, 5)]
        );
        assert_eq!(rest, 0);
    }

    #[test]
    fn advancing_and_truncating_keep_the_right_bytes() {
        let (mut a, mut b) = ([1u8, 2, 3], [4u8, 5, 6]);
        let mut pieces = vec![Span::new(&mut a), Span::new(&mut b)];
        truncate(&mut pieces, 5);
        advance(&mut pieces, 3);
        advance(&mut pieces, 1);
        assert_eq!(
            pieces
                .iter()
                .map(|p| p.bytes().to_vec())
                .collect::<Vec<_>>(),
            [vec![5]]
        );
        advance(&mut pieces, 1);
        assert!(pieces.is_empty());
    }
}
