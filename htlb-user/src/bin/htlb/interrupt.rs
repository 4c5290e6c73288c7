// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! SIGINT, SIGTERM and SIGHUP: the first ends the work in order, the second at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::{Code, Failure};

/// Whether a signal came, and which.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    came: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    /// Begins to listen. From here on a blocking call is not ended by the first signal: open what may block before.
    pub(crate) fn install() -> Result<Self, Failure> {
        let this = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // ORDER: the exit is armed only by the flag that the first signal raises, so it is registered before.
            let code = 128 + signal;
            // CAST: signal numbers are small and positive.
            let number = signal as usize;
            flag::register_conditional_shutdown(signal, code, Arc::clone(&this.came))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&this.signal), number))
                .and_then(|_| flag::register(signal, Arc::clone(&this.came)))
                .map_err(|error| {
                    Failure::new(Code::Failed, format!("cannot listen for signals: {error}"))
                })?;
        }
        Ok(this)
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.came
    }

    /// What to say after the work ended early, if a signal is why.
    pub(crate) fn failure(&self) -> Option<Failure> {
        if !self.came.load(Ordering::Relaxed) {
            return None;
        }
        // CAST: as above.
        let code = match self.signal.load(Ordering::Relaxed) as i32 {
            SIGINT => Code::Interrupted,
            _ => Code::Terminated,
        };
        Some(Failure::new(code, "interrupted: nothing was kept"))
    }
}
