// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Whether the module has nothing to do: no buffer, no promise, no page that somebody has, and books that are in order.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use htlb_core::HugeSize;
use htlb_user::device::Device;

/// The module compares its books when this is read.
pub const CHECK: &str = "/sys/kernel/debug/htlb/check";
/// What the module has, for people.
pub const STATE: &str = "/sys/kernel/debug/htlb/state";

/// How long what has just been let go may take to come home.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has the module compare its books.
///
/// # Errors
/// What they say, where they differ.
pub fn check() -> Result<(), String> {
    let said = fs::read_to_string(CHECK).map_err(|error| format!("reading {CHECK}: {error}"))?;
    match said.lines().next() {
        Some("ok") => Ok(()),
        _ => Err(said.trim().to_owned()),
    }
}

/// Waits for a while until the module is at rest.
///
/// # Errors
/// What it still has.
pub fn wait() -> Result<()> {
    let began = Instant::now();
    loop {
        let mut busy = busy()?;
        if let Err(broken) = check() {
            busy.push(broken);
        }
        if busy.is_empty() {
            return Ok(());
        }
        if began.elapsed() >= PATIENCE {
            let state = fs::read_to_string(STATE).unwrap_or_default();
            bail!(
                "the module is not at rest: {}; its state: {state}",
                busy.join("; ")
            );
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// What the module has in use, in words.
///
/// # Errors
/// It cannot be asked.
pub fn busy() -> Result<Vec<String>> {
    let device = Device::open().context("opening the device")?;
    let mut busy = Vec::new();
    for size in [HugeSize::MIB2, HugeSize::GIB1] {
        let stats = device.stats(size, None)?;
        for (what, bytes) in [
            ("in use", stats.total.saturating_sub(stats.free)),
            ("promised", stats.reserved),
            ("surplus", stats.surplus),
            ("in limbo", stats.limbo),
            ("donated", stats.donated),
        ] {
            if bytes != 0 {
                busy.push(format!("{size} pages: {bytes} bytes {what}"));
            }
        }
    }
    Ok(busy)
}
