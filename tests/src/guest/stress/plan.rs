// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How long a case lasts, and by which choices.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::{LONG, SEED};

/// How many times as long everything lasts with `--long`: ten minutes of testing, as fifty seconds are of the minute.
const LONGER: u32 = 12;

/// What a case is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Where every choice comes from.
    pub(super) seed: u64,
    /// How long it goes on.
    pub(super) length: Duration,
}

impl Plan {
    /// For a case that has so many seconds of the minute that the whole group may take. Says how to make the same choices again.
    pub(super) fn of(case: &str, seconds: u64) -> Result<Self> {
        let is_long = std::env::var_os(LONG).is_some();
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().with_context(|| format!("{SEED}={text}"))?,
            Err(_) => chance()?,
        };
        println!("the same choices again: cargo xtask vm test --only stress --filter {case} --seed {seed}");
        let length = Duration::from_secs(seconds);
        let length = match is_long {
            true => length.saturating_mul(LONGER),
            false => length,
        };
        Ok(Self { seed, length })
    }
}

/// A number that can be typed again.
fn chance() -> Result<u64> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u64::from(u32::from_ne_bytes(bytes)))
}

/// SplitMix64: a state, and all of its bits mixed.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Choices of one actor, that are its own.
    pub(super) fn new(seed: u64, actor: u64) -> Self {
        let mut dice = Self(seed ^ actor.wrapping_mul(0xd6e8_feb8_6659_fd93));
        dice.next();
        dice
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        // CAST: less than a usize.
        self.below(len as u64) as usize
    }

    /// True once in so many times.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}
