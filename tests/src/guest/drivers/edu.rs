// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The example in Rust: a device that drives 28 address bits writes into a buffer before any program maps it.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use htlb_core::HugeSize;
use htlb_user::device::Device;

use super::caller::Caller;
use super::view::{View, HUGE};
use crate::guest::{cases, Case, Module};

const SIZE: usize = 8 << 20;
const PATTERN: usize = 2048;
/// As the driver says: its own page, and where the device wrote.
const PLACES: [usize; 4] = [0, 1 << 20, (4 << 20) - 1024, SIZE - PATTERN];
/// The addresses that the device reaches.
const REACH: u64 = 1 << 28;
const EDU: Module = Module::new("htlb_edu", "");
const DRIVER: &str = "/sys/bus/pci/drivers/htlb_edu";
const NODE: &str = "/dev/htlb_edu";

pub(super) fn cases() -> Vec<Case> {
    cases![
        the_device_writes_before_a_program_maps,
        removal_with_live_mappings_is_safe
    ]
}

fn open() -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(NODE);
    file.with_context(|| format!("opening {NODE}"))
}

fn holds_what_the_device_wrote(view: &View) -> Result<()> {
    for at in 0..SIZE {
        let place = PLACES
            .into_iter()
            .find(|place| (*place..*place + PATTERN).contains(&at));
        let wanted = place.map_or(0, |place| (7 * (at - place) + 3) as u8);
        let found = view.byte(at);
        ensure!(found == wanted, "byte {at}: {found:#x}, not {wanted:#x}");
    }
    Ok(())
}

/// The pool's free pages and its surplus, in bytes.
fn pool() -> Result<(u64, u64)> {
    let stats = Device::open()?.stats(HugeSize::MIB2, None)?;
    Ok((stats.free, stats.surplus))
}

/// Low memory is full when the driver comes, so its pages are there because the pool kept them, and chose them.
fn the_device_writes_before_a_program_maps() -> Result<()> {
    let caller = Caller::open()?;
    let taken = caller.run("take_low_memory", REACH)?;
    println!("{taken} pages of 2 MiB below {REACH:#x} taken");
    let (free, surplus) = pool()?;
    EDU.load()?;
    ensure!(
        pool()? == (free - SIZE as u64, surplus),
        "{free}, {surplus} became {:?}",
        pool()?
    );
    let view = View::shared(open()?, SIZE)?;
    holds_what_the_device_wrote(&view)?;
    ensure!(
        view.huge_bytes()? == SIZE as u64,
        "{} bytes by huge entries",
        view.huge_bytes()?
    );
    for at in (0..SIZE).step_by(HUGE) {
        let last = view.physical(at)? + HUGE as u64;
        ensure!(last <= REACH, "the page at {at} ends at {last:#x}");
    }
    drop(view);
    EDU.unload()?;
    caller.run("give_back", 0).map(drop)
}

/// The device that the driver has.
fn device() -> Result<String> {
    let links = fs::read_dir(DRIVER).with_context(|| format!("reading {DRIVER}"))?;
    let mut names = links.filter_map(|link| link.ok()?.file_name().into_string().ok());
    names
        .find(|name| name.contains(':'))
        .context("the driver has no device")
}

fn removal_with_live_mappings_is_safe() -> Result<()> {
    EDU.load()?;
    let device = device()?;
    let file = open()?;
    let view = View::shared(&file, SIZE)?;
    let tell = |what: &str| {
        fs::write(PathBuf::from(DRIVER).join(what), &device)
            .with_context(|| format!("{what} {device}"))
    };
    tell("unbind")?;
    ensure!(!fs::exists(NODE)?, "{NODE} is still there");
    holds_what_the_device_wrote(&view)?;
    // Whoever has the file open can still map it.
    let late = View::shared(&file, SIZE)?;
    late.write(77, 1);
    ensure!(view.byte(77) == 1);
    drop((view, late));

    // Bound again, it writes into a buffer of its own.
    tell("bind")?;
    let again = View::shared(open()?, SIZE)?;
    holds_what_the_device_wrote(&again)?;
    drop(file);
    EDU.unload()?;
    ensure!(!fs::exists(NODE)?, "{NODE} is still there");
    holds_what_the_device_wrote(&again)
}
