// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A shelf: the chunks of one class that have free pages, on six lists, and the class's counts.
//!
//! Linux keeps one list of free pages per node (`hugepage_freelists`); here the lists hold chunks, so that a page is found by
//! fullness and by condition without looking at other pages, and no link is stored in a page.
//!
//! Words of a shelf: class and number of chunks; three words with the six list heads; known, free and clean
//! pages; and the tally of a run that was found and not yet taken.

use super::chunk::{Bin, Header, NONE};
use super::tables::{high, low, pack, Tables};
use super::Counts;
use crate::reach::Class;
use crate::units::PageCount;

const KNOWN: usize = 4;
const FREE: usize = 5;
const CLEAN: usize = 6;
const TALLY: usize = 7;

/// A class's number as a directory key.
pub(super) const fn class_key(class: Class) -> u32 {
    // CAST: at most 767.
    #[allow(clippy::cast_possible_truncation)]
    let key = class.index() as u32;
    key
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Tables<M> {
    const fn shelf_word(&self, shelf: u32, word: usize) -> usize {
        self.layout.shelf(shelf).wrapping_add(word)
    }

    /// The shelf of `class`, if it has a chunk.
    #[inline]
    pub(super) fn shelf_of(&self, class: Class) -> Option<u32> {
        let classes = self.layout.classes;
        self.next_match(classes, &mut classes.probe(class_key(class)))
    }

    /// Starts a shelf without chunks.
    pub(super) fn open_shelf(&mut self, shelf: u32, class: Class) {
        let none = pack(NONE, NONE);
        for (word, value) in [pack(class_key(class), 0), none, none, none, 0, 0, 0, 0]
            .into_iter()
            .enumerate()
        {
            self.store(self.shelf_word(shelf, word), value);
        }
    }

    /// The class of a shelf.
    pub(super) fn class_on(&self, shelf: u32) -> Option<Class> {
        Class::from_index(high(self.load(self.shelf_word(shelf, 0))) as usize)
    }

    /// The chunks of a shelf's class; zero where the shelf is not in use.
    pub(super) fn chunks_on(&self, shelf: u32) -> u32 {
        low(self.load(self.shelf_word(shelf, 0)))
    }

    /// Says how many chunks a shelf's class has.
    pub(super) fn set_chunks_on(&mut self, shelf: u32, chunks: u32) {
        let at = self.shelf_word(shelf, 0);
        let class = high(self.load(at));
        self.store(at, pack(class, chunks));
    }

    /// The next in the list of recycled shelves, kept where a shelf in use keeps its class.
    pub(super) fn recycled_shelf_after(&self, shelf: u32) -> u32 {
        high(self.load(self.shelf_word(shelf, 0)))
    }

    /// Puts an unused shelf before `next` in the list of recycled shelves.
    pub(super) fn recycle_shelf(&mut self, shelf: u32, next: u32) {
        self.store(self.shelf_word(shelf, 0), pack(next, 0));
    }

    /// The counts of a shelf's class.
    pub(super) fn counts_on(&self, shelf: u32) -> Counts {
        let count = |word| PageCount::new(self.load(self.shelf_word(shelf, word)));
        Counts {
            known: count(KNOWN),
            free: count(FREE),
            clean: count(CLEAN),
        }
    }

    /// The pages of a found run that are on this shelf.
    pub(super) fn tally(&self, shelf: u32) -> u64 {
        self.load(self.shelf_word(shelf, TALLY))
    }

    /// Notes how many pages of a found run are on this shelf.
    pub(super) fn set_tally(&mut self, shelf: u32, pages: u64) {
        self.store(self.shelf_word(shelf, TALLY), pages);
    }

    /// The first chunk on a list.
    #[inline]
    pub(super) fn head(&self, shelf: u32, bin: Bin) -> u32 {
        let pair = self.load(self.head_word(shelf, bin));
        if bin as usize & 1 == 0 {
            high(pair)
        } else {
            low(pair)
        }
    }

    fn set_head(&mut self, shelf: u32, bin: Bin, chunk: u32) {
        let at = self.head_word(shelf, bin);
        let pair = self.load(at);
        let pair = if bin as usize & 1 == 0 {
            pack(chunk, low(pair))
        } else {
            pack(high(pair), chunk)
        };
        self.store(at, pair);
    }

    const fn head_word(&self, shelf: u32, bin: Bin) -> usize {
        self.shelf_word(shelf, (bin as usize >> 1).wrapping_add(1))
    }

    /// The chunks on a list, first to last.
    pub(super) fn list(&self, shelf: u32, bin: Bin) -> impl Iterator<Item = (u32, Header)> + '_ {
        let mut chunk = self.head(shelf, bin);
        // The bound ends the walk over a list that a bug made circular.
        (0..self.layout.chunks).map_while(move |_| {
            if chunk == NONE {
                return None;
            }
            let header = self.header(chunk);
            let here = (chunk, header);
            chunk = header.next;
            Some(here)
        })
    }

    /// Replaces a chunk's header: its counts go to the shelf, and the chunk to the list where it now belongs.
    #[inline]
    pub(super) fn settle(&mut self, chunk: u32, old: Header, mut new: Header) {
        for (word, was, is) in [
            (KNOWN, old.known, new.known),
            (FREE, old.free, new.free),
            (CLEAN, old.clean, new.clean),
        ] {
            if was != is {
                let at = self.shelf_word(new.shelf, word);
                // INVARIANT: the shelf's count is the sum over its chunks; wrapping cancels out.
                let sum = self
                    .load(at)
                    .wrapping_add(is.into())
                    .wrapping_sub(was.into());
                self.store(at, sum);
            }
        }
        let (from, to) = (old.bin(), new.bin());
        if from != to {
            if let Some(bin) = from {
                self.unlink(old, bin);
                (new.prev, new.next) = (NONE, NONE);
            }
            if let Some(bin) = to {
                new.prev = NONE;
                new.next = self.link_before_head(new.shelf, bin, chunk);
            }
        }
        self.set_header(chunk, new);
    }

    fn unlink(&mut self, old: Header, bin: Bin) {
        if old.prev == NONE {
            self.set_head(old.shelf, bin, old.next);
        } else {
            let mut prev = self.header(old.prev);
            prev.next = old.next;
            self.set_header(old.prev, prev);
        }
        if old.next != NONE {
            let mut next = self.header(old.next);
            next.prev = old.prev;
            self.set_header(old.next, next);
        }
    }

    /// Makes `chunk` the head of a list, and says which chunk comes after it.
    fn link_before_head(&mut self, shelf: u32, bin: Bin, chunk: u32) -> u32 {
        let after = self.head(shelf, bin);
        if after != NONE {
            let mut header = self.header(after);
            header.prev = chunk;
            self.set_header(after, header);
        }
        self.set_head(shelf, bin, chunk);
        after
    }
}
