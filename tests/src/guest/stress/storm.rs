// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Rounds: processes with threads that do anything at all, some of which are killed and followed by others, until a pause at which
//! everything must be in order.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags, DEVICE};
use htlb_core::{ByteLen, HugeSize};
use htlb_user::device::{Account, Device, DeviceBuffer};
use rustix::io::Errno;
use rustix::system::delete_module;

use super::super::raw::{become_user, Child, End};
use super::super::rest;
use super::actor::{Actor, USER};
use super::plan::{Dice, Plan};
use super::tally::{Kind, Tally};
use super::view::HUGE;
use super::world::{Common, Made, Measure, World};

const SIZE: HugeSize = HugeSize::MIB2;
/// How many times as long as planned it may take until each kind has been done.
const PATIENCE: u32 = 4;

/// Processes at work, and the machine as it was before them.
pub(super) struct Storm<'a> {
    plan: Plan,
    dice: Dice,
    common: Common,
    device: Device,
    total: u64,
    overcommit: u64,
    killed: u64,
    lost: u64,
    rounds: u64,
    prepare: &'a dyn Fn() -> Result<()>,
    victims: Victims,
}

/// Whether processes may be killed by somebody else than us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victims {
    /// That is an error.
    None,
    /// The kernel needs their memory.
    OfMemory,
}

impl<'a> Storm<'a> {
    /// `prepare` is called in each process before it begins.
    pub(super) fn new(
        plan: Plan,
        measure: Measure,
        victims: Victims,
        prepare: &'a dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let device = Device::open().context("opening the device")?;
        let stats = device.stats(SIZE, None)?;
        fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666))?;
        Ok(Self {
            plan,
            dice: Dice::new(plan.seed, 0),
            common: Common::new(measure)?,
            device,
            total: stats.total,
            overcommit: stats.overcommit,
            killed: 0,
            lost: 0,
            rounds: 0,
            prepare,
            victims,
        })
    }

    /// What was done in all rounds.
    pub(super) fn tally(&self) -> &Tally {
        &self.common.tally
    }

    /// Rounds until the time is over, and some more where a slow machine has not yet done each of these kinds with success; each
    /// ends with a look at everything.
    pub(super) fn rounds(&mut self, of: Duration, kinds: &[Kind]) -> Result<()> {
        let began = Instant::now();
        loop {
            self.round(of.min(self.plan.length))?;
            let shown = self.tally().all_of(kinds);
            let most = match shown {
                Ok(()) => self.plan.length,
                Err(_) => self.plan.length.saturating_mul(PATIENCE),
            };
            if began.elapsed() >= most {
                return shown;
            }
        }
    }

    fn inherit(&mut self) -> Result<()> {
        for pages in [2_u64, 4] {
            let record = Create {
                flags: (CreateFlags::CLOEXEC | CreateFlags::NORESERVE).bits(),
                bytes: pages * HUGE as u64,
                ..Create::default()
            };
            let made = Made {
                buffer: DeviceBuffer::from(self.device.create_record(&record)?),
                bytes: record.bytes,
                stamp: self.common.stamp(),
            };
            self.common.inherited.push(Arc::new(made));
        }
        Ok(())
    }

    fn start(&self) -> Result<Child> {
        let (common, plan, prepare) = (&self.common, self.plan, self.prepare);
        let number = common.process();
        Child::start(move || {
            prepare()?;
            // Root before, so that a device is attached by those who may.
            if number % 3 == 2 {
                become_user(USER)?;
            }
            let world = World::new(common)?;
            let threads = common.measure.threads;
            thread::scope(|scope| {
                let running: Vec<_> = (0..threads)
                    .map(|thread| {
                        let dice = Dice::new(plan.seed, 1 + number * threads + thread);
                        let world = &world;
                        scope.spawn(move || {
                            let done = Actor::new(world, dice, thread as usize)
                                .and_then(|mut actor| actor.run());
                            if done.is_err() {
                                world.fail();
                            }
                            done
                        })
                    })
                    .collect();
                running
                    .into_iter()
                    .map(|one| one.join().unwrap_or_else(|_| bail!("an actor panicked")))
                    .collect::<Vec<_>>()
                    .into_iter()
                    .collect::<Result<()>>()
            })
        })
    }

    /// Everybody at once for a while, then nobody.
    pub(super) fn round(&mut self, length: Duration) -> Result<()> {
        self.rounds += 1;
        self.common.stop(false);
        self.inherit()?;
        let mut children = Vec::new();
        for _ in 0..self.common.measure.processes {
            children.push(self.start()?);
        }
        let began = Instant::now();
        let mut outcome = Ok(());
        while outcome.is_ok() && began.elapsed() < length {
            thread::sleep(Duration::from_millis(50 + self.dice.below(200)));
            outcome = self.disturb(&mut children);
        }
        self.common.stop(true);
        let ends: Result<Vec<()>> = children
            .into_iter()
            .map(|child| self.ended(child))
            .collect();
        outcome.and(ends.map(drop))?;
        self.pause().context("at a pause")
    }

    /// What happens while they are at work.
    fn disturb(&mut self, children: &mut Vec<Child>) -> Result<()> {
        match self.dice.below(8) {
            0 => {
                let chosen = self.dice.index(children.len());
                let child = children.swap_remove(chosen);
                child.kill();
                let end = child.end()?;
                self.killed += 1;
                if let End::Said(text) = end {
                    ensure!(text.is_empty(), "{text}");
                }
                children.push(self.start()?);
            }
            1..=3 => {
                let left = delete_module(c"htlb", libc::O_NONBLOCK);
                ensure!(
                    left == Err(Errno::AGAIN),
                    "unloading what is in use: {left:?}"
                );
            }
            _ => rest::check().map_err(anyhow::Error::msg)?,
        }
        Ok(())
    }

    fn ended(&mut self, child: Child) -> Result<()> {
        match child.end()? {
            End::Said(text) if text.is_empty() => Ok(()),
            End::Said(text) => bail!("{text}"),
            End::Signal(libc::SIGKILL) if self.victims == Victims::OfMemory => {
                self.lost += 1;
                Ok(())
            }
            End::Signal(signal) => bail!("a process died of signal {signal}"),
        }
    }

    /// Nobody is at work: the books are right, and everything is as it was at the beginning.
    fn pause(&mut self) -> Result<()> {
        rest::check().map_err(anyhow::Error::msg)?;
        for made in std::mem::take(&mut self.common.inherited) {
            let info = made.buffer.info()?;
            ensure!(info.populated <= info.capacity, "{info:?}");
        }
        self.device
            .allow_surplus(SIZE, ByteLen::new(self.overcommit))?;
        self.device
            .limit(Account::User(USER), SIZE, None, ByteLen::ZERO)?;
        rest::wait()?;
        match self.victims {
            Victims::None => self.restore(),
            // Where memory is short, the pool cannot have back what it gave away.
            Victims::OfMemory => Ok(()),
        }
    }

    /// The pool as it was.
    pub(super) fn restore(&self) -> Result<()> {
        let reached = self.device.resize(SIZE, None, ByteLen::new(self.total))?;
        ensure!(reached.raw() == self.total, "the pool has {reached:?}");
        rest::wait()
    }

    /// The last words.
    pub(super) fn report(&self) {
        print!("{}", self.common.tally);
        println!(
            "{} rounds; {} processes killed, {} lost to want of memory",
            self.rounds, self.killed, self.lost
        );
    }

    /// How many processes the kernel took.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

impl Drop for Storm<'_> {
    fn drop(&mut self) {
        // The next case would say so.
        let _ = fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o600));
    }
}
