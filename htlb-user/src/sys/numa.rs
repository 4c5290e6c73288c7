// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Memory policies, the node of a page, and where this thread runs.

use htlb_core::{ByteRange, NodeId, NodeMask};

use super::window::{Window, WindowError};
use super::{check, Failure};

/// Where the kernel looks for the pages of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "mempolicy")]
pub enum Policy {
    /// As the process has it.
    Default,
    /// On these nodes and no other.
    Bind(NodeMask),
    /// On this node, else anywhere.
    Preferred(NodeId),
    /// On these nodes, else anywhere (Linux 5.15).
    PreferredMany(NodeMask),
    /// In turns on these nodes.
    Interleave(NodeMask),
}

/// What `mbind` does with pages that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leaves them where they are.
    Ignore,
    /// Fails with `EIO` where one does not follow the policy. On hugetlb older kernels look at none.
    #[doc(alias = "MPOL_MF_STRICT")]
    Refuse,
    /// Moves those that only this process has, and fails with `EIO` where it cannot.
    #[doc(alias = "MPOL_MF_MOVE")]
    Move,
}

/// The node of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is on this node.
    On(NodeId),
    /// Not populated.
    Absent,
    /// The kernel does not say (no NUMA, a filter, a node above 63).
    Unknown,
}

/// The CPU and node on which the calling thread runs at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Here {
    /// The CPU.
    pub cpu: u32,
    /// Its node.
    pub node: u32,
}

impl Policy {
    fn raw(self) -> (libc::c_int, u64) {
        match self {
            Self::Default => (libc::MPOL_DEFAULT, 0),
            Self::Bind(nodes) => (libc::MPOL_BIND, nodes.bits()),
            Self::Preferred(node) => (libc::MPOL_PREFERRED, node.mask().bits()),
            Self::PreferredMany(nodes) => (5, nodes.bits()),
            Self::Interleave(nodes) => (libc::MPOL_INTERLEAVE, nodes.bits()),
        }
    }
}

impl Window {
    /// Sets the policy for pages that `range` gets from now on.
    ///
    /// For a file in memory the policy belongs to the file, and other mappings see it.
    ///
    /// # Errors
    /// `EINVAL` for an empty mask, a node without memory, or a policy this kernel lacks; `EIO` by [`Existing`]; `ENOSYS` without NUMA.
    pub fn mbind(
        &self,
        range: ByteRange,
        policy: Policy,
        existing: Existing,
    ) -> Result<(), WindowError> {
        let (start, len) = self.mapped(range)?;
        let (mode, bits) = policy.raw();
        let mask = bits_to_longs(bits);
        // The kernel reads one bit fewer than it is told.
        let bits = match policy {
            Policy::Default => 1,
            _ => libc::c_ulong::from(u64::BITS) + 1,
        };
        let flags: libc::c_uint = match existing {
            Existing::Ignore => 0,
            Existing::Refuse => 1,
            Existing::Move => 1 | 2,
        };
        // SAFETY: the range is address space of this window. The kernel reads 64 bits of `mask`, which it holds, and at
        // most the word that the 65th would begin (`mask` has one more for that). No byte of the range changes.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                self.address(start).as_ptr(),
                len,
                libc::c_long::from(mode),
                mask.as_ptr(),
                bits,
                libc::c_ulong::from(flags),
            )
        };
        Ok(check("mbind", answer).map(drop)?)
    }

    /// The node of each page of the window's size in `range`.
    ///
    /// # Errors
    /// [`WindowError::Range`], [`WindowError::Mapping`]. What the kernel does not tell is [`Place::Unknown`].
    #[doc(alias = "move_pages")]
    pub fn nodes(&self, range: ByteRange) -> Result<Vec<Place>, WindowError> {
        let (start, len) = self.mapped(range)?;
        let step = len / self.count(len).max(1);
        let pages: Vec<*mut u8> = (start..start + len)
            .step_by(step)
            .map(|at| self.address(at).as_ptr())
            .collect();
        Ok(nodes_of(&pages))
    }
}

fn nodes_of(pages: &[*mut u8]) -> Vec<Place> {
    let mut status = vec![-libc::EINVAL; pages.len()];
    // SAFETY: process 0 is the caller. The kernel reads `pages.len()` pointers, follows none of them without checking, and, without a
    // target array, moves nothing; it writes as many ints into `status`, which has room for them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0 as libc::c_long,
            pages.len(),
            pages.as_ptr(),
            std::ptr::null::<libc::c_int>(),
            status.as_mut_ptr(),
            0 as libc::c_long,
        )
    };
    if answer != 0 {
        return vec![Place::Unknown; pages.len()];
    }
    status
        .into_iter()
        .map(|status| match u32::try_from(status) {
            Ok(node) => NodeId::new(node).map_or(Place::Unknown, Place::On),
            // The zero page and an untouched one: nothing that has a node.
            Err(_) if status == -libc::ENOENT || status == -libc::EFAULT => Place::Absent,
            Err(_) => Place::Unknown,
        })
        .collect()
}

/// Where the calling thread runs. A hint: it may run elsewhere by the time this returns.
///
/// # Errors
/// `ENOSYS` under a filter.
#[doc(alias = "getcpu")]
pub fn here() -> Result<Here, Failure> {
    let (mut cpu, mut node) = (0_u32, 0_u32);
    // SAFETY: two live integers of the right type; the third argument is unused since 2.6.24.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_getcpu,
            &mut cpu as *mut u32,
            &mut node as *mut u32,
            std::ptr::null_mut::<libc::c_void>(),
        )
    };
    check("getcpu", answer)?;
    Ok(Here { cpu, node })
}

/// The CPUs on which the calling thread may run, ascending; never empty.
///
/// # Errors
/// `ENOSYS` under a filter.
#[doc(alias = "sched_getaffinity")]
pub fn allowed_cpus() -> Result<Vec<u32>, Failure> {
    let mut words = 16;
    loop {
        let mut mask = vec![0 as libc::c_ulong; words];
        // SAFETY: process 0 is the caller; the kernel writes at most the bytes that it is told `mask` has.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_sched_getaffinity,
                0 as libc::c_long,
                std::mem::size_of_val(mask.as_slice()),
                mask.as_mut_ptr(),
            )
        };
        match check("sched_getaffinity", answer) {
            // More CPUs than bits: the kernel does not say how many, so look with more.
            Err(failure) if failure.is(libc::EINVAL) && words < 4096 => words *= 4,
            Err(failure) => return Err(failure),
            Ok(_) => {
                let bits = (0..).zip(mask).flat_map(|(index, word): (u32, _)| {
                    (0..libc::c_ulong::BITS)
                        .filter(move |bit| word >> bit & 1 != 0)
                        .map(move |bit| index * libc::c_ulong::BITS + bit)
                });
                return Ok(bits.collect());
            }
        }
    }
}

/// A 64-bit mask as the kernel's array of longs, and one zero long more.
fn bits_to_longs(bits: u64) -> [libc::c_ulong; 3] {
    if libc::c_ulong::BITS == 64 {
        [bits as libc::c_ulong, 0, 0]
    } else {
        // CAST: each half is what a 32-bit long takes.
        [
            bits as u32 as libc::c_ulong,
            (bits >> 32) as libc::c_ulong,
            0,
        ]
    }
}
