// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The witness: which free pages could keep which promise.
//!
//! For every class the free pages are split into those assigned to some kind and the rest, the *slack*. An
//! assignment that covers every promise and is nowhere negative is the proof (Hall's condition) that all of them
//! can be kept at once. It binds nobody: a page may be moved from one kind to another at any time, as long as
//! both may use it. Making room is exactly that, and it is the only search in the ledger.
//!
//! Nothing here changes what is free, promised or in use; its neighbours `reserve`, `take` and `supply` do.

use super::tables::{OfClass, OfKind};
use super::Ledger;
use crate::reach::{Class, Level, NodeMask, Reach};

const NARROWEST: Level = match Level::from_index(0) {
    Some(level) => level,
    None => Level::WIDEST,
};

/// A block of classes: some nodes, and the levels from one to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    nodes: NodeMask,
    scarcest: Level,
    widest: Level,
}

impl Region {
    /// The classes that a reach covers.
    #[inline]
    pub(super) fn of(reach: Reach) -> Self {
        Self {
            nodes: reach.nodes(),
            scarcest: NARROWEST,
            widest: reach.level(),
        }
    }

    /// One class.
    #[inline]
    pub(super) fn only(class: Class) -> Self {
        Self {
            nodes: class.node.mask(),
            scarcest: class.level,
            widest: class.level,
        }
    }

    /// The classes of this block that lie on `nodes`.
    #[inline]
    pub(super) fn on(self, nodes: NodeMask) -> Self {
        Self {
            nodes: self.nodes.and(nodes),
            ..self
        }
    }

    #[inline]
    fn widest_first(self) -> impl Iterator<Item = Level> {
        (self.scarcest.index()..=self.widest.index())
            .rev()
            .filter_map(Level::from_index)
    }

    #[inline]
    fn scarcest_first(self) -> impl Iterator<Item = Level> {
        (self.scarcest.index()..=self.widest.index()).filter_map(Level::from_index)
    }

    /// The least scarce class among those that `nodes_of` names.
    #[inline]
    fn widest(self, nodes_of: impl Fn(Level) -> NodeMask) -> Option<Class> {
        self.widest_first().find_map(|level| {
            let node = nodes_of(level).and(self.nodes).first()?;
            Some(Class { node, level })
        })
    }

    /// The scarcest class among those that `nodes_of` names.
    #[inline]
    fn scarcest(self, nodes_of: impl Fn(Level) -> NodeMask) -> Option<Class> {
        self.scarcest_first().find_map(|level| {
            let node = nodes_of(level).and(self.nodes).first()?;
            Some(Class { node, level })
        })
    }
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Ledger<M> {
    #[inline]
    pub(super) fn slack(&self, class: Class) -> u64 {
        self.words.class(class, OfClass::Slack)
    }

    /// The reach of a kind as a block of classes.
    fn region_of_kind(&self, kind: usize) -> Region {
        let level = usize::try_from(self.words.kind(kind, OfKind::Level)).unwrap_or(0);
        Region {
            nodes: NodeMask::from_bits(self.words.kind(kind, OfKind::Nodes)),
            scarcest: NARROWEST,
            widest: Level::from_index(level).unwrap_or(NARROWEST),
        }
    }

    /// Assigns `n` pages of slack in `class` to `kind`.
    #[inline]
    pub(super) fn bind(&mut self, kind: usize, class: Class, n: u64) {
        self.words.slack_sub(class, n);
        self.words.assigned_add(kind, class, n);
    }

    /// Gives `n` pages of `class` that were assigned to `kind` back to slack.
    #[inline]
    pub(super) fn unbind(&mut self, kind: usize, class: Class, n: u64) {
        self.words.assigned_sub(kind, class, n);
        self.words.slack_add(class, n);
    }

    /// The least scarce class of `region` that has slack now.
    #[inline]
    pub(super) fn widest_slack(&self, region: Region) -> Option<Class> {
        region.widest(|level| self.words.slack_nodes(level))
    }

    /// The least scarce class of `region` that has slack, or pages assigned to `kind`.
    #[inline]
    pub(super) fn widest_usable(&self, region: Region, kind: usize) -> Option<Class> {
        region.widest(|level| {
            self.words
                .slack_nodes(level)
                .or(self.words.assigned_nodes(kind, level))
        })
    }

    /// The scarcest class with pages assigned to `kind`.
    #[inline]
    pub(super) fn scarcest_assigned(&self, kind: usize) -> Option<Class> {
        self.region_of_kind(kind)
            .scarcest(|level| self.words.assigned_nodes(kind, level))
    }

    /// Assigns `n` pages to `kind`, least scarce first, and returns how many could not be.
    #[must_use]
    pub(super) fn assign(&mut self, kind: usize, n: u64) -> u64 {
        let region = self.region_of_kind(kind);
        let mut left = n;
        while left > 0 {
            let Some(class) = self
                .widest_slack(region)
                .or_else(|| self.room(region, left))
            else {
                break;
            };
            let step = left.min(self.slack(class));
            self.bind(kind, class, step);
            left = left.saturating_sub(step);
        }
        left
    }

    /// Takes `n` assigned pages away from `kind`, scarcest first.
    pub(super) fn unassign(&mut self, kind: usize, n: u64) {
        let mut left = n;
        while left > 0 {
            let Some(class) = self.scarcest_assigned(kind) else {
                break;
            };
            let step = left.min(self.words.assigned(kind, class));
            self.unbind(kind, class, step);
            left = left.saturating_sub(step);
        }
    }

    /// One class of `region` with slack: where `prefer` asks for it if that is possible at all, and the least
    /// scarce of those that need no search.
    pub(super) fn pick(&mut self, region: Region, prefer: NodeMask) -> Option<Class> {
        let near = region.on(prefer);
        self.widest_slack(near)
            .or_else(|| self.room(near, 1))
            .or_else(|| self.widest_slack(region))
            .or_else(|| self.room(region, 1))
    }

    /// Raises the slack of `class` to at least `n`, and tells whether that was possible.
    #[must_use = "without room the operation must fail"]
    pub(super) fn clear(&mut self, class: Class, n: u64) -> bool {
        if self.words.class(class, OfClass::Free) < n {
            return false;
        }
        loop {
            let short = n.saturating_sub(self.slack(class));
            if short == 0 {
                return true;
            }
            if self.room(Region::only(class), short).is_none() {
                return false;
            }
        }
    }

    /// Moves slack, at most `upto` pages, from a class outside `region` to one inside it, and returns the latter.
    ///
    /// A breadth-first search from the classes of `region`. A step leads from class `c` through a kind that has
    /// pages assigned in `c` to any class that this kind may use, since the assignment could lie there as well.
    /// Where a class with slack is reached, the assignments along the way move by one step each, as many
    /// as the narrowest step allows. Every kind is followed once: whatever it leads to is known from then on.
    pub(super) fn room(&mut self, region: Region, upto: u64) -> Option<Class> {
        self.searches = self.searches.wrapping_add(1);
        let mut seen = [NodeMask::EMPTY; Level::COUNT];
        let mut tail = 0usize;
        for level in region.widest_first() {
            tail = self.enqueue(level, region.nodes, &mut seen, None, tail);
        }
        let mut head = 0usize;
        while head < tail {
            let class = self.words.queued(head)?;
            head = head.wrapping_add(1);
            for kind in 0..self.kinds {
                if self.words.kind(kind, OfKind::Search) == self.searches
                    || !self
                        .words
                        .assigned_nodes(kind, class.level)
                        .contains(class.node)
                {
                    continue;
                }
                self.words.kind_set(kind, OfKind::Search, self.searches);
                let next = self.region_of_kind(kind);
                let goal = next.widest(|level| {
                    let fresh = NodeMask::from_bits(!nodes_at(&seen, level).bits());
                    self.words.slack_nodes(level).and(fresh)
                });
                if let Some(goal) = goal {
                    self.words.note_step(goal, class, kind);
                    return Some(self.shift(goal, upto));
                }
                for level in next.widest_first() {
                    tail = self.enqueue(level, next.nodes, &mut seen, Some((class, kind)), tail);
                }
            }
        }
        None
    }

    /// Queues the classes of `nodes` at `level` that the search has not seen.
    fn enqueue(
        &mut self,
        level: Level,
        nodes: NodeMask,
        seen: &mut [NodeMask; Level::COUNT],
        from: Option<(Class, usize)>,
        mut tail: usize,
    ) -> usize {
        let Some(before) = seen.get_mut(level.index()) else {
            return tail;
        };
        let fresh = nodes.bits() & self.words.nodes().bits() & !before.bits();
        *before = before.or(nodes);
        for node in NodeMask::from_bits(fresh).iter() {
            let class = Class { node, level };
            match from {
                Some((from, kind)) => self.words.note_step(class, from, kind),
                None => self.words.note_start(class),
            }
            self.words.queue(tail, class);
            tail = tail.wrapping_add(1);
        }
        tail
    }

    /// Moves slack from `goal` back along the search's notes to where it began, which is returned.
    fn shift(&mut self, goal: Class, upto: u64) -> Class {
        let mut amount = upto.min(self.slack(goal));
        let mut at = goal;
        while let Some((from, kind)) = self.words.came_from(at) {
            amount = amount.min(self.words.assigned(kind, from));
            at = from;
        }
        let start = at;
        at = goal;
        // INVARIANT: each step takes `amount` from one class's slack and gives it to the next one's, and moves as many
        // assignments the other way, so assigned + slack stays equal to free in both.
        while let Some((from, kind)) = self.words.came_from(at) {
            self.bind(kind, at, amount);
            self.unbind(kind, from, amount);
            at = from;
        }
        start
    }
}

fn nodes_at(seen: &[NodeMask; Level::COUNT], level: Level) -> NodeMask {
    seen.get(level.index()).copied().unwrap_or(NodeMask::ALL)
}
