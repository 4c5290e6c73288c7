// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The guest is the machine that the other groups count on.

use std::fs;

use anyhow::{ensure, Context, Result};

use super::meminfo::Memory;
use super::{cases, is_debug_kernel, Group};

pub(super) const GROUP: Group = Group {
    name: "machine",
    modules: &[],
    cases: || {
        cases![
            there_are_two_nodes_of_different_size,
            the_edu_device_is_there,
            debugfs_is_mounted,
            memory_settles,
            the_debug_kernel_can_make_allocations_fail,
        ]
    },
};

fn there_are_two_nodes_of_different_size() -> Result<()> {
    let total = |node: u32| -> Result<u64> {
        let file = format!("/sys/devices/system/node/node{node}/meminfo");
        let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        let line = text.lines().find(|line| line.contains("MemTotal:"));
        let number = line.and_then(|line| line.split_whitespace().nth(3));
        Ok(number.context("no MemTotal")?.parse()?)
    };
    let (first, second) = (total(0)?, total(1)?);
    ensure!(first > second && second > 0, "{first} kB and {second} kB");
    ensure!(
        !fs::exists("/sys/devices/system/node/node2")?,
        "there is a third node"
    );
    Ok(())
}

fn the_edu_device_is_there() -> Result<()> {
    for device in fs::read_dir("/sys/bus/pci/devices")? {
        if fs::read_to_string(device?.path().join("device"))?.trim() == "0x11e8" {
            return Ok(());
        }
    }
    anyhow::bail!("no device with the number 0x11e8 on the PCI bus")
}

fn debugfs_is_mounted() -> Result<()> {
    let entries = fs::read_dir("/sys/kernel/debug")?.count();
    ensure!(entries > 0, "it is empty");
    Ok(())
}

/// Two pictures of an idle machine are alike, or no test could see a leak.
fn memory_settles() -> Result<()> {
    Memory::settled()?.is_back()
}

fn the_debug_kernel_can_make_allocations_fail() -> Result<()> {
    if !is_debug_kernel() {
        return super::skip("Debian's kernel has no fault injection");
    }
    ensure!(
        fs::exists("/sys/kernel/debug/fail_page_alloc")?,
        "no fail_page_alloc"
    );
    ensure!(fs::exists("/sys/kernel/debug/failslab")?, "no failslab");
    Ok(())
}
