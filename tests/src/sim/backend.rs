// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The machine as the conformance suite sees it.

use std::sync::Mutex;

use htlb_core::driver::{Content, Punched};
use htlb_core::ledger::Counts;
use htlb_core::page_map::{Located, PagePin, Seal};
use htlb_core::{Blank, ByteLen, ByteRange, Error, Exclusive, HugeSize, Pfn};

use super::buffer::zeroes;
use super::machine::{lock, node};
use super::memory::Writer;
use super::{Owner, SimBuffer, SimMachine};
use crate::conformance::{
    Gone, Got, InHand, Limits, Machine, MachineSpec, Order, OwnerId, Pages, Produce,
};

/// A simulated machine under test.
#[derive(Debug)]
pub struct Sim {
    /// The machine.
    pub machine: SimMachine,
    owners: Mutex<Vec<Owner>>,
}

/// A simulated buffer under test.
#[derive(Debug)]
struct SimPages<'m> {
    buffer: SimBuffer<'m>,
    machine: &'m SimMachine,
    pins: Mutex<Vec<(u64, PagePin)>>,
    seals: Mutex<Vec<Seal>>,
}

struct SimInHand<'a> {
    machine: &'a SimMachine,
    blank: Blank,
    writer: Writer,
}

impl InHand for SimInHand<'_> {
    fn offset(&self) -> u64 {
        self.blank.offset
    }

    fn len(&self) -> u64 {
        self.blank.size.bytes()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        lock(&self.machine.memory).write(self.blank.pfn, at, bytes, self.writer);
    }
}

impl Sim {
    /// As described.
    #[must_use]
    pub fn new(spec: &MachineSpec<'_>) -> Self {
        Self {
            machine: SimMachine::new(spec),
            owners: Mutex::new(vec![Owner::FIRST]),
        }
    }
}

fn gone(punched: Punched) -> Gone {
    Gone {
        pages: punched.pages.raw(),
        promises: punched.promises.raw(),
    }
}

impl Machine for Sim {
    fn owner(&self, limits: Option<Limits>) -> Result<OwnerId, Error> {
        let limits = limits.map(|limits| (limits.size, limits.max, limits.min));
        let owner = self.machine.owner(limits)?;
        let mut owners = lock(&self.owners);
        owners.push(owner);
        Ok(owners.len() - 1)
    }

    fn close(&self, owner: OwnerId) -> Result<(), Error> {
        let owner = lock(&self.owners)[owner];
        self.machine.close(owner)
    }

    fn create<'m>(
        &'m self,
        owner: OwnerId,
        order: &Order,
        produce: Option<Produce<'_>>,
    ) -> Result<Box<dyn Pages + 'm>, Error> {
        let owner = lock(&self.owners)[owner];
        let machine = &self.machine;
        let make = |content: &mut Content<'_>| {
            machine.create(
                owner,
                &order.request,
                order.commitment,
                order.capacity,
                content,
            )
        };
        let buffer = match produce {
            None => make(&mut zeroes())?,
            Some(produce) => make(&mut Content::Producer(&mut |blank: &Blank| {
                produce(&mut SimInHand {
                    machine,
                    blank: *blank,
                    writer: Writer::Owner(owner.number),
                })
            }))?,
        };
        Ok(Box::new(SimPages {
            buffer,
            machine,
            pins: Mutex::default(),
            seals: Mutex::default(),
        }))
    }

    fn counts(&self, size: HugeSize, on: Option<u32>) -> Counts {
        self.machine.stock_of(size).with(|stock| match on {
            None => stock.counts(),
            Some(on) => stock.ledger().node(node(on)),
        })
    }

    fn resize(&self, size: HugeSize, on: u32, pages: u64) -> Result<u64, Error> {
        self.machine.resize(size, node(on), pages)
    }

    fn demote(&self, on: u32) -> Result<(), Error> {
        self.machine.demote(node(on))
    }

    fn hold(&self, page: Pfn) {
        self.machine.hold(page);
    }

    fn let_go(&self, page: Pfn) {
        self.machine.let_go(page);
    }

    fn check(&self) -> Result<(), String> {
        self.machine.audit()
    }
}

impl Pages for SimPages<'_> {
    fn reserve(&self, range: ByteRange) -> Result<u64, Error> {
        self.buffer.reserve(range).map(|pages| pages.raw())
    }

    fn populate(&self, range: ByteRange, produce: Option<Produce<'_>>) -> Result<u64, Error> {
        let pages = match produce {
            None => self.buffer.populate(range)?,
            Some(produce) => self.buffer.populate_with(range, &mut |blank: &Blank| {
                produce(&mut SimInHand {
                    machine: self.machine,
                    blank: *blank,
                    writer: self.buffer.writer(),
                })
            })?,
        };
        Ok(pages.raw())
    }

    fn fault(&self, offset: u64) -> Result<Located, Error> {
        self.buffer.fault(offset)
    }

    fn page_at(&self, offset: u64) -> Result<Located, Error> {
        self.buffer.page_at(offset)
    }

    fn pin(&self, offset: u64) -> Result<(), Error> {
        let pin = self.buffer.pin(offset)?;
        lock(&self.pins).push((offset, pin));
        Ok(())
    }

    fn unpin(&self, offset: u64) {
        let mut pins = lock(&self.pins);
        let at = pins.iter().position(|(of, _)| *of == offset);
        let (_, pin) = pins.swap_remove(at.expect("a pin there"));
        self.buffer.unpin(pin);
    }

    fn seal(&self) -> Result<(), Error> {
        let seal = self.buffer.seal()?;
        lock(&self.seals).push(seal);
        Ok(())
    }

    fn unseal(&self) {
        let seal = lock(&self.seals).pop().expect("a seal");
        self.buffer.unseal(seal);
    }

    fn punch(&self, range: ByteRange) -> Result<Gone, Error> {
        self.buffer.punch(range).map(gone)
    }

    fn truncate(&self, size: ByteLen) -> Result<Gone, Error> {
        self.buffer.truncate(size).map(gone)
    }

    fn size(&self) -> ByteLen {
        self.buffer.core().map().size()
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.buffer.read(offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.write(offset, bytes)
    }

    fn receipt(&self) -> Vec<Got> {
        let buffer = self.buffer.core();
        let extents = buffer.map().extents();
        buffer
            .parts()
            .zip(extents.iter())
            .map(|(part, extent)| Got {
                size: extent.size(),
                rung: part.attempt.rung,
                pages: extent.pages().raw(),
            })
            .collect()
    }

    fn release(&mut self) -> Result<Gone, Error> {
        self.buffer.release().map(gone)
    }
}
