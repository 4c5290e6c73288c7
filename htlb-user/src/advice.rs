// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why a rung fell short, and the one command that would change it.

use htlb_core::{Attempt, ByteLen, Error, HugeSize, PageCount, Rung};

use crate::arena::Kin;
use crate::system::{cgroup::Cgroups, meminfo, pools, Root};

/// Less than this is not worth the look into `/proc`.
const MUCH: ByteLen = ByteLen::new(64 << 20);

/// Whether so much ordinary memory can be populated: beyond that the kernel would end a process, perhaps this one, and a
/// shortage is to be a value.
///
/// # Errors
/// [`Error::OutOfPages`] where the system says that it has less, or a cgroup allows less.
pub(crate) fn check_memory(root: &Root, kin: Kin, len: ByteLen) -> Result<(), Error> {
    if kin == Kin::Hugetlb || len < MUCH {
        return Ok(());
    }
    match memory(root) {
        Some(most) if most < len => Err(Error::OutOfPages),
        _ => Ok(()),
    }
}

/// The most ordinary memory that this process could get now; `None` where the system does not say.
fn memory(root: &Root) -> Option<ByteLen> {
    let available = meminfo::read(root).ok().and_then(|info| info.available);
    // What a cgroup has in use is partly cache, which it gives up; its limit stands.
    let limit = Cgroups::find(root)
        .and_then(|groups| groups.memory(root))
        .ok()
        .flatten()
        .and_then(|limits| limits.max);
    available.into_iter().chain(limit).min()
}

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
        Rung::Base => match memory(root) {
            Some(most) => {
                format!("{pages} base pages were wanted, and {most} bytes of memory can be had")
            }
            None => format!("{pages} base pages: {error}"),
        },
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
