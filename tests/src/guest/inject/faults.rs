// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The kernel's fault injection, so set that exactly the allocations below one piece of code fail.
//!
//! `/proc/thread-self/fail-nth` makes the n-th allocation of this thread fail. An allocation is looked at only where the stack
//! has a return address in the range that is watched: the module's text, or the function that runs its `init`.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

const DEBUGFS: &str = "/sys/kernel/debug";
/// What fails, and whether where the caller may wait, too.
const ALLOCATORS: [&str; 2] = ["failslab", "fail_page_alloc"];
/// The kernel's own checks of mappings for devices, which would be off for good without memory.
const DMA_CHECKS: &str = "debug_dma_map_sg";
/// What shares the counter and is to stay out of it.
const OTHERS: &str = "fail_usercopy";

/// Allocations below the watched code, each of which can be made to fail.
#[derive(Debug)]
pub(super) struct Faults {
    nth: File,
}

fn set(folder: &str, file: &str, value: &str) -> Result<()> {
    let path = format!("{DEBUGFS}/{folder}/{file}");
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

fn watch(folder: &str, code: &Range<u64>) -> Result<()> {
    // Nothing fails by chance, and nothing is said about what fails.
    for (file, value) in [
        ("probability", "0"),
        ("verbose", "0"),
        ("times", "-1"),
        ("task-filter", "N"),
    ] {
        set(folder, file, value)?;
    }
    set(folder, "stacktrace-depth", "32")?;
    set(folder, "require-start", &format!("{:#x}", code.start))?;
    set(folder, "require-end", &format!("{:#x}", code.end))?;
    let checks = text_of_function(DMA_CHECKS).unwrap_or(0..0);
    set(folder, "reject-start", &format!("{:#x}", checks.start))?;
    set(folder, "reject-end", &format!("{:#x}", checks.end))
}

impl Faults {
    /// Watches this code.
    pub(super) fn below(code: &Range<u64>) -> Result<Self> {
        for allocator in ALLOCATORS {
            watch(allocator, code)?;
            set(allocator, "ignore-gfp-wait", "N")?;
        }
        set("fail_page_alloc", "ignore-gfp-highmem", "N")?;
        set("fail_page_alloc", "min-order", "0")?;
        watch(OTHERS, &(1..2))?;
        let path = "/proc/thread-self/fail-nth";
        let nth = File::options().read(true).write(true).open(path);
        Ok(Self {
            nth: nth.with_context(|| format!("opening {path}"))?,
        })
    }

    /// Runs `body` with its `number`-th allocation failing, counted from 1; says whether it had as many.
    pub(super) fn at<T>(&self, number: u32, body: impl FnOnce() -> T) -> Result<(T, bool)> {
        self.nth.write_all_at(number.to_string().as_bytes(), 0)?;
        let value = body();
        let mut left = [0_u8; 16];
        let len = self.nth.read_at(&mut left, 0)?;
        self.nth.write_all_at(b"0", 0)?;
        let left: u32 = std::str::from_utf8(&left[..len])?.trim().parse()?;
        ensure!(left <= number, "{left} left of {number}");
        Ok((value, left == 0))
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        // As the kernel came up; what fails here is seen by whoever needs it next.
        for folder in ALLOCATORS.into_iter().chain([OTHERS]) {
            for (file, value) in [
                ("require-start", "0"),
                ("require-end", "0xffffffffffffffff"),
                ("reject-start", "0"),
                ("reject-end", "0"),
                ("stacktrace-depth", "32"),
            ] {
                let _ = set(folder, file, value);
            }
        }
    }
}

/// A line of `/proc/kallsyms`: address, kind, name, and the module in brackets.
fn symbols() -> Result<Vec<(u64, String, String)>> {
    let text = fs::read_to_string("/proc/kallsyms")?;
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next().unwrap_or_default(), 16)?;
            let kind = words.next().unwrap_or_default();
            let rest: Vec<&str> = words.collect();
            Ok((address, kind.to_owned(), rest.join(" ")))
        })
        .collect()
}

/// Where the code of a loaded module lies.
pub(super) fn text_of(module: &str) -> Result<Range<u64>> {
    let suffix = format!(" [{module}]");
    let (mut start, mut end) = (u64::MAX, 0);
    for (address, kind, name) in symbols()? {
        if kind.eq_ignore_ascii_case("t") && name.ends_with(&suffix) {
            (start, end) = (start.min(address), end.max(address));
        }
    }
    ensure!(start < end, "{module} has no code");
    // The last function has a length, too; modules are pages apart.
    Ok(start..(end | 0xfff) + 1)
}

/// Where a function of the kernel lies.
pub(super) fn text_of_function(wanted: &str) -> Result<Range<u64>> {
    let symbols = symbols()?;
    let of = symbols
        .iter()
        .find(|(_, kind, name)| name == wanted && kind.eq_ignore_ascii_case("t"));
    let start = of.with_context(|| format!("no function {wanted}"))?.0;
    let after = symbols
        .iter()
        .map(|(address, ..)| *address)
        .filter(|address| *address > start)
        .min();
    Ok(start..after.with_context(|| format!("nothing after {wanted}"))?)
}
