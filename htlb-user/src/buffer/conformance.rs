// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The conformance suite on the pools of a process: on the system's huge pages, on the kernel module's where it is
//! loaded, on transparent ones, and on base pages that pass for such, which every machine has.
//!
//! A program cannot change a buffer while a guard on it lives: the borrow checker says so before the core can. What the core
//! says is asked for here below the guards, which is why this is not among the tests of the public interface.

mod machine;

use std::io;
use std::sync::{Arc, Mutex};

use htlb_core::driver::{self, Punched};
use htlb_core::page_map::{Located, PagePin, Seal};
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error as Cause, HugeSize};
use htlb_tests::conformance::{Gone, Got, InHand, Pages, Produce};

use super::{Buffer, Live};
use crate::error::Error;
use crate::locks::locked;
use machine::Process;

// Limits, surplus pages and sizes are the system's to set; physical addresses take a privilege. Who reads a hole gets an
// error, and puts the page there: both together are a fault.
htlb_tests::conformance!(user_hugetlb, Process::hugetlb,
    lacks: [Physical, Accounts, Overcommit, Resize, Demote, Limbo]);
htlb_tests::conformance!(user_device, Process::device,
    lacks: [Physical, Accounts, Overcommit, Resize, Demote, Limbo]);
htlb_tests::conformance!(user_base, Process::base,
    lacks: [Physical, Accounts, Overcommit, Resize, Demote, Limbo]);
htlb_tests::conformance!(user_transparent, Process::transparent,
    lacks: [Physical, Accounts, Overcommit, Resize, Demote, Limbo]);

/// A buffer under test.
#[derive(Debug)]
struct Tested {
    buffer: Buffer,
    pins: Mutex<Vec<(u64, PagePin)>>,
    seals: Mutex<Vec<Seal>>,
}

/// The reason alone.
fn plain<T>(outcome: Result<T, Error>) -> Result<T, Cause> {
    outcome.map_err(|error| error.cause())
}

fn gone(punched: Punched) -> Gone {
    Gone {
        pages: punched.pages.raw(),
        promises: punched.promises.raw(),
    }
}

/// A page as a producer of this crate has it.
struct Filling<'a> {
    offset: u64,
    bytes: &'a mut [u8],
}

impl InHand for Filling<'_> {
    fn offset(&self) -> u64 {
        self.offset
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Tested {
    fn new(buffer: Buffer) -> Self {
        Self {
            buffer,
            pins: Mutex::default(),
            seals: Mutex::default(),
        }
    }

    /// Does what needs pages, and puts them there where they are missing.
    fn touching(
        &self,
        offset: u64,
        len: usize,
        mut f: impl FnMut() -> Result<(), Cause>,
    ) -> Result<(), Cause> {
        loop {
            match f() {
                Err(Cause::NotPresent) => {
                    let end = offset + len as u64;
                    let mut at = offset;
                    while at < end {
                        let page = self.fault(at)?;
                        at += page.size.bytes() - page.offset_in_page.raw();
                    }
                }
                // Another thread reads the page, or writes it, at this moment.
                Err(Cause::Pinned) => std::thread::yield_now(),
                outcome => return outcome,
            }
        }
    }

    /// Bytes in pages of the smallest size that the buffer has: most have but one.
    fn in_pages(&self, bytes: u64) -> u64 {
        let extents = self.buffer.core().map().extents();
        let sizes = extents.iter().map(|extent| extent.size().bytes());
        bytes / sizes.min().unwrap()
    }
}

impl Pages for Tested {
    fn reserve(&self, range: ByteRange) -> Result<u64, Cause> {
        let bytes = self.buffer.reserve(range.start().raw(), range.len().raw());
        plain(bytes).map(|bytes| self.in_pages(bytes))
    }

    fn populate(&self, range: ByteRange, produce: Option<Produce<'_>>) -> Result<u64, Cause> {
        let (offset, len) = (range.start().raw(), range.len().raw());
        let bytes = match produce {
            None => self.buffer.populate(offset, len),
            Some(produce) => self.buffer.populate_in_order(offset, len, |page| {
                let mut filling = Filling {
                    offset: page.offset(),
                    bytes: page.bytes(),
                };
                let bytes = produce(&mut filling).map_err(io::Error::from)?;
                Ok(usize::try_from(bytes).unwrap())
            }),
        };
        plain(bytes).map(|bytes| self.in_pages(bytes))
    }

    fn fault(&self, offset: u64) -> Result<Located, Cause> {
        loop {
            match self.page_at(offset) {
                // Another thread may punch it at once.
                Err(Cause::NotPresent) => {
                    let map = self.buffer.core().map();
                    let index = map.index_at(ByteOffset::new(offset))?;
                    let page = map.extents().bytes_of(index).unwrap();
                    let end = page.end().raw().min(self.buffer.len());
                    let start = page.start().raw();
                    plain(self.buffer.populate(start, end.saturating_sub(start)))?;
                }
                found => return found,
            }
        }
    }

    fn page_at(&self, offset: u64) -> Result<Located, Cause> {
        let page = plain(self.buffer.page_at(offset))?;
        Ok(Located {
            pfn: crate::arena::number(page.address),
            size: HugeSize::from_bytes(page.len).unwrap(),
            offset_in_page: ByteOffset::new(offset - page.offset),
        })
    }

    fn pin(&self, offset: u64) -> Result<(), Cause> {
        let index = self.buffer.core().map().index_at(ByteOffset::new(offset))?;
        let pin = self.buffer.pin_index(index)?;
        locked(&self.pins).push((offset, pin));
        Ok(())
    }

    fn unpin(&self, offset: u64) {
        let mut pins = locked(&self.pins);
        let at = pins.iter().position(|(of, _)| *of == offset);
        let (_, pin) = pins.swap_remove(at.unwrap());
        self.buffer.core().map().unpin(pin);
    }

    fn seal(&self) -> Result<(), Cause> {
        let seal = self.buffer.seal_map()?;
        locked(&self.seals).push(seal);
        Ok(())
    }

    fn unseal(&self) {
        let seal = locked(&self.seals).pop().unwrap();
        self.buffer.core().map().unseal(seal);
    }

    fn punch(&self, range: ByteRange) -> Result<Gone, Cause> {
        let punched = self.buffer.punch(range.start().raw(), range.len().raw());
        plain(punched).map(gone)
    }

    fn truncate(&self, size: ByteLen) -> Result<Gone, Cause> {
        self.buffer.resize(size.raw()).map(gone)
    }

    fn size(&self) -> ByteLen {
        ByteLen::new(self.buffer.len())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Cause> {
        let len = bytes.len();
        self.touching(offset, len, || plain(self.buffer.read_at(offset, bytes)))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Cause> {
        self.touching(offset, bytes.len(), || {
            self.buffer.write_shared(offset, bytes)
        })
    }

    fn receipt(&self) -> Vec<Got> {
        let shares = self.buffer.receipt().shares;
        shares
            .iter()
            .map(|share| Got {
                size: share.size,
                rung: share.rung,
                pages: share.pages.raw(),
            })
            .collect()
    }

    fn release(&mut self) -> Result<Gone, Cause> {
        let shared = Arc::clone(self.buffer.host().shared());
        let _inside = shared.enter()?;
        // INVARIANT: inspections alone know of it too, and the gate keeps them out as long as it is taken off their list.
        shared.unregister(self.buffer.place);
        let Live { core, host } = Arc::get_mut(&mut self.buffer.live).unwrap();
        let released = driver::release(host, core).map(gone);
        self.buffer.place = shared.register(&self.buffer.live);
        released
    }
}
