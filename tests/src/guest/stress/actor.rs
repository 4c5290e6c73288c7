// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A thread that does one thing after another, whatever comes up.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags};
use htlb_core::{ByteLen, Gfp, HugeSize, NodeId};
use htlb_user::device::{Account, Device, DeviceBuffer, DeviceError, Export};

use super::super::holders::pipe;
use super::super::raw::Arena;
use super::device::Attached;
use super::plan::Dice;
use super::tally::Kind;
use super::view::{advise, View, BASE, HUGE};
use super::world::{Made, World};

/// Somebody without any right, as whom some of the processes act.
pub(super) const USER: u32 = 4711;
const MIB2: u64 = HUGE as u64;
/// Mappings, pipes and dma-bufs that a thread keeps.
const KEPT: usize = 3;
/// No answer of the module's: what these say is wrong with it, and not with what it was asked.
const NEVER: [i32; 4] = [libc::EIO, libc::EBADF, libc::ENOTTY, libc::ENOSYS];

/// One of the threads, and what is its own.
pub(super) struct Actor<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) dice: Dice,
    pub(super) device: Device,
    pub(super) arena: Arena,
    pub(super) exports: Vec<OwnedFd>,
    pub(super) attached: Option<Attached>,
    pub(super) memfd: Option<OwnedFd>,
    views: Vec<View>,
    pipes: Vec<(File, File)>,
    thread: usize,
}

/// The errno of what was refused.
pub(super) trait Refusal {
    fn number(&self) -> i32;
}

impl Refusal for io::Error {
    fn number(&self) -> i32 {
        self.raw_os_error().unwrap_or_default()
    }
}

impl Refusal for DeviceError {
    fn number(&self) -> i32 {
        self.errno()
    }
}

impl Refusal for rustix::io::Errno {
    fn number(&self) -> i32 {
        self.raw_os_error()
    }
}

impl<'a> Actor<'a> {
    pub(super) fn new(world: &'a World<'a>, dice: Dice, thread: usize) -> Result<Self> {
        Ok(Self {
            world,
            dice,
            device: Device::open().context("opening the device")?,
            arena: Arena::new()?,
            exports: Vec::new(),
            attached: None,
            memfd: None,
            views: Vec::new(),
            pipes: Vec::new(),
            thread,
        })
    }

    /// Goes on until it is told to stop.
    pub(super) fn run(&mut self) -> Result<()> {
        while self.world.goes_on() {
            let kind = self.dice.pick(Kind::ALL);
            self.act(kind).with_context(|| format!("{kind:?}"))?;
        }
        Ok(())
    }

    fn act(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Create => self.create(),
            Kind::Close => {
                let gone = self.world.replace(&mut self.dice, None);
                self.note(kind, gone);
                Ok(())
            }
            Kind::Populate => self.on_range(kind, |buffer, at, len| buffer.populate(at, len)),
            Kind::Reserve => self.on_range(kind, |buffer, at, len| buffer.reserve(at, len)),
            Kind::Punch => self.on_range(kind, |buffer, at, len| buffer.punch(at, len)),
            Kind::Truncate => self.on_range(kind, |buffer, at, len| buffer.truncate(at + len)),
            Kind::Seal => self.on_range(kind, |buffer, _, _| buffer.seal()),
            Kind::Unseal => self.on_range(kind, |buffer, _, _| buffer.unseal()),
            Kind::Info => self.on_range(kind, |buffer, _, _| buffer.info()),
            Kind::Lookup => self.on_range(kind, |buffer, at, _| buffer.lookup(at)),
            Kind::Stats => {
                let node = self.dice.pick(&[None, Some(0), Some(1)]);
                let node = node.map(NodeId::new).transpose()?;
                let size = self.dice.pick(&[HugeSize::MIB2, HugeSize::GIB1]);
                let done = self.device.stats(size, node);
                self.came(kind, done).map(drop)
            }
            Kind::Resize => self.resize(),
            Kind::Surplus => {
                let most = ByteLen::new((8 + self.dice.below(256)) * MIB2);
                let done = self.device.allow_surplus(HugeSize::MIB2, most);
                self.came(kind, done).map(drop)
            }
            Kind::Limit => self.limit(),
            Kind::Map => self.map(),
            Kind::Unmap => self.unmap(),
            Kind::Remap | Kind::Protect | Kind::Advise | Kind::Lock => self.change(kind),
            Kind::Peek | Kind::Poke => self.touch(kind),
            Kind::Trespass => {
                let advice = self
                    .dice
                    .pick(&[libc::MADV_POPULATE_READ, libc::MADV_POPULATE_WRITE]);
                let start = self.world.somewhere(&mut self.dice);
                if start == 0 {
                    return Ok(());
                }
                let done = advise(start, BASE, advice);
                self.came(kind, done).map(drop)
            }
            Kind::Hold => self.hold(),
            Kind::LetGo => {
                let gone = self.pipes.pop().is_some();
                self.note(kind, gone);
                Ok(())
            }
            Kind::Export => self.export(),
            Kind::Reopen => {
                let done = Device::open();
                if let Some(device) = self.came(kind, done)? {
                    self.device = device;
                }
                Ok(())
            }
            Kind::Fork => self.fork(),
            Kind::Attach | Kind::Transfer | Kind::Detach => self.use_device(kind),
            Kind::Import | Kind::Donor => self.donate(kind),
            // Most are refused at once, and take no time.
            Kind::Scribbled | Kind::Garbage => (0..8).try_for_each(|_| self.wrong_call(kind)),
            Kind::BadPointer => self.wrong_call(kind),
        }
    }

    pub(super) fn note(&self, kind: Kind, succeeded: bool) {
        self.world.common.tally.note(kind, succeeded);
    }

    /// Counts an answer, which is none that the module never gives.
    pub(super) fn came<T, E: Refusal + Debug>(
        &self,
        kind: Kind,
        done: Result<T, E>,
    ) -> Result<Option<T>> {
        self.note(kind, done.is_ok());
        match done {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                ensure!(!NEVER.contains(&error.number()), "{error:?}");
                Ok(None)
            }
        }
    }

    /// A new buffer of some kind, at some place.
    fn create(&mut self) -> Result<()> {
        let dice = &mut self.dice;
        let most = self.world.common.measure.pages;
        let mut flags = CreateFlags::CLOEXEC;
        for (flag, times) in [
            (CreateFlags::STRICT, 2),
            (CreateFlags::NORESERVE, 2),
            (CreateFlags::POPULATE, 3),
            (CreateFlags::CONTIGUOUS, 16),
        ] {
            flags.set(flag, dice.one_in(times));
        }
        let page_bytes = dice.pick(&[0, 4096, MIB2, MIB2, MIB2]);
        let unit = match page_bytes {
            4096 => 16 * 4096,
            _ => MIB2,
        };
        let mut bytes = unit * (1 + dice.below(most));
        if dice.one_in(4) {
            bytes -= dice.below(unit);
        }
        let (node_policy, nodes) = dice.pick(&[(0, 0), (0, 0), (1, 1), (1, 2), (2, 2), (3, 3)]);
        let gfp = match self.world.common.measure.gfp {
            any if any.is_empty() => dice.pick(&[any, any, any, Gfp::ACCOUNT, Gfp::NORETRY]),
            asked => asked,
        };
        let record = Create {
            flags: flags.bits(),
            bytes,
            capacity: dice.pick(&[0, 2 * bytes]),
            page_bytes,
            nodes,
            node_policy,
            dma_bits: dice.pick(&[0, 0, 0, 28, 32, 40]),
            gfp: gfp.bits(),
            ..Create::default()
        };
        let done = self.device.create_record(&record);
        if let Some(fd) = self.came(Kind::Create, done)? {
            let made = Made {
                buffer: DeviceBuffer::from(fd),
                bytes,
                stamp: self.world.common.stamp(),
            };
            self.world.replace(&mut self.dice, Some(made));
        }
        Ok(())
    }

    /// A call on a part of some buffer, in pages mostly, beyond its end now and then.
    fn on_range<T: Debug>(
        &mut self,
        kind: Kind,
        call: impl FnOnce(&DeviceBuffer, u64, u64) -> Result<T, DeviceError>,
    ) -> Result<()> {
        let Some(made) = self.world.any(&mut self.dice) else {
            return Ok(());
        };
        let unit = self.dice.pick(&[MIB2, MIB2, MIB2, 4096]);
        let units = made.bytes.div_ceil(unit);
        let first = self.dice.below(units);
        let many = 1 + self.dice.below(units - first);
        let extra = u64::from(self.dice.one_in(8)) * MIB2;
        let done = call(&made.buffer, first * unit, many * unit + extra);
        self.came(kind, done).map(drop)
    }

    fn resize(&mut self) -> Result<()> {
        let node = self.dice.pick(&[None, None, Some(0), Some(1)]);
        let node = node.map(NodeId::new).transpose()?;
        let most = 26 + 2 * self.world.common.measure.pages;
        let target = ByteLen::new((18 + self.dice.below(most - 18)) * MIB2);
        let done = self.device.resize(HugeSize::MIB2, node, target);
        self.came(Kind::Resize, done).map(drop)
    }

    fn limit(&mut self) -> Result<()> {
        let dice = &mut self.dice;
        let account = dice.pick(&[Account::ThisFile, Account::ThisFile, Account::User(USER)]);
        let most = dice.pick(&[None, None, Some(4), Some(16), Some(64)]);
        let least = match account {
            Account::ThisFile => dice.pick(&[0, 0, 1, 3]),
            Account::User(_) => 0,
        };
        let most = most.map(|pages| ByteLen::new(pages * MIB2));
        let least = ByteLen::new(least * MIB2);
        let done = self.device.limit(account, HugeSize::MIB2, most, least);
        self.came(Kind::Limit, done).map(drop)
    }

    fn map(&mut self) -> Result<()> {
        let Some(made) = self.world.any(&mut self.dice) else {
            return Ok(());
        };
        let dice = &mut self.dice;
        let pages = (made.bytes as usize).div_ceil(BASE);
        let first = match dice.one_in(3) {
            true => dice.index(pages),
            false => 0,
        };
        let len = match dice.one_in(2) {
            true => (pages - first) * BASE,
            false => (1 + dice.index(pages - first)) * BASE,
        };
        let protection = dice.pick(&[libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE]);
        let flags = dice.pick(&[libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_PRIVATE]);
        let populate = i32::from(dice.one_in(6)) * libc::MAP_POPULATE;
        let from = (first * BASE) as u64;
        let done = View::map(
            made.buffer.as_fd(),
            from,
            len,
            protection,
            flags | populate,
            made.stamp,
        );
        if let Some(view) = self.came(Kind::Map, done)? {
            self.world.publish(self.thread, view.start());
            keep(&mut self.views, view);
        }
        Ok(())
    }

    fn unmap(&mut self) -> Result<()> {
        let Some(mut view) = self.views.pop() else {
            return Ok(());
        };
        let range = part(&mut self.dice, &view);
        let done = view.cut(range);
        if let Some(Some(behind)) = self.came(Kind::Unmap, done)? {
            keep(&mut self.views, behind);
        }
        if view.len() > 0 {
            keep(&mut self.views, view);
        }
        Ok(())
    }

    /// Other entries for the same pages.
    fn change(&mut self, kind: Kind) -> Result<()> {
        const ADVICE: [i32; 13] = [
            libc::MADV_DONTNEED,
            libc::MADV_WILLNEED,
            libc::MADV_COLD,
            libc::MADV_PAGEOUT,
            libc::MADV_POPULATE_READ,
            libc::MADV_POPULATE_WRITE,
            libc::MADV_HUGEPAGE,
            libc::MADV_NOHUGEPAGE,
            libc::MADV_FREE,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_MERGEABLE,
            25, // MADV_COLLAPSE
        ];
        if self.views.is_empty() {
            return Ok(());
        }
        let chosen = self.dice.index(self.views.len());
        let mut view = self.views.swap_remove(chosen);
        let range = part(&mut self.dice, &view);
        let done = match kind {
            Kind::Protect => {
                let protection = self.dice.pick(&[0, 1, 3, 3]);
                view.protect(range, protection)
            }
            Kind::Advise => {
                let advice = self.dice.pick(&ADVICE);
                view.advise(range, advice)
            }
            Kind::Lock => view.lock(range),
            _ => match self.dice.below(4) {
                0 => view.shrink(range.end),
                1 => {
                    let grown = view.grow();
                    ensure!(grown.is_err(), "a mapping grew beyond its buffer");
                    grown
                }
                _ => {
                    let skew = self.dice.pick(&[0, 0, BASE]);
                    view.relocate(skew)
                }
            },
        };
        if view.len() > 0 {
            keep(&mut self.views, view);
        }
        self.came(kind, done).map(drop)
    }

    /// Reads or writes, and finds what a page of this buffer can have: what was written there, or nothing.
    fn touch(&mut self, kind: Kind) -> Result<()> {
        if self.views.is_empty() {
            return Ok(());
        }
        let chosen = self.dice.index(self.views.len());
        let view = &self.views[chosen];
        let page = self.dice.index(view.len() / BASE) * BASE;
        let number = view.number(page);
        if kind == Kind::Poke {
            let done = view.poke(page, number);
            return self.came(kind, done).map(drop);
        }
        let done = view.peek(page);
        if let Some(found) = self.came(kind, done)? {
            ensure!(
                found == 0 || found == number,
                "{found:#x} instead of {number:#x} or nothing at {page:#x}"
            );
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<()> {
        if self.views.is_empty() {
            return Ok(());
        }
        let chosen = self.dice.index(self.views.len());
        let page = self.dice.index(self.views[chosen].len() / BASE) * BASE;
        let (reader, writer) = pipe()?;
        let done = self.views[chosen].splice(&writer, page);
        if self.came(Kind::Hold, done)?.is_some() {
            keep(&mut self.pipes, (reader, writer));
        }
        Ok(())
    }

    fn export(&mut self) -> Result<()> {
        let Some(made) = self.world.own(&mut self.dice) else {
            return Ok(());
        };
        let pages = made.bytes.div_ceil(BASE as u64);
        let first = match self.dice.one_in(3) {
            true => self.dice.below(pages),
            false => 0,
        };
        let access = self.dice.pick(&[Export::ReadOnly, Export::Writable]);
        let done = made.buffer.export(first * BASE as u64, 0, access);
        if let Some(fd) = self.came(Kind::Export, done)? {
            keep(&mut self.exports, fd);
        }
        Ok(())
    }

    /// A child has everything that this process has, touches it, and ends by itself or by a signal.
    fn fork(&mut self) -> Result<()> {
        let addresses: Vec<usize> = self.views.iter().map(View::start).collect();
        let waits = self.dice.one_in(3);
        let buffer = self.world.any(&mut self.dice);
        let punched = buffer
            .as_ref()
            .map_or(-1, |made| made.buffer.as_fd().as_raw_fd());
        let child = super::child::start(&addresses, punched, waits);
        if waits {
            std::thread::sleep(std::time::Duration::from_micros(self.dice.below(3000)));
        }
        let done = super::child::end(child, waits);
        self.came(Kind::Fork, done).map(drop)
    }
}

/// Some whole base pages of it.
fn part(dice: &mut Dice, view: &View) -> std::ops::Range<usize> {
    let pages = view.len() / BASE;
    let first = dice.index(pages);
    let many = 1 + dice.index(pages - first);
    match dice.below(3) {
        0 => 0..view.len(),
        1 => 0..(first + many) * BASE,
        _ => first * BASE..(first + many) * BASE,
    }
}

/// Adds one, and lets the oldest go.
pub(super) fn keep<T>(kept: &mut Vec<T>, one: T) {
    kept.push(one);
    if kept.len() > KEPT {
        kept.remove(0);
    }
}
