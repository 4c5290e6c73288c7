// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the limit on locked memory means for huge pages.
//!
//! It is blamed for far more than it does: memory of the hugetlb pool is never swapped and so is not counted as
//! locked. What is counted are *pins*: devices that hold pages for long.

use htlb_core::ByteLen;

use super::{Error, Root};
use crate::sys::process::{self, Limit};

/// What a process may want to do with memory that the limit could stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// `mmap` of a hugetlb memfd or hugetlbfs file, or `MAP_HUGETLB`.
    HugetlbMapping,
    /// `shmget` with `SHM_HUGETLB`.
    ShmHugetlb,
    /// `mlock` of a mapping of the hugetlb pool.
    MlockHugetlb,
    /// `mlock` of other memory: transparent huge pages, base pages.
    Mlock,
    /// A memory region of an RDMA device.
    RdmaPin,
    /// Fixed buffers of io_uring.
    IoUringFixed,
    /// A DMA mapping through VFIO.
    VfioPin,
}

impl Use {
    /// Every use.
    pub const ALL: [Self; 7] = [
        Self::HugetlbMapping,
        Self::ShmHugetlb,
        Self::MlockHugetlb,
        Self::Mlock,
        Self::RdmaPin,
        Self::IoUringFixed,
        Self::VfioPin,
    ];
}

/// Whether, and how, the limit applies to a use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It does not.
    Free,
    /// The call checks the length against the limit, but nothing stays counted.
    Checked(ByteLen),
    /// Every byte counts up to the limit.
    Counted(ByteLen),
    /// Not a matter of the limit: the process needs `CAP_IPC_LOCK` or the group of `vm.hugetlb_shm_group`, and has neither.
    Refused,
}

/// What decides: the limit, the capability, the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memlock {
    /// `RLIMIT_MEMLOCK`.
    pub limit: Limit,
    /// `CAP_IPC_LOCK`.
    pub capability: Capability,
    /// `vm.hugetlb_shm_group`; `None` where the system does not say.
    pub shm_group: Option<u32>,
    /// Whether the process is in that group.
    pub shm_member: Membership,
}

/// Whether the process has a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// It has.
    Held,
    /// It has not, or the system does not say.
    Lacking,
}

/// Whether the process is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// It is.
    Member,
    /// It is not, or the system does not say.
    Outside,
}

impl Memlock {
    /// What the limit means for `what`.
    ///
    /// VFIO is as stated for its type 1 container; with io_uring the count is per user, not per process.
    #[must_use]
    pub fn charge(&self, what: Use) -> Charge {
        let privileged = self.capability == Capability::Held;
        match (what, self.limit.soft) {
            (Use::HugetlbMapping, _) => Charge::Free,
            (Use::ShmHugetlb, _) => match (privileged, self.shm_member) {
                (false, Membership::Outside) => Charge::Refused,
                _ => Charge::Free,
            },
            _ if privileged => Charge::Free,
            (_, None) => Charge::Free,
            (Use::MlockHugetlb, Some(limit)) => Charge::Checked(limit),
            (Use::Mlock | Use::RdmaPin | Use::IoUringFixed | Use::VfioPin, Some(limit)) => {
                Charge::Counted(limit)
            }
        }
    }
}

/// What applies to the calling process.
///
/// # Errors
/// [`Error::Found`] where `/proc/self/status` or the sysctl cannot be understood.
pub fn read(root: &Root) -> Result<Memlock, Error> {
    // getrlimit on one's own process has no way to fail; no limit is the answer that would mislead least.
    let limit = process::memlock_limit().unwrap_or(Limit {
        soft: None,
        hard: None,
    });
    read_with(root, limit)
}

/// As [`read`], with a limit from elsewhere.
///
/// # Errors
/// As [`read`].
pub fn read_with(root: &Root, limit: Limit) -> Result<Memlock, Error> {
    const STATUS: &str = "/proc/self/status";
    const CAP_IPC_LOCK: u32 = 14;
    let status = root.text(STATUS)?.unwrap_or_default();
    let field = |name: &str| {
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        lines
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value.trim())
            .next()
    };
    let capabilities = match field("CapEff") {
        None => 0,
        Some(hex) => u64::from_str_radix(hex, 16)
            .map_err(|_| Error::found(&root.path(STATUS), "CapEff in hexadecimal", hex))?,
    };
    let shm_group = root.number("/proc/sys/vm/hugetlb_shm_group")?;
    let shm_group = shm_group.and_then(|group| u32::try_from(group).ok());
    // The kernel compares the filesystem group, the last of `Gid:`, and the supplementary ones.
    let own = field("Gid").and_then(|ids| ids.split_ascii_whitespace().next_back());
    let others = field("Groups").unwrap_or("").split_ascii_whitespace();
    let member = shm_group.is_some_and(|group| {
        own.into_iter()
            .chain(others)
            .any(|id| id.parse() == Ok(group))
    });
    Ok(Memlock {
        limit,
        capability: match capabilities >> CAP_IPC_LOCK & 1 {
            0 => Capability::Lacking,
            _ => Capability::Held,
        },
        shm_group,
        shm_member: if member {
            Membership::Member
        } else {
            Membership::Outside
        },
    })
}
