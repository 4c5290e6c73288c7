// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A host without std, alloc, libc or an operating system's locks: what a monitor or unikernel would be.
//!
//! The host is the core's own example; around it is what such a program must bring along. It only borrows Linux to
//! start it and to take its exit status, which is 0 if all went well.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

use host::Monitor;
use htlb_core::driver::{self, Content};
use htlb_core::{AddressBits, ByteLen, ByteOffset, ByteRange, Error, Exclusive, PageCount, Pfn};
use spin::mutex::SpinMutex;

#[path = "../../htlb-core/examples/spin_host/host.rs"]
mod host;

const MIB: u64 = 1 << 20;

/// Frames on both sides of 4 GiB, behind a lock that needs nobody's help.
static MONITOR: SpinMutex<Option<Monitor>> = SpinMutex::new(None);

/// Takes a guest in, lets it fault and fill its memory, and sees it off. `false` where a count is wrong.
fn exercise() -> Result<bool, Error> {
    let first = Pfn::new((1 << 20) - 16 * 512);
    MONITOR.with(|monitor| {
        let monitor = monitor.insert(Monitor::new(first, 32)?);
        let mut guest = monitor.admit(ByteLen::new(40 * MIB), AddressBits::ALL)?;
        let mut legacy = monitor.admit(ByteLen::new(20 * MIB), AddressBits::new(32)?)?;
        let third = monitor.admit(ByteLen::new(6 * MIB), AddressBits::ALL);
        let refused = third.err() == Some(Error::NoRoom);
        let page = driver::fault(monitor, &legacy, ByteOffset::new(5 * MIB))?;
        let reachable = page.pfn.raw() < 1 << 20;
        let all = ByteRange::at(ByteOffset::ZERO, guest.map().size())?;
        let filled = driver::populate(monitor, &guest, all, &mut Content::Zeroes)?;
        driver::release(monitor, &mut guest)?;
        driver::release(monitor, &mut legacy)?;
        let whole = filled == PageCount::new(20) && monitor.spare() == PageCount::new(32);
        Ok(refused && reachable && whole && monitor.is_sound())
    })
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
    exit(match exercise() {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(_) => 3,
    })
}

fn exit(status: i32) -> ! {
    // SAFETY: `exit_group` takes the status, touches no memory and does not return.
    unsafe { asm!("syscall", in("rax") 231, in("rdi") status, options(noreturn, nostack)) }
}

#[panic_handler]
fn panicked(_: &PanicInfo<'_>) -> ! {
    exit(2)
}

// What the compiler takes for granted on every target, and finds in libc elsewhere.
// SAFETY: both touch the bytes that the caller names and no others, return the destination, and change only registers
// that the calling convention leaves to them; it also says that the direction flag is clear.
global_asm!(
    ".globl memcpy, memset",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
);
