// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Down the ladder: each rung gives what it can, and says why it is not more.

use std::time::Instant;

use htlb_core::{AddressBits, Attempt, ByteLen, Contiguity, Error, HugeSize, PageChoice, Rung};

use super::error::NamedError;
use super::files::{Failed, Files};
use super::populate::{How, Options};
use super::shortage::{Cause, Why};
use crate::store::Backing;
use crate::sys::lease::Lease;

/// How far down one call may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaching {
    /// Until all is covered.
    Everything,
    /// Until a rung has given something.
    Something,
}

impl Files {
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
}

fn join(first: Option<String>, second: Option<String>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first} && {second}")),
        (first, second) => first.or(second),
    }
}
