// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The words in which a ledger keeps its numbers, by name.
//!
//! Where slack or an assignment becomes zero, or is no longer, the summary of its nodes follows: that is what makes
//! finding a class one look per level.

use super::tables::{
    Layout, OfAccount, OfClass, OfKind, Tables, ACCOUNT_WORDS, CLASS_WORDS, KIND_WORDS, NOTE_WORDS,
};
use crate::error::Error;
use crate::reach::{Class, Level, NodeId, NodeMask, Reach};

/// The host's words, with names for what is in them.
///
/// Reading outside gives zero and writing outside does nothing: neither happens, since every index comes from a
/// checked class, kind or account.
#[derive(Debug)]
pub(super) struct Words<M> {
    memory: M,
    tables: Tables,
    layout: Layout,
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Words<M> {
    pub(super) fn new(memory: M, tables: Tables) -> Result<Self, Error> {
        if tables.nodes == 0 || usize::from(tables.nodes) > NodeId::COUNT {
            return Err(Error::NodeInvalid);
        }
        if tables.accounts == 0 || memory.as_ref().len() < tables.words() {
            return Err(Error::OutOfMetadata);
        }
        Ok(Self::blank(memory, tables))
    }

    /// Tables full of zeroes in memory that is known to be long enough.
    fn blank(memory: M, tables: Tables) -> Self {
        let mut words = Self {
            memory,
            tables,
            layout: Layout::of(tables),
        };
        if let Some(all) = words.memory.as_mut().get_mut(..tables.words()) {
            all.fill(0);
        }
        words
    }

    pub(super) fn tables(&self) -> Tables {
        self.tables
    }

    /// Moves into `bigger` and gives back the block that is no longer used: the old one, or `bigger` itself
    /// where it brings nothing.
    pub(super) fn adopt(&mut self, bigger: M) -> Result<M, (M, Error)> {
        let len = bigger.as_ref().len();
        if len < self.tables.words() {
            return Err((bigger, Error::OutOfMetadata));
        }
        let mut tables = self.tables;
        while let Some(larger) = tables.grown().filter(|t| t.words() <= len) {
            tables = larger;
        }
        if tables == self.tables {
            return Ok(bigger);
        }
        let mut moved = Self::blank(bigger, tables);
        let old = self.memory.as_ref();
        let new = moved.memory.as_mut();
        let (from, to) = (self.layout, moved.layout);
        transfer(old, 0, from.accounts, new, 0);
        transfer(old, from.accounts, from.kinds, new, to.accounts);
        transfer(old, from.kinds, self.tables.words(), new, to.kinds);
        core::mem::swap(self, &mut moved);
        Ok(moved.memory)
    }

    #[inline]
    fn read(&self, at: usize) -> u64 {
        self.memory.as_ref().get(at).copied().unwrap_or(0)
    }

    #[inline]
    fn at(&mut self, at: usize) -> Option<&mut u64> {
        self.memory.as_mut().get_mut(at)
    }

    #[inline]
    fn write(&mut self, at: usize, value: u64) {
        if let Some(word) = self.at(at) {
            *word = value;
        }
    }

    /// Adds, and tells whether the word was zero before.
    #[inline]
    fn add(&mut self, at: usize, n: u64) -> bool {
        self.at(at).is_some_and(|word| {
            let before = *word;
            *word = before.saturating_add(n);
            before == 0
        })
    }

    /// Subtracts, and tells whether the word is zero now.
    #[inline]
    fn sub(&mut self, at: usize, n: u64) -> bool {
        self.at(at).is_some_and(|word| {
            *word = word.saturating_sub(n);
            *word == 0
        })
    }

    // ---- classes -----------------------------------------------------------------------------------

    /// Whether the tables have a place for `class`.
    #[inline]
    pub(super) fn knows(&self, class: Class) -> bool {
        class.node.raw() < self.tables.nodes
    }

    /// The nodes that the tables have a place for.
    #[inline]
    pub(super) fn nodes(&self) -> NodeMask {
        NodeMask::from_bits(u64::MAX >> 64u32.saturating_sub(u32::from(self.tables.nodes)))
    }

    /// Every class, node by node.
    pub(super) fn classes(&self) -> impl Iterator<Item = Class> {
        let count = usize::from(self.tables.nodes).saturating_mul(Level::COUNT);
        (0..count).filter_map(Class::from_index)
    }

    #[inline]
    fn class_at(class: Class, field: OfClass) -> usize {
        Layout::CLASSES
            .wrapping_add(class.index().wrapping_mul(CLASS_WORDS))
            .wrapping_add(field as usize)
    }

    #[inline]
    pub(super) fn class(&self, class: Class, field: OfClass) -> u64 {
        self.read(Self::class_at(class, field))
    }

    /// For every field but `Slack`, which [`Self::slack_add`] changes.
    #[inline]
    pub(super) fn class_add(&mut self, class: Class, field: OfClass, n: u64) {
        self.add(Self::class_at(class, field), n);
    }

    /// For every field but `Slack`, which [`Self::slack_sub`] changes.
    #[inline]
    pub(super) fn class_sub(&mut self, class: Class, field: OfClass, n: u64) {
        self.sub(Self::class_at(class, field), n);
    }

    /// The nodes whose class of `level` has slack.
    #[inline]
    pub(super) fn slack_nodes(&self, level: Level) -> NodeMask {
        NodeMask::from_bits(self.read(level.index()))
    }

    #[inline]
    pub(super) fn slack_add(&mut self, class: Class, n: u64) {
        if self.add(Self::class_at(class, OfClass::Slack), n) && n > 0 {
            self.mark(class.level.index(), class);
        }
    }

    #[inline]
    pub(super) fn slack_sub(&mut self, class: Class, n: u64) {
        if self.sub(Self::class_at(class, OfClass::Slack), n) {
            self.unmark(class.level.index(), class);
        }
    }

    #[inline]
    fn mark(&mut self, at: usize, class: Class) {
        if let Some(word) = self.at(at) {
            *word |= class.node.mask().bits();
        }
    }

    #[inline]
    fn unmark(&mut self, at: usize, class: Class) {
        if let Some(word) = self.at(at) {
            *word &= !class.node.mask().bits();
        }
    }

    // ---- kinds -------------------------------------------------------------------------------------

    #[inline]
    fn row(&self, kind: usize) -> usize {
        self.layout
            .kinds
            .wrapping_add(kind.wrapping_mul(self.layout.row))
    }

    #[inline]
    pub(super) fn kind(&self, kind: usize, field: OfKind) -> u64 {
        self.read(self.row(kind).wrapping_add(field as usize))
    }

    #[inline]
    pub(super) fn kind_set(&mut self, kind: usize, field: OfKind, value: u64) {
        self.write(self.row(kind).wrapping_add(field as usize), value);
    }

    #[inline]
    pub(super) fn kind_add(&mut self, kind: usize, field: OfKind, n: u64) {
        self.add(self.row(kind).wrapping_add(field as usize), n);
    }

    #[inline]
    pub(super) fn kind_sub(&mut self, kind: usize, field: OfKind, n: u64) {
        self.sub(self.row(kind).wrapping_add(field as usize), n);
    }

    /// The nodes and the level of a kind.
    #[inline]
    pub(super) fn kind_is(&self, kind: usize, reach: Reach) -> bool {
        self.kind(kind, OfKind::Nodes) == reach.nodes().bits()
            && self.kind(kind, OfKind::Level) == reach.level().index() as u64
    }

    #[inline]
    fn assigned_at(&self, kind: usize, class: Class) -> usize {
        self.row(kind)
            .wrapping_add(KIND_WORDS.wrapping_add(Level::COUNT))
            .wrapping_add(class.index())
    }

    /// The free pages of `class` that the witness assigns to `kind`.
    #[inline]
    pub(super) fn assigned(&self, kind: usize, class: Class) -> u64 {
        self.read(self.assigned_at(kind, class))
    }

    #[inline]
    fn assigned_nodes_at(&self, kind: usize, level: Level) -> usize {
        self.row(kind)
            .wrapping_add(KIND_WORDS)
            .wrapping_add(level.index())
    }

    /// The nodes whose class of `level` has pages assigned to `kind`.
    #[inline]
    pub(super) fn assigned_nodes(&self, kind: usize, level: Level) -> NodeMask {
        NodeMask::from_bits(self.read(self.assigned_nodes_at(kind, level)))
    }

    #[inline]
    pub(super) fn assigned_add(&mut self, kind: usize, class: Class, n: u64) {
        if self.add(self.assigned_at(kind, class), n) && n > 0 {
            self.mark(self.assigned_nodes_at(kind, class.level), class);
        }
    }

    #[inline]
    pub(super) fn assigned_sub(&mut self, kind: usize, class: Class, n: u64) {
        if self.sub(self.assigned_at(kind, class), n) {
            self.unmark(self.assigned_nodes_at(kind, class.level), class);
        }
    }

    // ---- accounts ----------------------------------------------------------------------------------

    #[inline]
    fn account_at(&self, account: usize, field: OfAccount) -> usize {
        self.layout
            .accounts
            .wrapping_add(account.wrapping_mul(ACCOUNT_WORDS))
            .wrapping_add(field as usize)
    }

    #[inline]
    pub(super) fn account(&self, account: usize, field: OfAccount) -> u64 {
        self.read(self.account_at(account, field))
    }

    #[inline]
    pub(super) fn account_set(&mut self, account: usize, field: OfAccount, value: u64) {
        self.write(self.account_at(account, field), value);
    }

    #[inline]
    pub(super) fn account_add(&mut self, account: usize, field: OfAccount, n: u64) {
        self.add(self.account_at(account, field), n);
    }

    #[inline]
    pub(super) fn account_sub(&mut self, account: usize, field: OfAccount, n: u64) {
        self.sub(self.account_at(account, field), n);
    }

    // ---- the search's notes ------------------------------------------------------------------------

    #[inline]
    fn note_at(&self, index: usize, which: usize) -> usize {
        self.layout
            .notes
            .wrapping_add(index.wrapping_mul(NOTE_WORDS))
            .wrapping_add(which)
    }

    /// How the search came to `class`: from which class, through which kind; `None` where it began.
    pub(super) fn came_from(&self, class: Class) -> Option<(Class, usize)> {
        let note = self.read(self.note_at(class.index(), 0));
        let from = Class::from_index(low_half(note))?;
        Some((from, low_half(note >> 32)))
    }

    pub(super) fn note_start(&mut self, class: Class) {
        self.write(self.note_at(class.index(), 0), u64::from(u32::MAX));
    }

    pub(super) fn note_step(&mut self, class: Class, from: Class, kind: usize) {
        let note = (kind as u64) << 32 | from.index() as u64;
        self.write(self.note_at(class.index(), 0), note);
    }

    /// The class at `place` of the search's queue.
    pub(super) fn queued(&self, place: usize) -> Option<Class> {
        Class::from_index(low_half(self.read(self.note_at(place, 1))))
    }

    pub(super) fn queue(&mut self, place: usize, class: Class) {
        self.write(self.note_at(place, 1), class.index() as u64);
    }
}

#[inline]
fn low_half(note: u64) -> usize {
    // CAST: masked to 32 bits, and usize has at least as many on every target that has huge pages.
    #[allow(clippy::cast_possible_truncation)]
    let half = (note & u64::from(u32::MAX)) as usize;
    half
}

fn transfer(old: &[u64], from: usize, end: usize, new: &mut [u64], to: usize) {
    let to_end = to.saturating_add(end.saturating_sub(from));
    if let (Some(source), Some(target)) = (old.get(from..end), new.get_mut(to..to_end)) {
        target.copy_from_slice(source);
    }
}
