// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What was missing, and the command that would help.

use std::fmt;

use htlb_core::{Attempt, ByteLen, HugeSize, NodeId, NodeMask, Rung};

use super::machine::Machine;
use crate::receipt::{Giver, Refusal};
use crate::sys::process;
use crate::system::error::boot_name;

/// Every rung together gave fewer bytes than were asked for; what they gave was let go.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// The bytes asked for.
    pub asked: ByteLen,
    /// The bytes for which there was a page.
    pub got: ByteLen,
    /// The rungs that fell short, and why.
    pub refusals: Vec<Refusal>,
    /// The command that would help, if one is known.
    pub advice: Option<String>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too few pages: for {} of {} bytes", self.got, self.asked)?;
        for refusal in &self.refusals {
            write!(f, "; {} pages: {}", refusal.size, refusal.why)?;
        }
        match &self.advice {
            Some(command) => write!(f, "\nTo change that: {command}"),
            None => Ok(()),
        }
    }
}

/// Why a rung gave too little, and what would change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    pub(crate) words: String,
    pub(crate) command: Option<String>,
    pub(super) cause: Cause,
}

/// Whether the size of the pool is all that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Pool,
    Other,
}

impl Why {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            command: None,
            cause: Cause::Other,
        }
    }

    pub(super) fn refusal(&self, attempt: &Attempt) -> Refusal {
        Refusal {
            giver: Giver::Kernel,
            rung: attempt.rung,
            size: attempt.size,
            why: self.words.clone(),
        }
    }
}

impl Machine {
    /// Why the system's pool gives fewer than `wanted` pages of `size` on `nodes`, of which `got` are held already.
    pub(crate) fn why_short(
        &self,
        size: HugeSize,
        nodes: Option<NodeMask>,
        wanted: u64,
        got: u64,
    ) -> Why {
        let missing = wanted - got.min(wanted);
        if let Some(limits) = self.hugetlb_limits(size) {
            let room = limits
                .room()
                .map_or(u64::MAX, |room| room.raw() / size.bytes());
            if room < missing {
                return Why {
                    words: format!("a control group allows {room} of {missing} more pages"),
                    command: limits.command(),
                    cause: Cause::Other,
                };
            }
        }
        let Some(counts) = self.counts(size) else {
            return Why::new("this kernel has no pool of them");
        };
        // Where it must be one node, more elsewhere would not help.
        let one = nodes
            .filter(|nodes| nodes.count() == 1)
            .and_then(NodeMask::first);
        let words = match (counts.total.raw(), nodes) {
            (0, _) => "the pool is empty".to_owned(),
            (_, Some(nodes)) if self.available(size, Some(nodes)) < self.available(size, None) => {
                format!("{missing} of {wanted} pages are missing on node {nodes}")
            }
            _ => format!(
                "{missing} of {wanted} pages are missing (the pool has {}, {} of them in use or reserved)",
                counts.total,
                counts.total.raw() - counts.unreserved().raw().min(counts.total.raw())
            ),
        };
        Why {
            words,
            command: Some(self.resize_command(size, one, missing)),
            cause: Cause::Pool,
        }
    }
}

/// The advice of a receipt: what would have made the first rung that fell short give more.
pub(super) fn advice(whys: &[(Attempt, Why)]) -> Option<String> {
    let better = |(attempt, _): &&(Attempt, Why)| attempt.rung == Rung::System;
    let first = whys.iter().find(better).map(|(attempt, _)| attempt.size);
    let mut commands: Vec<&str> = whys
        .iter()
        .filter(|(attempt, _)| first.is_none_or(|size| size == attempt.size))
        .filter_map(|(_, why)| why.command.as_deref())
        .collect();
    commands.dedup();
    (!commands.is_empty()).then(|| commands.join(" && "))
}

impl Machine {
    /// As root by this program, else by what every system has.
    pub(super) fn resize_command(&self, size: HugeSize, node: Option<NodeId>, more: u64) -> String {
        let persistent = self.persistent(size, node).saturating_add(more);
        if process::effective_user() == 0 {
            let on = node.map_or_else(String::new, |node| format!(" --node {node}"));
            return format!("htlb pool {} {persistent}{on}", boot_name(size));
        }
        let kib = size.bytes() >> 10;
        let folder = match node {
            None => "/sys/kernel/mm/hugepages".to_owned(),
            Some(node) => format!("/sys/devices/system/node/node{node}/hugepages"),
        };
        format!("echo {persistent} | sudo tee {folder}/hugepages-{kib}kB/nr_hugepages")
    }

    /// The command that makes a hugetlbfs that everybody may use.
    pub(super) fn mount_command(size: HugeSize) -> String {
        let name = boot_name(size);
        format!("sudo mkdir -p /mnt/huge-{name} && sudo mount -t hugetlbfs -o pagesize={name},mode=1777 htlb /mnt/huge-{name}")
    }
}
