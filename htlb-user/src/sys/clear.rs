// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Fast zeroing.

/// From this length on, stores go past the caches: a huge page would evict everything else and is not read back soon.
const STREAM_FROM: usize = 256 << 10;

/// Sets every byte to zero, past the caches for large slices where the processor can.
///
/// ```
/// let mut page = vec![7_u8; 1 << 20];
/// htlb_user::sys::clear::clear(&mut page);
/// assert!(page.iter().all(|byte| *byte == 0));
/// ```
pub fn clear(bytes: &mut [u8]) {
    if bytes.len() < STREAM_FROM {
        bytes.fill(0);
    } else {
        stream(bytes);
    }
}

#[cfg(target_arch = "x86_64")]
fn stream(bytes: &mut [u8]) {
    use std::arch::x86_64::{__m128i, _mm_setzero_si128, _mm_sfence, _mm_stream_si128};

    // SAFETY: sixteen zero bytes are sixteen valid bytes, so a slice of bytes may be seen as a slice of vectors.
    let (head, body, tail) = unsafe { bytes.align_to_mut::<__m128i>() };
    head.fill(0);
    tail.fill(0);
    // SAFETY: SSE2 is part of x86-64. Every store goes to an aligned, exclusively borrowed element. Streaming stores are weakly ordered;
    // the fence at the end orders all of them before whatever this thread does next, so no other thread, given the slice later, sees old bytes.
    unsafe {
        let zero = _mm_setzero_si128();
        for line in body.chunks_mut(4) {
            for part in line {
                _mm_stream_si128(part, zero);
            }
        }
        _mm_sfence();
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn stream(bytes: &mut [u8]) {
    // arm64's memset already uses `dc zva`, which does not read what it overwrites.
    bytes.fill(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_and_no_other() {
        for (start, len) in [
            (0, STREAM_FROM),
            (1, STREAM_FROM + 3),
            (15, STREAM_FROM + 65),
            (3, 100),
        ] {
            let mut bytes = vec![0xAA_u8; STREAM_FROM + 128];
            clear(&mut bytes[start..start + len]);
            assert!(bytes[..start].iter().all(|b| *b == 0xAA));
            assert!(bytes[start..start + len].iter().all(|b| *b == 0));
            assert!(bytes[start + len..].iter().all(|b| *b == 0xAA));
        }
    }
}
