// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What is done to mappings: by their owner, by a pipe that holds a page, and by a child that inherits them.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{ensure, Result};

use super::super::super::holders::pipe;
use super::super::child;
use super::super::plan::Dice;
use super::super::tally::Kind;
use super::super::view::{View, BASE};
use super::{keep, Actor};

impl Actor<'_> {
    pub(super) fn map(&mut self) -> Result<()> {
        let Some(made) = self.world.any(&mut self.dice) else {
            return Ok(());
        };
        let dice = &mut self.dice;
        let pages = (made.bytes as usize).div_ceil(BASE);
        let first = match dice.one_in(3) {
            true => dice.index(pages),
            false => 0,
        };
        let len = match dice.one_in(2) {
            true => (pages - first) * BASE,
            false => (1 + dice.index(pages - first)) * BASE,
        };
        let protection = dice.pick(&[libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE]);
        let flags = dice.pick(&[libc::MAP_SHARED, libc::MAP_SHARED, libc::MAP_PRIVATE]);
        let populate = i32::from(dice.one_in(6)) * libc::MAP_POPULATE;
        let from = (first * BASE) as u64;
        let done = View::map(
            made.buffer.as_fd(),
            from,
            len,
            protection,
            flags | populate,
            made.stamp,
        );
        if let Some(view) = self.came(Kind::Map, done)? {
            self.world.publish(self.thread, view.start());
            keep(&mut self.views, view);
        }
        Ok(())
    }

    pub(super) fn unmap(&mut self) -> Result<()> {
        let Some(mut view) = self.views.pop() else {
            return Ok(());
        };
        let range = part(&mut self.dice, &view);
        let done = view.cut(range);
        if let Some(Some(behind)) = self.came(Kind::Unmap, done)? {
            keep(&mut self.views, behind);
        }
        if view.len() > 0 {
            keep(&mut self.views, view);
        }
        Ok(())
    }

    /// Other entries for the same pages.
    pub(super) fn change(&mut self, kind: Kind) -> Result<()> {
        const ADVICE: [i32; 13] = [
            libc::MADV_DONTNEED,
            libc::MADV_WILLNEED,
            libc::MADV_COLD,
            libc::MADV_PAGEOUT,
            libc::MADV_POPULATE_READ,
            libc::MADV_POPULATE_WRITE,
            libc::MADV_HUGEPAGE,
            libc::MADV_NOHUGEPAGE,
            libc::MADV_FREE,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_MERGEABLE,
            25, // MADV_COLLAPSE
        ];
        if self.views.is_empty() {
            return Ok(());
        }
        let chosen = self.dice.index(self.views.len());
        let mut view = self.views.swap_remove(chosen);
        let range = part(&mut self.dice, &view);
        let done = match kind {
            Kind::Protect => {
                let protection = self.dice.pick(&[0, 1, 3, 3]);
                view.protect(range, protection)
            }
            Kind::Advise => {
                let advice = self.dice.pick(&ADVICE);
                view.advise(range, advice)
            }
            Kind::Lock => view.lock(range),
            _ => match self.dice.below(4) {
                0 => view.shrink(range.end),
                1 => {
                    let grown = view.grow();
                    ensure!(grown.is_err(), "a mapping grew beyond its buffer");
                    grown
                }
                _ => {
                    let skew = self.dice.pick(&[0, 0, BASE]);
                    view.relocate(skew)
                }
            },
        };
        if view.len() > 0 {
            keep(&mut self.views, view);
        }
        self.came(kind, done).map(drop)
    }

    /// Reads or writes, and finds what a page of this buffer can have: what was written there, or nothing.
    pub(super) fn touch(&mut self, kind: Kind) -> Result<()> {
        if self.views.is_empty() {
            return Ok(());
        }
        let chosen = self.dice.index(self.views.len());
        let view = &self.views[chosen];
        let page = self.dice.index(view.len() / BASE) * BASE;
        let number = view.number(page);
        if kind == Kind::Poke {
            let done = view.poke(page, number);
            return self.came(kind, done).map(drop);
        }
        let done = view.peek(page);
        if let Some(found) = self.came(kind, done)? {
            ensure!(
                found == 0 || found == number,
                "{found:#x} instead of {number:#x} or nothing at {page:#x}"
            );
        }
        Ok(())
    }

    pub(super) fn hold(&mut self) -> Result<()> {
        if self.views.is_empty() {
            return Ok(());
        }
        let chosen = self.dice.index(self.views.len());
        let page = self.dice.index(self.views[chosen].len() / BASE) * BASE;
        let (reader, writer) = pipe()?;
        let done = self.views[chosen].splice(&writer, page);
        if self.came(Kind::Hold, done)?.is_some() {
            keep(&mut self.pipes, (reader, writer));
        }
        Ok(())
    }

    /// A child has everything that this process has, touches it, and ends by itself or by a signal.
    pub(super) fn fork(&mut self) -> Result<()> {
        let addresses: Vec<usize> = self.views.iter().map(View::start).collect();
        let waits = self.dice.one_in(3);
        let buffer = self.world.any(&mut self.dice);
        let punched = buffer
            .as_ref()
            .map_or(-1, |made| made.buffer.as_fd().as_raw_fd());
        let child = child::start(&addresses, punched, waits);
        if waits {
            std::thread::sleep(std::time::Duration::from_micros(self.dice.below(3000)));
        }
        let done = child::end(child, waits);
        self.came(Kind::Fork, done).map(drop)
    }
}

/// Some whole base pages of it.
fn part(dice: &mut Dice, view: &View) -> std::ops::Range<usize> {
    let pages = view.len() / BASE;
    let first = dice.index(pages);
    let many = 1 + dice.index(pages - first);
    match dice.below(3) {
        0 => 0..view.len(),
        1 => 0..(first + many) * BASE,
        _ => first * BASE..(first + many) * BASE,
    }
}
