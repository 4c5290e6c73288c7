// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The threads that keep several requests in flight.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::error::LoadError;
use super::requests::{Request, Requests};
use super::{Options, Progress};

/// How often the caller hears of progress, and how soon a cancellation is seen by a stream that waits.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Runs requests until there are none, one fails, or the caller cancels.
///
/// Requests are handed out in ascending order and those handed out are finished, so that of several failures
/// the one reported has the lowest offset of all.
#[derive(Debug)]
pub(super) struct Crew<'a> {
    size: usize,
    cancel: Option<&'a AtomicBool>,
    total: u64,
    stop: AtomicBool,
    arrived: AtomicU64,
    failure: Mutex<Option<(u64, LoadError)>>,
}

impl<'a> Crew<'a> {
    pub(super) fn new(options: &Options<'a>, total: u64) -> Self {
        Self {
            size: options.in_flight(),
            cancel: options.cancel,
            total,
            stop: AtomicBool::new(false),
            arrived: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// Runs them all. `worker` is called once by each thread for what that thread does with a request.
    pub(super) fn run<'m, W>(
        &self,
        requests: &mut Requests<'m>,
        mut progress: impl FnMut(Progress),
        worker: impl Fn() -> W + Sync,
    ) -> Result<(), LoadError>
    where
        W: FnMut(Request<'m>) -> Result<(), LoadError>,
    {
        let requests = Mutex::new(requests);
        thread::scope(|scope| {
            let (alive, ended) = mpsc::channel::<()>();
            let mut threads = 0_usize;
            for _ in 0..self.size {
                let (alive, requests, worker) = (alive.clone(), &requests, &worker);
                let body = move || {
                    self.work(requests, worker());
                    drop(alive);
                };
                if thread::Builder::new()
                    .name("htlb-load".into())
                    .spawn_scoped(scope, body)
                    .is_err()
                {
                    // Out of threads: those that exist do the work.
                    break;
                }
                threads += 1;
            }
            drop(alive);
            if threads == 0 {
                self.work(&requests, worker());
            }
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TICK) {
                progress(self.progress());
            }
        });
        let failure = unpoisoned(self.failure.lock()).take();
        match failure {
            Some((_, error)) => Err(error),
            None if self.is_cancelled() && self.progress().bytes < self.total => {
                Err(LoadError::Cancelled)
            }
            None => {
                progress(self.progress());
                Ok(())
            }
        }
    }

    fn work<'m>(
        &self,
        requests: &Mutex<&mut Requests<'m>>,
        mut worker: impl FnMut(Request<'m>) -> Result<(), LoadError>,
    ) {
        while !self.stop.load(Ordering::Relaxed) && !self.is_cancelled() {
            let Some(request) = unpoisoned(requests.lock()).next() else {
                return;
            };
            let (offset, len) = (request.offset, request.len as u64);
            match worker(request) {
                Ok(()) => {
                    self.arrived.fetch_add(len, Ordering::Relaxed);
                }
                Err(error) => {
                    self.stop.store(true, Ordering::Relaxed);
                    let mut failure = unpoisoned(self.failure.lock());
                    if failure.as_ref().is_none_or(|(lowest, _)| offset < *lowest) {
                        *failure = Some((offset, error));
                    }
                }
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel
            .is_some_and(|cancel| cancel.load(Ordering::Relaxed))
    }

    fn progress(&self) -> Progress {
        Progress {
            bytes: self.arrived.load(Ordering::Relaxed),
            total: Some(self.total),
        }
    }
}

/// The guarded value even after a panic of another holder: each critical section leaves it whole.
fn unpoisoned<'g, T: ?Sized>(
    locked: Result<MutexGuard<'g, T>, PoisonError<MutexGuard<'g, T>>>,
) -> MutexGuard<'g, T> {
    locked.unwrap_or_else(PoisonError::into_inner)
}
