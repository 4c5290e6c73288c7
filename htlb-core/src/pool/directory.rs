// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Hash tables from a 32-bit key to table indices, in the host's memory.
//!
//! Open addressing with linear probing, at most half full. An entry holds the key beside the index, so that a
//! miss costs no second memory access; a key may have several entries, since a region can have a chunk per
//! class. Removal shifts later entries back: there are no tombstones, and a table that has been busy for a year
//! probes no further than a new one.

use super::tables::{high, low, pack, Tables};

/// The place and the size of one hash table. An entry of zero is empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    at: usize,
    bits: u32,
}

/// How far a walk over the entries of one key has come.
#[derive(Clone, Copy)]
pub(super) struct Probe {
    key: u32,
    at: usize,
}

impl Directory {
    /// A table at word `at` for `entries` entries.
    pub(super) fn new(at: usize, entries: u32) -> Option<Self> {
        let slots = (entries as usize)
            .checked_mul(2)?
            .checked_next_power_of_two()?;
        Some(Self {
            at,
            bits: slots.trailing_zeros(),
        })
    }

    /// The first word past the table.
    pub(super) const fn end(self) -> Option<usize> {
        self.at.checked_add(1 << self.bits)
    }

    const fn mask(self) -> usize {
        (1usize << self.bits).wrapping_sub(1)
    }

    /// Where a key's entries begin: the multiplier spreads consecutive regions, and equal strides, evenly.
    const fn home(self, key: u32) -> usize {
        let hash = (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // CAST: the shift leaves `bits` bits, and the table has 2^bits words of this machine's memory.
        #[allow(clippy::cast_possible_truncation)]
        let home = (hash >> 64u32.wrapping_sub(self.bits)) as usize;
        home
    }

    const fn word(self, slot: usize) -> usize {
        self.at.wrapping_add(slot)
    }

    const fn after(self, slot: usize) -> usize {
        slot.wrapping_add(1) & self.mask()
    }

    /// The start of a walk over the entries of `key`.
    pub(super) const fn probe(self, key: u32) -> Probe {
        Probe {
            key,
            at: self.home(key),
        }
    }
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Tables<M> {
    /// Empties a directory.
    pub(super) fn clear(&mut self, directory: Directory) {
        for slot in 0..=directory.mask() {
            self.store(directory.word(slot), 0);
        }
    }

    /// The next index filed under the probe's key.
    pub(super) fn next_match(&self, directory: Directory, probe: &mut Probe) -> Option<u32> {
        loop {
            let entry = self.load(directory.word(probe.at));
            // At least half of the entries are empty, so this ends.
            if entry == 0 {
                return None;
            }
            probe.at = directory.after(probe.at);
            if high(entry) == probe.key {
                return Some(low(entry).wrapping_sub(1));
            }
        }
    }

    /// Files `index` under `key`.
    pub(super) fn file(&mut self, directory: Directory, key: u32, index: u32) {
        let mut slot = directory.home(key);
        while self.load(directory.word(slot)) != 0 {
            slot = directory.after(slot);
        }
        self.store(directory.word(slot), pack(key, index.wrapping_add(1)));
    }

    /// Takes `index` out from under `key`.
    pub(super) fn unfile(&mut self, directory: Directory, key: u32, index: u32) {
        let wanted = pack(key, index.wrapping_add(1));
        let mut hole = directory.home(key);
        loop {
            let entry = self.load(directory.word(hole));
            if entry == wanted {
                break;
            }
            if entry == 0 {
                return;
            }
            hole = directory.after(hole);
        }
        let mut slot = directory.after(hole);
        loop {
            let entry = self.load(directory.word(slot));
            if entry == 0 {
                break;
            }
            let home = directory.home(high(entry));
            // INVARIANT: no empty entry between a key's home and any of its entries. This one may move back
            // into the hole unless its home lies after the hole.
            let from_home = slot.wrapping_sub(home) & directory.mask();
            let from_hole = slot.wrapping_sub(hole) & directory.mask();
            if from_home >= from_hole {
                self.store(directory.word(hole), entry);
                hole = slot;
            }
            slot = directory.after(slot);
        }
        self.store(directory.word(hole), 0);
    }

    /// Copies every entry of `from`, which lies in `old`, into the empty directory `to` of these tables.
    pub(super) fn refile<N>(&mut self, to: Directory, old: &Tables<N>, from: Directory)
    where
        N: AsRef<[u64]> + AsMut<[u64]>,
    {
        for slot in 0..=from.mask() {
            let entry = old.load(from.word(slot));
            if entry != 0 {
                self.file(to, high(entry), low(entry).wrapping_sub(1));
            }
        }
    }

    /// The number of entries in use.
    pub(super) fn filed(&self, directory: Directory) -> usize {
        (0..=directory.mask())
            .filter(|slot| self.load(directory.word(*slot)) != 0)
            .count()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    use super::super::layout::Layout;
    use super::*;

    fn found(tables: &Tables<Vec<u64>>, directory: Directory, key: u32) -> BTreeSet<u32> {
        let mut probe = directory.probe(key);
        core::iter::from_fn(|| tables.next_match(directory, &mut probe)).collect()
    }

    #[test]
    fn equals_a_set_of_pairs_under_churn() {
        let layout = Layout::new(40).unwrap();
        let mut tables = Tables::new(vec![0; layout.words()], layout);
        let directory = layout.regions;
        let mut model: BTreeSet<(u32, u32)> = BTreeSet::new();
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            // Few keys and a half-full table: long clusters, equal keys, and wrapping round the end.
            let key = (state >> 40) as u32 % 7;
            let index = (state >> 50) as u32 % 12;
            if model.remove(&(key, index)) {
                tables.unfile(directory, key, index);
            } else if model.len() < 40 {
                model.insert((key, index));
                tables.file(directory, key, index);
            }
            for key in 0..7 {
                let want: BTreeSet<u32> = model
                    .iter()
                    .filter(|pair| pair.0 == key)
                    .map(|pair| pair.1)
                    .collect();
                assert_eq!(found(&tables, directory, key), want);
            }
            assert_eq!(tables.filed(directory), model.len());
        }
    }

    #[test]
    fn unfiling_what_is_not_there_changes_nothing() {
        let layout = Layout::new(4).unwrap();
        let mut tables = Tables::new(vec![0; layout.words()], layout);
        tables.file(layout.regions, 7, 1);
        tables.unfile(layout.regions, 7, 2);
        tables.unfile(layout.regions, 8, 1);
        assert_eq!(found(&tables, layout.regions, 7), BTreeSet::from([1]));
    }
}
