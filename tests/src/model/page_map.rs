// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a page map must answer, from a list of what each page is.
//!
//! Claims stay open over other operations, several at a time and on overlapping ranges, so "planned, then the map
//! changed, then committed" is the ordinary case here.

use arbitrary::Arbitrary;
use htlb_core::{ByteLen, Error, Stop, WaitFor, Waiting};

mod page;
mod range;
mod slot;
mod world;

use page::{boundaries, Page, SLOTS};
use world::{pick, World};

/// One of the slots.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Slot(pub u8);

impl Slot {
    fn slot(self) -> usize {
        usize::from(self.0) % SLOTS
    }

    /// The beginning of a slot, or the end of the map.
    fn boundary(self) -> usize {
        usize::from(self.0) % (SLOTS + 1)
    }
}

/// One of the values that are open, by any number.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Nth(pub u8);

/// One call of the page map.
#[derive(Arbitrary, Clone, Copy, Debug)]
#[allow(missing_docs)] // Each is the method of its name, with its arguments.
pub enum Op {
    Claim(Slot),
    Attach(Nth),
    Detach(Nth),
    Commit(Nth),
    Abort(Nth),
    Pin(Slot),
    Unpin(Nth),
    Seal,
    Unseal(Nth),
    ClaimRange(Slot, Slot),
    Next(Nth),
    EndRange(Nth),
    /// To a size some bytes away from a slot's beginning.
    Truncate(Slot, i8),
    Grow(Slot, i8),
    ClaimHoles(Slot, Slot),
    CommitPromises(Nth),
    AbortPromises(Nth),
    Unpromise(Slot, Slot),
    /// For a slot, while another one is claimed.
    Wait(Slot, Option<Slot>),
    WaitSeal,
}

/// Runs every operation on a page map and on the model, with a comparison of every slot after each, then ends all claims
/// and expects every frame back.
///
/// # Panics
/// Where the map answers something else than the model.
pub fn run(ops: &[Op]) {
    let mut world = World::new();
    for &op in ops {
        world.step(op);
        world.check();
    }
    world.finish();
}

impl World {
    pub(super) fn step(&mut self, op: Op) {
        match op {
            Op::Claim(slot) => self.claim(slot.slot()),
            Op::Attach(nth) => self.attach(nth.0.into()),
            Op::Detach(nth) => self.detach(nth.0.into()),
            Op::Commit(nth) => self.commit(nth.0.into()),
            Op::Abort(nth) => self.abort(nth.0.into()),
            Op::Pin(slot) => self.pin(slot.slot()),
            Op::Unpin(nth) => {
                if let Some(pin) = pick(&mut self.tokens.pins, nth.0.into()) {
                    let Page::Present { pins, .. } = &mut self.pages[pin.index().raw() as usize]
                    else {
                        panic!("a pinned page has gone");
                    };
                    *pins -= 1;
                    self.map.unpin(pin);
                }
            }
            Op::Seal => match self.map.seal() {
                Ok(seal) => {
                    assert!(self.tokens.ranges.is_empty());
                    self.tokens.seals.push(seal);
                }
                Err(stop) => {
                    assert!(!self.tokens.ranges.is_empty());
                    assert_eq!(stop, Stop::Wait(WaitFor::Seal));
                }
            },
            Op::Unseal(nth) => {
                if let Some(seal) = pick(&mut self.tokens.seals, nth.0.into()) {
                    self.map.unseal(seal);
                }
            }
            Op::ClaimRange(a, b) => self.claim_range(a.slot(), b.boundary()),
            Op::Truncate(at, by) => self.truncate(at.boundary(), by.into()),
            Op::Next(nth) => self.next_removed(nth.0.into()),
            Op::EndRange(nth) => self.end_range(nth.0.into()),
            Op::Grow(at, by) => {
                let new = boundaries()[at.boundary()].saturating_add_signed(by.into());
                let answer = self.map.grow(ByteLen::new(new));
                if new > boundaries()[SLOTS] {
                    assert_eq!(answer, Err(Error::BeyondCapacity));
                } else {
                    assert_eq!(answer, Ok(ByteLen::new(self.size)));
                    self.size = self.size.max(new);
                }
            }
            Op::ClaimHoles(a, b) => self.claim_holes(a.slot(), b.boundary()),
            Op::CommitPromises(nth) => self.end_promises(nth.0.into(), Page::Promised),
            Op::AbortPromises(nth) => self.end_promises(nth.0.into(), Page::Hole),
            Op::Unpromise(a, b) => self.unpromise(a.slot(), b.boundary()),
            Op::Wait(slot, held) => self.wait(slot.slot(), held.map(Slot::slot)),
            Op::WaitSeal => {
                let blocked = self.transient();
                self.seal_waited |= blocked;
                let expected = if blocked {
                    Waiting::Sleep
                } else {
                    Waiting::Retry
                };
                assert_eq!(self.map.prepare_wait_seal(), expected);
            }
        }
    }
}
