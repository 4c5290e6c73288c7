// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Memory errors, in pages that are in use and in pages that are free: such a page never serves again.

use std::fs;

use anyhow::{ensure, Result};
use htlb_core::ByteLen;
use htlb_user::buffer::Populate;
use htlb_user::device::Device;

use super::super::span::{Span, HUGE};
use super::super::{expect_in_log, rest, skip};
use super::{bytes, create, places, request, resize, size, LOADED, MIB2, SURPLUS};

fn expect_errors() -> Result<()> {
    expect_in_log("emory failure")?;
    expect_in_log("has a memory error")?;
    expect_in_log("njecting memory failure")?;
    Ok(())
}

pub(super) fn bad_memory_never_comes_back() -> Result<()> {
    let device = Device::open()?;
    device.allow_surplus(MIB2, ByteLen::ZERO)?;
    let buffer = create(&device, request(2), Populate::Now)?;
    let view = Span::shared(&buffer, 2 * HUGE)?;
    view.stamp(3);
    let bad = buffer.lookup(HUGE as u64)?.physical;
    expect_errors()?;
    if let Err(error) = view.advise(HUGE + 4096, 4096, libc::MADV_HWPOISON) {
        if error.raw_os_error() == Some(libc::EINVAL) {
            return skip("this kernel has no memory failures");
        }
        println!("    # MADV_HWPOISON: {error}");
    }
    drop(view);
    drop(buffer);
    rest::wait()?;
    let left = size(&device, None)?;
    ensure!(left == LOADED - 1, "{left} pages are left");
    let all = create(&device, request(left), Populate::Now)?;
    ensure!(
        !places(&all, left)?.contains(&(bad & !(HUGE as u64 - 1))),
        "it was given out again"
    );
    drop(all);
    ensure!(resize(&device, None, LOADED)? == LOADED);
    device.allow_surplus(MIB2, ByteLen::new(bytes(SURPLUS)))?;
    Ok(())
}

/// Has the kernel note that the base page at this physical address is bad; says whether it can.
fn spoil(place: u64) -> Result<bool> {
    let ways = [
        ("/sys/kernel/debug/hwpoison/corrupt-pfn", place >> 12),
        ("/sys/devices/system/memory/hard_offline_page", place),
    ];
    for (file, number) in ways {
        if fs::exists(file)? {
            // It does not know whose page that is, and says so; that the memory is bad it notes all the same.
            if let Err(error) = fs::write(file, format!("{number:#x}")) {
                println!("    # {file}: {error}");
            }
            return Ok(true);
        }
    }
    Ok(false)
}

/// The pool gives all that it has: another page comes for each that is bad, and the programs do not notice.
pub(super) fn memory_that_went_bad_while_it_was_free_is_never_used() -> Result<()> {
    let device = Device::open()?;
    let all = create(&device, request(LOADED), Populate::Now)?;
    let bad: Vec<u64> = places(&all, LOADED)?.into_iter().step_by(5).collect();
    drop(all);
    rest::wait()?;
    expect_errors()?;
    for place in &bad {
        if !spoil(place + 8192)? {
            return skip("this kernel has no memory failures");
        }
    }
    let good = |pages, populate| -> Result<()> {
        let buffer = create(&device, request(pages), populate)?;
        let view = Span::shared(&buffer, bytes(pages) as usize)?;
        view.stamp(5);
        let found = places(&buffer, pages)?;
        ensure!(
            found.iter().all(|place| !bad.contains(place)),
            "it was given out again"
        );
        Ok(())
    };
    // Some of the bad ones are met here, the others where all are asked for.
    good(LOADED / 2, Populate::Later)?;
    good(LOADED, Populate::Now)?;
    good(LOADED, Populate::Later)?;
    ensure!(resize(&device, None, LOADED)? == LOADED);
    good(LOADED, Populate::Now)
}
