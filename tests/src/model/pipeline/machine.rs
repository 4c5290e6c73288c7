// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The machine, what is known of it, and one step.

use htlb_core::{Error, NodeId, NodeMask};

use super::owned::Owned;
use super::{Failure, Few, On, Op, Start, GIB1, MIB2};
use crate::conformance::{pool, MachineSpec, PoolSpec};
use crate::sim::machine::node;
use crate::sim::{Facts, Owner, SimMachine};

/// More would only be slower.
const MOST_OWNERS: usize = 4;

impl Start {
    pub(super) fn machine(self) -> SimMachine {
        let nodes = if self.two_nodes { 2 } else { 1 };
        let mut pools: Vec<PoolSpec> = vec![
            pool(MIB2, self.low.pages()).below(32),
            pool(MIB2, self.high.pages()),
        ];
        if self.two_nodes {
            pools.push(pool(MIB2, self.far.pages()).on(1));
        }
        if self.giant {
            pools.push(pool(GIB1, 1));
        }
        SimMachine::new(&MachineSpec {
            nodes,
            pools: &pools,
            overcommit: &[(MIB2, self.overcommit.pages())],
            system: &[(MIB2, self.system.pages()), (GIB1, 1)],
            transparent: self.transparent,
            magazine: usize::from(self.magazine % 4),
        })
    }
}

/// What an error must have left alone.
pub(super) enum Changes {
    /// Everything.
    Nothing,
    /// Nothing in particular: it may have stopped half-way, which the operation says.
    Some,
}

pub(super) type Outcome = Result<(), (Error, Changes)>;

/// A refusal that changed nothing.
pub(super) fn unchanged(error: Error) -> (Error, Changes) {
    (error, Changes::Nothing)
}

/// A failure after which a part may be done.
pub(super) fn in_part(error: Error) -> (Error, Changes) {
    (error, Changes::Some)
}

/// A machine in use.
pub(super) struct Bench<'m> {
    pub(super) machine: &'m SimMachine,
    pub(super) owners: Vec<Owner>,
    pub(super) buffers: Vec<Owned<'m>>,
    pub(super) held: Vec<htlb_core::Pfn>,
    /// Whether calls of the host fail at present.
    pub(super) failing: bool,
}

impl<'m> Bench<'m> {
    pub(super) fn new(machine: &'m SimMachine) -> Self {
        let two = machine.owner(None).expect("an owner without an account");
        Self {
            machine,
            owners: vec![Owner::FIRST, two],
            buffers: Vec::new(),
            held: Vec::new(),
            failing: false,
        }
    }

    pub(super) fn node(&self, on: On) -> NodeId {
        let nodes = self.machine.topology().nodes;
        node(u32::from(on.0) % nodes.count())
    }

    pub(super) fn nodes(&self, on: On) -> NodeMask {
        match on.0 % 4 {
            3 => self.machine.topology().nodes,
            _ => self.node(on).mask(),
        }
    }

    fn facts(&self) -> Facts {
        // Surplus pages come and go by number, not by name.
        self.machine.facts().without_names()
    }

    /// One operation, and everything that must hold after it.
    pub(super) fn step(&mut self, op: Op, failure: Option<Failure>) {
        let before = self.facts();
        if let Some(failure) = failure {
            self.machine.faults.arm(failure.failing(), failure.only());
            self.failing = true;
        }
        let outcome = self.apply(op);
        let fired = self.machine.faults.disarm();
        self.failing = false;
        let audit = self.machine.audit();
        assert_eq!(
            audit,
            Ok(()),
            "after {op:?} {:?}, {fired:?}",
            outcome.err().map(|e| e.0)
        );
        if let Err((error, Changes::Nothing)) = outcome {
            // What an owner has kept may go back to its pool before anybody is refused.
            if before.keeps_pages() {
                assert!(
                    self.facts().same_buffers(&before),
                    "{error:?} after {op:?}, {fired:?}"
                );
            } else {
                let same = self.facts().only_lost_surplus(before);
                assert_eq!(same, Ok(()), "{error:?} after {op:?}, {fired:?}");
            }
        }
    }

    fn apply(&mut self, op: Op) -> Outcome {
        match op {
            Op::Create(owner, shape) => self.create(owner, shape),
            Op::Reserve(nth, a, b) => self.on(nth, |it, _| it.reserve(a, b)),
            Op::Populate(nth, a, b) => self.on(nth, |it, failing| it.populate(a, b, failing)),
            Op::PopulatePage(nth, at) => self.on(nth, |it, failing| it.populate_page(at, failing)),
            Op::Produce(nth, a, b, how) => {
                self.on(nth, |it, failing| it.produce(a, b, how, failing))
            }
            Op::Fault(nth, at) => self.on(nth, |it, failing| it.fault(at, failing)),
            Op::Write(nth, at, byte) => self.on(nth, |it, _| it.write(at, byte)),
            Op::Read(nth, at) => self.on(nth, |it, _| it.read(at)),
            Op::Punch(nth, a, b) => self.on(nth, |it, _| it.punch(a, b)),
            Op::Truncate(nth, at) => self.on(nth, |it, _| it.truncate(at)),
            Op::Grow(nth, pages, by) => self.on(nth, |it, _| it.grow(pages, by)),
            Op::Pin(nth, at) => self.on(nth, |it, _| it.pin(at)),
            Op::Unpin(nth) => self.on(nth, |it, _| it.unpin()),
            Op::Seal(nth) => self.on(nth, |it, _| it.seal()),
            Op::Unseal(nth) => self.on(nth, |it, _| it.unseal()),
            Op::Release(nth) => self.release(nth),
            Op::OpenAccount(size, max, min) => {
                if self.owners.len() >= MOST_OWNERS {
                    return Ok(());
                }
                let limits = (size.size(), max.map(Few::pages), min.pages());
                let owner = self.machine.owner(Some(limits)).map_err(unchanged)?;
                self.owners.push(owner);
                Ok(())
            }
            Op::CloseAccount(nth) => self.close(nth),
            Op::GrowPool(size, on, pages, bits) => self.grow_pool(size, on, pages, bits),
            Op::Resize(size, on, pages) => self.resize(size, on, pages),
            Op::Demote(on) => self.machine.demote(self.node(on)).map_err(unchanged),
            Op::DropSurplus(size) => {
                self.machine.drop_surplus(size.size());
                Ok(())
            }
            Op::Overcommit(size, pages) => {
                self.overcommit(size.size(), pages.pages());
                Ok(())
            }
            Op::Limit(size, pages) => {
                self.machine.limit(size.size(), pages.pages());
                Ok(())
            }
            Op::Hold(nth, at) => self.hold(nth, at),
            Op::LetGo(nth) => {
                if let Some(at) = nth.of(self.held.len()) {
                    let pfn = self.held.swap_remove(at);
                    if !self.held.contains(&pfn) {
                        self.machine.let_go(pfn);
                    }
                }
                Ok(())
            }
            Op::EmptyMagazines(of) => {
                let of = of.and_then(|of| of.of(self.owners.len()));
                self.machine.empty_magazines(of.map(|at| self.owners[at]));
                Ok(())
            }
            Op::Fail(_) => Ok(()),
        }
    }

    fn on(&mut self, nth: super::Nth, f: impl FnOnce(&mut Owned<'m>, bool) -> Outcome) -> Outcome {
        let failing = self.failing;
        match nth.of(self.buffers.len()) {
            Some(at) => f(&mut self.buffers[at], failing),
            None => Ok(()),
        }
    }
}
