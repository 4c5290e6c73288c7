// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why a rung fell short, and the one command that would change it.

use htlb_core::{Attempt, Error, HugeSize, PageCount, Rung};

use crate::system::{cgroup::Cgroups, pools, Root};

/// The most that the system's pool would give for this attempt, as far as it says.
pub(crate) fn most(root: &Root, attempt: &Attempt, wanted: PageCount) -> PageCount {
    match pools::read_size(root, attempt.size) {
        Ok(Some(pool)) => pool.counts.available().min(wanted),
        // Without /sys the kernel has to be asked; it says so by failing.
        Ok(None) | Err(_) => wanted,
    }
}

/// One sentence on why `pages` pages could not be had.
pub(crate) fn why_short(root: &Root, attempt: &Attempt, error: Error, pages: PageCount) -> String {
    let size = attempt.size;
    if error == Error::OutOfReach {
        return format!(
            "pages within {} were not given, or where they are is not known: that needs CAP_SYS_ADMIN",
            attempt.reach
        );
    }
    match attempt.rung {
        Rung::Transparent => "the system gave no transparent huge page; see \
             /sys/kernel/mm/transparent_hugepage/enabled"
            .into(),
        Rung::Base => format!("{pages} base pages: {error}"),
        Rung::Pool | Rung::System => hugetlb(root, size, error, pages),
    }
}

fn hugetlb(root: &Root, size: HugeSize, error: Error, pages: PageCount) -> String {
    let limit = Cgroups::find(root)
        .ok()
        .and_then(|groups| groups.hugetlb(root, size).ok().flatten());
    if let Some(room) = limit.as_ref().and_then(|limits| limits.room()) {
        if size.whole_pages_in(room) < pages {
            return format!(
                "a cgroup leaves this process room for {} pages, {pages} were wanted; raise hugetlb.{}.max of its cgroup",
                size.whole_pages_in(room),
                cgroup_name(size),
            );
        }
    }
    match pools::read_size(root, size) {
        Ok(Some(pool)) => {
            let available = pool.counts.available();
            let target =
                pool.counts.persistent().raw() + pages.raw().saturating_sub(available.raw());
            format!(
                "the system has {available} such pages to give, {pages} were wanted; as root: echo {target} > \
                 /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
                size.bytes() >> 10
            )
        }
        Ok(None) => format!("this system has no pool of {size} pages"),
        Err(_) => format!("{pages} pages: {error}"),
    }
}

/// The name that cgroup files use: `2MB`, `1GB`.
fn cgroup_name(size: HugeSize) -> String {
    match size.bytes() {
        bytes if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        bytes if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    }
}
