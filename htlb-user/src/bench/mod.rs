// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Measurements that compare like with like: peers take turns in one run, and what counts is the median.

pub mod core;
pub mod host;
pub mod load;
pub mod machine;
pub mod report;

use std::time::{Duration, Instant};

/// Rounds that are counted.
pub const ROUNDS: usize = 9;

/// How long a turn goes on, unless its first counted run already takes longer.
const TURN: Duration = Duration::from_millis(20);

/// The most runs that one turn counts.
const RUNS: usize = 64;

/// What each of some peers took in each round, in nanoseconds per operation.
#[derive(Clone, Copy, Debug)]
pub struct Rounds<const N: usize> {
    rounds: [[f64; N]; ROUNDS],
}

/// Lets peers take turns. Each says how long it took, in nanoseconds per operation; another one begins each round.
///
/// The first run of a turn is discarded: after it the caches are the peer's own again, whatever the one before it left in
/// them. The others, as many as fit into 20 ms and at least one, count with their median.
///
/// # Errors
/// The first that a peer reports.
///
/// ```
/// use htlb_user::bench::interleaved;
/// let rounds = interleaved::<2, ()>([&mut || Ok(6.0), &mut || Ok(3.0)])?;
/// assert_eq!((rounds.median(1), rounds.ratio(0, 1)), (3.0, 2.0));
/// # Ok::<(), ()>(())
/// ```
pub fn interleaved<const N: usize, E>(
    peers: [&mut dyn FnMut() -> Result<f64, E>; N],
) -> Result<Rounds<N>, E> {
    let mut rounds = [[0.0; N]; ROUNDS];
    for (round, took) in rounds.iter_mut().enumerate() {
        for place in 0..N {
            let peer = (place + round) % N;
            took[peer] = turn_of(peers[peer])?;
        }
    }
    Ok(Rounds { rounds })
}

fn turn_of<E>(peer: &mut dyn FnMut() -> Result<f64, E>) -> Result<f64, E> {
    peer()?;
    let start = Instant::now();
    let mut runs = [0.0; RUNS];
    let mut counted = 0;
    while counted == 0 || (counted < RUNS && start.elapsed() < TURN) {
        runs[counted] = peer()?;
        counted += 1;
    }
    Ok(median(&mut runs[..counted]))
}

impl<const N: usize> Rounds<N> {
    /// The median of one peer, in nanoseconds per operation.
    #[must_use]
    pub fn median(&self, peer: usize) -> f64 {
        median(&mut self.rounds.map(|took| took[peer]))
    }

    /// The median, over the rounds, of what `peer` took divided by what `other` took.
    #[must_use]
    pub fn ratio(&self, peer: usize, other: usize) -> f64 {
        median(&mut self.rounds.map(|took| took[peer] / took[other]))
    }
}

/// The middle one; of an even number, the larger of the two.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How long `operations` operations take that `f` does in one go, in nanoseconds for each.
///
/// # Errors
/// That of `f`.
pub fn nanoseconds<E>(operations: usize, f: impl FnOnce() -> Result<(), E>) -> Result<f64, E> {
    let start = Instant::now();
    f()?;
    Ok(start.elapsed().as_nanos() as f64 / operations as f64)
}
