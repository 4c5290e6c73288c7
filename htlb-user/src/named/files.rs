// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The files of a buffer that is being made: pages are added at the end, and cut off there.

use std::collections::BTreeMap;
use std::time::Duration;

use htlb_core::{
    policy, AddressBits, Attempt, ByteLen, ByteOffset, ByteRange, HugeSize, NodeId, PageCount,
    Placement, Request, Rung,
};

use super::draft::Published;
use super::error::NamedError;
use super::machine::Machine;
use super::pages::{pages, Pages, Wish};
use super::populate::{How, Options};
use super::shortage::{advice, Cause, Shortage, Why};
use super::verify;
use crate::receipt::{Giver, Home, Receipt, Share};
use crate::store::{Backing, Meta, Pending, Store, StoreError};
use crate::sys::path::FileSystem;

/// The files of a buffer that is being made, and how they came about.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) pending: Pending,
    pub(super) machine: Machine,
    pub(super) placement: Placement,
    pub(super) request: Request,
    /// The rung that is tried next: never one further up than a part that exists, so that page sizes descend.
    pub(super) next: usize,
    pub(super) sections: Vec<Section>,
    pub(super) whys: Vec<(Attempt, Why)>,
    /// The bytes for which a transparent huge page was wanted and not made.
    pub(super) transparent_short: u64,
    pub(super) took: Duration,
}

/// One file.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) rung: Rung,
    pub(super) size: HugeSize,
    pub(super) len: u64,
    pub(super) transparent: u64,
    pub(super) nodes: BTreeMap<NodeId, u64>,
}

/// Why a file, or its pages, could not be added.
pub(super) enum Failed {
    /// The next rung may help.
    Why(Why),
    /// Nothing will.
    Stop(NamedError),
}

impl Files {
    pub(super) fn new(
        store: &Store,
        name: &str,
        machine: &Machine,
        request: &Request,
    ) -> Result<Self, NamedError> {
        let shared = store.place(Backing::SharedMemory).ok();
        let folder = shared.as_ref().map(|place| place.folder.as_path());
        let topology = machine.topology(request.page(), folder);
        let placement = policy::resolve(request, &topology)?;
        let bits = request.dma_mask();
        if bits != AddressBits::ALL && !verify::sees_addresses() {
            return Err(NamedError::DmaMaskUnknown { bits });
        }
        Ok(Self {
            pending: store.create(name)?,
            machine: machine.clone(),
            placement,
            request: *request,
            next: 0,
            sections: Vec::new(),
            whys: Vec::new(),
            transparent_short: 0,
            took: Duration::ZERO,
        })
    }

    /// Adds pages behind those so far: to the last file if it is of the same kind, else in a new one.
    pub(super) fn add(
        &mut self,
        attempt: &Attempt,
        backing: Backing,
        bytes: u64,
        how: How,
        options: &Options<'_>,
    ) -> Result<Pages, Failed> {
        let same = |section: &Section| section.rung == attempt.rung && section.size == attempt.size;
        let old = self
            .sections
            .last()
            .filter(|last| same(last))
            .map_or(0, |last| last.len);
        if old == 0 {
            self.pending
                .add(backing, bytes)
                .map_err(|error| no_place(&error, attempt))?;
            self.sections.push(Section {
                rung: attempt.rung,
                size: attempt.size,
                len: 0,
                transparent: 0,
                nodes: BTreeMap::new(),
            });
        }
        let last = self.sections.len() - 1;
        let total = old.saturating_add(bytes);
        let resized = self.pending.resize(last, total);
        let range = ByteRange::at(ByteOffset::new(old), ByteLen::new(bytes));
        let got = match (resized, range) {
            (Err(error), _) => Err(Failed::Why(Why::new(error.to_string()))),
            (_, Err(error)) => Err(Failed::Stop(error.into())),
            (Ok(()), Ok(range)) => self.get(last, range, attempt, how, options),
        };
        let gained = got.as_ref().map_or(0, Pages::len).min(bytes);
        if let (Ok(pages), Some(section)) = (&got, self.sections.last_mut()) {
            section.len = old + gained;
            section.transparent += pages.transparent.min(gained);
            for (node, bytes) in &pages.nodes {
                *section.nodes.entry(*node).or_insert(0) += bytes;
            }
        }
        self.cut_last();
        got
    }

    fn get(
        &self,
        part: usize,
        range: ByteRange,
        attempt: &Attempt,
        how: How,
        options: &Options<'_>,
    ) -> Result<Pages, Failed> {
        let Some(part) = self.pending.parts().get(part) else {
            return Err(Failed::Why(Why::new("no file")));
        };
        if attempt.rung != Rung::System {
            // A tmpfs with a size= option; what is not limited reports no blocks.
            if let Ok(system) = FileSystem::of(part.file()) {
                let free = system.free.saturating_mul(system.block);
                if system.blocks > 0 && free < range.len().raw() {
                    return Err(Failed::Why(Why::new(format!(
                        "{} MiB are needed and {} MiB are free in the file system of shared memory",
                        range.len().raw().div_ceil(1 << 20),
                        free >> 20
                    ))));
                }
            }
        }
        let wish = Wish {
            machine: &self.machine,
            policy: self.request.nodes(),
            nodes: attempt.reach.nodes(),
            dma_mask: self.placement.dma_mask(),
            options,
        };
        pages(part.file(), range, attempt.size, how, &wish)
            .map_err(|none| none.why().map_or_else(Failed::Stop, Failed::Why))
    }

    /// Takes back the last `bytes` bytes that were added.
    pub(super) fn undo(&mut self, bytes: u64) {
        if let Some(last) = self.sections.last_mut() {
            last.len -= bytes.min(last.len);
            last.transparent = last.transparent.min(last.len);
        }
        self.cut_last();
    }

    /// Makes the last file as long as its section, or removes both.
    fn cut_last(&mut self) {
        let Some(last) = self.sections.last() else {
            return;
        };
        let part = self.sections.len() - 1;
        // A file that cannot be cut is longer than it need be; it is as long as its record says.
        if last.len == 0 {
            self.sections.pop();
            self.pending.discard_last();
        } else if self.pending.resize(part, last.len).is_err() {
            debug_assert!(false, "a file in memory can be cut");
        }
    }

    /// Cuts what lies behind the first `len` bytes off, in whole pages.
    pub(super) fn cut(&mut self, len: u64) {
        let before: u64 = self.sections.iter().map(|section| section.len).sum();
        let mut over = before.saturating_sub(len);
        while let Some(last) = self.sections.last_mut() {
            let page = last.size.bytes();
            let keep = last
                .len
                .saturating_sub(over)
                .next_multiple_of(page)
                .min(last.len);
            if keep > 0 {
                let scale = |bytes: u64| bytes.min(keep);
                last.transparent = scale(last.transparent);
                if last.nodes.len() == 1 {
                    last.nodes
                        .values_mut()
                        .for_each(|bytes| *bytes = scale(*bytes));
                } else if keep < last.len {
                    // Which node the pages that went were on was not written down.
                    last.nodes.clear();
                }
                last.len = keep;
                self.cut_last();
                return;
            }
            over -= last.len;
            last.len = 0;
            self.cut_last();
        }
    }

    /// What the pools lacked, now that the length is known.
    pub(super) fn reconsider(&mut self, len: u64) {
        let mut rest = len;
        for (attempt, why) in &mut self.whys {
            if why.cause != Cause::Pool {
                continue;
            }
            let same =
                |section: &&Section| section.rung == attempt.rung && section.size == attempt.size;
            let held: u64 = self
                .sections
                .iter()
                .filter(same)
                .map(|section| section.len)
                .sum();
            let wanted = attempt.size.pages_for(ByteLen::new(rest)).raw();
            let strict = self.request.nodes().is_strict();
            let nodes = strict.then_some(attempt.reach.nodes());
            *why = self
                .machine
                .why_short(attempt.size, nodes, wanted, held / attempt.size.bytes());
            rest = rest.saturating_sub(held);
        }
    }

    pub(super) fn shortage(&self, asked: ByteLen, got: u64) -> NamedError {
        NamedError::Shortage(Box::new(Shortage {
            asked,
            got: ByteLen::new(got.min(asked.raw())),
            refusals: self
                .whys
                .iter()
                .map(|(attempt, why)| why.refusal(attempt))
                .collect(),
            advice: advice(&self.whys),
        }))
    }

    pub(super) fn receipt(&self, asked: ByteLen) -> Receipt {
        let mut shares = Vec::new();
        for section in &self.sections {
            let (huge, base) = match section.rung {
                Rung::Transparent => (section.transparent, section.len - section.transparent),
                _ => (section.len, 0),
            };
            // Which of both kinds a node has was not asked.
            let both = huge > 0 && base > 0 && section.nodes.len() > 1;
            for (rung, size, bytes) in [
                (section.rung, section.size, huge),
                (Rung::Base, HugeSize::BASE, base),
            ] {
                let pages = |bytes: u64| PageCount::new(bytes / size.bytes());
                let nodes = section.nodes.iter().filter(|_| !both);
                if bytes > 0 {
                    shares.push(Share {
                        giver: Giver::Kernel,
                        rung,
                        size,
                        pages: pages(bytes),
                        nodes: nodes
                            .map(|(node, on)| (*node, pages((*on).min(bytes))))
                            .collect(),
                    });
                }
            }
        }
        let populated = self.sections.iter().map(|section| section.len).sum();
        let mut folders: Vec<String> = Vec::new();
        for part in self.pending.parts() {
            folders.push(part.folder().display().to_string());
        }
        folders.dedup();
        Receipt {
            asked,
            shares,
            refusals: self
                .whys
                .iter()
                .map(|(attempt, why)| why.refusal(attempt))
                .collect(),
            reserved: ByteLen::ZERO,
            populated: ByteLen::new(populated),
            home: Home::Named {
                folder: folders.join(", "),
            },
            took: self.took,
            advice: advice(&self.whys),
        }
    }

    pub(super) fn publish(
        self,
        len: u64,
        asked: ByteLen,
        source: Option<String>,
    ) -> Result<Published, NamedError> {
        let receipt = self.receipt(asked);
        let shares = receipt.shares.iter();
        let words: Vec<String> = shares
            .map(|share| format!("{} x {} ({})", share.pages, share.size, share.rung))
            .collect();
        let meta = Meta {
            source,
            rung: Some(words.join(", ")),
        };
        let record = self.pending.publish(len, meta)?;
        Ok(Published { record, receipt })
    }
}

fn no_place(error: &StoreError, attempt: &Attempt) -> Failed {
    Failed::Why(match error {
        StoreError::NoHugetlbfs { size, tried } => {
            let tried = match tried.is_empty() {
                true => String::new(),
                false => format!(" ({})", tried.join("; ")),
            };
            Why {
                words: format!("no hugetlbfs for them can be used{tried}"),
                command: Some(Machine::mount_command(*size)),
                cause: Cause::Other,
            }
        }
        error => Why::new(format!("{} pages have no place: {error}", attempt.size)),
    })
}
