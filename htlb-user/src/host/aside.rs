// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A run of frames that was taken for a whole buffer and waits for its slots, so that the buffer is straight in memory.

use std::sync::Mutex;

use htlb_core::host::Contents;
use htlb_core::{Condition, Error, Frame, HugeSize, PageIndex, Pfn};

use crate::locks::locked;

/// The run, if there is one. Its pages are charged, and neither free nor in a slot.
#[derive(Debug, Default)]
pub(crate) struct Aside(Mutex<Option<Taken>>);

#[derive(Debug)]
struct Taken {
    first: Pfn,
    size: HugeSize,
    /// What each frame holds, until its slot has it.
    pages: Box<[Option<Contents>]>,
    left: u64,
}

impl Aside {
    /// Sets `count` frames from `first` aside, all of which hold `contents`.
    pub(crate) fn put(&self, first: Pfn, size: HugeSize, count: usize, contents: Contents) {
        *locked(&self.0) = Some(Taken {
            first,
            size,
            pages: vec![Some(contents); count].into_boxed_slice(),
            left: count as u64,
        });
    }

    /// The frame of the page at `index`, if it waits here.
    pub(crate) fn take(&self, index: PageIndex) -> Option<(Frame, Contents)> {
        let mut aside = locked(&self.0);
        let taken = aside.as_mut()?;
        let frame = taken.frame(index).ok()?;
        let contents = taken.place(index)?.take()?;
        taken.left = taken.left.saturating_sub(1);
        Some((frame, contents))
    }

    /// Takes the frame of the page at `index` back, which may hold anything now.
    ///
    /// # Errors
    /// The frame, where it never waited here.
    pub(crate) fn take_back(&self, frame: Frame, index: PageIndex) -> Result<(), Frame> {
        let mut aside = locked(&self.0);
        let Some(taken) = aside.as_mut() else {
            return Err(frame);
        };
        let own = taken.frame(index).is_ok_and(|own| own == frame);
        match taken.place(index) {
            Some(place @ None) if own => {
                *place = Some(Contents::Anything);
                taken.left = taken.left.saturating_add(1);
                // The number is kept here now.
                let _ = frame.into_pfn();
                Ok(())
            }
            _ => Err(frame),
        }
    }

    /// Whether the page at `index` waits here.
    pub(crate) fn has(&self, index: PageIndex) -> bool {
        locked(&self.0)
            .as_mut()
            .and_then(|taken| taken.place(index).copied())
            .flatten()
            .is_some()
    }

    /// Whether what waits needs no clearing.
    pub(crate) fn is_clean(&self) -> bool {
        locked(&self.0).as_ref().is_some_and(|taken| {
            let dirty = |page: &Option<Contents>| page.is_some_and(|page| page != Contents::Zeroes);
            taken.left > 0 && !taken.pages.iter().any(dirty)
        })
    }

    /// How many pages wait.
    pub(crate) fn left(&self) -> u64 {
        locked(&self.0).as_ref().map_or(0, |taken| taken.left)
    }

    /// How many of the pages before `end` wait.
    pub(crate) fn left_before(&self, end: u64) -> u64 {
        let aside = locked(&self.0);
        let Some(taken) = aside.as_ref().filter(|taken| taken.left > 0) else {
            return 0;
        };
        let pages = (0..end).zip(&taken.pages);
        // CAST: at most as many as there are pages.
        pages.filter(|(_, page)| page.is_some()).count() as u64
    }

    /// Everything that waits.
    pub(crate) fn empty(&self) -> Vec<(Frame, Condition)> {
        let Some(mut taken) = locked(&self.0).take() else {
            return Vec::new();
        };
        let pages = std::mem::take(&mut taken.pages);
        (0u64..)
            .zip(pages)
            .filter_map(|(index, contents)| {
                let condition = match contents? {
                    Contents::Zeroes => Condition::Clean,
                    Contents::Anything | Contents::OwnData => Condition::Dirty,
                };
                Some((taken.frame(PageIndex::new(index)).ok()?, condition))
            })
            .collect()
    }
}

impl Taken {
    fn frame(&self, index: PageIndex) -> Result<Frame, Error> {
        let first = self.first.raw();
        let offset = index.raw().checked_mul(self.size.base_pages());
        let pfn = offset.and_then(|offset| first.checked_add(offset));
        Frame::new(Pfn::new(pfn.ok_or(Error::RangeOverflow)?), self.size)
    }

    fn place(&mut self, index: PageIndex) -> Option<&mut Option<Contents>> {
        self.pages.get_mut(usize::try_from(index.raw()).ok()?)
    }
}
