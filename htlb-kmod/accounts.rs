// SPDX-License-Identifier: GPL-2.0-only
//! Who pays: each opening of the device has an account below its user's, for each page size, and both limits hold.
//!
//! A buffer keeps the accounts that it was made with, beyond the close of the device. What drivers make inside
//! the kernel is charged to the root account, which has no limit.

use htlb_core::ledger::{AccountId, Usage};
use htlb_core::{Error as Reason, Exclusive, HugeSize, PageCount, Reach, Stock, Stop};
use kernel::prelude::*;
use kernel::rbtree::RBTree;
use kernel::sync::{new_mutex, Arc, Mutex};

use crate::ffi::system;
use crate::machine::{Machine, SIZES};
use crate::memory::Words;

/// One account in each stock, in the order of [`SIZES`].
type Accounts = [AccountId; SIZES.len()];

/// How often a user may have the device open at a time: accounts are numbered by 16 bits, and whoever had them all would lock
/// everybody else out. The administrator may more often.
const OPENINGS: u32 = 1024;

/// A user that is known.
struct User {
    accounts: Accounts,
    openings: u32,
}

/// On whose behalf a limit changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Whoever has the file.
    Anybody,
    /// The administrator.
    Admin,
}

/// The users that have opened the device, or were given a limit. They stay known until the module goes, since a limit must.
#[pin_data]
pub(crate) struct Users {
    #[pin]
    known: Mutex<RBTree<u32, User>>,
}

/// Who pays for the buffers made through one opening of the device.
pub(crate) struct Payer {
    machine: Arc<Machine>,
    /// Whose opening it is; the kernel's own is nobody's.
    user: Option<u32>,
    accounts: Accounts,
}

impl Users {
    /// Nobody.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self { known <- new_mutex!(RBTree::new(), "htlb::users") })
    }
}

impl Machine {
    /// The accounts of a user, opened when the user is first seen.
    fn accounts_of(&self, user: u32) -> Result<Accounts> {
        // No shrinker takes this lock, so memory may be allocated under it.
        let mut known = self.users().known.lock();
        if let Some(user) = known.get(&user) {
            return Ok(user.accounts);
        }
        let accounts = self.open(&[AccountId::ROOT; SIZES.len()])?;
        if let Err(error) = known.try_create_and_insert(user, User { accounts, openings: 0 }, GFP_KERNEL) {
            self.close(&accounts);
            return Err(error);
        }
        Ok(accounts)
    }

    /// Counts one more opening of a user that is known.
    fn note_opening(&self, user: u32) -> Result {
        let mut known = self.users().known.lock();
        let user = known.get_mut(&user).ok_or(EINVAL)?;
        if user.openings >= OPENINGS && !system::is_admin() {
            return Err(EDQUOT);
        }
        user.openings = user.openings.saturating_add(1);
        Ok(())
    }

    /// And one less.
    fn forget_opening(&self, user: u32) {
        if let Some(user) = self.users().known.lock().get_mut(&user) {
            user.openings = user.openings.saturating_sub(1);
        }
    }

    /// An account below each of `parents`, without a limit of its own.
    fn open(&self, parents: &Accounts) -> Result<Accounts> {
        let mut opened = [AccountId::ROOT; SIZES.len()];
        for ((size, parent), place) in SIZES.into_iter().zip(parents).zip(0..) {
            let account =
                self.with_stock(size, |stock| stock.ledger_mut().open_account_under(*parent, None, PageCount::ZERO, Reach::ANY));
            match account {
                Ok(account) => opened[place] = account,
                Err(reason) => {
                    self.close(&opened);
                    return Err(crate::error::errno(reason));
                }
            }
        }
        Ok(opened)
    }

    fn close(&self, accounts: &Accounts) {
        for (size, account) in SIZES.into_iter().zip(accounts) {
            if *account != AccountId::ROOT {
                if let Err(reason) = self.with_stock(size, |stock| stock.ledger_mut().close_account(*account).map_err(Stop::Fail)) {
                    pr_err!("an account could not be closed: {}\n", reason.as_str());
                }
                self.shed(size);
            }
        }
    }

    /// Runs `f` with the stock of a size until it needs no more tables.
    pub(crate) fn with_stock<T>(
        &self,
        size: HugeSize,
        mut f: impl FnMut(&mut Stock<Words>) -> Result<T, Stop>,
    ) -> Result<T, Reason> {
        let lock = self.stock(size).ok_or(Reason::PageSizeUnsupported)?;
        loop {
            match lock.with(&mut f) {
                Ok(value) => return Ok(value),
                Err(Stop::Fail(reason)) => return Err(reason),
                Err(Stop::Wait(_)) => return Err(Reason::Closed),
                Err(Stop::Metadata { table, words }) => {
                    let bigger = Words::zeroed(words)?;
                    drop(lock.with(|stock| stock.adopt(table, bigger)));
                }
            }
        }
    }

    /// The limit of a user, in pages of one size; `None` for none.
    pub(crate) fn limit_user(&self, user: u32, size: HugeSize, max: Option<PageCount>) -> Result {
        let account = account_in(&self.accounts_of(user)?, size)?;
        self.with_stock(size, |stock| stock.ledger_mut().set_limit(account, max).map_err(Stop::Fail)).map_err(crate::error::errno)
    }

    /// What a user's buffers use.
    pub(crate) fn usage_of_user(&self, user: u32, size: HugeSize) -> Result<Usage> {
        let account = account_in(&self.accounts_of(user)?, size)?;
        self.usage(account, size)
    }

    fn usage(&self, account: AccountId, size: HugeSize) -> Result<Usage> {
        self.with_stock(size, |stock| stock.ledger().usage(account).map_err(Stop::Fail)).map_err(crate::error::errno)
    }
}

impl Payer {
    /// The payer of a new opening of the device by a user.
    pub(crate) fn new(machine: Arc<Machine>, user: u32) -> Result<Arc<Self>> {
        let parents = machine.accounts_of(user)?;
        machine.note_opening(user)?;
        let mut payer = Self { machine, user: Some(user), accounts: [AccountId::ROOT; SIZES.len()] };
        // Dropped on failure, which gives back what it has by then.
        payer.accounts = payer.machine.open(&parents)?;
        Ok(Arc::new(payer, GFP_KERNEL_ACCOUNT)?)
    }

    /// The payer of what the kernel itself asks for.
    pub(crate) fn root(machine: Arc<Machine>) -> Result<Arc<Self>> {
        let accounts = [AccountId::ROOT; SIZES.len()];
        Ok(Arc::new(Self { machine, user: None, accounts }, GFP_KERNEL)?)
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The account for pages of this size; those without a stock are charged elsewhere.
    pub(crate) fn account(&self, size: HugeSize) -> AccountId {
        account_in(&self.accounts, size).unwrap_or(AccountId::ROOT)
    }

    /// Its own limit and guarantee, in pages of one size. One of the two changes first; if the other is refused, the first is undone.
    ///
    /// A file may have been passed on with its limit, so that only the administrator raises it, and guarantees pages that nobody
    /// else can have then: `EPERM` for others.
    pub(crate) fn limit(&self, size: HugeSize, max: Option<PageCount>, min: PageCount, by: By) -> Result {
        let account = account_in(&self.accounts, size)?;
        self.machine
            .with_stock(size, |stock| {
                let ledger = stock.ledger_mut();
                let before = ledger.usage(account)?;
                let raises = before.max.is_some_and(|before| max.is_none_or(|max| max > before));
                if by == By::Anybody && (raises || min != before.min) {
                    return Ok(Err(EPERM));
                }
                if before.min == min {
                    return ledger.set_limit(account, max).map(Ok).map_err(Stop::Fail);
                }
                // A minimum lies below the maximum at each step.
                if max.is_none_or(|max| max >= before.min) {
                    ledger.set_limit(account, max)?;
                    ledger.set_minimum(account, min, Reach::ANY).inspect_err(|_| {
                        let undone = ledger.set_limit(account, before.max);
                        debug_assert!(undone.is_ok());
                    })?;
                } else {
                    ledger.set_minimum(account, min, Reach::ANY)?;
                    ledger.set_limit(account, max).map_err(|reason| {
                        let undone = ledger.set_minimum(account, before.min, Reach::ANY);
                        debug_assert!(undone.is_ok());
                        Stop::Fail(reason)
                    })?;
                }
                Ok(Ok(()))
            })
            .map_err(crate::error::errno)??;
        self.machine.shed(size);
        Ok(())
    }

    /// What its buffers use.
    pub(crate) fn usage(&self, size: HugeSize) -> Result<Usage> {
        self.machine.usage(account_in(&self.accounts, size)?, size)
    }
}

impl Drop for Payer {
    fn drop(&mut self) {
        self.machine.close(&self.accounts);
        if let Some(user) = self.user {
            self.machine.forget_opening(user);
        }
    }
}

fn account_in(accounts: &Accounts, size: HugeSize) -> Result<AccountId> {
    let mut of_sizes = SIZES.into_iter().zip(accounts);
    let found = of_sizes.find(|(of, _)| *of == size).map(|(_, account)| *account);
    found.ok_or_else(|| crate::error::errno(Reason::PageSizeUnsupported))
}
