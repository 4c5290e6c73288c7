// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What accounts are charged for, and what of it their minima have promised already.
//!
//! A minimum is promised like anything else, to the kind of the minimum's reach. Only what lies within that reach
//! counts against it: then each unit that comes back is a page, or an assigned one, that the minimum can have again,
//! and giving back cannot fail. So the *unused minimum* is `min - min(inside, min)`, where `inside` is the use within
//! the reach.
//!
//! An account above is charged for what those below *have*: use plus unused minimum. Claiming `n` pages of which the
//! minimum had promised `d` raises that by `n - d`, which is checked against the limit before anything changes; with
//! `d = n` it is no rise at all, so what is guaranteed to a child is never refused for its parent's limit. Giving `n`
//! pages back of which the minimum regains `r` lowers it by `n - r`, and `r ≤ n` since each page that leaves `inside`
//! adds one at most to the unused minimum: it never rises, so giving back cannot exceed a limit.

use super::tables::{OfAccount, OfKind};
use super::{AccountId, Ledger};
use crate::error::Error;
use crate::reach::Reach;

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    /// The account above, unless that is the root account.
    #[inline]
    pub(super) fn parent(&self, account: usize) -> Option<usize> {
        let parent = usize::try_from(self.words.account(account, OfAccount::Parent)).ok()?;
        (parent != AccountId::ROOT.index()).then_some(parent)
    }

    /// What counts against the account's limit.
    #[inline]
    pub(super) fn charged(&self, account: usize) -> u64 {
        let below = self.words.account(account, OfAccount::Below);
        self.words
            .account(account, OfAccount::Used)
            .saturating_add(below)
    }

    pub(super) fn minimum_kind(&self, account: usize) -> usize {
        usize::try_from(self.words.account(account, OfAccount::Kind)).unwrap_or(usize::MAX)
    }

    /// The kind of the account's minimum, if use of `reach` counts against it.
    #[inline]
    pub(super) fn minimum(&self, account: usize, reach: Reach) -> Option<usize> {
        if self.words.account(account, OfAccount::Min) == 0 {
            return None;
        }
        let kind = self.minimum_kind(account);
        let nodes = self.words.kind(kind, OfKind::Nodes);
        let level = self.words.kind(kind, OfKind::Level);
        let within = reach.nodes().bits() & !nodes == 0 && reach.level().index() as u64 <= level;
        within.then_some(kind)
    }

    /// What the account's minimum still promises.
    #[inline]
    pub(super) fn unused_minimum(&self, account: usize) -> u64 {
        let min = self.words.account(account, OfAccount::Min);
        min.saturating_sub(self.words.account(account, OfAccount::Inside))
    }

    /// Whether the account's limit allows `n` pages more.
    #[inline]
    pub(super) fn within_limit(&self, account: usize, n: u64) -> Result<(), Error> {
        let max = self.words.account(account, OfAccount::Max);
        if max != u64::MAX && n > max.saturating_sub(self.charged(account)) {
            return Err(Error::AccountLimit);
        }
        Ok(())
    }

    /// Whether the account's limit, and that of the one above, allow `n` pages more, of which the account's minimum
    /// has promised `draw`.
    #[inline]
    pub(super) fn within_limits(&self, account: usize, n: u64, draw: u64) -> Result<(), Error> {
        self.within_limit(account, n)?;
        match self.parent(account) {
            Some(above) => self.within_limit(above, n.saturating_sub(draw)),
            None => Ok(()),
        }
    }

    /// Charges `n` pages, the part that the minimum had promised being no longer promised to it. The witness is the
    /// caller's to adapt.
    #[inline]
    pub(super) fn charge(&mut self, account: usize, minimum: Option<usize>, n: u64) {
        self.words.account_add(account, OfAccount::Used, n);
        let mut drawn = 0;
        if let Some(kind) = minimum {
            let before = self.unused_minimum(account);
            self.words.account_add(account, OfAccount::Inside, n);
            drawn = before.saturating_sub(self.unused_minimum(account));
            self.unguarantee(kind, drawn);
        }
        if let Some(above) = self.parent(account) {
            let rise = n.saturating_sub(drawn);
            self.words.account_add(above, OfAccount::Below, rise);
        }
    }

    /// Whether `n` pages can have been charged with [`Self::charge`].
    #[inline]
    pub(super) fn has_charged(&self, account: usize, minimum: Option<usize>, n: u64) -> bool {
        self.words.account(account, OfAccount::Used) >= n
            && (minimum.is_none() || self.words.account(account, OfAccount::Inside) >= n)
    }

    /// Gives `n` charged pages back and returns how many of them the minimum promises again. The witness is the
    /// caller's to adapt.
    #[inline]
    pub(super) fn uncharge(&mut self, account: usize, minimum: Option<usize>, n: u64) -> u64 {
        self.words.account_sub(account, OfAccount::Used, n);
        let mut regained = 0;
        if let Some(kind) = minimum {
            regained = self.regains(account, n);
            self.words.account_sub(account, OfAccount::Inside, n);
            self.guarantee(kind, regained);
        }
        if let Some(above) = self.parent(account) {
            let fall = n.saturating_sub(regained);
            self.words.account_sub(above, OfAccount::Below, fall);
        }
        regained
    }

    /// How much of the minimum would be unused again after `n` pages within its reach came back.
    #[inline]
    pub(super) fn regains(&self, account: usize, n: u64) -> u64 {
        let min = self.words.account(account, OfAccount::Min);
        let inside = self.words.account(account, OfAccount::Inside);
        let after = min.saturating_sub(inside.saturating_sub(n));
        after.saturating_sub(self.unused_minimum(account))
    }

    pub(super) fn guarantee(&mut self, kind: usize, n: u64) {
        self.words.kind_add(kind, OfKind::Guaranteed, n);
        self.totals.minima = self.totals.minima.saturating_add(n);
        self.totals.reserved = self.totals.reserved.saturating_add(n);
    }

    pub(super) fn unguarantee(&mut self, kind: usize, n: u64) {
        self.words.kind_sub(kind, OfKind::Guaranteed, n);
        self.totals.minima = self.totals.minima.saturating_sub(n);
        self.totals.reserved = self.totals.reserved.saturating_sub(n);
    }
}
