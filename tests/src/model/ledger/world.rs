// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The claims on a machine, and whether all of them can be met.

use htlb_core::ledger::{AccountId, Promise};
use htlb_core::{Class, Error, Level, NodeId, Reach};

use super::{Nth, CLASSES, LEVELS, NODES};

#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    pub(super) id: AccountId,
    pub(super) max: Option<u64>,
    pub(super) min: u64,
    pub(super) min_reach: Reach,
    /// The account above; the root account for none.
    pub(super) parent: AccountId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InUse {
    pub(super) class: Class,
    pub(super) reach: Reach,
    pub(super) account: AccountId,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) nr: u64,
    pub(super) surplus: u64,
}

/// The claims on a machine, and nothing derived from them.
#[derive(Debug)]
pub(super) struct World {
    pub(super) pages: [Pages; CLASSES],
    pub(super) overcommit: u64,
    pub(super) promises: Vec<Promise>,
    pub(super) in_use: Vec<InUse>,
    pub(super) accounts: Vec<Account>,
    /// Ids of closed accounts, which must be refused.
    pub(super) closed: Vec<AccountId>,
}

pub(super) fn classes() -> impl Iterator<Item = Class> {
    (0..NODES).flat_map(|node| {
        LEVELS.iter().map(move |&level| Class {
            node: NodeId::new(u32::from(node)).unwrap(),
            level: Level::from_index(level).unwrap(),
        })
    })
}

pub(super) fn place(class: Class) -> Option<usize> {
    classes().position(|c| c == class)
}

pub(super) fn cover(reach: Reach) -> usize {
    classes()
        .enumerate()
        .filter(|(_, class)| reach.covers(*class))
        .map(|(at, _)| 1 << at)
        .sum()
}

/// Free pages per class, and demands as (set of classes, pages).
#[derive(Clone, Debug)]
pub(super) struct Market {
    pub(super) free: [u64; CLASSES],
    pub(super) demands: Vec<(usize, u64)>,
}

impl Market {
    /// Hall's condition: no set of classes has more demand confined to it than it has pages.
    pub(super) fn clears(&self) -> bool {
        let mut confined = [0u128; 1 << CLASSES];
        let mut supply = [0u128; 1 << CLASSES];
        for &(set, pages) in &self.demands {
            confined[set] += u128::from(pages);
        }
        for (at, &pages) in self.free.iter().enumerate() {
            supply[1 << at] = u128::from(pages);
        }
        for bit in 0..CLASSES {
            for set in 0..1 << CLASSES {
                if set >> bit & 1 == 1 {
                    confined[set] += confined[set ^ 1 << bit];
                    supply[set] += supply[set ^ 1 << bit];
                }
            }
        }
        confined
            .iter()
            .zip(&supply)
            .all(|(want, have)| want <= have)
    }

    /// Without `pages` free pages of a class; `None` where there are fewer.
    pub(super) fn without(&self, class: Class, pages: u64) -> Option<Self> {
        let mut less = self.clone();
        let at = place(class)?;
        less.free[at] = less.free[at].checked_sub(pages)?;
        Some(less)
    }

    pub(super) fn with_demand(&self, reach: Reach, pages: u64) -> Self {
        let mut more = self.clone();
        more.demands.push((cover(reach), pages));
        more
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            pages: [Pages::default(); CLASSES],
            overcommit: 0,
            promises: Vec::new(),
            in_use: Vec::new(),
            accounts: vec![Account {
                id: AccountId::ROOT,
                max: None,
                min: 0,
                min_reach: Reach::ANY,
                parent: AccountId::ROOT,
            }],
            closed: Vec::new(),
        }
    }

    pub(super) fn claims_of(&self, id: AccountId) -> impl Iterator<Item = (Reach, u64)> + '_ {
        let promised = self
            .promises
            .iter()
            .filter(move |p| p.account() == id)
            .map(|p| (p.reach(), p.pages().raw()));
        let taken = self
            .in_use
            .iter()
            .filter(move |u| u.account == id)
            .map(|u| (u.reach, 1));
        promised.chain(taken)
    }

    pub(super) fn used(&self, id: AccountId) -> u64 {
        self.claims_of(id).map(|(_, pages)| pages).sum()
    }

    /// The unused minimum of an account that has claimed `extra` pages of `reach` besides what it has.
    pub(super) fn unused_with(&self, account: &Account, reach: Reach, extra: u64) -> u64 {
        let within = |reach: Reach| reach.is_within(account.min_reach);
        let inside: u64 = self
            .claims_of(account.id)
            .filter(|(reach, _)| within(*reach))
            .map(|(_, pages)| pages)
            .sum();
        let extra = if within(reach) { extra } else { 0 };
        account.min.saturating_sub(inside.saturating_add(extra))
    }

    pub(super) fn unused(&self, account: &Account) -> u64 {
        self.unused_with(account, Reach::ANY, 0)
    }

    pub(super) fn free(&self) -> [u64; CLASSES] {
        let mut free = self.pages.map(|pages| pages.nr);
        for page in &self.in_use {
            free[place(page.class).unwrap()] -= 1;
        }
        free
    }

    /// The market if account `id` had claimed `extra` more pages of `reach`, not counting that demand itself.
    pub(super) fn market_with(&self, id: AccountId, reach: Reach, extra: u64) -> Market {
        let mut demands: Vec<_> = self
            .promises
            .iter()
            .map(|p| (cover(p.reach()), p.pages().raw()))
            .collect();
        for account in &self.accounts {
            let extra = if account.id == id { extra } else { 0 };
            demands.push((
                cover(account.min_reach),
                self.unused_with(account, reach, extra),
            ));
        }
        Market {
            free: self.free(),
            demands,
        }
    }

    pub(super) fn market(&self) -> Market {
        self.market_with(AccountId::ROOT, Reach::ANY, 0)
    }

    pub(super) fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.iter().find(|a| a.id == id)
    }

    /// The accounts below one; none for the root account, which keeps no books of others.
    pub(super) fn children(&self, id: AccountId) -> impl Iterator<Item = &Account> + '_ {
        let below = move |account: &&Account| id != AccountId::ROOT && account.parent == id;
        self.accounts.iter().filter(below)
    }

    /// What the accounts below one have if account `id` has claimed `extra` pages of `reach` more.
    fn below_with(&self, parent: AccountId, id: AccountId, reach: Reach, extra: u64) -> u128 {
        self.children(parent)
            .map(|child| {
                let extra = if child.id == id { extra } else { 0 };
                u128::from(self.used(child.id))
                    + u128::from(extra)
                    + u128::from(self.unused_with(child, reach, extra))
            })
            .sum()
    }

    pub(super) fn below(&self, parent: AccountId) -> u64 {
        let below = self.below_with(parent, parent, Reach::ANY, 0);
        u64::try_from(below).unwrap()
    }

    /// What counts against an account's limit.
    pub(super) fn charged(&self, id: AccountId) -> u64 {
        self.used(id) + self.below(id)
    }

    /// What a claim of `pages` more of `reach` must be refused with before anybody looks at pages.
    pub(super) fn refusal(&self, id: AccountId, reach: Reach, pages: u64) -> Option<Error> {
        let Some(account) = self.account(id) else {
            return Some(Error::AccountInvalid);
        };
        let beyond =
            |account: &Account, total: u128| account.max.is_some_and(|max| total > u128::from(max));
        let own = u128::from(self.charged(id)) + u128::from(pages);
        let parent = self.account(account.parent).unwrap();
        let both = u128::from(self.used(parent.id)) + self.below_with(parent.id, id, reach, pages);
        (beyond(account, own) || beyond(parent, both)).then_some(Error::AccountLimit)
    }

    /// Whether an account's limit allows those below it to have `rise` pages more.
    pub(super) fn allows(&self, above: &Account, rise: u64) -> bool {
        let total = u128::from(self.charged(above.id)) + u128::from(rise);
        above.max.is_none_or(|max| total <= u128::from(max))
    }

    /// Whether promises can be kept if the minimum of an account, perhaps a new one, were this.
    pub(super) fn clears_with_minimum(
        &mut self,
        id: Option<AccountId>,
        min: u64,
        min_reach: Reach,
    ) -> bool {
        let kept = id.map(|id| std::mem::take(&mut self.account_mut(id).min));
        let clears = self.market().with_demand(min_reach, min).clears();
        if let (Some(id), Some(kept)) = (id, kept) {
            self.account_mut(id).min = kept;
        }
        clears
    }

    pub(super) fn account_mut(&mut self, id: AccountId) -> &mut Account {
        let found = self.accounts.iter_mut().find(|a| a.id == id);
        found.unwrap()
    }

    /// Any account, open or closed.
    pub(super) fn pick(&self, nth: Nth) -> AccountId {
        let open = self.accounts.iter().map(|a| a.id);
        let all: Vec<_> = open.chain(self.closed.iter().copied()).collect();
        all[nth.of(all.len()).unwrap()]
    }

    pub(super) fn total(&self) -> u64 {
        self.pages.iter().map(|p| p.nr).sum()
    }

    pub(super) fn surplus(&self) -> u64 {
        self.pages.iter().map(|p| p.surplus).sum()
    }

    /// The different reaches that something holds.
    pub(super) fn kinds(&self) -> usize {
        let mut kinds: Vec<Reach> = Vec::new();
        let promised = self.promises.iter().filter(|p| !p.pages().is_zero());
        let held = promised
            .map(Promise::reach)
            .chain(self.in_use.iter().map(|u| u.reach))
            .chain(
                self.accounts
                    .iter()
                    .filter(|a| a.min > 0)
                    .map(|a| a.min_reach),
            );
        for reach in held {
            if !kinds.contains(&reach) {
                kinds.push(reach);
            }
        }
        kinds.len()
    }
}
