// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The same work on many parts, by several threads.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use htlb_core::Error;

/// No machine gets faster by more.
const MOST: usize = 1024;

/// Does `work` on every part and adds up what it says; the calling thread is one of `threads`.
///
/// Parts are handed out in ascending order. After an error nothing more is handed out, what is under way is finished, and
/// of several errors one is told. Where the system gives fewer threads, there are fewer. A panic is passed on.
pub(crate) fn each<T: Sync>(
    threads: usize,
    parts: &[T],
    work: impl Fn(&T) -> Result<u64, Error> + Sync,
) -> Result<u64, Error> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let worker = || {
        let mut sum = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            match work(part) {
                Ok(more) => sum = sum.saturating_add(more),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(sum)
    };
    let others = threads.min(parts.len()).min(MOST).saturating_sub(1);
    if others == 0 {
        return worker();
    }
    thread::scope(|scope| {
        let helpers: Vec<_> = (0..others)
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, worker).ok())
            .collect();
        let mine = worker();
        helpers.into_iter().fold(mine, |sum, helper| {
            let more = helper.join().unwrap_or_else(|panic| {
                stop.store(true, Ordering::Relaxed);
                resume_unwind(panic)
            });
            Ok(sum?.saturating_add(more?))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_part_once_whatever_the_threads() {
        let parts: Vec<u64> = (1..=100).collect();
        for threads in [0, 1, 2, 7, usize::MAX] {
            let seen = Mutex::new(Vec::new());
            let sum = each(threads, &parts, |part| {
                seen.lock().unwrap().push(*part);
                Ok(*part)
            });
            assert_eq!(sum, Ok(5050));
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, parts);
        }
        assert_eq!(each(3, &[] as &[u8], |_| Ok(1)), Ok(0));
    }

    #[test]
    fn an_error_stops_the_others() {
        let parts = vec![(); 10_000];
        let calls = AtomicUsize::new(0);
        let outcome = each(4, &parts, |()| {
            match calls.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Error::Poisoned),
                _ => {
                    thread::yield_now();
                    Ok(1)
                }
            }
        });
        assert_eq!(outcome, Err(Error::Poisoned));
        assert!(calls.into_inner() < 10_000);
    }

    #[test]
    fn a_panic_is_passed_on() {
        let outcome = std::panic::catch_unwind(|| {
            each(2, &[1, 2, 3], |part| {
                assert_ne!(*part, 2, "the producer's own words");
                Ok(0)
            })
        });
        let words = outcome.unwrap_err();
        let words = words.downcast_ref::<String>().unwrap();
        assert!(words.contains("the producer's own words"), "{words}");
    }
}
