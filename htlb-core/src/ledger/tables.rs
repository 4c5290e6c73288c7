// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How much a ledger keeps, and where it lies in the words that the host gave.
//!
//! Sections, in order: the nodes with slack per level, the classes, the search's own notes, the accounts, and
//! one row per kind. The first three depend only on the number of nodes, so a longer block takes the sections
//! over by plain copies.

use crate::reach::Level;

/// How much a ledger can keep track of before it asks for more words.
///
/// ```
/// use htlb_core::ledger::Tables;
/// let small = Tables { nodes: 1, kinds: 4, accounts: 2 };
/// assert!(small.words() < Tables { nodes: 8, ..small }.words());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// The highest node number that the machine can have, plus one: 1 to 64. Fixed for the life of the ledger.
    pub nodes: u8,
    /// Different reaches that promises, pages in use and account minima have at the same time.
    pub kinds: u16,
    /// Accounts, the root account included.
    pub accounts: u16,
}

impl Tables {
    /// The 64-bit words that these tables need.
    #[must_use]
    pub const fn words(self) -> usize {
        let layout = Layout::of(self);
        layout
            .kinds
            .saturating_add(layout.row.saturating_mul(self.kinds as usize))
    }

    /// The next larger tables, or `None` where there are none.
    pub(super) const fn grown(self) -> Option<Self> {
        let larger = Self {
            nodes: self.nodes,
            kinds: if self.kinds == 0 {
                1
            } else {
                self.kinds.saturating_mul(2)
            },
            accounts: if self.accounts == 0 {
                1
            } else {
                self.accounts.saturating_mul(2)
            },
        };
        if larger.kinds == self.kinds && larger.accounts == self.accounts {
            None
        } else {
            Some(larger)
        }
    }
}

/// A number that is kept for each class.
#[derive(Clone, Copy)]
pub(super) enum OfClass {
    /// Pages that nobody holds.
    Free,
    /// Free pages that the witness assigns to no promise.
    Slack,
    /// Pages, free or in use.
    Nr,
    /// Pages above the persistent ones.
    Surplus,
}

/// A number that is kept for each kind: each reach in use.
#[derive(Clone, Copy)]
pub(super) enum OfKind {
    /// The reach's node mask.
    Nodes,
    /// The reach's level.
    Level,
    /// Pages promised to callers.
    Promised,
    /// Pages promised to account minima that nobody uses now.
    Guaranteed,
    /// Pages in use that were taken for this reach.
    Held,
    /// Open accounts whose minimum has this reach.
    Accounts,
    /// The number of the last search that followed this kind.
    Search,
}

/// A number that is kept for each account.
#[derive(Clone, Copy)]
pub(super) enum OfAccount {
    /// The generation, with [`OPEN`] while the account is.
    State,
    /// The limit; `u64::MAX` for none.
    Max,
    /// The guaranteed minimum.
    Min,
    /// The kind of the minimum, where that is not zero.
    Kind,
    /// Promises and pages in use, not those of accounts below.
    Used,
    /// The part of `Used` whose reach lies within that of the minimum.
    Inside,
    /// The account above, by its index; the root account's for none.
    Parent,
    /// Accounts below.
    Children,
    /// What the accounts below have: their use and their unused minima.
    Below,
}

/// Set in [`OfAccount::State`] of an open account.
pub(super) const OPEN: u64 = 1 << 32;

pub(super) const CLASS_WORDS: usize = 4;
pub(super) const NOTE_WORDS: usize = 2;
pub(super) const ACCOUNT_WORDS: usize = 9;
pub(super) const KIND_WORDS: usize = 8;

/// Where each section begins, and how long a kind's row is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) notes: usize,
    pub(super) accounts: usize,
    pub(super) kinds: usize,
    pub(super) row: usize,
}

impl Layout {
    pub(super) const CLASSES: usize = Level::COUNT;

    pub(super) const fn of(tables: Tables) -> Self {
        let classes = (tables.nodes as usize).saturating_mul(Level::COUNT);
        let notes = Self::CLASSES.saturating_add(classes.saturating_mul(CLASS_WORDS));
        let accounts = notes.saturating_add(classes.saturating_mul(NOTE_WORDS));
        Self {
            notes,
            accounts,
            kinds: accounts
                .saturating_add((tables.accounts as usize).saturating_mul(ACCOUNT_WORDS)),
            row: classes.saturating_add(KIND_WORDS.saturating_add(Level::COUNT)),
        }
    }
}
