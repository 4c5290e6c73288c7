// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that are in no slot and not free: those that somebody outside still holds, those that an owner keeps, and those whose
//! memory is bad.

use htlb_core::ledger::AccountId;
use htlb_core::magazine::Magazine;
use htlb_core::{
    AddressBits, Attempt, Charge, Condition, Exclusive, Frame, HugeSize, Level, NodeMask, Pfn,
    Reach, Returned,
};

use super::machine::{lock, AccountKey, Owner, SimMachine};

/// A page that left its slot while somebody outside held it.
#[derive(Debug)]
pub struct InLimbo {
    /// The page.
    pub frame: Frame,
    /// Where it goes.
    pub attempt: Attempt,
    /// Who answers for it.
    pub charge: Charge,
}

/// Whose magazine: owner, page size, and the reach and account that its pages are charged with.
pub(super) type MagazineKey = (u8, HugeSize, u64, usize, Option<AccountKey>);

impl SimMachine {
    /// Somebody outside holds this page from now on: when it leaves its slot it goes to limbo.
    pub fn hold(&self, pfn: Pfn) {
        lock(&self.held).insert(pfn.raw());
    }

    /// The last holder lets go, and what was in limbo for it goes home.
    pub fn let_go(&self, pfn: Pfn) {
        lock(&self.held).remove(&pfn.raw());
        self.on_host(|_| self.retry_limbo());
    }

    /// The memory of this page goes bad.
    pub fn poison(&self, pfn: Pfn) {
        lock(&self.poisoned).insert(pfn);
    }

    /// The pages with bad memory that serve nobody any more.
    pub fn buried(&self) -> Vec<Pfn> {
        lock(&self.buried).iter().map(Frame::pfn).collect()
    }

    pub(super) fn is_held(&self, pfn: Pfn) -> bool {
        lock(&self.held).contains(&pfn.raw())
    }

    /// Looks again at every page in limbo.
    pub fn retry_all_limbo(&self) {
        self.on_host(|_| self.retry_limbo());
    }

    pub(super) fn retry_limbo(&self) {
        let (waiting, ready): (Vec<_>, Vec<_>) = std::mem::take(&mut *lock(&self.limbo))
            .into_iter()
            .partition(|entry| self.is_held(entry.frame.pfn()));
        lock(&self.limbo).extend(waiting);
        for InLimbo {
            frame,
            attempt,
            charge,
        } in ready
        {
            self.put_home(frame, &attempt, charge);
        }
    }

    /// Gives a page to its pool, or to the system; says how many pages the pool has more.
    fn put_home(&self, frame: Frame, attempt: &Attempt, charge: Charge) -> u64 {
        let size = attempt.size;
        let left = match self.pool_for(attempt) {
            Some(stock) => match stock.with(|stock| stock.put(frame, charge, Condition::Dirty)) {
                Returned::Kept => return 1,
                Returned::Leaves(frame) => frame,
            },
            None => frame,
        };
        lock(&self.memory).free(left.into_pfn(), size);
        0
    }

    /// Gives up to `pages` pages that owners kept, and that the attempt can use, back to the pool; says how many.
    pub(super) fn take_from_magazines(&self, attempt: &Attempt, pages: u64) -> u64 {
        let mut taken = Vec::new();
        for (key, magazine) in &mut *lock(&self.magazines) {
            while key.1 == attempt.size && (taken.len() as u64) < pages {
                match magazine.pop_within(attempt.reach) {
                    Some((frame, _)) => taken.push((*key, frame)),
                    None => break,
                }
            }
        }
        taken.into_iter().fold(0, |back, (key, frame)| {
            let (attempt, charge) = self.kept_for(key);
            back + self.put_home(frame, &attempt, charge)
        })
    }

    /// What the pages of a magazine are charged with.
    fn kept_for(&self, key: MagazineKey) -> (Attempt, Charge) {
        let (_, size, nodes, level, account) = key;
        let level = Level::from_index(level).expect("a level");
        let bits = AddressBits::new(u32::from(level.bits())).expect("a level's bits");
        let reach = Reach::new(NodeMask::from_bits(nodes), bits).expect("a reach");
        let mut attempt = self.attempt(size);
        attempt.reach = reach;
        let account = account.map(|key| lock(&self.accounts)[key.0]);
        let account = match account {
            Some((of, id)) if of == size => id,
            _ => AccountId::ROOT,
        };
        (attempt, Charge { reach, account })
    }

    pub(super) fn with_magazine<T>(
        &self,
        owner: Owner,
        attempt: &Attempt,
        f: impl FnOnce(&mut Magazine<Vec<u64>>) -> T,
    ) -> T {
        let key = (
            owner.number,
            attempt.size,
            attempt.reach.nodes().bits(),
            attempt.reach.level().index(),
            owner.account.map(|(_, key)| key),
        );
        let mut magazines = lock(&self.magazines);
        let fresh = || Magazine::new(attempt.size, vec![0; self.magazine_pages]);
        f(magazines.entry(key).or_insert_with(fresh))
    }

    /// Gives what owners kept back to the pools: one owner's, or everybody's.
    pub fn empty_magazines(&self, of: Option<Owner>) {
        self.on_host(|_| {
            let mut magazines = std::mem::take(&mut *lock(&self.magazines));
            for (key, magazine) in &mut magazines {
                if of.is_some_and(|of| of.number != key.0) {
                    continue;
                }
                let (attempt, charge) = self.kept_for(*key);
                for (frame, _) in magazine.drain() {
                    self.put_home(frame, &attempt, charge);
                }
            }
            magazines.retain(|_, magazine| !magazine.is_empty());
            lock(&self.magazines).extend(magazines);
        });
    }
}
