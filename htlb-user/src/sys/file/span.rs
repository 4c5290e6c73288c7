// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A piece of memory that its holder may overwrite, without a Rust reference to it.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// A piece of memory, held exclusively for `'a`, for a device or the kernel to write into.
///
/// A span can be split but not copied, so two readers never fill the same byte. What a program may read is
/// what [`Span::bytes`] lends.
///
/// # Invariants
/// `pointer` is valid for reads and writes of `len` initialised bytes for `'a`, and nobody else reads or writes
/// them meanwhile.
///
/// ```
/// use htlb_user::load::Span;
/// let mut memory = [1u8; 8];
/// let (mut head, tail) = Span::new(&mut memory).split_at(3);
/// head.zero();
/// assert_eq!((head.bytes(), tail.bytes()), (&[0u8; 3][..], &[1u8; 5][..]));
/// ```
pub struct Span<'a> {
    pointer: NonNull<u8>,
    len: usize,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: a span is an exclusive borrow of bytes, like `&mut [u8]`, which is Send.
unsafe impl Send for Span<'_> {}
// SAFETY: a shared span only lends its bytes for reading, like `& &mut [u8]`, which is Sync.
unsafe impl Sync for Span<'_> {}

impl<'a> Span<'a> {
    /// The span of a slice.
    #[must_use]
    pub fn new(memory: &'a mut [u8]) -> Self {
        // INVARIANT: the slice is initialised and borrowed exclusively for 'a.
        Self {
            len: memory.len(),
            pointer: NonNull::from(memory).cast(),
            memory: PhantomData,
        }
    }

    /// The span of `len` bytes from `pointer`: for memory that has no slice, such as a pool's window.
    ///
    /// # Safety
    /// For `'a`, the bytes are mapped, readable, writable and initialised (memory fresh from the kernel is), and
    /// nothing else in this process reads or writes them. `len` is at most `isize::MAX`.
    #[must_use]
    pub unsafe fn from_raw_parts(pointer: NonNull<u8>, len: usize) -> Self {
        // INVARIANT: what the caller promises.
        Self {
            pointer,
            len,
            memory: PhantomData,
        }
    }

    /// The length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte.
    #[must_use]
    pub fn address(&self) -> usize {
        self.pointer.as_ptr() as usize
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pointer.as_ptr()
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the invariant; the borrow of `self` keeps every writer out.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }

    /// The same span for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> Span<'_> {
        // INVARIANT: `self` cannot be used while the result lives.
        Span {
            pointer: self.pointer,
            len: self.len,
            memory: PhantomData,
        }
    }

    /// The first `at` bytes, or all if there are fewer, and the rest.
    #[must_use]
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let at = at.min(self.len);
        // SAFETY: `at` is at most `len`, so the sum stays inside the memory or one past its end.
        let rest = unsafe { self.pointer.add(at) };
        // INVARIANT: the halves are disjoint and `self` is consumed.
        (
            Self {
                pointer: self.pointer,
                len: at,
                memory: PhantomData,
            },
            Self {
                pointer: rest,
                len: self.len - at,
                memory: PhantomData,
            },
        )
    }

    /// Copies as many of `bytes` as fit to the front, and says how many.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.len);
        // SAFETY: the invariant, for `count` bytes of the span; `bytes` cannot overlap memory that is ours alone.
        unsafe {
            self.pointer
                .as_ptr()
                .copy_from_nonoverlapping(bytes.as_ptr(), count)
        };
        count
    }

    /// Sets every byte to zero.
    pub fn zero(&mut self) {
        // SAFETY: the invariant; `&mut self` keeps every other user out.
        unsafe { self.pointer.as_ptr().write_bytes(0, self.len) };
    }
}

impl fmt::Debug for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({} bytes at {:#x})", self.len, self.address())
    }
}
