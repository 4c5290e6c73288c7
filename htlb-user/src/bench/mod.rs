// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Measurements that compare like with like: peers take turns in one run, and what counts is the median.

pub mod core;
pub mod host;

use std::time::Instant;

/// Rounds that are counted.
pub const ROUNDS: usize = 9;

/// What each of some peers took in each round, in nanoseconds per operation.
#[derive(Clone, Copy, Debug)]
pub struct Rounds<const N: usize> {
    took: [[f64; ROUNDS]; N],
}

/// Lets peers take turns. Each says how long it took, in nanoseconds per operation; another one begins each round.
///
/// In its turn a peer runs twice, and the second time counts: the caches are its own again by then, whatever the peer
/// before it left in them.
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
    let mut took = [[0.0; ROUNDS]; N];
    for round in 0..ROUNDS {
        for turn in 0..N {
            let peer = (turn + round) % N;
            peers[peer]()?;
            took[peer][round] = peers[peer]()?;
        }
    }
    Ok(Rounds { took })
}

impl<const N: usize> Rounds<N> {
    /// The median of one peer, in nanoseconds per operation.
    #[must_use]
    pub fn median(&self, peer: usize) -> f64 {
        median(self.took[peer])
    }

    /// The median, over the rounds, of what `peer` took divided by what `other` took.
    #[must_use]
    pub fn ratio(&self, peer: usize, other: usize) -> f64 {
        median(std::array::from_fn(|round| {
            self.took[peer][round] / self.took[other][round]
        }))
    }
}

fn median(mut rounds: [f64; ROUNDS]) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
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
