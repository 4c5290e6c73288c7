// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The right to change the machine's pools.

use super::{Counter, HugePools, Place, Settings};
use htlb_core::{HugeSize, PageCount};
use rustix::fs::{flock, FlockOperation};
use std::env;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

/// The environment variable that names the lock file.
///
/// The test runner holds the machine's lock for a whole step and gives the tests one of its own; tests that are
/// run by hand take the machine's.
pub const POOL_LOCK: &str = "HTLB_POOL_LOCK";

const MACHINE_LOCK: &str = "/run/htlb-test-pool.lock";

/// Why a test has no huge pages to work with; says so when printed, for [`skip`](crate::skip::skip).
#[derive(Debug)]
pub enum NoPages {
    /// The pools may not be changed, or there are none.
    Refused(io::Error),
    /// The kernel gave fewer pages than asked.
    Short {
        /// Their size.
        size: HugeSize,
        /// What was asked for.
        wanted: PageCount,
        /// What there is.
        available: PageCount,
    },
}

impl fmt::Display for NoPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the huge-page pools cannot be sized: {error}"),
            Self::Short {
                size,
                wanted,
                available,
            } => write!(
                f,
                "{} huge pages of {} kB wanted, the kernel gave {}",
                wanted.raw(),
                size.bytes() / 1024,
                available.raw()
            ),
        }
    }
}

impl std::error::Error for NoPages {}

impl From<io::Error> for NoPages {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

/// The only right on this machine to change the pools, until it is dropped.
///
/// Dropping it writes back every setting. What was found is also kept in the lock file, so that the next lease
/// restores it if the holder was killed.
///
/// ```
/// use htlb_core::{HugeSize, PageCount};
/// use htlb_tests::{host::PoolLease, skip::skip};
///
/// let lease = match PoolLease::with_pages(HugeSize::MIB2, PageCount::new(2)) {
///     Ok(lease) => lease,
///     Err(why) => return skip("two_pages_are_there", &why.to_string()),
/// };
/// assert_eq!(lease.pools().available(HugeSize::MIB2).unwrap().raw(), 2);
/// ```
#[derive(Debug)]
#[must_use = "the pools are given back when the lease is dropped"]
pub struct PoolLease {
    pools: HugePools,
    found: Settings,
    // INVARIANT: locked, and holding `found` as a journal, for as long as the lease lives.
    lock: File,
}

impl PoolLease {
    /// Waits for the pools of this machine to be free.
    ///
    /// # Errors
    /// If the lock file cannot be opened or the pools cannot be read.
    pub fn take() -> io::Result<Self> {
        let path =
            env::var_os(POOL_LOCK).map_or_else(|| PathBuf::from(MACHINE_LOCK), PathBuf::from);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| super::named(&path, &error))?;
        Self::take_of(HugePools::system(), lock)
    }

    /// Waits for `lock`, undoes what a killed holder left, and writes down what it finds.
    pub(super) fn take_of(pools: HugePools, mut lock: File) -> io::Result<Self> {
        flock(&lock, FlockOperation::LockExclusive)?;
        let mut journal = String::new();
        lock.read_to_string(&mut journal)?;
        Settings::from_journal(&journal).restore()?;
        let found = pools.settings()?;
        overwrite(&mut lock, &found.to_journal())?;
        Ok(Self { pools, found, lock })
    }

    /// A lease with exactly `pages` pages of `size` available, free and not reserved.
    ///
    /// # Errors
    /// [`NoPages`] says why there is none; the pools are as they were.
    pub fn with_pages(size: HugeSize, pages: PageCount) -> Result<Self, NoPages> {
        let lease = Self::take()?;
        let available = lease.make_available(size, pages)?;
        if available == pages {
            Ok(lease)
        } else {
            Err(NoPages::Short {
                size,
                wanted: pages,
                available,
            })
        }
    }

    /// A lease with at least `pages` pages of `size` available: exactly so many where the pool may be sized, and otherwise as it
    /// is, if that is enough.
    ///
    /// # Errors
    /// [`NoPages`] says why there are fewer; the pools are as they were.
    pub fn with_at_least(size: HugeSize, pages: PageCount) -> Result<Self, NoPages> {
        let refused = match Self::with_pages(size, pages) {
            Err(NoPages::Refused(refused)) => refused,
            outcome => return outcome,
        };
        match Self::take() {
            Ok(lease)
                if lease
                    .pools
                    .available(size)
                    .is_ok_and(|there| there >= pages) =>
            {
                Ok(lease)
            }
            _ => Err(NoPages::Refused(refused)),
        }
    }

    /// The pools.
    #[must_use]
    pub fn pools(&self) -> &HugePools {
        &self.pools
    }

    /// Grows or shrinks the pool until `pages` pages are free and not reserved; returns how many there are then.
    ///
    /// # Errors
    /// If the kernel refuses the change; that it does only part of it is not an error.
    pub fn make_available(&self, size: HugeSize, pages: PageCount) -> io::Result<PageCount> {
        for attempt in 0..3 {
            let available = self.pools.available(size)?.raw();
            if available == pages.raw() {
                break;
            }
            if attempt > 0 {
                // Memory that is merely fragmented gives more at the second try. Not every kernel can compact.
                let _ = std::fs::write("/proc/sys/vm/compact_memory", "1");
            }
            let total = self.pools.read(Place::Machine, size, Counter::Total)?.raw();
            let surplus = self
                .pools
                .read(Place::Machine, size, Counter::Surplus)?
                .raw();
            let persistent = total
                .saturating_sub(surplus)
                .saturating_add(pages.raw())
                .saturating_sub(available);
            self.set_total(size, PageCount::new(persistent))?;
        }
        self.pools.available(size)
    }

    /// Sets the machine's persistent pages of one size; returns the total the kernel ends with.
    ///
    /// # Errors
    /// If the kernel refuses the change.
    pub fn set_total(&self, size: HugeSize, pages: PageCount) -> io::Result<PageCount> {
        self.pools
            .write(Place::Machine, size, Counter::Total, pages)?;
        self.pools.read(Place::Machine, size, Counter::Total)
    }

    /// Sets one node's persistent pages of one size; returns the node's total the kernel ends with.
    ///
    /// # Errors
    /// If the kernel refuses the change or has no such node.
    pub fn set_node_total(
        &self,
        node: u32,
        size: HugeSize,
        pages: PageCount,
    ) -> io::Result<PageCount> {
        let place = Place::Node(node);
        self.pools.write(place, size, Counter::Total, pages)?;
        self.pools.read(place, size, Counter::Total)
    }

    /// Sets how many surplus pages of one size the kernel may make.
    ///
    /// # Errors
    /// If the kernel refuses the change.
    pub fn set_overcommit(&self, size: HugeSize, pages: PageCount) -> io::Result<()> {
        self.pools
            .write(Place::Machine, size, Counter::Overcommit, pages)
    }
}

impl Drop for PoolLease {
    fn drop(&mut self) {
        // ORDER: the journal goes only after the settings are back; the lock, with the file, after both.
        match self.found.restore() {
            Ok(()) => {
                let _ = overwrite(&mut self.lock, "");
            }
            Err(error) => eprintln!("the huge-page pools could not be given back: {error}"),
        }
    }
}

fn overwrite(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}
