// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The machine's memory, before and after.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use htlb_core::HugeSize;
use rustix::fs::sync;

use super::is_debug_kernel;

/// What must be the same to the byte.
const EXACT: &[&str] = &[
    "HugePages_Total",
    "HugePages_Free",
    "HugePages_Rsvd",
    "HugePages_Surp",
    "Hugetlb",
    "FileHugePages",
    "FilePmdMapped",
    "ShmemPmdMapped",
    "Mlocked",
];

/// How much less may be free: slabs that grew, lists of each processor.
const SLACK: u64 = 6 << 20;
/// The same on the debug kernel, which keeps freed objects for a while to see who still uses them: up to a part in 32 of the memory.
const DEBUG_SLACK: u64 = 160 << 20;

/// How long memory may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// `/proc/meminfo`, in bytes; counts of pages as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    fields: BTreeMap<String, u64>,
}

impl Memory {
    /// As it is.
    ///
    /// # Errors
    /// `/proc/meminfo` cannot be read.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
        let zones = fs::read_to_string("/proc/zoneinfo").context("reading /proc/zoneinfo")?;
        let mut memory = Self::parse(&text);
        for name in ["MemFree", "MemAvailable"] {
            if let Some(free) = memory.fields.get_mut(name) {
                *free = free.saturating_add(kept_by_processors(&zones));
            }
        }
        Ok(memory)
    }

    /// As it is without what the kernel keeps only because it has room for it.
    ///
    /// # Errors
    /// As [`Memory::now`].
    pub fn settled() -> Result<Self> {
        sync();
        // 4 drops nothing: from then on the kernel's log has no line each time.
        for what in ["4", "3"] {
            fs::write("/proc/sys/vm/drop_caches", what).context("dropping the caches")?;
        }
        // Compaction first takes the pages back that each processor keeps; it is not in every kernel.
        if fs::exists("/proc/sys/vm/compact_memory")? {
            fs::write("/proc/sys/vm/compact_memory", "1").context("compacting memory")?;
        }
        Self::now()
    }

    fn parse(text: &str) -> Self {
        let field = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let mut words = value.split_whitespace();
            let number = words.next()?.parse::<u64>().ok()?;
            let unit = if words.next() == Some("kB") { 1024 } else { 1 };
            Some((name.to_owned(), number.checked_mul(unit)?))
        };
        Self {
            fields: text.lines().filter_map(field).collect(),
        }
    }

    /// A field of that name, in bytes.
    #[must_use]
    pub fn field(&self, name: &str) -> u64 {
        self.fields.get(name).copied().unwrap_or_default()
    }

    /// Waits for a while until memory is as it was here.
    ///
    /// # Errors
    /// What is missing.
    pub fn is_back(&self) -> Result<()> {
        let slack = if is_debug_kernel() {
            DEBUG_SLACK
        } else {
            SLACK
        };
        let began = Instant::now();
        loop {
            let after = Self::settled()?;
            let missing = self.missing(&after, slack + self.buried(&after));
            if missing.is_empty() {
                let less = self.field("MemFree").saturating_sub(after.field("MemFree"));
                println!("    # {less} bytes less are free than before");
                return Ok(());
            }
            if began.elapsed() >= PATIENCE {
                bail!(
                    "memory is not back: {}; more than before: {}",
                    missing.join(", "),
                    self.grown(&after).join(", ")
                );
            }
            shrink_caches();
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// What nobody gets any more: the kernel counts the base page that went bad, and with it goes the huge page around it.
    fn buried(&self, after: &Self) -> u64 {
        const BAD: &str = "HardwareCorrupted";
        let bad = after.field(BAD).saturating_sub(self.field(BAD));
        bad / HugeSize::BASE.bytes() * HugeSize::MIB2.bytes()
    }

    /// Where the kernel has what is missing, as far as it says.
    fn grown(&self, after: &Self) -> Vec<String> {
        const OWN: [&str; 7] = [
            "SReclaimable",
            "SUnreclaim",
            "KernelStack",
            "PageTables",
            "Percpu",
            "VmallocUsed",
            "Shmem",
        ];
        OWN.iter()
            .map(|name| (name, after.field(name).saturating_sub(self.field(name))))
            .filter(|(_, more)| *more > 0)
            .map(|(name, more)| format!("{name} {more}"))
            .collect()
    }

    fn missing(&self, after: &Self, slack: u64) -> Vec<String> {
        let mut missing: Vec<String> = EXACT
            .iter()
            .filter(|name| self.field(name) != after.field(name))
            .map(|name| format!("{name} is {}, was {}", after.field(name), self.field(name)))
            .collect();
        for name in ["MemFree", "MemAvailable"] {
            let less = self.field(name).saturating_sub(after.field(name));
            if less > slack {
                missing.push(format!("{name} is {less} bytes less, {slack} are usual"));
            }
        }
        missing
    }
}

/// Gives back pages of the allocator's caches in which no object is left: hundreds of processes leave many.
fn shrink_caches() {
    let caches = fs::read_dir("/sys/kernel/slab").into_iter().flatten();
    for cache in caches.flatten() {
        // Not every cache can be shrunk.
        let _ = fs::write(cache.path().join("shrink"), "1");
    }
}

/// Bytes that are free on a node.
///
/// # Errors
/// There is no such node.
pub fn node_free(node: u32) -> Result<u64> {
    let file = format!("/sys/devices/system/node/node{node}/meminfo");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let line = text.lines().find(|line| line.contains("MemFree:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    kib.and_then(|kib| kib.checked_mul(1024))
        .with_context(|| format!("{file} has no MemFree"))
}

/// Free pages that each processor keeps for itself, in bytes: tens of megabytes that `MemFree` does not count.
fn kept_by_processors(zones: &str) -> u64 {
    let pages = zones.lines().filter_map(|line| {
        let count = line.trim_start().strip_prefix("count:")?;
        count.trim().parse::<u64>().ok()
    });
    pages.fold(0, u64::saturating_add).saturating_mul(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str =
        "MemFree:  1000000 kB\nMemAvailable: 1000000 kB\nHugePages_Total:   4\nHugetlb: 8192 kB\n";

    #[test]
    fn a_field_is_in_bytes_or_a_count() {
        let memory = Memory::parse(BEFORE);
        assert_eq!(memory.field("MemFree"), 1_024_000_000);
        assert_eq!(memory.field("HugePages_Total"), 4);
        assert_eq!(memory.field("Nothing"), 0);
    }

    #[test]
    fn what_processors_keep_is_free() {
        let zones = "  pagesets\n    cpu: 0\n              count:    2174\n              high:     15949\n    cpu: 1\n              \
                     count:    26\n      nr_free_pages_count: 7\n";
        assert_eq!(kept_by_processors(zones), 2200 * 4096);
    }

    #[test]
    fn what_is_missing_is_named() {
        let before = Memory::parse(BEFORE);
        assert!(before.missing(&before, 0).is_empty());
        let after = Memory::parse(&BEFORE.replace("1000000", "999000").replace("   4", "   3"));
        assert_eq!(
            before.missing(&after, 2 << 20).len(),
            1,
            "slack is for bytes"
        );
        assert_eq!(before.missing(&after, 1 << 10).len(), 3);
        assert!(after
            .missing(&Memory::parse(&BEFORE.replace("   4", "   3")), 0)
            .is_empty());
    }
}
