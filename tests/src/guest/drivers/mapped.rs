// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A driver's buffer in a program: by the driver's own file, by a descriptor that it hands out, and after the driver is gone.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use htlb_core::{ByteLen, HugeSize, Request};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer};
use rustix::io::Errno;
use rustix::system::delete_module;

use super::caller::Caller;
use super::view::{View, Writes, HUGE};
use crate::guest::{cases, Case, Module};

const CALLER: Module = Module::new("htlb_caller", "");

pub(super) fn cases() -> Vec<Case> {
    cases![
        a_driver_s_file_maps_huge_pages,
        a_driver_s_file_refuses_what_is_not_there,
        an_area_that_is_one_of_frames_already_is_refused,
        a_mapping_outlives_the_driver,
        a_program_gets_a_descriptor,
        a_driver_gets_a_program_s_buffer,
    ]
}

/// What the test driver writes into the page there.
fn expected(at: usize) -> u8 {
    0xa0 + u8::try_from(at / HUGE).unwrap_or(0)
}

fn holds_the_pattern(view: &View, offset: usize, len: usize) -> Result<()> {
    for at in (0..len).step_by(4096 - 1) {
        let (found, wanted) = (view.byte(at), expected(offset + at));
        ensure!(found == wanted, "byte {at}: {found:#x}, not {wanted:#x}");
    }
    Ok(())
}

fn a_driver_s_file_maps_huge_pages() -> Result<()> {
    let caller = Caller::open()?;
    caller.run("keep", 0)?;
    let view = View::shared(&caller.file, 2 * HUGE)?;
    ensure!(view.address() % HUGE == 0, "at {:#x}", view.address());
    holds_the_pattern(&view, 0, 2 * HUGE)?;
    ensure!(
        view.huge_bytes()? == 2 * HUGE as u64,
        "{} bytes by huge entries",
        view.huge_bytes()?
    );

    // From an offset, at an address that agrees with it.
    let second = View::new(&caller.file, HUGE as u64, HUGE, Writes::Shared)?;
    holds_the_pattern(&second, HUGE, HUGE)?;
    ensure!(second.huge_bytes()? == HUGE as u64);
    let part = View::new(&caller.file, 4096, 2 * HUGE - 4096, Writes::Shared)?;
    ensure!(part.address() % HUGE == 4096, "at {:#x}", part.address());
    holds_the_pattern(&part, 4096, 2 * HUGE - 4096)?;
    ensure!(part.huge_bytes()? == HUGE as u64);

    // What one writes is what all see, but for private copies.
    let private = View::new(&caller.file, 0, HUGE, Writes::Private)?;
    private.write(5, 1);
    ensure!((view.byte(5), private.byte(5)) == (expected(5), 1));
    view.write(HUGE + 7, 2);
    ensure!((second.byte(7), part.byte(HUGE + 7 - 4096)) == (2, 2));
    caller.run("drop", 0).map(drop)
}

fn a_driver_s_file_refuses_what_is_not_there() -> Result<()> {
    let caller = Caller::open()?;
    let refusal = |offset, len| {
        let refused = View::new(&caller.file, offset, len, Writes::Shared).err();
        refused.and_then(|error| error.raw_os_error())
    };
    ensure!(
        refusal(0, HUGE) == Some(libc::EINVAL),
        "{:?}",
        refusal(0, HUGE)
    );
    caller.run("keep", 0)?;
    let refusals = [
        refusal(0, 2 * HUGE + 4096),
        refusal(2 * HUGE as u64, 4096),
        refusal(1 << 50, HUGE),
    ];
    caller.run("drop", 0)?;
    ensure!(refusals == [Some(libc::ENXIO); 3], "{refusals:?}");
    Ok(())
}

/// Folios in such an area would never be let go, and frames in one of both kinds stop the kernel.
fn an_area_that_is_one_of_frames_already_is_refused() -> Result<()> {
    let caller = Caller::open()?;
    caller.run("keep", 0)?;
    let marked = |mark| -> Result<Option<i32>> {
        caller.run("mark_areas", mark)?;
        let view = View::new(&caller.file, 0, HUGE, Writes::Shared);
        if let Ok(view) = &view {
            holds_the_pattern(view, 0, HUGE)?;
        }
        Ok(view.err().and_then(|error| error.raw_os_error()))
    };
    let answers = [marked(1)?, marked(2)?, marked(3)?, marked(0)?];
    caller.run("drop", 0)?;
    ensure!(
        answers == [Some(libc::EINVAL), Some(libc::EINVAL), None, None],
        "{answers:?}"
    );
    Ok(())
}

/// The driver gives the buffer up, its file is closed, its module is unloaded: the mapping is the last that keeps the buffer,
/// and with it the module that owns the pages.
fn a_mapping_outlives_the_driver() -> Result<()> {
    let caller = Caller::open()?;
    caller.run("keep", 0)?;
    let view = View::shared(&caller.file, 2 * HUGE)?;
    caller.run("drop", 0)?;
    drop(caller);
    CALLER.unload()?;
    holds_the_pattern(&view, 0, 2 * HUGE)?;
    // Not by `Module::unload`, which waits for what is only late.
    let refused = delete_module(c"htlb", libc::O_NONBLOCK);
    ensure!(refused == Err(Errno::AGAIN), "unloading htlb: {refused:?}");
    drop(view);
    CALLER.load()
}

fn a_program_gets_a_descriptor() -> Result<()> {
    let caller = Caller::open()?;
    caller.run("keep", 0)?;
    let fd = i32::try_from(caller.run("give_descriptor", 0)?)?;
    // SAFETY: a new descriptor, which nobody else has.
    let buffer = DeviceBuffer::attach(unsafe { OwnedFd::from_raw_fd(fd) })?;
    let info = buffer.info()?;
    ensure!(
        (info.bytes, info.populated) == (2 * HUGE as u64, 2 * HUGE as u64),
        "{info:?}"
    );
    let flags = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    ensure!(flags.contains("02000002"), "not closed on exec: {flags}");

    // The driver's seal is not the program's to take away.
    caller.run("seal_kept", 0)?;
    let errno = |error: htlb_user::device::DeviceError| error.errno();
    ensure!(buffer.unseal().map_err(errno) == Err(libc::ENODATA));
    ensure!(buffer.punch(0, HUGE as u64).map(drop).map_err(errno) == Err(libc::EPERM));
    caller.run("unseal_kept", 0)?;
    caller.run("drop", 0)?;
    let view = View::shared(&buffer, 2 * HUGE)?;
    holds_the_pattern(&view, 0, 2 * HUGE)?;
    buffer.punch(0, HUGE as u64)?;
    ensure!(view.byte(0) == 0, "punched, it reads {:#x}", view.byte(0));
    Ok(())
}

fn a_driver_gets_a_program_s_buffer() -> Result<()> {
    let caller = Caller::open()?;
    let size = ByteLen::new(HUGE as u64);
    let request = Request::builder(size)
        .page_size(HugeSize::MIB2)
        .strict()
        .build();
    let request = request.map_err(std::io::Error::from)?;
    let buffer = Device::open()?.create(&request, size, Populate::Now)?;
    let own = View::shared(&buffer, HUGE)?;
    own.write(99, 42);
    let fd = u64::try_from(std::os::fd::AsFd::as_fd(&buffer).as_raw_fd())?;
    ensure!(caller.run("keep_descriptor", fd)? == HUGE as i64);
    drop((own, buffer));
    let view = View::shared(&caller.file, HUGE)?;
    caller.run("drop", 0)?;
    ensure!(view.byte(99) == 42);
    // Nothing but a buffer is one.
    let other = File::open("/proc/self/maps").context("opening a file")?;
    let refused = caller.run("keep_descriptor", u64::try_from(other.as_raw_fd())?);
    ensure!(refused.is_err_and(|error| error.to_string().contains("but -22")));
    Ok(())
}
