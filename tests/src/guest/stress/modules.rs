// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Modules that are to leave, and a device that does, while somebody has something of theirs.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags};
use htlb_core::HugeSize;
use htlb_user::device::{Device, DeviceBuffer, Export};
use rustix::io::Errno;
use rustix::system::delete_module;

use super::super::area::Area;
use super::super::holders::{pipe, splice};
use super::super::raw::{Child, End};
use super::super::span::HugetlbPool;
use super::super::{rest, Module};
use super::device::memfd;
use super::plan::{Dice, Plan};
use super::view::{BASE, HUGE};
use super::{HTLB, IMPORTER};
use crate::kmod::importer::{Direction, Importer};

const EDU: Module = Module::new("htlb_edu", "");
const DRIVER: &str = "/sys/bus/pci/drivers/htlb_edu";
const NODE: &str = "/dev/htlb_edu";
const EDU_SIZE: usize = 8 << 20;

/// How many times as long as it should a case may go on until everything has happened.
const SLOWEST: u32 = 5;

/// Tries to take a module out, once; says whether it went.
fn leaves(module: Module) -> Result<bool> {
    let name = std::ffi::CString::new(module.name)?;
    match delete_module(&name, libc::O_NONBLOCK) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::BUSY) => Ok(false),
        Err(error) => bail!("unloading {}: {error}", module.name),
    }
}

fn stays(module: Module, what: &str) -> Result<()> {
    ensure!(!leaves(module)?, "{} went in spite of {what}", module.name);
    Ok(())
}

fn buffer(device: &Device, flags: CreateFlags) -> Result<DeviceBuffer> {
    let record = Create {
        flags: (CreateFlags::CLOEXEC | flags).bits(),
        bytes: 2 * HUGE as u64,
        ..Create::default()
    };
    Ok(DeviceBuffer::from(device.create_record(&record)?))
}

/// What keeps the module, one at a time, with everything else closed.
const HOLDS: [&str; 8] = [
    "an open device",
    "a buffer",
    "a mapping",
    "a private mapping",
    "a dma-buf",
    "a page in a pipe",
    "a donation",
    "an attached device",
];

/// Has both modules refuse to leave while this is there.
fn refuses(hold: &'static str) -> Result<()> {
    let device = Device::open()?;
    let kept = match hold {
        "an open device" => {
            stays(HTLB, hold)?;
            return Ok(());
        }
        "a donation" => {
            let pool = HugetlbPool::of(HugeSize::MIB2, 2)?;
            let donated = memfd(HUGE as u64)?;
            let buffer = device.import(donated.as_fd(), 0, HUGE as u64)?;
            drop(device);
            stays(HTLB, hold)?;
            drop((buffer, donated, pool));
            return Ok(());
        }
        _ => buffer(&device, CreateFlags::POPULATE)?,
    };
    drop(device);
    match hold {
        "a mapping" => {
            let area = Area::shared(&kept, 2 * HUGE)?;
            drop(kept);
            stays(HTLB, hold)?;
            area.write(HUGE, 1);
        }
        "a private mapping" => {
            let area = Area::private(&kept, 2 * HUGE)?;
            drop(kept);
            stays(HTLB, hold)?;
            area.write(HUGE, 1);
        }
        "a page in a pipe" => {
            let ends = pipe()?;
            let area = Area::shared(&kept, 2 * HUGE)?;
            splice(&ends.1, &area, 0..64)?;
            drop((area, kept));
            stays(HTLB, hold)?;
        }
        "a dma-buf" => {
            let exported = kept.export(0, 0, Export::Writable)?;
            drop(kept);
            stays(HTLB, hold)?;
            drop(exported);
        }
        "an attached device" => {
            let exported: OwnedFd = kept.export(0, 0, Export::Writable)?;
            let importer = Importer::open()?;
            let attachment = importer.attach(exported.as_fd())?;
            importer.map(&attachment, Direction::Bidirectional)?;
            drop((kept, exported));
            stays(HTLB, hold)?;
            stays(IMPORTER, hold)?;
        }
        _ => stays(HTLB, hold)?,
    }
    Ok(())
}

/// Opens the device, makes a buffer and touches it, again and again, as far as there is a device.
fn come_and_go(stop: &Area) -> Result<()> {
    while stop.read(0) == 0 {
        let began = Instant::now();
        let Ok(device) = Device::open() else { continue };
        let made = buffer(&device, CreateFlags::NORESERVE)?;
        drop(device);
        let area = Area::shared(&made, 2 * HUGE)?;
        drop(made);
        area.write(0, 1);
        drop(area);
        stop.write(8, stop.read(8) + 1);
        // Half of the time nobody has anything.
        thread::sleep(began.elapsed());
    }
    Ok(())
}

/// What keeps a module keeps it; what comes while it leaves finds it, or finds nothing.
pub(super) fn modules_leave_at_bad_moments() -> Result<()> {
    let plan = Plan::of("modules_leave", 6)?;
    for hold in HOLDS {
        refuses(hold).context(hold)?;
        rest::wait().context(hold)?;
    }
    let stop = Area::anonymous(BASE)?;
    let child = Child::start(|| come_and_go(&stop))?;
    let mut dice = Dice::new(plan.seed, 0);
    let (mut went, mut stayed) = (0_u64, 0_u64);
    let began = Instant::now();
    let mut race = || -> Result<()> {
        let enough = |went, stayed| went > 0 && stayed > 0 && began.elapsed() >= plan.length;
        while !enough(went, stayed) && began.elapsed() < plan.length * SLOWEST {
            thread::sleep(Duration::from_micros(dice.below(2000)));
            if leaves(HTLB)? {
                went += 1;
                HTLB.load()?;
                rest::check().map_err(anyhow::Error::msg)?;
            } else {
                stayed += 1;
            }
        }
        Ok(())
    };
    let raced = race();
    stop.write(0, 1);
    let end = child.end()?;
    println!(
        "unloaded and loaded {went} times, refused {stayed} times, {} buffers meanwhile",
        stop.read(8)
    );
    raced?;
    ensure!(end == End::Said(String::new()), "{end:?}");
    ensure!(went > 0 && stayed > 0 && stop.read(8) > 0);
    rest::wait()
}

/// Maps what the driver has, reads what its device wrote, and ends, again and again, as far as there is a device.
fn map_and_read(stop: &Area) -> Result<()> {
    while stop.read(0) == 0 {
        let began = Instant::now();
        let Ok(file) = File::options().read(true).write(true).open(NODE) else {
            continue;
        };
        let area = match Area::shared(&file, EDU_SIZE) {
            Ok(area) => area,
            // The driver has let its buffer go.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
            Err(error) => return Err(error).context("mapping"),
        };
        drop(file);
        // The second word that the device wrote: bytes of 7 n + 3.
        ensure!(area.read(8) == 0x6c65_5e57_5049_423b, "{:#x}", area.read(8));
        ensure!(area.read(HUGE + 8) == 0, "{:#x}", area.read(HUGE + 8));
        stop.write(8, stop.read(8) + 1);
        drop(area);
        // Two do this: a part of the time nobody has anything.
        thread::sleep(began.elapsed() * 2);
    }
    Ok(())
}

fn edu_device() -> Result<String> {
    let names = fs::read_dir(DRIVER).with_context(|| format!("reading {DRIVER}"))?;
    let mut names = names.filter_map(|link| link.ok()?.file_name().into_string().ok());
    names
        .find(|name| name.contains(':'))
        .context("the driver has no device")
}

/// The driver of a device is unbound, bound, unloaded and loaded while programs map its buffer.
pub(super) fn a_driver_loses_its_device_at_bad_moments() -> Result<()> {
    let plan = Plan::of("a_driver_loses", 6)?;
    // The pool may have lost its low pages, which the driver cannot do without.
    ensure!(leaves(HTLB)?, "htlb is in use");
    HTLB.load()?;
    EDU.load()?;
    let stop = Area::anonymous(BASE)?;
    let children = (0..2)
        .map(|_| Child::start(|| map_and_read(&stop)))
        .collect::<Result<Vec<_>>>()?;
    let mut dice = Dice::new(plan.seed, 0);
    let (mut unbound, mut went, mut stayed) = (0_u64, 0_u64, 0_u64);
    let began = Instant::now();
    let mut race = || -> Result<()> {
        let enough = |unbound, went| unbound > 0 && went > 0 && began.elapsed() >= plan.length;
        while !enough(unbound, went) && began.elapsed() < plan.length * SLOWEST {
            thread::sleep(Duration::from_millis(dice.below(60)));
            stays(HTLB, "a driver that uses it")?;
            if dice.one_in(2) {
                if leaves(EDU)? {
                    went += 1;
                    EDU.load()?;
                } else {
                    stayed += 1;
                }
            } else {
                let device = edu_device()?;
                for what in ["unbind", "bind"] {
                    fs::write(PathBuf::from(DRIVER).join(what), &device)
                        .with_context(|| format!("{what} {device}"))?;
                    thread::sleep(Duration::from_millis(dice.below(20)));
                }
                unbound += 1;
            }
            rest::check().map_err(anyhow::Error::msg)?;
        }
        Ok(())
    };
    let raced = race();
    stop.write(0, 1);
    let ends = children
        .into_iter()
        .map(Child::end)
        .collect::<Result<Vec<_>>>()?;
    println!(
        "unbound and bound {unbound} times, unloaded {went} times, refused {stayed} times, mapped {} times",
        stop.read(8)
    );
    let unloaded = EDU.unload();
    raced?;
    ensure!(
        ends.iter().all(|end| *end == End::Said(String::new())),
        "{ends:?}"
    );
    ensure!(unbound > 0 && went > 0 && stop.read(8) > 0);
    unloaded?;
    rest::wait()
}
