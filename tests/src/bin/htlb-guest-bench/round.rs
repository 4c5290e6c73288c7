// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One exporter, measured once.

use std::fs;
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result};
use htlb_tests::kmod::leaves;
use htlb_tests::vm::bench::sample::{Counts, Exporter, Round, SIZE};
use htlb_user::device::{How, Mapping};

use crate::exporter::Memory;
use crate::importing::import;
use crate::{direct, sys};

/// Where a mapping may begin, so that its pages can be huge in the page table.
const ALIGNMENT: usize = 2 << 20;

/// Measures in a fresh process: nothing has been mapped here before, so that page tables begin empty.
pub(crate) fn measure(exporter: Exporter) -> Result<Round> {
    let memory = Memory::new(exporter)?;
    let map = |how: How| {
        Mapping::new(memory.mapped(), 0, SIZE, how, ALIGNMENT)
            .with_context(|| format!("mapping memory of {}", exporter.key()))
    };

    // What this code touches for the first time would count as the mapping's faults.
    let page = rustix::fs::memfd_create("warm-up", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&page, 4096)?;
    Reading::new(|| Ok(Mapping::new(page.as_fd(), 0, 4096, How::SHARED, 4096)?))?;

    let Reading {
        mut mapping,
        faults,
        vmpte_bytes,
        seconds: map_touch_seconds,
    } = Reading::new(|| map(How::SHARED))?;
    let leaves = leaves::count(mapping.address(), SIZE).context("counting page-table entries")?;
    let gup_pin = direct::both_ways(&mut mapping)?;
    drop(mapping);

    let mapping = map(How::SHARED.ahead())?;
    let faults_before = sys::faults()?;
    sys::touch(&mapping);
    let faults_populated = sys::faults()?.saturating_sub(faults_before);
    drop(mapping);

    let (scatter, export_attach_seconds) = import(&memory)?;
    Ok(Round {
        exporter,
        counts: Counts {
            faults,
            faults_populated,
            leaf_entries: leaves.total(),
            vmpte_bytes,
            gup_pin,
        },
        scatter,
        map_touch_seconds,
        export_attach_seconds,
    })
}

/// A mapping that was made and read, and what that took.
struct Reading {
    mapping: Mapping,
    faults: u64,
    vmpte_bytes: u64,
    seconds: f64,
}

impl Reading {
    fn new(map: impl FnOnce() -> Result<Mapping>) -> Result<Self> {
        let tables_before = page_tables()?;
        let faults_before = sys::faults()?;
        let started = Instant::now();
        let mapping = map()?;
        sys::touch(&mapping);
        let seconds = started.elapsed().as_secs_f64();
        let faults = sys::faults()?.saturating_sub(faults_before);
        Ok(Self {
            mapping,
            faults,
            vmpte_bytes: page_tables()?.saturating_sub(tables_before),
            seconds,
        })
    }
}

/// The page tables of this process, in bytes.
fn page_tables() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    vmpte(&status).context("/proc/self/status has no VmPTE")
}

fn vmpte(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("VmPTE:"))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmpte_is_in_kibibytes() {
        assert_eq!(
            vmpte("VmLib:\t    1 kB\nVmPTE:\t     528 kB\nVmSwap:\t 0 kB\n"),
            Some(540_672)
        );
        assert_eq!(vmpte("VmLib:\t    1 kB\n"), None);
        assert_eq!(vmpte("VmPTE:\t     528\n"), None);
    }
}
