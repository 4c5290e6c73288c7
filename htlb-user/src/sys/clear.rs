// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Fast zeroing.

/// What zeroing does to the processor's caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caches {
    /// Through them: best for a page that was just used, or is about to be.
    Use,
    /// Past them: best for many pages that nobody has touched lately; they would evict everything else.
    Bypass,
}

/// Sets every byte to zero.
///
/// ```
/// use htlb_user::sys::clear::{clear, Caches};
/// let mut page = vec![7_u8; 1 << 20];
/// clear(&mut page, Caches::Bypass);
/// assert!(page.iter().all(|byte| *byte == 0));
/// ```
pub fn clear(bytes: &mut [u8], caches: Caches) {
    match caches {
        Caches::Use => bytes.fill(0),
        Caches::Bypass => stream(bytes),
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
        for caches in [Caches::Use, Caches::Bypass] {
            for (start, len) in [(0, 4096), (1, 4099), (15, 4161), (3, 7), (5, 0)] {
                let mut bytes = vec![0xAA_u8; 8192];
                clear(&mut bytes[start..start + len], caches);
                assert!(bytes[..start].iter().all(|b| *b == 0xAA));
                assert!(bytes[start..start + len].iter().all(|b| *b == 0));
                assert!(bytes[start + len..].iter().all(|b| *b == 0xAA));
            }
        }
    }
}
