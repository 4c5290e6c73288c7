// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What is asked of buffers, and of the pool and the accounts that they take from.

use std::fmt::Debug;

use anyhow::Result;
use htlb_core::uapi::{Create, CreateFlags};
use htlb_core::{ByteLen, Gfp, HugeSize, NodeId};
use htlb_user::device::{Account, DeviceBuffer, DeviceError, Export};

use super::super::tally::Kind;
use super::super::view::BASE;
use super::super::world::Made;
use super::{keep, Actor, MIB2, USER};

impl Actor<'_> {
    /// A new buffer of some kind, at some place.
    pub(super) fn create(&mut self) -> Result<()> {
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
    pub(super) fn on_range<T: Debug>(
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

    pub(super) fn resize(&mut self) -> Result<()> {
        let node = self.dice.pick(&[None, None, Some(0), Some(1)]);
        let node = node.map(NodeId::new).transpose()?;
        let most = 26 + 2 * self.world.common.measure.pages;
        let target = ByteLen::new((18 + self.dice.below(most - 18)) * MIB2);
        let done = self.device.resize(HugeSize::MIB2, node, target);
        self.came(Kind::Resize, done).map(drop)
    }

    pub(super) fn limit(&mut self) -> Result<()> {
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

    pub(super) fn export(&mut self) -> Result<()> {
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
}
