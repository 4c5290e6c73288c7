// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Too little memory: in a memory cgroup, and in all of the machine.

use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags, Info};
use htlb_core::Gfp;
use htlb_user::device::{Device, DeviceBuffer};

use super::super::area::{done, Area};
use super::super::meminfo::{node_free, Memory};
use super::super::permissions::charging::Cgroup;
use super::super::raw::Child;
use super::super::{expect_in_log, is_debug_kernel, rest, skip};
use super::plan::Plan;
use super::storm::{Storm, Victims};
use super::tally::Kind;
use super::view::{BASE, HUGE};
use super::world::Measure;
use super::SMALL;

/// Processes whose memory, and that of the buffers that are charged to them, is less than they want.
pub(super) fn a_small_memory_cgroup() -> Result<()> {
    if !fs::exists("/sys/fs/cgroup/cgroup.controllers")? {
        return skip("no cgroups in this guest");
    }
    let plan = Plan::of("a_small_memory_cgroup", 6)?;
    let group = Cgroup::new("htlb-stress", 20 << 20)?;
    let enter = || group.enter();
    let measure = Measure {
        gfp: Gfp::ACCOUNT,
        ..SMALL
    };
    let mut storm = Storm::new(plan, measure, Victims::OfMemory, &enter)?;
    let kinds = [Kind::Create, Kind::Populate, Kind::Map];
    let mut done = storm.rounds(Duration::from_secs(3), &kinds);
    // A slow machine does not use it all at a time.
    let mut most: u64 = 16 << 20;
    let is_short = |storm: &Storm| -> Result<bool> {
        let refused = storm.tally().refused(Kind::Create) > 0 || storm.lost() > 0;
        Ok(refused && group.number("memory.events", "max")? > 0)
    };
    while done.is_ok() && !is_short(&storm)? && most >= 4 << 20 {
        println!("the limit is {most} bytes now");
        fs::write(group.path().join("memory.max"), most.to_string())?;
        done = storm.round(Duration::from_secs(3));
        most -= 4 << 20;
    }
    storm.report();
    done?;
    let (limited, killed) = (group.number("memory.events", "max")?, group.killed()?);
    println!("the limit was met {limited} times, {killed} killed");
    ensure!(limited > 0, "the limit was never met");
    ensure!(storm.tally().refused(Kind::Create) > 0 || storm.lost() > 0);
    storm.restore()?;
    drop(storm);
    rest::wait()?;
    // What is charged and not ours: caches that the kernel gives back when it is asked to.
    let _ = fs::write(group.path().join("memory.reclaim"), "32M");
    let left = group.current()?;
    ensure!(left < 4 << 20, "{left} bytes are still charged");
    Ok(())
}

/// What is left of each node's memory for base pages, before somebody takes nearly all of that, too.
fn left() -> u64 {
    if is_debug_kernel() {
        320 << 20
    } else {
        192 << 20
    }
}

/// What nobody takes, so that programs can go on at all; the debug kernel has a shadow of everything, and keeps what was freed
/// for a while.
fn spare() -> u64 {
    if is_debug_kernel() {
        320 << 20
    } else {
        160 << 20
    }
}

/// One base page of so many stays in the way.
const STRIDE: usize = 32;

/// A process that takes base pages, all of them at first, and then keeps every [`STRIDE`]th; none of them is moved or written out.
struct Hog {
    process: Child,
    /// What it is to do, and what it has done.
    words: Area,
}

const TAKE: u64 = 1;
const SCATTER: u64 = 2;

impl Hog {
    fn start(len: usize) -> Result<Self> {
        let len = len.next_multiple_of(HUGE);
        let words = Area::anonymous(BASE)?;
        let process = Child::start(|| {
            // The last to be killed but for this case, or no memory would be short any more.
            fs::write("/proc/self/oom_score_adj", "-500")?;
            let memory = Area::reservation(len)?;
            memory.protect(memory.all(), libc::PROT_READ | libc::PROT_WRITE)?;
            memory.advise(memory.all(), libc::MADV_NOHUGEPAGE)?;
            for order in [TAKE, SCATTER] {
                while words.read(0) < order {
                    thread::sleep(Duration::from_millis(5));
                }
                match order {
                    TAKE => lock(&memory, memory.all())?,
                    _ => scatter(&memory)?,
                }
                words.write(8, order);
            }
            loop {
                thread::sleep(Duration::from_secs(1));
            }
        })?;
        Ok(Self { process, words })
    }

    fn order(&self, order: u64) {
        self.words.write(0, order);
    }

    fn has_done(&self, order: u64) -> Result<()> {
        let began = Instant::now();
        while self.words.read(8) < order {
            ensure!(
                began.elapsed() < Duration::from_secs(60),
                "memory cannot be taken"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn end(self) -> Result<()> {
        self.process.kill();
        self.process.end().map(drop)
    }
}

fn lock(memory: &Area, range: Range<usize>) -> Result<()> {
    // SAFETY: pages of ours stay in memory, until they are given back.
    done(unsafe { libc::mlock(memory.pointer(range.start).cast(), range.len()) })
        .context("taking memory")
}

fn scatter(memory: &Area) -> Result<()> {
    let len = memory.all().end;
    for start in (0..len).step_by(STRIDE * BASE) {
        let range = start + BASE..(start + STRIDE * BASE).min(len);
        // SAFETY: pages of ours, in which nothing is.
        done(unsafe { libc::munlock(memory.pointer(range.start).cast(), range.len()) })?;
        memory.advise(range, libc::MADV_DONTNEED)?;
    }
    Ok(())
}

/// A setting of the kernel's, as it was when this is gone.
struct Setting(String, String);

impl Setting {
    fn change(file: &str, value: &str) -> Result<Option<Self>> {
        if !fs::exists(file)? {
            return Ok(None);
        }
        let before = fs::read_to_string(file)?;
        let this = Self(file.to_owned(), before);
        fs::write(file, value).with_context(|| format!("{value} to {file}"))?;
        Ok(Some(this))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        // What it was is what it takes.
        let _ = fs::write(&self.0, self.1.trim());
    }
}

fn buffer(bytes: u64, page_bytes: u64, flags: CreateFlags) -> std::io::Result<DeviceBuffer> {
    let device = Device::open()?;
    let record = Create {
        flags: (CreateFlags::CLOEXEC | CreateFlags::POPULATE | flags).bits(),
        bytes,
        page_bytes,
        ..Create::default()
    };
    device.create_record(&record).map(DeviceBuffer::from)
}

pub(super) fn memory_is_nearly_gone_and_in_pieces() -> Result<()> {
    let plan = Plan::of("memory_is_nearly_gone", 6)?;
    // Nothing that is locked is moved out of the way of a huge page.
    let _unmoved = Setting::change("/proc/sys/vm/compact_unevictable_allowed", "0")?;
    // What the kernel keeps back stays what it was when the hog was measured.
    let _unboosted = Setting::change("/proc/sys/vm/watermark_boost_factor", "0")?;
    // Those who make buffers go first, and this case never.
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    expect_in_log("page allocation failure")?;
    let free = || Ok::<u64, anyhow::Error>(Memory::now()?.field("MemFree"));
    let began = Instant::now();
    let tell = |what: &str| -> Result<()> {
        println!(
            "{:4.1} s: {what}, {} MiB free",
            began.elapsed().as_secs_f64(),
            free()? >> 20
        );
        Ok(())
    };
    // By huge pages that nobody uses, since that is quick; node by node, since one that has none left is asked again and again.
    let most = [0, 1]
        .into_iter()
        .map(|node| {
            let folder = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
            let pages = node_free(node)?.saturating_sub(left()) / HUGE as u64;
            Setting::change(&format!("{folder}/nr_hugepages"), &pages.to_string())
        })
        .collect::<Result<Vec<_>>>()?;
    tell("most of it is hugetlb's")?;
    let available = Memory::now()?.field("MemAvailable");
    let len = usize::try_from(available.saturating_sub(spare()))?;
    let hog = Hog::start(len)?;

    let measure = Measure {
        buffers: 3,
        ..SMALL
    };
    let victim = || Ok(fs::write("/proc/self/oom_score_adj", "500")?);
    let mut storm = Storm::new(plan, measure, Victims::OfMemory, &victim)?;
    let part = plan.length / 4;
    tell("a hog is born")?;
    hog.order(TAKE);
    storm.round(part).context("while memory goes")?;
    hog.has_done(TAKE)?;
    tell("all is taken")?;
    storm.round(part).context("nearly out of memory")?;
    tell("a round is over")?;
    let gone = (2 * free()?).next_multiple_of(HUGE as u64);
    let refused = buffer(gone, HUGE as u64, CreateFlags::STRICT);
    let errno = refused.err().and_then(|error| error.raw_os_error());
    ensure!(
        errno == Some(libc::ENOMEM),
        "{gone} bytes that are not there: {errno:?}"
    );

    tell("refused")?;
    hog.order(SCATTER);
    hog.has_done(SCATTER)?;
    tell("what is free is in pieces")?;
    storm.round(part).context("in pieces")?;
    tell("a round is over")?;
    // Perhaps there are huge pages all the same, where the storm let memory go; base pages there must be.
    let strict = buffer(128 << 20, HUGE as u64, CreateFlags::STRICT);
    let errno = strict.err().and_then(|error| error.raw_os_error());
    ensure!(
        matches!(errno, None | Some(libc::ENOMEM)),
        "huge pages out of pieces: {errno:?}"
    );
    let pieces =
        buffer(128 << 20, 0, CreateFlags::empty()).context("what pieces are enough for")?;
    let info = pieces.info()?;
    let has_base_pages = info.rungs.to_le_bytes().contains(&Info::RUNG_BASE);
    println!(
        "128 MiB in huge pages: {errno:?}; where they need not be, base pages: {has_base_pages}"
    );
    ensure!(info.populated >= 128 << 20, "{info:?}");
    drop(pieces);
    hog.end()?;
    drop(most);
    tell("all is given back")?;
    storm.restore()?;
    storm.report();
    storm.tally().all_of(&[Kind::Create, Kind::Map])?;
    drop(storm);
    rest::wait()
}
