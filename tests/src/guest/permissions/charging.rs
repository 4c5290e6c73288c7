// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that a memory cgroup pays for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use htlb_core::uapi::{Create, CreateFlags};
use htlb_core::{Gfp, HugeSize};
use htlb_user::device::DeviceBuffer;

use super::{device, record, refused, refused_io, MIB2};
use crate::guest::{raw, rest, skip};

/// A memory cgroup, gone when this is.
pub(in crate::guest) struct Cgroup(PathBuf);

impl Cgroup {
    pub(in crate::guest) fn new(name: &str, max: u64) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+memory")
            .context("the memory controller")?;
        let folder = root.join(name);
        fs::create_dir(&folder)?;
        let group = Self(folder);
        fs::write(group.0.join("memory.max"), max.to_string())?;
        Ok(group)
    }

    pub(in crate::guest) fn path(&self) -> &Path {
        &self.0
    }

    pub(in crate::guest) fn enter(&self) -> Result<()> {
        fs::write(self.0.join("cgroup.procs"), "0").context("entering a cgroup")
    }

    pub(in crate::guest) fn number(&self, file: &str, key: &str) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(file))?;
        let mut lines = text
            .lines()
            .map(|line| line.rsplit_once(' ').unwrap_or(("", line)));
        let value = lines
            .find(|(name, _)| *name == key)
            .with_context(|| format!("no {key} in {file}"))?
            .1;
        Ok(value.trim().parse()?)
    }

    pub(in crate::guest) fn killed(&self) -> Result<u64> {
        self.number("memory.events", "oom_kill")
    }

    pub(in crate::guest) fn current(&self) -> Result<u64> {
        self.number("memory.current", "")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Pages of `page_bytes` beyond the group's limit: an error, nobody killed, and the pool as it was.
fn limited(name: &str, page_bytes: u64, gfp: Gfp) -> Result<()> {
    const MAX: u64 = 48 << 20;
    // What each processor keeps of the group's charge in advance comes and goes.
    const KEPT: u64 = 1 << 20;
    if !fs::exists("/sys/fs/cgroup/cgroup.controllers")? {
        return skip("no cgroups in this guest");
    }
    let group = Cgroup::new(name, MAX)?;
    let before = device()?.stats(HugeSize::MIB2, None)?;
    let of = |bytes, flags| Create {
        page_bytes,
        ..record(bytes, flags, gfp)
    };
    raw::apart(|| {
        group.enter()?;
        let device = device()?;
        let start = group.current()?;
        let buffer = device
            .create_record(&of(16 << 20, CreateFlags::POPULATE))
            .context("below the limit")?;
        let grown = group.current()?.saturating_sub(start);
        ensure!(grown + KEPT >= 16 << 20, "only {grown} bytes were charged");
        let during = device.stats(HugeSize::MIB2, None)?;
        ensure!(
            before == during,
            "charged pages are no pool's: {before:?} became {during:?}"
        );
        for _ in 0..3 {
            let more = of(2 * MAX, CreateFlags::POPULATE);
            refused_io(
                "more than the limit",
                device.create_record(&more),
                libc::ENOMEM,
            )?;
            // A promise that no pool can keep is kept by populating.
            let promise = of(2 * MAX, CreateFlags::empty());
            refused_io(
                "a promise of more",
                device.create_record(&promise),
                libc::ENOMEM,
            )?;
        }
        // Step by step, too; what came before the error stays. In base pages that would leave nothing for the program itself.
        if page_bytes == MIB2 {
            let lazy =
                DeviceBuffer::from(device.create_record(&of(2 * MAX, CreateFlags::NORESERVE))?);
            refused("too many pages", lazy.populate(0, 2 * MAX), libc::ENOMEM)?;
            let there = lazy.info()?.populated;
            ensure!(there > 0 && there < MAX, "{there} bytes are there");
            drop(lazy);
        }
        drop(buffer);
        let left = group.current()?.saturating_sub(start);
        ensure!(left < 8 << 20, "{left} bytes are still charged");
        Ok(())
    })?;
    ensure!(group.killed()? == 0, "somebody was killed");
    let after = device()?.stats(HugeSize::MIB2, None)?;
    ensure!(before == after, "{before:?} became {after:?}");
    rest::wait()
}

pub(super) fn charged_pages_are_limited_by_the_memory_cgroup() -> Result<()> {
    limited("htlb-huge", MIB2, Gfp::ACCOUNT)
}

/// No account limits them, so that nobody gets them for nothing.
pub(super) fn base_pages_are_always_charged() -> Result<()> {
    limited("htlb-base", 4096, Gfp::empty())
}
