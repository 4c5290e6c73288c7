// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What was done and what came of it, counted in memory that all processes of a case share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{bail, ensure, Result};

use super::super::area::Area;

macro_rules! kinds {
    ($($name:ident $word:literal),+ $(,)?) => {
        /// What an actor can do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Kind { $($name),+ }

        impl Kind {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];

            const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }
        }
    };
}

kinds! {
    Create "create",
    Close "close",
    Populate "populate",
    Reserve "reserve",
    Punch "punch",
    Truncate "truncate",
    Seal "seal",
    Unseal "unseal",
    Info "info",
    Lookup "lookup",
    Stats "stats",
    Resize "resize",
    Surplus "overcommit",
    Limit "limit",
    Import "import",
    Donor "shrink, punch or seal a donated memfd",
    Map "mmap",
    Unmap "munmap",
    Remap "mremap",
    Protect "mprotect",
    Advise "madvise",
    Lock "mlock",
    Peek "read",
    Poke "write",
    Trespass "touch another thread's addresses",
    Hold "hold a page in a pipe",
    LetGo "let go of a page in a pipe",
    Export "export",
    Attach "attach a device",
    Transfer "let a device or the kernel read",
    Detach "detach a device",
    Fork "fork, touch and exit",
    Reopen "open the device anew",
    Scribbled "call with a record that others write to meanwhile",
    Garbage "call with a record at random",
    BadPointer "call with a bad pointer",
}

impl Kind {
    /// Whether the module must not do it.
    const fn is_wrong(self) -> bool {
        matches!(self, Self::BadPointer)
    }
}

const KINDS: usize = Kind::ALL.len();

/// For each kind, how often it succeeded and how often it was refused.
#[derive(Debug)]
pub(super) struct Tally(Area);

type Counts = [[AtomicU64; 2]; KINDS];

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Area::anonymous(
            size_of::<Counts>().next_multiple_of(4096),
        )?))
    }

    fn counts(&self) -> &Counts {
        // SAFETY: the area is as long, aligned to a page, zero at first, which is a value of the atomics, and mapped until `self` is dropped.
        unsafe { &*self.0.pointer(0).cast::<Counts>() }
    }

    /// Counts one.
    pub(super) fn note(&self, kind: Kind, succeeded: bool) {
        self.counts()[kind as usize][usize::from(!succeeded)].fetch_add(1, Ordering::Relaxed);
    }

    fn of(&self, kind: Kind) -> (u64, u64) {
        let [succeeded, refused] = &self.counts()[kind as usize];
        (
            succeeded.load(Ordering::Relaxed),
            refused.load(Ordering::Relaxed),
        )
    }

    /// How many there were.
    pub(super) fn total(&self) -> u64 {
        let sum = |kind: &Kind| {
            let (succeeded, refused) = self.of(*kind);
            succeeded + refused
        };
        Kind::ALL.iter().map(sum).sum()
    }

    /// Fails unless each of these was done at least once, or refused where it is wrong: where everything is refused nothing is shown.
    pub(super) fn all_of(&self, kinds: &[Kind]) -> Result<()> {
        let never: Vec<&str> = kinds
            .iter()
            .filter(|kind| {
                let (succeeded, refused) = self.of(**kind);
                match kind.is_wrong() {
                    true => refused == 0,
                    false => succeeded == 0,
                }
            })
            .map(|kind| kind.word())
            .collect();
        if !never.is_empty() {
            bail!("never once: {}", never.join(", "));
        }
        for kind in Kind::ALL.iter().filter(|kind| kind.is_wrong()) {
            let (succeeded, _) = self.of(*kind);
            ensure!(succeeded == 0, "{}: {succeeded} succeeded", kind.word());
        }
        Ok(())
    }

    /// How often this was refused.
    pub(super) fn refused(&self, kind: Kind) -> u64 {
        self.of(kind).1
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} operations, succeeded + refused:", self.total())?;
        let done = Kind::ALL.iter().filter_map(|kind| {
            let (succeeded, refused) = self.of(*kind);
            (succeeded + refused > 0).then(|| format!("{} {succeeded}+{refused}", kind.word()))
        });
        let done: Vec<String> = done.collect();
        for line in done.chunks(6) {
            writeln!(f, "  {}", line.join("; "))?;
        }
        Ok(())
    }
}
