// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Why a rung fell short, and the one command that would change it.

use htlb_core::{Attempt, ByteLen, Error, HugeSize, PageCount, Rung};

use crate::arena::Kin;
use crate::named::Machine;
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
        Rung::Pool | Rung::System => hugetlb(root, attempt.size, pages),
    }
}

/// In the words of [`Machine`], which says the same of named buffers.
fn hugetlb(root: &Root, size: HugeSize, pages: PageCount) -> String {
    let why = Machine::at(root.clone()).why_short(size, None, pages.raw(), 0);
    match why.command {
        Some(command) => format!("{}; to change that: {command}", why.words),
        None => why.words,
    }
}
