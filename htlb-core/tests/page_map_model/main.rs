// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The page map against a naive model: any interleaving of its operations, every answer and every slot compared.
//!
//! Claims stay open over other operations, several at a time and on overlapping ranges, so "planned, then the map
//! changed, then committed" is the ordinary case here.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation
)]

mod page;
mod range;
mod slot;
mod world;

use htlb_core::{ByteLen, Error, Stop, WaitFor, Waiting};
use proptest::prelude::*;

use page::{boundaries, Page, SLOTS};
use world::{pick, World};

#[derive(Clone, Debug)]
enum Op {
    Claim(usize),
    Attach(usize),
    Detach(usize),
    Commit(usize),
    Abort(usize),
    Pin(usize),
    Unpin(usize),
    Seal,
    Unseal(usize),
    ClaimRange(usize, usize),
    Next(usize),
    EndRange(usize),
    Truncate(usize, i64),
    Grow(usize, i64),
    ClaimHoles(usize, usize),
    CommitPromises(usize),
    AbortPromises(usize),
    Unpromise(usize, usize),
    Wait(usize, Option<usize>),
    WaitSeal,
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..SLOTS;
    let nth = 0..8usize;
    let range = (0..SLOTS, 1..=SLOTS);
    let size = (0..=SLOTS, -1..=1i64);
    prop_oneof![
        5 => slot.clone().prop_map(Op::Claim),
        4 => nth.clone().prop_map(Op::Attach),
        1 => nth.clone().prop_map(Op::Detach),
        4 => nth.clone().prop_map(Op::Commit),
        1 => nth.clone().prop_map(Op::Abort),
        2 => slot.clone().prop_map(Op::Pin),
        3 => nth.clone().prop_map(Op::Unpin),
        1 => Just(Op::Seal),
        2 => nth.clone().prop_map(Op::Unseal),
        3 => range.clone().prop_map(|(a, b)| Op::ClaimRange(a, b)),
        6 => nth.clone().prop_map(Op::Next),
        3 => nth.clone().prop_map(Op::EndRange),
        2 => size.clone().prop_map(|(at, by)| Op::Truncate(at, by)),
        2 => size.prop_map(|(at, by)| Op::Grow(at, by)),
        3 => range.clone().prop_map(|(a, b)| Op::ClaimHoles(a, b)),
        3 => nth.clone().prop_map(Op::CommitPromises),
        1 => nth.prop_map(Op::AbortPromises),
        1 => range.prop_map(|(a, b)| Op::Unpromise(a, b)),
        2 => (slot.clone(), proptest::option::of(slot)).prop_map(|(at, held)| Op::Wait(at, held)),
        1 => Just(Op::WaitSeal),
    ]
}

impl World {
    fn step(&mut self, op: Op) {
        match op {
            Op::Claim(slot) => self.claim(slot),
            Op::Attach(nth) => self.attach(nth),
            Op::Detach(nth) => self.detach(nth),
            Op::Commit(nth) => self.commit(nth),
            Op::Abort(nth) => self.abort(nth),
            Op::Pin(slot) => self.pin(slot),
            Op::Unpin(nth) => {
                if let Some(pin) = pick(&mut self.tokens.pins, nth) {
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
                if let Some(seal) = pick(&mut self.tokens.seals, nth) {
                    self.map.unseal(seal);
                }
            }
            Op::ClaimRange(a, b) => self.claim_range(a, b),
            Op::Truncate(at, by) => self.truncate(at, by),
            Op::Next(nth) => self.next_removed(nth),
            Op::EndRange(nth) => self.end_range(nth),
            Op::Grow(at, by) => {
                let new = boundaries()[at].saturating_add_signed(by);
                let answer = self.map.grow(ByteLen::new(new));
                if new > boundaries()[SLOTS] {
                    assert_eq!(answer, Err(Error::BeyondCapacity));
                } else {
                    assert_eq!(answer, Ok(ByteLen::new(self.size)));
                    self.size = self.size.max(new);
                }
            }
            Op::ClaimHoles(a, b) => self.claim_holes(a, b),
            Op::CommitPromises(nth) => self.end_promises(nth, Page::Promised),
            Op::AbortPromises(nth) => self.end_promises(nth, Page::Hole),
            Op::Unpromise(a, b) => self.unpromise(a, b),
            Op::Wait(slot, held) => self.wait(slot, held),
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_interleaving_answers_as_the_model_does(ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
            world.check();
        }
        world.finish();
    }
}
