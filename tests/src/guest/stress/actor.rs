// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A thread that does one thing after another, whatever comes up.

mod buffers;
mod mappings;

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use anyhow::{ensure, Context, Result};
use htlb_core::{ByteLen, HugeSize, NodeId};
use htlb_user::device::{Device, DeviceError};

use super::super::raw::Arena;
use super::device::Attached;
use super::plan::Dice;
use super::tally::Kind;
use super::view::{advise, View, BASE, HUGE};
use super::world::World;

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
}

/// Adds one, and lets the oldest go.
pub(super) fn keep<T>(kept: &mut Vec<T>, one: T) {
    kept.push(one);
    if kept.len() > KEPT {
        kept.remove(0);
    }
}
