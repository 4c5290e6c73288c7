// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Children of a case: they share its mappings, and may die of what they touch.

use std::io;

use anyhow::{bail, ensure, Result};

use super::area::done;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

/// A child that has not been waited for. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Child(Option<libc::pid_t>);

impl Child {
    /// A copy of this process that runs `body` and ends; an error of it is printed.
    pub(super) fn start(body: impl FnOnce() -> Result<()>) -> io::Result<Self> {
        // SAFETY: the cases fork from their only thread, or touch no lock of another one's in the child.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let status = match body() {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("in the child: {error:?}");
                        1
                    }
                };
                // SAFETY: ends the child without what the parent would do at its end.
                unsafe { libc::_exit(status) }
            }
            pid => Ok(Self(Some(pid))),
        }
    }

    /// Its number.
    pub(super) fn pid(&self) -> libc::pid_t {
        self.0.unwrap_or_default()
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: a child that has not been waited for, so the number is its own.
        done(unsafe { libc::kill(self.pid(), signal) })
    }

    /// Waits for its end.
    pub(super) fn wait(mut self) -> io::Result<Ended> {
        self.end()
    }

    fn end(&mut self) -> io::Result<Ended> {
        let Some(pid) = self.0.take() else {
            return Err(io::Error::from_raw_os_error(libc::ECHILD));
        };
        let mut status = 0;
        loop {
            // SAFETY: `status` is ours.
            match unsafe { libc::waitpid(pid, &mut status, 0) } {
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => return Err(io::Error::last_os_error()),
                _ if libc::WIFSIGNALED(status) => return Ok(Ended::Signal(libc::WTERMSIG(status))),
                _ if libc::WIFEXITED(status) => {
                    return Ok(Ended::Status(libc::WEXITSTATUS(status)))
                }
                _ => {}
            }
        }
    }

    /// Waits, and fails unless all went well in it.
    pub(super) fn succeeds(self) -> Result<()> {
        match self.wait()? {
            Ended::Status(0) => Ok(()),
            other => bail!("the child ended with {other:?}"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.0.is_some() {
            // A child that is gone already is only waited for.
            let _ = self.signal(libc::SIGKILL);
            let _ = self.end();
        }
    }
}

/// Fails unless a child that does this dies of this signal.
pub(super) fn dies_of<T>(signal: i32, body: impl FnOnce() -> T) -> Result<()> {
    let child = Child::start(|| {
        let _survived = body();
        Ok(())
    })?;
    let ended = child.wait()?;
    ensure!(
        ended == Ended::Signal(signal),
        "{ended:?} instead of signal {signal}"
    );
    Ok(())
}
