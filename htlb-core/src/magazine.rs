// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pages that an owner keeps for itself, so that what it wrote needs no clearing for it.
//!
//! A page goes from one owner to another only through the [pool](crate::pool), where it is dirty and is cleared before
//! anybody sees it. But an owner that gives a page up and soon wants one again may have its own back as it is:
//! *dirty within owner*. Its magazine is where such pages wait.
//!
//! # Invariants
//!
//! - A page in a magazine stays taken from the pool and charged to the owner: it is not free, and no promise counts on it.
//!   For the accounting it is held, as if it were in a slot of one of the owner's buffers.
//! - A page that leaves the magazine for the pool is dirty for everyone: `put(frame, Condition::Dirty)`.
//! - One magazine serves one owner. Who counts as one owner is the front end's business; it must not be wider than
//!   those who could read each other's memory anyway.
//! - The memory fixes how many pages are kept. A full magazine hands the frame back, and it goes to the pool.

use crate::frame::Frame;
use crate::reach::{Class, Reach};
use crate::units::{HugeSize, Pfn};

/// The bits of a word that hold the frame number; the class lies above them.
const PFN_BITS: u32 = 40;

/// A bounded stack of one owner's pages of one size: the page that came last, and is warmest, leaves first.
///
/// ```
/// use htlb_core::magazine::Magazine;
/// use htlb_core::{Class, Error, Frame, HugeSize, NodeId, Pfn};
///
/// let size = HugeSize::MIB2;
/// let class = Class::of(Pfn::new(512), size, NodeId::ZERO);
/// let mut magazine = Magazine::new(size, [0; 1]);
/// magazine.push(Frame::new(Pfn::new(512), size)?, class).unwrap();
///
/// // Full: the frame comes back, and its owner gives it to the pool.
/// let more = Frame::new(Pfn::new(1024), size)?;
/// assert_eq!(magazine.push(more, class).unwrap_err().pfn().raw(), 1024);
///
/// let (frame, from) = magazine.pop().unwrap();
/// assert_eq!((frame.pfn().raw(), from), (512, class));
/// assert!(magazine.is_empty());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
#[must_use = "the pages of a dropped magazine are leaked"]
pub struct Magazine<M> {
    size: HugeSize,
    memory: M,
    len: usize,
}

const fn pack(pfn: Pfn, class: Class) -> u64 {
    ((class.index() as u64) << PFN_BITS) | pfn.raw()
}

fn unpack(word: u64) -> Option<(Pfn, Class)> {
    let class = Class::from_index(usize::try_from(word >> PFN_BITS).ok()?)?;
    Some((Pfn::new(word & Pfn::MAX.raw()), class))
}

impl<M: AsRef<[u64]> + AsMut<[u64]>> Magazine<M> {
    /// An empty magazine for one page of `size` per word of `memory`, whatever that holds.
    pub const fn new(size: HugeSize, memory: M) -> Self {
        Self {
            size,
            memory,
            len: 0,
        }
    }

    /// The page size.
    #[must_use]
    pub const fn size(&self) -> HugeSize {
        self.size
    }

    /// How many pages fit.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.as_ref().len()
    }

    /// How many pages are kept.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no page is kept.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps a page of `class` that the owner has given up.
    ///
    /// # Errors
    /// The frame, where the magazine is full or for another page size.
    pub fn push(&mut self, frame: Frame, class: Class) -> Result<(), Frame> {
        if frame.size() != self.size {
            return Err(frame);
        }
        match self.memory.as_mut().get_mut(self.len) {
            Some(place) => {
                *place = pack(frame.into_pfn(), class);
                // The slice has a place beyond `len`, so the sum fits.
                self.len = self.len.wrapping_add(1);
                Ok(())
            }
            None => Err(frame),
        }
    }

    /// The page that came last, with what its owner left in it.
    pub fn pop(&mut self) -> Option<(Frame, Class)> {
        self.pop_within(Reach::ANY)
    }

    /// The page that came last of those within `reach`; the others keep their order.
    ///
    /// The time is linear in the pages that are passed over, none in the usual case of one device per owner.
    pub fn pop_within(&mut self, reach: Reach) -> Option<(Frame, Class)> {
        let kept = self.memory.as_mut().get_mut(..self.len)?;
        let covered = |word: &u64| unpack(*word).filter(|(_, class)| reach.covers(*class));
        let (at, (pfn, class)) = kept
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, word)| Some((at, covered(word)?)))?;
        // INVARIANT: the pages kept are the first `len` words. Rotating moves the one that leaves to the end.
        if let Some(later) = kept.get_mut(at..) {
            later.rotate_left(1);
        }
        self.len = self.len.saturating_sub(1);
        Some((Frame::mint(pfn, self.size), class))
    }

    /// Takes the pages out one by one, the last first: for an owner that ends, or memory that is short elsewhere.
    ///
    /// What is not taken from the iterator stays.
    pub fn drain(&mut self) -> impl Iterator<Item = (Frame, Class)> + '_ {
        core::iter::from_fn(|| self.pop())
    }

    /// The pages that are kept, the first that came first: for the comparison of all holders of pages.
    pub fn iter(&self) -> impl Iterator<Item = (Pfn, Class)> + '_ {
        self.memory
            .as_ref()
            .iter()
            .take(self.len)
            .filter_map(|word| unpack(*word))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )]

    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::reach::{AddressBits, Level, NodeId, NodeMask};

    const SIZE: HugeSize = HugeSize::MIB2;

    fn frame(page: u64) -> Frame {
        Frame::new(Pfn::new(page * 512), SIZE).unwrap()
    }

    fn class(node: u32, level: usize) -> Class {
        Class {
            node: NodeId::new(node).unwrap(),
            level: Level::from_index(level).unwrap(),
        }
    }

    #[test]
    fn last_in_first_out() {
        let mut magazine = Magazine::new(SIZE, vec![u64::MAX; 4]);
        for page in 0..4 {
            magazine.push(frame(page), class(0, 6)).unwrap();
        }
        assert_eq!(magazine.push(frame(4), class(0, 6)), Err(frame(4)));
        assert_eq!((magazine.len(), magazine.capacity()), (4, 4));
        let order: Vec<Frame> = magazine.drain().map(|(frame, _)| frame).collect();
        assert_eq!(order, [frame(3), frame(2), frame(1), frame(0)]);
        assert_eq!(magazine.pop(), None);
    }

    #[test]
    fn the_largest_frame_and_class_survive() {
        let last = Pfn::MAX.raw() & !511;
        let mut magazine = Magazine::new(SIZE, [0]);
        magazine
            .push(Frame::new(Pfn::new(last), SIZE).unwrap(), class(63, 11))
            .unwrap();
        assert_eq!(
            magazine.iter().collect::<Vec<_>>(),
            [(Pfn::new(last), class(63, 11))]
        );
        let (frame, from) = magazine.pop().unwrap();
        assert_eq!((frame.pfn().raw(), from), (last, class(63, 11)));
    }

    #[test]
    fn a_reach_passes_over_what_it_cannot_use() {
        let mut magazine = Magazine::new(SIZE, [0; 8]);
        for (page, at) in [
            (0, class(0, 11)),
            (1, class(1, 5)),
            (2, class(0, 5)),
            (3, class(1, 11)),
        ] {
            magazine.push(frame(page), at).unwrap();
        }
        let reach = |nodes, bits| {
            Reach::new(NodeMask::from_bits(nodes), AddressBits::new(bits).unwrap()).unwrap()
        };
        assert_eq!(
            magazine.pop_within(reach(0b10, 32)),
            Some((frame(1), class(1, 5)))
        );
        assert_eq!(magazine.pop_within(reach(0b10, 32)), None);
        assert_eq!(magazine.len(), 3);
        let rest: Vec<Frame> = magazine.drain().map(|(frame, _)| frame).collect();
        assert_eq!(rest, [frame(3), frame(2), frame(0)]);
    }

    #[test]
    fn another_size_and_no_memory_hand_the_frame_back() {
        let mut magazine = Magazine::new(HugeSize::GIB1, [0; 1]);
        assert_eq!(magazine.push(frame(0), class(0, 0)), Err(frame(0)));
        let mut magazine = Magazine::new(SIZE, [0; 0]);
        assert_eq!(magazine.push(frame(0), class(0, 0)), Err(frame(0)));
        assert!(magazine.is_empty());
    }
}
