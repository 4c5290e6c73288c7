// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a device that imports a dma-buf gets.

use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use htlb_tests::kmod::importer::{Direction, Entry, Importer};
use htlb_tests::vm::bench::sample::{Scatter, SIZE};

use crate::exporter::Memory;

/// Exports, attaches, maps for the device, and takes it all back; the seconds are those up to the mapping.
pub(crate) fn import(memory: &Memory) -> Result<(Scatter, f64)> {
    let importer = Importer::open().context("opening the importing device")?;
    let started = Instant::now();
    let buffer = memory.export()?;
    let attachment = importer.attach(buffer.as_fd()).context("attaching")?;
    let table = importer
        .map(&attachment, Direction::Bidirectional)
        .context("mapping for a device")?;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(
        table.bytes == SIZE as u64,
        "the device was given {} bytes of {SIZE}",
        table.bytes
    );
    let entries = importer.entries(&attachment, &table)?;
    importer.unmap(&attachment).context("unmapping")?;
    importer.detach(attachment).context("detaching")?;
    let scatter = Scatter {
        sg_entries: table.cpu_entries.into(),
        runs: runs(&entries),
    };
    Ok((scatter, seconds))
}

/// How many contiguous runs entries make, in their order. The guest has no IOMMU: a device's address is the physical one.
fn runs(entries: &[Entry]) -> u64 {
    let mut runs = 0;
    let mut end = None;
    for entry in entries {
        if end != Some(entry.address) {
            runs += 1;
        }
        end = entry.address.checked_add(entry.length);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_run_in_ascending_order_only() {
        let at = |address| Entry {
            address,
            length: 0x1000,
        };
        assert_eq!(runs(&[]), 0);
        assert_eq!(runs(&[at(0x1000), at(0x2000), at(0x3000)]), 1);
        assert_eq!(runs(&[at(0x2000), at(0x1000), at(0x2000)]), 2);
        assert_eq!(runs(&[at(0x1000), at(0x3000)]), 2);
    }
}
