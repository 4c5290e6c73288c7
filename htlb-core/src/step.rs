// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the core says when it cannot go on alone.
//!
//! The core never allocates, waits or frees. An operation that lacks something ends with a [`Stop`]; the front
//! end acts with no lock held and calls again. So every allocation failure is a return value, and a test can
//! make the n-th one fail.

use crate::error::Error;
use crate::units::PageIndex;

/// Why an operation did not finish. Nothing has changed: calling again starts afresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stop {
    /// Larger tables are needed: allocate them and hand them to `adopt`.
    Metadata {
        /// Whose tables.
        table: Table,
        /// The length of the new tables, in 64-bit words.
        words: usize,
    },
    /// Somebody else works here: wait, then call again.
    Wait(WaitFor),
    /// It cannot be done.
    Fail(Error),
}

/// Tables that can run full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    /// The ledger's: kinds and accounts.
    Ledger,
    /// The pool's: chunks.
    Pool,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(error)
    }
}

/// What a waiter waits for, and what a [`Wake`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WaitFor {
    /// The end of the claim on the slot of this page.
    Slot(PageIndex),
    /// The end of the punches, or of the seals, under way on the whole buffer.
    Seal,
    /// The opening of the gate, or the end of what is inside it.
    Gate,
}

/// Whom to wake after a claim ended; `None` where nobody waits.
#[must_use = "a lost wake-up hangs a waiter"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake(pub(crate) Option<WaitFor>);

impl Wake {
    /// Nobody waits.
    pub const NOBODY: Self = Self(None);

    /// Those who wait for `what`.
    pub const fn waiters_of(what: WaitFor) -> Self {
        Self(Some(what))
    }

    /// The waiters to wake, if any.
    #[must_use]
    pub const fn target(self) -> Option<WaitFor> {
        self.0
    }
}

/// Whether to go to sleep: what the last look says, on the wait queue already, before a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waiting {
    /// Sleep: what is under way has been marked, and its end brings a [`Wake`].
    Sleep,
    /// Do not sleep but try again: nothing is under way.
    Retry,
}
