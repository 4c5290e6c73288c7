// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `cargo xtask vm bench`: htlb beside the kernel's own exporters, with 256 MiB each, in one boot of Debian's kernel.
//!
//! ```text
//! guest: htlb-guest-bench, one process per exporter and round ─► sample ─► figures ─► report: JSON, table
//! ```
//!
//! Counts are what is compared: QEMU emulates the processor, so that seconds here say little about hardware. Every
//! count must be the same in every round; of seconds the median is told. How each is counted:
//!
//! | figure | how |
//! |---|---|
//! | faults | `getrusage` before `mmap` and after one byte of every 4 KiB was read; `_populated`: of the reading alone, after `mmap` with `MAP_POPULATE` |
//! | leaf entries | the page tables themselves, walked by `htlb_leaves.ko`: smaps and pagemap do not see the peers' mappings |
//! | VmPTE | `/proc/self/status`, before `mmap` and after the reading |
//! | sg entries | `orig_nents` of the table that `htlb_importer.ko` gets; runs are counted from the addresses in it |
//! | gup_pin | direct I/O from a disk in memory into the mapping and back, content compared |
//! | map_touch | `mmap` and reading, as for the faults |
//! | export_attach | making a dma-buf of the memory, attaching, mapping for the device; the system heap's memory is born as a dma-buf, so its figure has no making in it |

pub mod figures;
pub mod report;
pub mod sample;
pub mod text;

use std::fs;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use clap::Args;

use super::{program, Guest};
use crate::kernel::{self, module, workspace, Prepared, Route};
use figures::Figures;
use report::Report;
use sample::{Exporter, Sample, SIZE};

/// Pages of 2 MiB in the guest's hugetlb pool: twice a buffer, so that one can be scattered over it.
pub const POOL_PAGES: usize = 2 * SIZE / (2 << 20);

/// `cargo xtask vm bench`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// How often each exporter is measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// Leave htlb out: what the kernel has by itself
    #[arg(long)]
    peers: bool,
}

/// Boots, measures, prints.
///
/// # Errors
///
/// The guest could not be booted or is no success, a count differs between rounds, or htlb misses a target.
pub fn run(arguments: &Arguments) -> Result<()> {
    let kernel = kernel::prepare(Route::Stock)?;
    let exporters: &[Exporter] = if arguments.peers {
        &Exporter::ALL[1..]
    } else {
        &Exporter::ALL
    };
    let mut guest = Guest::new(&kernel, "bench")?
        .kernel_module("brd", "rd_nr=1 rd_size=4096")?
        .copy("/bin/htlb-guest-bench", &guest_program()?)?
        .command_line(&format!("hugepagesz=2M hugepages={POOL_PAGES}"))
        .timeout(Duration::from_secs(120 + 30 * u64::from(arguments.rounds)))
        .script(&script(exporters, arguments.rounds));
    for name in ["htlb_importer", "htlb_leaves"] {
        let folder = workspace().join("tests/kmod").join(name);
        for object in module::build(&kernel, &folder)? {
            guest = guest.module(&object, "")?;
        }
    }
    let mut text_bytes = None;
    if !arguments.peers {
        let (object, bytes) = htlb(&kernel)?;
        guest = guest.module(&object, "")?;
        text_bytes = Some(bytes);
    }

    let outcome = guest.run()?;
    if !outcome.is_success() {
        bail!("the benchmark's guest is no success:\n{outcome}");
    }
    let printed = fs::read(&outcome.results)
        .with_context(|| format!("reading {}", outcome.results.display()))?;
    let samples =
        Sample::parse(&String::from_utf8_lossy(&printed)).context("reading the guest's samples")?;
    let report = Report::new(&Figures::new(&samples, exporters, text_bytes)?);
    if arguments.json {
        println!("{:#}", report.to_json());
    } else {
        print!("{report}");
    }
    let missed = report.missed();
    ensure!(missed.is_empty(), "missed: {}", missed.join(", "));
    Ok(())
}

/// `htlb.ko`, and how much code is in it.
fn htlb(kernel: &Prepared) -> Result<(std::path::PathBuf, u64)> {
    let objects = module::build(kernel, &workspace().join("htlb-kmod"))?;
    let object = objects
        .into_iter()
        .find(|object| object.ends_with("htlb.ko"))
        .context("htlb-kmod has no htlb.ko")?;
    let bytes = text::bytes(kernel, &object)?;
    Ok((object, bytes))
}

fn guest_program() -> Result<std::path::PathBuf> {
    // With the feature that the guest's other program needs: so the library is built once for both.
    let arguments = [
        "build",
        "-p",
        "htlb-tests",
        "--features",
        "guest",
        "--bin",
        "htlb-guest-bench",
    ];
    let programs = program::build(&arguments)?;
    programs
        .into_iter()
        .find(|program| program.ends_with("htlb-guest-bench"))
        .context("cargo made no htlb-guest-bench")
}

/// The exporters take turns, so that what drifts meets all of them alike.
fn script(exporters: &[Exporter], rounds: u8) -> String {
    // Where a mapping lies decides whether it needs one table more.
    let mut lines = vec![
        "set -e".to_owned(),
        "echo 0 >/proc/sys/kernel/randomize_va_space".to_owned(),
    ];
    let mut say = |what: &str| lines.push(format!("htlb-guest-bench {what}"));
    if exporters.contains(&Exporter::Htlb) {
        say("prepare");
    }
    for _ in 0..rounds {
        exporters.iter().for_each(|exporter| say(exporter.key()));
    }
    say("shared");
    say("scattered");
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exporters_take_turns() {
        let both = script(&Exporter::ALL[1..], 2);
        let words: Vec<&str> = both
            .lines()
            .filter_map(|line| line.strip_prefix("htlb-guest-bench "))
            .collect();
        assert_eq!(
            words,
            [
                "udmabuf",
                "system_heap",
                "udmabuf",
                "system_heap",
                "shared",
                "scattered"
            ]
        );
        assert!(both.starts_with("set -e\n"));
        assert!(script(&Exporter::ALL, 1)
            .contains("space\nhtlb-guest-bench prepare\nhtlb-guest-bench htlb\n"));
    }
}
