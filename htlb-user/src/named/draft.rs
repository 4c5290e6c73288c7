// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A named buffer that has its pages, and no content yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use htlb_core::{
    policy, AddressBits, Attempt, ByteLen, ByteOffset, ByteRange, Contiguity, Error, HugeSize,
    NodeId, PageChoice, PageCount, Placement, Request, Rung,
};

use super::error::NamedError;
use super::machine::Machine;
use super::pages::{pages, Pages, Wish};
use super::populate::{How, Options};
use super::shortage::{advice, Cause, Shortage, Why};
use super::verify;
use crate::load::Span;
use crate::receipt::{Home, Receipt, Share};
use crate::store::{Backing, Meta, Pending, Record, Store, StoreError};
use crate::sys::lease::Lease;
use crate::sys::path::FileSystem;

/// A named buffer that has all its pages, zeroed, and waits for its content. Dropped, it leaves nothing.
///
/// See the [module](super) for an example.
#[derive(Debug)]
#[must_use = "a draft that is dropped is thrown away"]
pub struct Draft {
    // ORDER: leases before the files they map.
    leases: Vec<Lease>,
    files: Files,
    asked: ByteLen,
}

/// A buffer that others can find now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// Its name and files.
    pub record: Record,
    /// What was got for it.
    pub receipt: Receipt,
}

/// The files of a buffer that is being made, and how they came about.
#[derive(Debug)]
pub(super) struct Files {
    pending: Pending,
    machine: Machine,
    placement: Placement,
    request: Request,
    /// The rung that is tried next: never one further up than a part that exists, so that page sizes descend.
    next: usize,
    sections: Vec<Section>,
    whys: Vec<(Attempt, Why)>,
    /// The bytes for which a transparent huge page was wanted and not made.
    transparent_short: u64,
    took: Duration,
}

/// One file.
#[derive(Debug)]
struct Section {
    rung: Rung,
    size: HugeSize,
    len: u64,
    transparent: u64,
    nodes: BTreeMap<NodeId, u64>,
}

/// How far down one call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaching {
    /// Until all is covered.
    Everything,
    /// Until a rung has given something.
    Something,
}

impl Draft {
    /// Gets the pages for a buffer that will be called `name`.
    ///
    /// # Errors
    /// [`NamedError::Shortage`] with what was tried, [`NamedError::DmaMaskUnknown`], [`NamedError::Request`],
    /// [`NamedError::Store`], [`NamedError::Cancelled`]; nothing is left then.
    pub fn new(
        store: &Store,
        name: &str,
        machine: &Machine,
        request: &Request,
        options: &Options<'_>,
    ) -> Result<Self, NamedError> {
        let mut files = Files::new(store, name, machine, request)?;
        let mut leases = Vec::new();
        let asked = request.size();
        let got = files.cover(asked.raw(), Reaching::Everything, options, &mut leases)?;
        if got < asked.raw() {
            drop(leases);
            return Err(files.shortage(asked, got));
        }
        Ok(Self {
            leases,
            files,
            asked,
        })
    }

    /// A buffer of no bytes, which needs no page.
    ///
    /// # Errors
    /// [`NamedError::Store`].
    pub fn publish_empty(
        store: &Store,
        name: &str,
        source: Option<String>,
    ) -> Result<Published, NamedError> {
        let meta = Meta { source, rung: None };
        let record = store.create(name)?.publish(0, meta)?;
        let receipt = Receipt {
            asked: ByteLen::ZERO,
            shares: Vec::new(),
            refusals: Vec::new(),
            reserved: ByteLen::ZERO,
            populated: ByteLen::ZERO,
            home: Home::Named {
                folder: store.index().display().to_string(),
            },
            took: Duration::ZERO,
            advice: None,
        };
        Ok(Published { record, receipt })
    }

    /// The memory, in the order of the content: what was asked for, and the rest of the last page.
    pub fn spans(&mut self) -> Vec<Span<'_>> {
        let slices = self.leases.iter_mut().filter_map(Lease::bytes_mut);
        slices.map(Span::new).collect()
    }

    /// What was got.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        self.files.receipt(self.asked)
    }

    /// Publishes the buffer under its name, in one step, in place of what had that name before. `len` is the exact length of
    /// the content, which may be less than was asked for; what lies behind it must be zero.
    ///
    /// # Errors
    /// [`NamedError::Store`]; then nothing is published and nothing is left.
    pub fn publish(self, len: u64, source: Option<String>) -> Result<Published, NamedError> {
        // ORDER: no writable mapping of a published file is left.
        drop(self.leases);
        self.files.publish(len, self.asked, source)
    }
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

    /// Gets pages for `len` more bytes, or for fewer if there are not more; for how many, the last page counted whole.
    pub(super) fn cover(
        &mut self,
        len: u64,
        reaching: Reaching,
        options: &Options<'_>,
        leases: &mut Vec<Lease>,
    ) -> Result<u64, NamedError> {
        let started = Instant::now();
        let attempts: Vec<Attempt> = self.placement.attempts().copied().collect();
        let mut covered = 0;
        while covered < len {
            let Some(attempt) = attempts.get(self.next) else {
                break;
            };
            let rest = len - covered;
            let gained = match attempt.rung {
                // A named buffer has files of its own.
                Rung::Pool => 0,
                Rung::System => self.hugetlb(attempt, rest, options, leases)?,
                Rung::Transparent | Rung::Base => self.shared(attempt, rest, options, leases)?,
            };
            covered += gained;
            if reaching == Reaching::Something && gained > 0 {
                break;
            }
            if covered < len {
                self.next += 1;
            }
        }
        self.took += started.elapsed();
        Ok(covered)
    }

    /// As many pages of the system's hugetlb pool as there are; their bytes.
    fn hugetlb(
        &mut self,
        attempt: &Attempt,
        rest: u64,
        options: &Options<'_>,
        leases: &mut Vec<Lease>,
    ) -> Result<u64, NamedError> {
        let size = attempt.size;
        let smaller = |lower: &Attempt| lower.size < size && lower.size != HugeSize::BASE;
        let named = self.request.page() == PageChoice::Huge(size);
        let rest = ByteLen::new(rest);
        let wanted = if self.placement.attempts().any(smaller) && !named {
            // What is left over fits smaller huge pages better.
            size.whole_pages_in(rest).raw()
        } else {
            size.pages_for(rest).raw()
        };
        if wanted == 0 {
            return Ok(0);
        }
        if let Err(why) = self.contiguous(size) {
            self.whys.push((*attempt, why));
            return Ok(0);
        }
        let strict = self.request.nodes().is_strict();
        let nodes = strict.then_some(attempt.reach.nodes());
        let limits = self.machine.hugetlb_limits(size);
        let allowed = limits.and_then(|limits| limits.room());
        let allowed = allowed.map_or(u64::MAX, |room| size.whole_pages_in(room).raw());
        let there = self.machine.available(size, nodes).min(allowed);
        let mut got = 0;
        let mut why = None;
        if there > 0 {
            let bytes = size.bytes().saturating_mul(wanted.min(there));
            match self.add(attempt, Backing::Hugetlb(size), bytes, How::Plain, options) {
                Ok(pages) => {
                    got = pages.len() / size.bytes();
                    leases.push(pages.lease);
                }
                Err(Failed::Stop(error)) => return Err(error),
                Err(Failed::Why(found)) => why = Some(found),
            }
        }
        if got < wanted {
            let why = match why {
                Some(why) if there >= wanted => why,
                Some(found) if found.command.is_some() => {
                    let pool = self.machine.why_short(size, nodes, wanted, 0);
                    Why {
                        words: format!("{}, and {}", pool.words, found.words),
                        command: join(pool.command, found.command),
                        cause: Cause::Other,
                    }
                }
                None if there >= wanted => Why::new(format!(
                    "the kernel gave {got} of {wanted} pages, though the pool had enough: a limit that cannot be seen \
                     from here, such as a control group's hugetlb.max, or somebody else took them"
                )),
                _ => self.machine.why_short(size, nodes, wanted, got),
            };
            self.whys.push((*attempt, why));
        }
        Ok(got.saturating_mul(size.bytes()))
    }

    /// Shared memory for all the rest, or nothing; its bytes.
    fn shared(
        &mut self,
        attempt: &Attempt,
        rest: u64,
        options: &Options<'_>,
        leases: &mut Vec<Lease>,
    ) -> Result<u64, NamedError> {
        let transparent = attempt.rung == Rung::Transparent;
        let how = if transparent {
            How::Transparent(attempt.size)
        } else {
            How::Plain
        };
        let Ok(bytes) = attempt
            .size
            .len_of(attempt.size.pages_for(ByteLen::new(rest)))
        else {
            return Err(Error::SizeTooLarge.into());
        };
        let bytes = bytes.raw();
        if let Err(why) = self
            .promises(attempt.size)
            .and_then(|()| self.memory(bytes))
        {
            self.whys.push((*attempt, why));
            return Ok(0);
        }
        let mut base = self.placement.attempts().any(|a| a.rung == Rung::Base);
        base |= !transparent;
        match self.add(attempt, Backing::SharedMemory, bytes, how, options) {
            Ok(pages) => {
                let short = bytes - pages.transparent.min(bytes);
                if transparent && short > 0 {
                    self.transparent_short = self.transparent_short.saturating_add(short);
                    let words = format!(
                        "the kernel found none for {} MiB",
                        self.transparent_short.div_ceil(1 << 20)
                    );
                    // A stream comes here again and again: one line with the sum.
                    let rung = attempt.rung;
                    self.whys.retain(|(attempt, _)| attempt.rung != rung);
                    self.whys.push((*attempt, Why::new(words)));
                    if !base {
                        drop(pages);
                        self.undo(bytes);
                        return Ok(0);
                    }
                }
                leases.push(pages.lease);
                Ok(bytes)
            }
            Err(Failed::Stop(error)) => Err(error),
            Err(Failed::Why(why)) => {
                self.whys.push((*attempt, why));
                Ok(0)
            }
        }
    }

    /// Files of this user promise neither runs of pages nor addresses that stay.
    fn contiguous(&self, size: HugeSize) -> Result<(), Why> {
        let run = match self.request.contiguity() {
            Contiguity::Pages => 0,
            Contiguity::Runs(run) => run.raw(),
            Contiguity::Whole => self.request.size().raw(),
        };
        if run > size.bytes() || self.request.alignment() > size.bytes() {
            return Err(Why::new(
                "the kernel gives programs no run, or alignment, above one page",
            ));
        }
        Ok(())
    }

    fn promises(&self, size: HugeSize) -> Result<(), Why> {
        self.contiguous(size)?;
        if self.request.dma_mask() != AddressBits::ALL {
            return Err(Why::new(
                "pages of shared memory may move, so no DMA mask can be promised",
            ));
        }
        Ok(())
    }

    /// Memory for `bytes` more, by what the machine and the file system say: to ask for more could end a process.
    fn memory(&self, bytes: u64) -> Result<(), Why> {
        if let Some(room) = self.machine.memory_room().filter(|room| *room < bytes) {
            return Err(Why::new(format!(
                "{} MiB are needed and {} MiB of memory can be had",
                bytes.div_ceil(1 << 20),
                room >> 20
            )));
        }
        Ok(())
    }

    /// Adds pages behind those so far: to the last file if it is of the same kind, else in a new one.
    fn add(
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
    fn undo(&mut self, bytes: u64) {
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

/// Why a file, or its pages, could not be added.
enum Failed {
    /// The next rung may help.
    Why(Why),
    /// Nothing will.
    Stop(NamedError),
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

fn join(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first} && {second}")),
        (first, second) => first.or(second),
    }
}
