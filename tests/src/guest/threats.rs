// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Lines of `htlb-kmod/SECURITY.md` that no other group shows.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags};
use htlb_core::{ByteLen, Error as Reason, HugeSize};
use htlb_user::device::{Device, DeviceBuffer, Export, How};
use rustix::fs::{ftruncate, memfd_create, MemfdFlags};

use super::area::{Area, BASE, HUGE};
use super::raw::{as_user, Child, End};
use super::{cases, is_debug_kernel, rest, Group, Module};
use crate::kmod::importer::{Direction, Importer, View};

pub(super) const GROUP: Group = Group {
    name: "threats",
    modules: &[
        Module::new("htlb", "pages_2m=8"),
        Module::new("htlb_importer", ""),
    ],
    cases: || {
        cases![
            a_device_gets_zeroes_whoever_had_the_page_before,
            base_pages_are_zero_whoever_had_them_before,
            a_lookup_races_punches,
            nothing_tells_of_kernel_addresses,
            every_long_call_can_be_killed.within(90),
        ]
    },
};

const PAGE: u64 = HUGE as u64;
const PAGES: u64 = 8;

fn buffer(
    device: &Device,
    bytes: u64,
    page_bytes: u64,
    flags: CreateFlags,
) -> Result<DeviceBuffer> {
    let record = Create {
        flags: (CreateFlags::STRICT | CreateFlags::CLOEXEC | flags).bits(),
        bytes,
        page_bytes,
        ..Create::default()
    };
    Ok(DeviceBuffer::from(device.create_record(&record)?))
}

/// A process of another user leaves a secret in every byte of so many bytes.
fn leave_a_secret(device: &Device, bytes: u64, page_bytes: u64) -> Result<()> {
    as_user(4711, || {
        let buffer = buffer(device, bytes, page_bytes, CreateFlags::POPULATE)?;
        let len = usize::try_from(bytes)?;
        let mut mapping = buffer.map(0, len, How::SHARED)?;
        let secret = vec![0x5a; 1 << 16];
        for at in (0..len).step_by(secret.len()) {
            mapping.write_at(at, &secret)?;
        }
        Ok(())
    })
}

fn a_device_gets_zeroes_whoever_had_the_page_before() -> Result<()> {
    let device = Device::open()?;
    let overcommit = device.stats(HugeSize::MIB2, None)?.overcommit;
    device.allow_surplus(HugeSize::MIB2, ByteLen::ZERO)?;
    leave_a_secret(&device, PAGES * PAGE, PAGE)?;
    // Every page of the pool, none of which a program has touched since.
    let again = buffer(&device, PAGES * PAGE, PAGE, CreateFlags::empty())?;
    let exported = again.export(0, 0, Export::Writable)?;
    let importer = Importer::open()?;
    let attachment = importer.attach(exported.as_fd())?;
    importer.map(&attachment, Direction::ToDevice)?;
    importer.select(&attachment, View::Device)?;
    let mut seen = vec![0xff; 1 << 16];
    for at in (0..PAGES * PAGE).step_by(seen.len()) {
        let len = importer.read_at(&mut seen, at)?;
        ensure!(len == seen.len(), "{len} bytes at {at}");
        ensure!(
            seen.iter().all(|byte| *byte == 0),
            "somebody else's bytes at {at}"
        );
    }
    device.allow_surplus(HugeSize::MIB2, ByteLen::new(overcommit))?;
    drop((importer, exported, again, device));
    rest::wait()
}

fn base_pages_are_zero_whoever_had_them_before() -> Result<()> {
    const BYTES: u64 = 32 << 20;
    let device = Device::open()?;
    for _ in 0..4 {
        leave_a_secret(&device, BYTES, BASE as u64)?;
        let again = buffer(&device, BYTES, BASE as u64, CreateFlags::POPULATE)?;
        let mapping = again.map(0, BYTES as usize, How::SHARED)?;
        let mut seen = vec![0xff; 1 << 16];
        for at in (0..BYTES as usize).step_by(seen.len()) {
            mapping.read_at(at, &mut seen)?;
            ensure!(
                seen.iter().all(|byte| *byte == 0),
                "somebody else's bytes at {at}"
            );
        }
    }
    drop(device);
    rest::wait()
}

/// The page that is looked up may be the system's again before the answer is given; what was seen is told, and the page is left alone.
fn a_lookup_races_punches() -> Result<()> {
    let device = Device::open()?;
    let size = HugeSize::MIB2;
    // Without a pool every page comes from the system and goes back there.
    device.resize(size, None, ByteLen::ZERO)?;
    let buffer = buffer(&device, PAGE, PAGE, CreateFlags::NORESERVE)?;
    let began = Instant::now();
    let goes_on = || began.elapsed() < Duration::from_secs(4);
    let (found, punched) = thread::scope(|scope| -> Result<(u64, u64)> {
        let looks = scope.spawn(|| -> Result<u64> {
            let mut found = 0;
            while goes_on() {
                match buffer.lookup(0) {
                    Ok(_) => found += 1,
                    Err(error) => ensure!(error.errno() == Reason::NotPresent.errno(), "{error}"),
                }
            }
            Ok(found)
        });
        let mut punched = 0;
        while goes_on() {
            buffer.populate(0, PAGE)?;
            buffer.punch(0, PAGE)?;
            punched += 1;
        }
        let found = looks
            .join()
            .unwrap_or_else(|_| anyhow::bail!("it panicked"))?;
        Ok((found, punched))
    })?;
    println!("found {found} times, punched {punched} times");
    ensure!(found > 0 && punched > 0);
    drop(buffer);
    device.resize(size, None, ByteLen::new(PAGES * PAGE))?;
    drop(device);
    rest::wait()
}

/// Everything that the kernel says of the module in files that programs may read.
fn sayings(
    device: &Device,
    buffer: &DeviceBuffer,
    exported: &impl AsRawFd,
) -> Result<Vec<(String, String)>> {
    let mut files: Vec<String> = [
        "/sys/kernel/debug/htlb/state",
        "/sys/kernel/debug/htlb/check",
    ]
    .map(str::to_owned)
    .to_vec();
    for fd in [
        device.as_fd().as_raw_fd(),
        buffer.as_fd().as_raw_fd(),
        exported.as_raw_fd(),
    ] {
        files.push(format!("/proc/self/fdinfo/{fd}"));
    }
    for folder in ["/sys/module/htlb", "/sys/class/misc/htlb"] {
        for entry in fs::read_dir(folder).with_context(|| format!("reading {folder}"))? {
            let path = entry?.path();
            if path.is_file() {
                files.push(path.display().to_string());
            }
        }
    }
    let mut said = Vec::new();
    for file in files {
        // Some can only be written to.
        if let Ok(text) = fs::read_to_string(&file) {
            said.push((file, text));
        }
    }
    let maps = fs::read_to_string("/proc/self/smaps")?;
    let ours: Vec<&str> = maps.lines().filter(|line| line.contains("htlb")).collect();
    ensure!(!ours.is_empty(), "the mapping is not in smaps");
    said.push(("smaps".to_owned(), ours.join("\n")));
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut line = [0; 8192];
    while let Ok(len) = log.read(&mut line) {
        let text = String::from_utf8_lossy(&line[..len]).into_owned();
        if text.contains(";htlb:") {
            said.push(("the log".to_owned(), text));
        }
    }
    Ok(said)
}

/// The numbers of a text, read as hexadecimal ones.
fn numbers(text: &str) -> impl Iterator<Item = u64> + '_ {
    text.split(|letter: char| !letter.is_ascii_hexdigit())
        .filter_map(|word| u64::from_str_radix(word, 16).ok())
}

fn nothing_tells_of_kernel_addresses() -> Result<()> {
    let device = Device::open()?;
    let buffer = buffer(&device, 2 * PAGE, PAGE, CreateFlags::POPULATE)?;
    let area = Area::shared(&buffer, 2 * HUGE)?;
    area.write(0, 1);
    let exported = buffer.export(0, 0, Export::Writable)?;
    let importer = Importer::open()?;
    let attachment = importer.attach(exported.as_fd())?;
    importer.map(&attachment, Direction::Bidirectional)?;
    // Refusals of every kind say something, if anything does.
    let _ = buffer.punch(0, PAGE);
    let _ = device.create_record(&Create::default());
    let physical = buffer.lookup(PAGE)?.physical;
    let said = sayings(&device, &buffer, &exported)?;
    ensure!(said.len() > 5, "only {} texts were found", said.len());
    for (whose, text) in &said {
        for number in numbers(text) {
            ensure!(
                number < 0xffff_8000_0000_0000,
                "{whose} tells of {number:#x}: {text}"
            );
            ensure!(
                number != physical && number != physical >> 12,
                "{whose} tells where the buffer is: {text}"
            );
        }
    }
    println!("{} texts looked at", said.len());
    drop((area, importer, exported, buffer, device));
    rest::wait()
}

/// What a signal does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// It ends at the next page, or the next stretch of them.
    Ends,
    /// It waits, as for the end of a process: a buffer that ends takes as long as there is of it.
    Waits,
}

impl Signal {
    /// How long a process may live on after `SIGKILL`.
    fn patience(self) -> Duration {
        let seconds = match self {
            Self::Ends => 3,
            Self::Waits => 15,
        };
        Duration::from_secs(if is_debug_kernel() {
            4 * seconds
        } else {
            seconds
        })
    }
}

/// Runs a call in a process that is killed soon, and says how long it lived on.
fn killed(name: &str, call: impl FnOnce() -> Result<()>) -> Result<()> {
    killed_as(Signal::Ends, name, call)
}

fn killed_as(signal: Signal, name: &str, call: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    let child = Child::start(call)?;
    thread::sleep(Duration::from_millis(if is_debug_kernel() {
        400
    } else {
        150
    }));
    let before = began.elapsed();
    child.kill();
    let end = child.end()?;
    let lived = began.elapsed().saturating_sub(before);
    let how = match end {
        End::Said(text) if text.is_empty() => "done".to_owned(),
        End::Said(text) => text.lines().next().unwrap_or_default().to_owned(),
        End::Signal(signal) => format!("ended by signal {signal}"),
    };
    println!("{name}: {how}, {} ms after the signal", lived.as_millis());
    ensure!(lived < signal.patience(), "{name} lived on for {lived:?}");
    rest::check().map_err(anyhow::Error::msg)
}

/// Nobody's limits hold here: what bounds a call is the machine, or a signal.
fn every_long_call_can_be_killed() -> Result<()> {
    const HUGE_BYTES: u64 = 1 << 40;
    const BASE_BYTES: u64 = 8 << 30;
    let device = Device::open()?;
    let overcommit = device.stats(HugeSize::MIB2, None)?.overcommit;
    device.allow_surplus(HugeSize::MIB2, ByteLen::new(HUGE_BYTES))?;
    let lazy = CreateFlags::NORESERVE;
    for (bytes, page) in [(HUGE_BYTES, PAGE), (BASE_BYTES, BASE as u64)] {
        let make = || buffer(&device, bytes, page, lazy);
        let name = |call: &str| {
            format!(
                "{call} of {} GiB in pages of {} KiB",
                bytes >> 30,
                page >> 10
            )
        };
        killed(&name("CREATE"), || make().map(drop))?;
        killed(&name("CREATE, populated"), || {
            buffer(&device, bytes, page, CreateFlags::POPULATE).map(drop)
        })?;
        killed(&name("CREATE, promised"), || {
            buffer(&device, bytes, page, CreateFlags::empty()).map(drop)
        })?;
        let made = make()?;
        killed(&name("RESERVE"), || Ok(made.reserve(0, bytes).map(drop)?))?;
        killed(&name("POPULATE"), || {
            Ok(made.populate(0, bytes).map(drop)?)
        })?;
        killed(&name("INFO"), || Ok(made.info().map(drop)?))?;
        killed(&name("LOOKUP"), || Ok(made.lookup(bytes - 1).map(drop)?))?;
        killed(&name("touching a mapping"), || {
            let area = Area::shared(&made, usize::try_from(bytes)?)?;
            Ok(area.advise(area.all(), libc::MADV_POPULATE_WRITE)?)
        })?;
        killed(&name("attaching a device"), || {
            let exported = made.export(0, 0, Export::Writable)?;
            Ok(Importer::open()?.attach(exported.as_fd()).map(drop)?)
        })?;
        killed(&name("PUNCH"), || Ok(made.punch(0, bytes).map(drop)?))?;
        killed(&name("TRUNCATE"), || Ok(made.truncate(1).map(drop)?))?;
        killed_as(Signal::Waits, &name("the end of a buffer"), || {
            make().map(drop)
        })?;
        drop(made);
        rest::wait()?;
    }
    let size = HugeSize::MIB2;
    killed("STATS", || Ok(device.stats(size, None).map(drop)?))?;
    killed("RESIZE to 1 PiB", || {
        Ok(device.resize(size, None, ByteLen::new(1 << 50)).map(drop)?)
    })?;
    device.resize(size, None, ByteLen::new(PAGES * PAGE))?;
    killed("IMPORT of 1 TiB", || {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let memfd = memfd_create("donated", flags)?;
        ftruncate(&memfd, HUGE_BYTES)?;
        Ok(device.import(memfd.as_fd(), 0, HUGE_BYTES).map(drop)?)
    })?;
    device.allow_surplus(size, ByteLen::new(overcommit))?;
    drop(device);
    rest::wait()
}
