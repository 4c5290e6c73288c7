// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The same for people.

use std::fmt::Write as _;
use std::path::Path;

use htlb_core::{ByteLen, PageCount};
use htlb_user::system::cgroup::Limits;
use htlb_user::system::memlock::{Charge, Use};
use htlb_user::system::thp::{Defrag, When};

use super::facts::Facts;
use crate::output::table;
use crate::size::human;

pub(super) fn words(facts: &Facts) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = pools(&mut text, facts);
    if let Some(module) = &facts.device {
        let _ = super::device::words(&mut text, module);
    }
    let _ = memory(&mut text, facts);
    let _ = limits(&mut text, facts);
    let _ = places(&mut text, facts);
    for problem in &facts.problems {
        let _ = writeln!(text, "\nnot understood: {problem}");
    }
    text
}

fn pools(text: &mut String, facts: &Facts) -> std::fmt::Result {
    if facts.pools.is_empty() {
        writeln!(
            text,
            "No huge-page pools: this kernel has none, or /sys is not mounted here."
        )?;
        return match (facts.memory.huge_size, facts.memory.huge_free) {
            (Some(size), Some(free)) => {
                writeln!(text, "By /proc/meminfo, {free} pages of {size} are free.")
            }
            _ => Ok(()),
        };
    }
    let mut rows = Vec::new();
    for pool in &facts.pools {
        let mut row = vec![pool.size.to_string(), "all".to_owned()];
        let counts = &pool.counts;
        let all = [
            counts.total,
            counts.free,
            counts.reserved,
            counts.surplus,
            counts.overcommit,
            counts.available(),
        ];
        row.extend(all.map(|count: PageCount| count.to_string()));
        rows.push(row);
        if pool.nodes.len() > 1 {
            for node in &pool.nodes {
                let mut row = vec![String::new(), node.node.to_string()];
                row.extend([node.total, node.free].map(|count| count.to_string()));
                row.extend(["".to_owned(), node.surplus.to_string()]);
                row.resize(8, String::new());
                rows.push(row);
            }
        }
    }
    let header = [
        "PAGES OF",
        "NODE",
        "TOTAL",
        "FREE",
        "RESERVED",
        "SURPLUS",
        "OVERCOMMIT",
        "AVAILABLE",
    ];
    text.push_str(&table(&header, &[2, 3, 4, 5, 6, 7], rows));
    if facts
        .pools
        .iter()
        .all(|pool| pool.counts.available().is_zero())
    {
        let size = facts
            .default_size
            .or_else(|| facts.pools.first().map(|pool| pool.size));
        let name = size.map_or_else(
            || "2M".to_owned(),
            |size| size.to_string().replace("iB", ""),
        );
        writeln!(
            text,
            "None is available. To reserve some: sudo htlb pool {name} COUNT"
        )?;
    }
    Ok(())
}

fn memory(text: &mut String, facts: &Facts) -> std::fmt::Result {
    writeln!(text)?;
    let total = facts.memory.total.map_or_else(unknown, known);
    let available = facts.memory.available.map_or_else(unknown, known);
    writeln!(
        text,
        "Memory          {total}, {available} available, {} node{}",
        facts.nodes.len(),
        plural(facts.nodes.len())
    )?;
    match &facts.thp {
        None => writeln!(
            text,
            "Transparent     none: the kernel was built without, or /sys is not mounted here"
        )?,
        Some(thp) => {
            let size = thp.pmd_size.map_or_else(unknown, |size| size.to_string());
            let shmem = thp.shmem.map_or("unknown", when);
            writeln!(
                text,
                "Transparent     {size}; anonymous memory {}, shared memory {shmem}",
                when(thp.enabled)
            )?;
        }
    }
    if facts.thp_disabled {
        writeln!(
            text,
            "                switched off for this process (prctl)"
        )?;
    }
    Ok(())
}

fn limits(text: &mut String, facts: &Facts) -> std::fmt::Result {
    writeln!(text)?;
    let mut any = false;
    for limits in &facts.hugetlb {
        let size = limits.size;
        any |= limit(text, &format!("{size} pages"), Some(&limits.pages))?;
        any |= limit(
            text,
            &format!("{size} reserved"),
            limits.reservations.as_ref(),
        )?;
    }
    any |= limit(text, "memory", facts.group.as_ref())?;
    if !any {
        writeln!(text, "Control groups  no limit on huge pages or memory")?;
    }
    let Some(memlock) = &facts.memlock else {
        return Ok(());
    };
    let soft = memlock
        .limit
        .soft
        .map_or_else(|| "unlimited".to_owned(), known);
    if Use::ALL
        .iter()
        .all(|what| memlock.charge(*what) == Charge::Free)
    {
        return writeln!(
            text,
            "RLIMIT_MEMLOCK  {soft}; it does not count for this process"
        );
    }
    writeln!(text, "RLIMIT_MEMLOCK  {soft}")?;
    for what in Use::ALL {
        let means = match memlock.charge(what) {
            Charge::Free => "does not count".to_owned(),
            Charge::Checked(limit) => format!("each call is checked against {}", known(limit)),
            Charge::Counted(limit) => format!("counts, up to {}", known(limit)),
            Charge::Refused => {
                "refused: needs CAP_IPC_LOCK or the group of vm.hugetlb_shm_group".to_owned()
            }
        };
        writeln!(text, "                {:<28}{means}", memlock_use(what))?;
    }
    Ok(())
}

/// Whether there is one.
fn limit(text: &mut String, what: &str, limits: Option<&Limits>) -> Result<bool, std::fmt::Error> {
    let Some(max) = limits.and_then(|limits| limits.max) else {
        return Ok(false);
    };
    let room = limits.and_then(|limits| limits.room).unwrap_or(max);
    let by = limits
        .and_then(|limits| limits.set_by.as_deref())
        .unwrap_or(Path::new("?"));
    writeln!(
        text,
        "Control group   {what}: {} at most, {} left ({})",
        known(max),
        known(room),
        by.display()
    )?;
    Ok(true)
}

fn places(text: &mut String, facts: &Facts) -> std::fmt::Result {
    writeln!(text)?;
    for (mount, writable) in &facts.mounts {
        let size = mount
            .page_size
            .map_or_else(unknown, |size| size.to_string());
        let access = match writable {
            Ok(()) => "usable".to_owned(),
            Err(why) => format!("not usable by you ({why})"),
        };
        writeln!(
            text,
            "hugetlbfs       {} with {size} pages: {access}",
            mount.path.display()
        )?;
    }
    if facts.mounts.is_empty() {
        writeln!(text, "hugetlbfs       not mounted")?;
    }
    let names = &facts.names;
    if let Some(index) = &names.index {
        writeln!(text, "Names           {}", index.display())?;
    }
    for (size, place) in &names.hugetlb {
        match place {
            Ok(folder) => writeln!(text, "  {:<14}in {}", size.to_string(), folder.display())?,
            Err(why) => writeln!(text, "  {:<14}{why}", size.to_string())?,
        }
    }
    match &names.shared_memory {
        Ok(folder) => writeln!(text, "  else          in {}", folder.display()),
        Err(why) => writeln!(text, "  else          {why}"),
    }
}

fn known(len: ByteLen) -> String {
    human(len.raw())
}

fn unknown() -> String {
    "unknown".to_owned()
}

const fn plural(count: usize) -> &'static str {
    if count == 1 {
        ""
    } else {
        "s"
    }
}

/// The kernel's word.
pub(super) const fn when(when: When) -> &'static str {
    match when {
        When::Always => "always",
        When::Advised => "advise",
        When::Never => "never",
        When::WithinSize => "within_size",
        When::Force => "force",
        When::Deny => "deny",
    }
}

/// The kernel's word.
pub(super) const fn defrag(defrag: Defrag) -> &'static str {
    match defrag {
        Defrag::Always => "always",
        Defrag::Defer => "defer",
        Defrag::DeferAdvised => "defer+madvise",
        Defrag::Advised => "madvise",
        Defrag::Never => "never",
    }
}

pub(super) const fn memlock_use(what: Use) -> &'static str {
    match what {
        Use::HugetlbMapping => "mmap of huge pages",
        Use::ShmHugetlb => "shmget with SHM_HUGETLB",
        Use::MlockHugetlb => "mlock of huge pages",
        Use::Mlock => "mlock of other memory",
        Use::RdmaPin => "RDMA memory region",
        Use::IoUringFixed => "io_uring fixed buffers",
        Use::VfioPin => "VFIO DMA mapping",
    }
}

/// A word, and the limit in bytes.
pub(super) const fn charge(charge: Charge) -> (&'static str, Option<u64>) {
    match charge {
        Charge::Free => ("free", None),
        Charge::Checked(limit) => ("checked", Some(limit.raw())),
        Charge::Counted(limit) => ("counted", Some(limit.raw())),
        Charge::Refused => ("refused", None),
    }
}
