// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The huge-page pools of the machine the tests run on.
//!
//! [`HugePools`] reads and writes the kernel's counters, [`Settings`] is what a test must leave behind as it
//! found it, and [`PoolLease`] is the right to change them: one at a time on the whole machine, undone on drop,
//! and undone by the next lease if the holder was killed.

mod lease;

pub use lease::{NoPages, PoolLease, POOL_LOCK};

use htlb_core::{HugeSize, PageCount};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A file in a pool's sysfs folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// `nr_hugepages`: reads all pages, surplus ones too; a write sets the persistent ones.
    Total,
    /// `free_hugepages`, whether or not reserved.
    Free,
    /// `resv_hugepages`: the machine's only, nodes have none.
    Reserved,
    /// `surplus_hugepages`.
    Surplus,
    /// `nr_overcommit_hugepages`: the machine's only, nodes have none.
    Overcommit,
}

impl Counter {
    const fn file(self) -> &'static str {
        match self {
            Self::Total => "nr_hugepages",
            Self::Free => "free_hugepages",
            Self::Reserved => "resv_hugepages",
            Self::Surplus => "surplus_hugepages",
            Self::Overcommit => "nr_overcommit_hugepages",
        }
    }
}

/// Whose pool: the machine's, or one node's part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All nodes together.
    Machine,
    /// The node of this number.
    Node(u32),
}

/// The kernel's pools, by way of sysfs.
#[derive(Clone, Debug)]
pub struct HugePools {
    sysfs: PathBuf,
}

impl HugePools {
    /// The running kernel's pools.
    #[must_use]
    pub fn system() -> Self {
        Self::under("/sys")
    }

    /// The pools of a sysfs that is mounted, or imitated, at `sysfs`.
    #[must_use]
    pub fn under(sysfs: impl Into<PathBuf>) -> Self {
        Self {
            sysfs: sysfs.into(),
        }
    }

    /// The huge-page sizes the kernel has a pool for, ascending.
    ///
    /// # Errors
    /// `NotFound` where the kernel has no huge pages or sysfs is not mounted.
    pub fn sizes(&self) -> io::Result<Vec<HugeSize>> {
        let mut sizes = Vec::new();
        for entry in fs::read_dir(self.folder(Place::Machine))? {
            if let Some(size) = size_of_folder(&entry?.file_name().to_string_lossy()) {
                sizes.push(size);
            }
        }
        sizes.sort_by_key(|size| size.bytes());
        Ok(sizes)
    }

    /// The nodes that have pools of their own, ascending; empty on a kernel without NUMA.
    ///
    /// # Errors
    /// What reading the folder of nodes reports, other than that there is none.
    pub fn nodes(&self) -> io::Result<Vec<u32>> {
        let entries = match fs::read_dir(self.sysfs.join("devices/system/node")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix("node")?.parse().ok());
            if let Some(node) = number {
                if self.folder(Place::Node(node)).is_dir() {
                    nodes.push(node);
                }
            }
        }
        nodes.sort_unstable();
        Ok(nodes)
    }

    /// One counter.
    ///
    /// # Errors
    /// What reading the file reports, with its path; `InvalidData` if it holds no number.
    pub fn read(&self, place: Place, size: HugeSize, counter: Counter) -> io::Result<PageCount> {
        read_count(&self.file(place, size, counter)).map(PageCount::new)
    }

    /// Writes one counter. The kernel may do less than asked without an error: read it back.
    ///
    /// # Errors
    /// What writing the file reports, with its path.
    pub fn write(
        &self,
        place: Place,
        size: HugeSize,
        counter: Counter,
        pages: PageCount,
    ) -> io::Result<()> {
        write_count(&self.file(place, size, counter), pages.raw())
    }

    /// The pages a new mapping could have without growing the pool: free and not reserved.
    ///
    /// # Errors
    /// As [`HugePools::read`].
    pub fn available(&self, size: HugeSize) -> io::Result<PageCount> {
        let free = self.read(Place::Machine, size, Counter::Free)?;
        let reserved = self.read(Place::Machine, size, Counter::Reserved)?;
        Ok(PageCount::new(free.raw().saturating_sub(reserved.raw())))
    }

    /// Everything an administrator can set, as it is now.
    ///
    /// # Errors
    /// As [`HugePools::read`].
    pub fn settings(&self) -> io::Result<Settings> {
        let nodes = self.nodes()?;
        let mut files = Vec::new();
        for size in self.sizes()? {
            let places: Vec<Place> = if nodes.is_empty() {
                vec![Place::Machine]
            } else {
                nodes.iter().copied().map(Place::Node).collect()
            };
            for place in places {
                let total = self.read(place, size, Counter::Total)?.raw();
                let surplus = self.read(place, size, Counter::Surplus)?.raw();
                let persistent = total.saturating_sub(surplus);
                files.push((self.file(place, size, Counter::Total), persistent));
            }
            let overcommit = self.read(Place::Machine, size, Counter::Overcommit)?.raw();
            files.push((
                self.file(Place::Machine, size, Counter::Overcommit),
                overcommit,
            ));
        }
        Ok(Settings { files })
    }

    /// Every counter of every pool, one line each: two equal pictures mean nothing was left behind.
    ///
    /// # Errors
    /// As [`HugePools::read`].
    pub fn picture(&self) -> io::Result<String> {
        use std::fmt::Write as _;
        let mut picture = String::new();
        for size in self.sizes()? {
            let total = self.read(Place::Machine, size, Counter::Total)?.raw();
            let free = self.read(Place::Machine, size, Counter::Free)?.raw();
            let reserved = self.read(Place::Machine, size, Counter::Reserved)?.raw();
            let surplus = self.read(Place::Machine, size, Counter::Surplus)?.raw();
            let overcommit = self.read(Place::Machine, size, Counter::Overcommit)?.raw();
            let kib = size.bytes() / 1024;
            // Writing to a string cannot fail.
            let _ = writeln!(
                picture,
                "{kib} kB: total {total}, free {free}, reserved {reserved}, surplus {surplus}, overcommit {overcommit}"
            );
        }
        Ok(picture)
    }

    fn folder(&self, place: Place) -> PathBuf {
        match place {
            Place::Machine => self.sysfs.join("kernel/mm/hugepages"),
            Place::Node(node) => self
                .sysfs
                .join(format!("devices/system/node/node{node}/hugepages")),
        }
    }

    fn file(&self, place: Place, size: HugeSize, counter: Counter) -> PathBuf {
        self.folder(place)
            .join(format!("hugepages-{}kB", size.bytes() / 1024))
            .join(counter.file())
    }
}

/// What an administrator can set: the persistent pages of every size and node, and the overcommit limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    files: Vec<(PathBuf, u64)>,
}

impl Settings {
    /// Writes back every setting that differs, all of them even if one fails.
    ///
    /// # Errors
    /// The first that could not be written.
    pub fn restore(&self) -> io::Result<()> {
        let mut first = Ok(());
        for (file, value) in &self.files {
            let written = match read_count(file) {
                Ok(now) if now == *value => Ok(()),
                _ => write_count(file, *value),
            };
            if first.is_ok() {
                first = written;
            }
        }
        first
    }

    /// One line per setting: path, tab, value.
    #[must_use]
    pub fn to_journal(&self) -> String {
        self.files
            .iter()
            .map(|(file, value)| format!("{}\t{value}\n", file.display()))
            .collect()
    }

    /// Reads back what [`Settings::to_journal`] wrote; a line cut short by a crash is left out.
    #[must_use]
    pub fn from_journal(text: &str) -> Self {
        let files = text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n')?.split_once('\t'))
            .filter_map(|(file, value)| Some((PathBuf::from(file), value.parse().ok()?)))
            .collect();
        Self { files }
    }
}

fn size_of_folder(name: &str) -> Option<HugeSize> {
    let kib: u64 = name
        .strip_prefix("hugepages-")?
        .strip_suffix("kB")?
        .parse()
        .ok()?;
    HugeSize::from_bytes(kib.checked_mul(1024)?).ok()
}

fn read_count(file: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(file).map_err(|error| named(file, &error))?;
    text.trim().parse().map_err(|_| {
        let error = io::Error::new(io::ErrorKind::InvalidData, "not a number");
        named(file, &error)
    })
}

fn write_count(file: &Path, value: u64) -> io::Result<()> {
    fs::write(file, value.to_string()).map_err(|error| named(file, &error))
}

fn named(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests;
