// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every operation of a map with every other, at once and one step at a time.

use crate::actor::{Actor, Operation, Progress};
use crate::map::{Initially, Shared};
use crate::{explore, print, Explored, Preemptions};
use loom::thread;
use std::sync::Arc;

const STATES: [Initially; 3] = [Initially::Hole, Initially::Promised, Initially::Present];

/// The slots, and the pages below the size, that these operations start with. One that grows has something to grow into, which
/// holds no page then.
fn start(slots: &[Initially], operations: &[Operation]) -> Option<(Vec<Initially>, u64)> {
    let pages = slots.len() as u64;
    match operations.contains(&Operation::Grow) {
        true if slots.last() == Some(&Initially::Present) => None,
        true => Some((slots.to_vec(), pages - 1)),
        false => Some((slots.to_vec(), pages)),
    }
}

fn outcome(actors: &[Actor], shared: &Shared) -> String {
    let said: Vec<&str> = actors.iter().map(Actor::said).collect();
    format!("{said:?}, {}", shared.settled())
}

/// All at once, one thread each.
fn at_once(
    slots: &[Initially],
    size: u64,
    operations: &[Operation],
    preemptions: Preemptions,
) -> Explored {
    let (slots, operations) = (slots.to_vec(), operations.to_vec());
    explore(preemptions, move || {
        let shared = Arc::new(Shared::new(&slots, size));
        let mut actors = operations.iter().enumerate();
        let first = actors
            .next()
            .map(|(number, operation)| Actor::new(number, *operation));
        let others: Vec<_> = actors
            .map(|(number, operation)| {
                let (shared, mut actor) = (shared.clone(), Actor::new(number, *operation));
                thread::spawn(move || {
                    actor.run(&shared);
                    actor
                })
            })
            .collect();
        let mut first = first.unwrap();
        first.run(&shared);
        let mut all = vec![first];
        all.extend(others.into_iter().map(|other| other.join().unwrap()));
        outcome(&all, &shared)
    })
}

/// One step at a time, in every order: what the threads may come to.
fn in_turn(slots: &[Initially], size: u64, operations: &[Operation]) -> Explored {
    let number = operations.len() as u32;
    let turns = 2 * number;
    let mut all = Explored::default();
    for order in 0..u64::from(number).pow(turns) {
        let (slots, operations) = (slots.to_vec(), operations.to_vec());
        let one = explore(Preemptions::Any, move || {
            let shared = Shared::new(&slots, size);
            let mut actors: Vec<Actor> = operations
                .iter()
                .enumerate()
                .map(|(number, operation)| Actor::new(number, *operation))
                .collect();
            let mut order = order;
            while !actors.iter().all(Actor::is_done) {
                let count = actors.len();
                let chosen = (order % count as u64) as usize;
                order /= count as u64;
                // Who is done, or has to wait, leaves the turn to the next.
                let went = (0..count).any(|after| {
                    let actor = &mut actors[(chosen + after) % count];
                    !actor.is_done() && !matches!(actor.step(&shared), Progress::Blocked(_))
                });
                assert!(went, "everybody waits");
            }
            outcome(&actors, &shared)
        });
        all.interleavings += one.interleavings;
        all.outcomes.extend(one.outcomes);
    }
    all
}

/// Compares the two; how many interleavings that was, or `None` for a start that cannot be.
pub(crate) fn compare(
    slots: &[Initially],
    operations: &[Operation],
    preemptions: Preemptions,
) -> Option<u64> {
    let (slots, size) = start(slots, operations)?;
    let serial = in_turn(&slots, size, operations);
    let explored = at_once(&slots, size, operations, preemptions);
    assert_eq!(
        explored.outcomes, serial.outcomes,
        "{operations:?} from {slots:?}: at once, and one at a time"
    );
    Some(explored.interleavings)
}

fn all_pairs(name: &str, starts: &[Vec<Initially>], preemptions: Preemptions) {
    let (mut models, mut interleavings) = (0, 0);
    for (number, one) in Operation::ALL.into_iter().enumerate() {
        for other in &Operation::ALL[number..] {
            for slots in starts {
                if let Some(runs) = compare(slots, &[one, *other], preemptions) {
                    models += 1;
                    interleavings += runs;
                }
            }
        }
    }
    print(name, models, interleavings, preemptions);
}

#[test]
fn every_pair_on_one_slot() {
    let starts: Vec<_> = STATES.iter().map(|state| vec![*state]).collect();
    all_pairs("pairs on one slot", &starts, Preemptions::AtMost(3));
}

#[test]
fn every_pair_on_two_slots() {
    let second = |first: &Initially| STATES.map(|last| vec![*first, last]);
    let starts: Vec<_> = STATES.iter().flat_map(second).collect();
    all_pairs("pairs on two slots", &starts, Preemptions::AtMost(2));
}
