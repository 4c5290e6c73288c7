// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a step does to both sides, and what each of them makes of it.

use htlb_core::driver::Punched;
use htlb_core::{ByteLen, Error, PageCount};
use rustix::io::Errno;

use super::{agreed, same, Counted, Difference, Step, Stepped, World};
use crate::htlb::bytes;
use crate::op::{Access, Limits, Reserving, Span, FILES};
use crate::PAGE;

impl World<'_, '_> {
    pub(super) fn map(&mut self, file: usize, span: Span, reserving: Reserving) -> Step {
        let end = self.htlb.file(file).end.max(span.end());
        let mount = self.htlb.file(file).mount;
        let holes = self.holes(file, span);
        if reserving == Reserving::Reserve && self.must_not_ask(file, span) {
            return Ok(Stepped::Nothing);
        }
        let outcome = match reserving {
            Reserving::NoReserve => self.lengthen(file, end),
            Reserving::Reserve => self.htlb.taking(file, |open| {
                open.buffer
                    .truncate(ByteLen::new(end.max(open.len()) * PAGE))?;
                open.buffer.reserve(bytes(span)).map(drop)
            }),
        };
        if outcome.is_ok() {
            self.set_end(file, end);
        } else {
            self.htlb.file(file).fit();
            if outcome != Err(Error::AccountLimit) {
                self.htlb.refused(mount, holes);
            }
        }
        let mapped = self.linux.map(file, span, reserving);
        let agreed = agreed(outcome, mapped, Errno::NOMEM)?;
        self.answered(agreed)
    }

    pub(super) fn fault(
        &mut self,
        file: usize,
        mapping: usize,
        part: Span,
        access: Access,
    ) -> Step {
        let end = self.htlb.file(file).end;
        let below = part.before(end);
        if self.must_not_ask(file, below) {
            return Ok(Stepped::Nothing);
        }
        let mut outcome = Ok(());
        if below.len > 0 {
            outcome = self
                .htlb
                .taking(file, |open| open.buffer.populate(bytes(below)).map(drop));
            if let Err(error) = outcome {
                let tries = if self.htlb.file(file).is_present(part.at) {
                    2
                } else {
                    1
                };
                self.lose_limit(file, error, tries);
            }
        }
        if outcome.is_ok() {
            // Linux maps what it has beyond the end, but puts nothing there.
            let open = self.htlb.file(file);
            let beyond = part.pages().filter(|at| *at >= end);
            outcome = match beyond.into_iter().find(|at| !open.is_present(*at)) {
                Some(at) if at >= open.len() => open.buffer.fault(at * PAGE).map(drop),
                Some(_) => Err(Error::RangeBeyondEnd),
                None => Ok(()),
            };
        }
        let touched = self.linux.fault(file, mapping, part, access);
        let agreed = agreed(outcome, touched, Errno::FAULT)?;
        self.answered(agreed)
    }

    pub(super) fn allocate(&mut self, file: usize, span: Span) -> Step {
        if self.must_not_ask(file, span) {
            return Ok(Stepped::Nothing);
        }
        let end = self.htlb.file(file).end.max(span.end());
        let outcome = self.htlb.taking(file, |open| {
            open.buffer
                .truncate(ByteLen::new(end.max(open.len()) * PAGE))?;
            open.buffer.populate(bytes(span)).map(drop)
        });
        match outcome {
            Ok(()) => self.set_end(file, end),
            Err(error) => {
                let open = self.htlb.file(file);
                open.fit();
                if open.len() > open.end {
                    self.differ(Difference::BeyondTheEnd);
                }
                self.lose_limit(file, error, 1);
            }
        }
        let allocated = self.linux.allocate(file, span);
        let agreed = agreed(outcome, allocated, Errno::NOSPC)?;
        self.answered(agreed)
    }

    /// Linux punches pages only; what htlb punches beside them is done after that has been compared, and undone.
    pub(super) fn punch(&mut self, file: usize, span: Span) -> Step {
        let open = self.htlb.file(file);
        let mount = open.mount;
        let inside = span.before(open.len());
        let before = self.htlb.counted();
        let mut pages = 0;
        for at in inside.pages().filter(|at| open.is_present(*at)) {
            let one = open.buffer.punch(bytes(Span { at, len: 1 }));
            pages += one
                .map_err(|error| format!("a punch: {error:?}"))?
                .pages
                .raw();
        }
        let punched = self.linux.punch(file, span);
        same("a punch", Ok(()), punched)?;
        let gone = Punched {
            pages: PageCount::new(pages),
            promises: PageCount::ZERO,
        };
        if self.give_back(mount, before, gone)? == Stepped::Parted {
            return Ok(Stepped::Parted);
        }
        let open = self.htlb.file(file);
        let untouched: Vec<u64> = inside.pages().filter(|at| open.is_promised(*at)).collect();
        if untouched.is_empty() {
            return Ok(Stepped::Done);
        }
        self.compare()?;
        self.differ(Difference::KeptReservations);
        let (before, unused) = (self.htlb.counted(), self.htlb.unused_minimum(mount));
        let whole = self.htlb.file(file).buffer.punch(bytes(inside));
        let gone = whole.map_err(|error| format!("a punch: {error:?}"))?;
        let promises = untouched.len() as u64;
        same(
            "promises that htlb gives back",
            promises,
            gone.promises.raw(),
        )?;
        let released = promises - (self.htlb.unused_minimum(mount) - unused);
        let leave = released.min(before.surplus);
        let predicted = Counted {
            nr: before.nr - leave,
            free: before.free - leave,
            reserved: before.reserved - released,
            surplus: before.surplus - leave,
        };
        same("htlb's own punch", predicted, self.htlb.counted())?;
        self.htlb.audit()?;
        let again = self.htlb.promise_again(file, &untouched);
        same("what Linux kept", Ok(()), again)?;
        Ok(Stepped::Done)
    }

    pub(super) fn truncate(&mut self, file: usize, pages: u64) -> Step {
        let mount = self.htlb.file(file).mount;
        let before = self.htlb.counted();
        let cut = self
            .htlb
            .file(file)
            .buffer
            .truncate(ByteLen::new(pages * PAGE));
        let gone = cut.map_err(|error| format!("a truncation: {error:?}"))?;
        self.set_end(file, pages);
        let truncated = self.linux.truncate(file, pages);
        same("a truncation", Ok(()), truncated)?;
        self.give_back(mount, before, gone)
    }

    /// The file's end, if there is one.
    pub(super) fn close(&mut self, file: usize) -> Step {
        let Some(mut open) = self.htlb.files[file].take() else {
            return Ok(Stepped::Done);
        };
        let before = self.htlb.counted();
        let released = open.buffer.release();
        let gone = released.map_err(|error| format!("a file's end: {error:?}"))?;
        self.linux.close(file);
        self.give_back(open.mount, before, gone)
    }

    pub(super) fn unmount(&mut self, mount: usize) -> Step {
        if self.htlb.mounts[mount].is_none() {
            return Ok(Stepped::Nothing);
        }
        for file in 0..FILES {
            let here = self.htlb.files[file].as_ref();
            if here.is_some_and(|open| open.mount == mount) && self.close(file)? == Stepped::Parted
            {
                return Ok(Stepped::Parted);
            }
        }
        self.htlb.close_mount(mount);
        self.linux.unmount(mount);
        self.compare()?;
        Ok(Stepped::Done)
    }

    pub(super) fn mount(&mut self, mount: usize, limits: Limits) -> Step {
        let opened = self.htlb.open_mount(mount, limits);
        let mounted = self.linux.mount(mount, limits);
        let agreed = agreed(opened, mounted, Errno::NOMEM)?;
        self.answered(agreed)
    }

    /// What came back to a mount, where Linux keeps its word.
    fn give_back(&mut self, mount: usize, before: Counted, gone: Punched) -> Step {
        let (predicted, parted) = self.htlb.give_back(mount, before, gone);
        same("what came back", predicted, self.linux.counted())?;
        if !parted {
            return Ok(Stepped::Done);
        }
        self.differ(Difference::BrokenMinimum);
        // Linux has promised what it does not have; htlb has not.
        let counted = self.htlb.counted();
        if counted.reserved > counted.free {
            return Err(format!("htlb breaks a minimum too: {counted:?}"));
        }
        Ok(Stepped::Parted)
    }

    fn lengthen(&self, file: usize, end: u64) -> Result<(), Error> {
        let open = self.htlb.file(file);
        let end = end.max(open.len());
        open.buffer.truncate(ByteLen::new(end * PAGE)).map(drop)
    }

    fn set_end(&mut self, file: usize, end: u64) {
        if let Some(open) = &mut self.htlb.files[file] {
            open.end = end;
        }
    }

    fn holes(&self, file: usize, span: Span) -> u64 {
        let open = self.htlb.file(file);
        let hole = |at: &u64| !open.is_present(*at) && !open.is_promised(*at);
        span.pages().filter(hole).count() as u64
    }

    /// A fault was refused, after so many tries of the kernel's.
    fn lose_limit(&mut self, file: usize, error: Error, tries: u64) {
        let mount = self.htlb.file(file).mount;
        let subpool = self.htlb.mount(mount).subpool;
        let Some(max) = subpool.limits.max else {
            return;
        };
        if error != Error::AccountLimit && self.kernel.refused_faults_leak {
            let left = max - subpool.used(self.htlb.used(mount));
            self.htlb.leak(mount, tries.min(left));
            self.differ(Difference::LostLimit);
        }
    }

    /// Whether a fault or a reservation might be refused for want of a page that must not be: on a mount with a limit and a
    /// minimum this kernel would lose count of the machine's reservations until the next boot.
    fn must_not_ask(&mut self, file: usize, span: Span) -> bool {
        let mount = self.htlb.file(file).mount;
        let subpool = self.htlb.mount(mount).subpool;
        if subpool.limits.max.is_none() || subpool.limits.min == 0 {
            return false;
        }
        let counted = self.htlb.counted();
        let to_have = subpool.reserve + counted.free - counted.reserved + self.htlb.headroom();
        let refused = self.holes(file, span) > to_have;
        if refused {
            self.differ(Difference::NotAsked);
        }
        refused
    }
}
