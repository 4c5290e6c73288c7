// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The functions that compiled code calls by name and that libc would bring.
//!
//! Written with string instructions: a loop would be compiled into a call to the very function it is in.

use core::arch::asm;

/// Copies `len` bytes; the areas do not overlap.
///
/// # Safety
/// As in C.
#[no_mangle]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller lets `len` bytes be read at `from` and written at `to`; the direction flag is clear.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// Copies `len` bytes; the areas may overlap.
///
/// # Safety
/// As in C.
#[no_mangle]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= len {
        // SAFETY: as the caller's; copying upwards reads each byte before it can be overwritten.
        return unsafe { memcpy(to, from, len) };
    }
    let last = len.wrapping_sub(1);
    // SAFETY: as the caller's; copying downwards, from the last byte on, reads each byte before it can be
    // overwritten. `len` is not 0 here, and the direction flag is clear again afterwards.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _,
            inout("rdi") to.wrapping_add(last) => _, inout("rsi") from.wrapping_add(last) => _,
            options(nostack));
    }
    to
}

/// Sets `len` bytes.
///
/// # Safety
/// As in C.
#[no_mangle]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller lets `len` bytes be written at `to`; the direction flag is clear.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("eax") value,
            options(nostack, preserves_flags));
    }
    to
}

/// Compares `len` bytes.
///
/// # Safety
/// As in C.
#[no_mangle]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
    let (left, right): (u32, u32);
    // SAFETY: the caller lets `len` bytes be read at both; the last ones compared decide. With `len` 0 nothing
    // is read, and the comparison of a register with itself sets "equal".
    unsafe {
        asm!("xor eax, eax", "xor edx, edx", "cmp eax, eax", "repe cmpsb", "je 2f",
            "movzx eax, byte ptr [rdi - 1]", "movzx edx, byte ptr [rsi - 1]", "2:",
            inout("rcx") len => _, inout("rdi") one => _, inout("rsi") other => _,
            out("eax") left, out("edx") right, options(nostack, readonly));
    }
    (left as i32).wrapping_sub(right as i32)
}

/// Whether two areas of `len` bytes differ.
///
/// # Safety
/// As in C.
#[no_mangle]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, len: usize) -> i32 {
    // SAFETY: as the caller's.
    unsafe { memcmp(one, other, len) }
}
