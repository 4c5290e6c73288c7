// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Both sides, one operation at a time, and what must be the same after each.

mod steps;

use std::collections::BTreeMap;
use std::fmt::Debug;

use htlb_core::Error;
use htlb_tests::sim::SimMachine;
use rustix::io::Errno;

use crate::htlb::Htlb;
use crate::linux::Linux;
use crate::op::{Op, Span, FILES, MOUNTS};

/// What both sides count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) nr: u64,
    pub(crate) free: u64,
    pub(crate) reserved: u64,
    pub(crate) surplus: u64,
}

/// Where htlb means to be different; each time is counted, and what Linux does then is predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// Linux keeps the reservations of a punched range that were never used.
    KeptReservations,
    /// A fault that Linux refuses for want of a page counts against `size=` for ever.
    LostLimit,
    /// Linux holds more back for `min_size=` than is unused of it.
    HeldBack,
    /// Linux lets a surplus page go that `min_size=` needs, and has promised what it does not have.
    BrokenMinimum,
    /// Pages that a refused `fallocate` put beyond the end stay there.
    BeyondTheEnd,
    /// Not asked of Linux: a refusal on a mount with `size=` and `min_size=` spoils its count of reservations until the next
    /// boot.
    NotAsked,
}

impl Difference {
    pub(crate) const ALL: [Self; 6] = [
        Self::KeptReservations,
        Self::LostLimit,
        Self::HeldBack,
        Self::BrokenMinimum,
        Self::BeyondTheEnd,
        Self::NotAsked,
    ];
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stepped {
    Done,
    /// There was nothing to do it to.
    Nothing,
    /// From here on the two cannot agree: the case ends.
    Parted,
}

/// What was done, by name, and what was refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) steps: u64,
    pub(crate) refused: u64,
    /// Cases that were run again because Linux had no huge page in one piece.
    pub(crate) fragmented: u64,
    pub(crate) differences: BTreeMap<Difference, u64>,
}

/// What this kernel does, as [`crate::kernel`] found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) refused_faults_leak: bool,
}

/// Both sides.
pub(crate) struct World<'w, 'm> {
    pub(crate) htlb: Htlb<'m>,
    pub(crate) linux: &'w mut Linux,
    pub(crate) kernel: Kernel,
    pub(crate) tally: &'w mut Tally,
}

type Step = Result<Stepped, String>;

fn same<T: PartialEq + Debug>(what: &str, htlb: T, linux: T) -> Result<(), String> {
    if htlb == linux {
        Ok(())
    } else {
        Err(format!("{what}: predicted {htlb:?}, Linux has {linux:?}"))
    }
}

/// The errno of Linux where the core fails.
fn agreed(
    htlb: Result<(), Error>,
    linux: Result<(), Errno>,
    refusal: Errno,
) -> Result<bool, String> {
    match (htlb, linux) {
        (Ok(()), Ok(())) => Ok(true),
        (
            Err(
                Error::NoRoom
                | Error::OutOfPages
                | Error::OvercommitLimit
                | Error::AccountLimit
                | Error::RangeBeyondEnd,
            ),
            Err(errno),
        ) if errno == refusal => Ok(false),
        (htlb, linux) => Err(format!("the core says {htlb:?}, Linux {linux:?}")),
    }
}

impl<'w, 'm> World<'w, 'm> {
    pub(crate) fn new(
        machine: &'m SimMachine,
        linux: &'w mut Linux,
        kernel: Kernel,
        tally: &'w mut Tally,
    ) -> Self {
        Self {
            htlb: Htlb::new(machine),
            linux,
            kernel,
            tally,
        }
    }

    /// One operation on both sides, then everything is compared.
    pub(crate) fn step(&mut self, op: Op) -> Step {
        let stepped = self.apply(op)?;
        if stepped == Stepped::Nothing {
            return Ok(stepped);
        }
        self.tally.steps += 1;
        if stepped == Stepped::Done {
            self.compare()?;
        }
        self.htlb.audit()?;
        Ok(stepped)
    }

    fn apply(&mut self, op: Op) -> Step {
        match op {
            Op::Map {
                file,
                span,
                reserving,
            } if self.has(file) => self.map(file, span, reserving),
            Op::Unmap { file, mapping } if self.linux.mapped(file, mapping).is_some() => {
                self.linux.unmap(file, mapping);
                Ok(Stepped::Done)
            }
            Op::Fault {
                file,
                mapping,
                span,
                access,
            } => match self.linux.mapped(file, mapping) {
                Some(mapped) => self.fault(file, mapping, inside(mapped, span), access),
                None => Ok(Stepped::Nothing),
            },
            Op::Allocate { file, span } if self.has(file) => self.allocate(file, span),
            Op::Punch { file, span } if self.has(file) => self.punch(file, span),
            Op::Truncate { file, pages } if self.has(file) => self.truncate(file, pages),
            Op::Renew { file, mount } if self.htlb.mounts[mount].is_some() => {
                if self.close(file)? == Stepped::Parted {
                    return Ok(Stepped::Parted);
                }
                self.htlb.open(file, mount);
                let opened = self.linux.open(file, mount);
                same("a new file", Ok(()), opened)?;
                Ok(Stepped::Done)
            }
            Op::Mount { mount, limits } => match self.unmount(mount)? {
                Stepped::Parted => Ok(Stepped::Parted),
                _ => self.mount(mount, limits),
            },
            Op::Unmount { mount } => self.unmount(mount),
            Op::Resize { pages } => {
                let resized = self.htlb.resize(pages);
                same("a resize", Ok(()), resized)?;
                self.linux
                    .set_nr(pages)
                    .map_err(|error| error.to_string())?;
                Ok(Stepped::Done)
            }
            Op::Overcommit { pages } => {
                self.htlb.set_overcommit(pages);
                let set = self.linux.set_overcommit(pages);
                set.map_err(|error| error.to_string())?;
                Ok(Stepped::Done)
            }
            _ => Ok(Stepped::Nothing),
        }
    }

    fn has(&self, file: usize) -> bool {
        self.htlb.files[file].is_some()
    }

    fn differ(&mut self, how: Difference) {
        *self.tally.differences.entry(how).or_default() += 1;
    }

    fn answered(&mut self, agreed: bool) -> Step {
        self.tally.refused += u64::from(!agreed);
        Ok(Stepped::Done)
    }

    /// Every number of both sides.
    pub(crate) fn compare(&mut self) -> Result<(), String> {
        same("the pool", self.htlb.counted(), self.linux.counted())?;
        for mount in 0..MOUNTS {
            let Some(open) = &self.htlb.mounts[mount] else {
                continue;
            };
            let predicted = open.subpool.statfs(self.htlb.used(mount));
            same("statfs", Some(predicted), self.linux.statfs(mount))?;
            if self.htlb.holds_back(mount) {
                self.differ(Difference::HeldBack);
            }
        }
        for file in 0..FILES {
            if let Some(open) = &self.htlb.files[file] {
                let predicted = [open.end, open.present()];
                same("a file's size and pages", predicted, self.linux.stat(file))?;
            }
        }
        Ok(())
    }
}

/// Some pages of a mapping, whatever numbers the operation has.
fn inside(mapped: Span, span: Span) -> Span {
    let at = mapped.at + span.at % mapped.len;
    Span { at, ..span }.before(mapped.end())
}
