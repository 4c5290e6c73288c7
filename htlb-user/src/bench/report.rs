// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Every figure of `htlb bench`, its target, and how it is had.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};

use htlb_core::{HugeSize, PageCount};

use super::core::{self, PageAt};
use super::load::{load_vs_copy, Loads};
use super::machine;
use crate::system::resize::resize;
use crate::system::{meminfo, pools, Root};

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// No target: reported.
    Report,
}

impl Target {
    /// Whether `value` meets it; `None` where there is none.
    #[must_use]
    pub fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(value >= least),
            Self::AtMost(most) => Some(value <= most),
            Self::Report => None,
        }
    }
}

/// One figure: its key in the JSON output, what it is, and its target.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// The key.
    pub key: &'static str,
    /// In a few words; ratios say what is divided by what.
    pub what: &'static str,
    /// Its target, for a virtual machine with two processors.
    pub target: Target,
    measure: fn(&Bench) -> io::Result<f64>,
}

macro_rules! figures {
    ($($key:ident, $what:literal, $target:expr, $measure:expr;)+) => {
        /// Every figure, in the order in which they are measured.
        pub const FIGURES: &[Figure] =
            &[$(Figure { key: stringify!($key), what: $what, target: $target, measure: $measure },)+];
    };
}

figures! {
    reserve_vs_linux, "Linux's time to reserve and release a page among thousands of ranges / ours", Target::AtLeast(500.0), Bench::reserve;
    reserve_growth, "our time for that among 100,000 ranges / among 100", Target::AtMost(1.3), |_| Ok(core::reserve_growth()?);
    page_at_ns, "offset to page in a buffer of 1 TiB, ns", Target::AtMost(4.0), |bench| Ok(bench.page_at()?.ns);
    page_at_vs_btree, "a BTreeMap's time for that / ours", Target::AtLeast(50.0), |bench| Ok(bench.page_at()?.vs_btree);
    page_at_dependent_ns, "the same, each offset known only after the look-up before, ns", Target::Report, |bench| Ok(bench.page_at()?.dependent_ns);
    page_at_dependent_vs_btree, "a BTreeMap's time for that / ours", Target::Report, |bench| Ok(bench.page_at()?.dependent_vs_btree);
    acquire_vs_mmap, "mmap, touch, munmap of 2 MiB / a buffer of the same owner", Target::AtLeast(200.0), |bench| Ok(bench.acquire()?.0);
    acquire_zeroed_vs_mmap, "the same / a zeroed buffer", Target::AtLeast(1.5), |bench| Ok(bench.acquire()?.1);
    populate_cold_vs_map_populate, "MAP_POPULATE of 1 GiB / ours, pages from the system", Target::AtLeast(1.5), |bench| Ok(bench.populate()?.0);
    populate_warm_vs_map_populate, "the same / ours, pages of the process's pool", Target::AtLeast(4.0), |bench| Ok(bench.populate()?.1);
    free_growth, "releasing among 60,000 mappings / among none", Target::AtMost(1.1), |_| machine::free_growth();
    load_vs_copy, "copying a 1 GiB file into shared memory / htlb load", Target::AtLeast(1.8), |bench| Ok(bench.load()?.vs_copy);
    load_seconds, "htlb load of that file, s", Target::Report, |bench| Ok(bench.load()?.load);
    copy_seconds, "the copy, s", Target::Report, |bench| Ok(bench.load()?.copy);
    raw_read_seconds, "direct reads of that file alone, s", Target::Report, |bench| Ok(bench.load()?.raw);
    random_read_2m_vs_4k, "random dependent loads over 1 GiB, 4 KiB pages / 2 MiB pages", Target::Report, |_| machine::random_read_2m_vs_4k(GIB);
    metadata_bytes_per_page, "page map, pool and ledger at 16 TiB on 8 nodes, bytes a page", Target::AtMost(10.0), |_| Ok(core::metadata_bytes_per_page()?);
    scale_16tib, "promise, take, put, release at 16 TiB on 8 nodes / at 1 GiB on one", Target::AtMost(2.0), |_| Ok(core::scale_16tib()?);
}

const GIB: u64 = 1 << 30;

/// The reserved ranges among which Linux is asked for one more, where the pool has as many pages.
const RANGES: u64 = 7_900;

/// What several figures share is measured once.
#[derive(Debug)]
pub struct Bench {
    folder: PathBuf,
    ranges: OnceCell<u64>,
    page_at: OnceCell<PageAt>,
    acquire: OnceCell<(f64, f64)>,
    populate: OnceCell<(f64, f64)>,
    load: OnceCell<Loads>,
}

/// The value in `cell`, measured if it is not there yet.
fn once<T: Copy>(cell: &OnceCell<T>, measure: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match cell.get() {
        Some(value) => Ok(*value),
        None => measure().map(|value| *cell.get_or_init(|| value)),
    }
}

impl Bench {
    /// A run that puts its sample file into `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            ranges: OnceCell::new(),
            page_at: OnceCell::new(),
            acquire: OnceCell::new(),
            populate: OnceCell::new(),
            load: OnceCell::new(),
        }
    }

    /// Measures one figure.
    ///
    /// # Errors
    /// Too few free huge pages, or what the file system says.
    pub fn measure(&self, figure: &Figure) -> io::Result<f64> {
        (figure.measure)(self)
    }

    /// Among how many reserved ranges Linux was asked, once it was.
    #[must_use]
    pub fn ranges(&self) -> Option<u64> {
        self.ranges.get().copied()
    }

    fn reserve(&self) -> io::Result<f64> {
        let free = pools::read_size(&Root::host(), HugeSize::MIB2).map_err(io::Error::other)?;
        let free = free.map_or(0, |pool| pool.counts.available().raw());
        let ranges = free.saturating_sub(2).min(RANGES);
        if ranges == 0 {
            return Err(io::Error::other(
                "no free 2 MiB page; as root: htlb pool 2M 1100",
            ));
        }
        self.ranges.get_or_init(|| ranges);
        machine::reserve_vs_linux(ranges)
    }

    fn page_at(&self) -> io::Result<PageAt> {
        once(&self.page_at, || Ok(core::page_at()?))
    }

    fn acquire(&self) -> io::Result<(f64, f64)> {
        once(&self.acquire, machine::acquire_vs_mmap)
    }

    fn populate(&self) -> io::Result<(f64, f64)> {
        once(&self.populate, || machine::populate_vs_map_populate(GIB))
    }

    fn load(&self) -> io::Result<Loads> {
        once(&self.load, || load_vs_copy(&self.folder, GIB))
    }
}

/// More 2 MiB pages for a run, and the pool as it was afterwards.
#[derive(Debug)]
pub struct PoolForBench {
    before: PageCount,
}

impl PoolForBench {
    /// Grows the system's pool of 2 MiB pages for the whole run, as far as memory allows without hardship; root may.
    ///
    /// Returns `None` where the pool is large enough, or is not this process's to change.
    ///
    /// # Errors
    /// What `/sys` says that cannot be understood.
    pub fn grow() -> Result<Option<Self>, crate::system::Error> {
        let root = Root::host();
        let Some(pool) = pools::read_size(&root, HugeSize::MIB2)? else {
            return Ok(None);
        };
        let wanted = RANGES + 2;
        let available = pool.counts.available().raw();
        // A fifth stays for everybody else, and 2 GiB for the sample file and base pages.
        let spare = meminfo::read(&root)?
            .available
            .map_or(0, |bytes| bytes.raw());
        let most = (spare / 5 * 4).saturating_sub(2 * GIB) / HugeSize::MIB2.bytes();
        let more = wanted.saturating_sub(available).min(most);
        if more == 0 {
            return Ok(None);
        }
        let before = pool.counts.persistent();
        match resize(
            &root,
            HugeSize::MIB2,
            None,
            PageCount::new(before.raw() + more),
        ) {
            Ok(_) => Ok(Some(Self { before })),
            Err(crate::system::Error::NotAllowed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for PoolForBench {
    fn drop(&mut self) {
        // Pages that somebody has taken meanwhile leave when they are released; the kernel sees to that.
        let _ = resize(&Root::host(), HugeSize::MIB2, None, self.before);
    }
}
