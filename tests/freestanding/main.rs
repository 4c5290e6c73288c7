// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A host without std, alloc, libc or an operating system's locks: what a monitor or unikernel would be.
//!
//! It only borrows Linux to start it and to take its exit status, which is 0 if all went well.
#![no_std]
#![no_main]

mod memory;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use htlb_core::{ByteLen, Error, Exclusive, HugeSize, PageCount};
use spin::mutex::SpinMutex;

/// The frames that are left, behind a lock that needs nobody's help.
static STOCK: SpinMutex<PageCount> = SpinMutex::new(PageCount::new(3));

/// Takes pages for `len` bytes off the stock, all of them or none.
fn take(len: ByteLen) -> Result<PageCount, Error> {
    let wanted = HugeSize::MIB2.pages_for(len);
    STOCK.with(|stock| {
        *stock = stock.checked_sub(wanted.raw()).ok_or(Error::NoRoom)?;
        Ok(wanted)
    })
}

fn exercise() -> bool {
    let first = take(ByteLen::new((4 << 20) + 1));
    let second = take(ByteLen::new(1));
    first == Ok(PageCount::new(3))
        && second == Err(Error::NoRoom)
        && STOCK.with(|stock| stock.is_zero())
        && Line::of(&Error::NoRoom).is_ok_and(|line| line.used > 0 && line.bytes[0] != 0)
}

/// Text of a fixed length: even messages need no allocator.
struct Line {
    bytes: [u8; 200],
    used: usize,
}

impl Line {
    fn of(what: &dyn fmt::Display) -> Result<Self, fmt::Error> {
        let mut line = Self {
            bytes: [0; 200],
            used: 0,
        };
        write!(line, "{what:>40}")?;
        Ok(line)
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.used.checked_add(text.len()).ok_or(fmt::Error)?;
        let room = self.bytes.get_mut(self.used..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.used = end;
        Ok(())
    }
}

// SAFETY: the kernel enters here with the stack pointer at `argc`, on a 16-byte boundary, and no return address;
// the call keeps to the calling convention from there on.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {start}",
    "ud2",
    start = sym start,
);

extern "C" fn start() -> ! {
    exit(if exercise() { 0 } else { 1 })
}

fn exit(status: i32) -> ! {
    // SAFETY: `exit_group` takes the status, touches no memory and does not return.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack)) }
}

#[panic_handler]
fn panicked(_: &PanicInfo<'_>) -> ! {
    exit(2)
}
