// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! How fast the core is, and how little memory it needs: on simulated machines, far larger than the one it runs on.
//!
//! The fixtures are public, so that each can be measured alone or beside another peer. None allocates
//! between set-up and the end of a measurement.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::mem;
use std::sync::atomic::AtomicU64;

use htlb_core::driver::{self, Commitment, Content};
use htlb_core::ledger::AccountId;
use htlb_core::{
    Buffer, ByteOffset, ByteRange, Charge, Condition, Error, Fill, Frame, NodeId, NodeMask,
    PageCount, Reach, Returned, Stop,
};

use super::host::{Quiet, Weighed, PAGE};
use super::{interleaved, nanoseconds};

/// Operations in one round, where a round has no natural length.
const OPERATIONS: usize = 100_000;
/// One tebibyte, in pages.
const TEBIBYTE: u64 = 1 << 19;

/// Uniform numbers, the same ones each time.
struct Uniform(u64);

impl Uniform {
    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half of the product is uniform below `end`, and costs no division.
        ((u128::from(mixed ^ (mixed >> 31)) * u128::from(end)) >> 64) as u64
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for at in (1..values.len()).rev() {
            values.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// A buffer in which every other page is promised.
#[derive(Debug)]
pub struct Ranges {
    host: Quiet,
    buffer: Buffer<Weighed<AtomicU64>>,
    holes: Vec<ByteRange>,
}

impl Ranges {
    /// A buffer with `ranges` disjoint promised ranges, a hole before each and one after the last.
    ///
    /// # Errors
    /// None, unless the core is broken.
    pub fn new(ranges: u64) -> Result<Self, Error> {
        let host = Quiet::new(1, ranges + 1)?;
        let pages = 2 * ranges + 1;
        let buffer = host.buffer(pages, Commitment::Unpromised)?;
        for range in 0..ranges {
            driver::reserve(&host, &buffer, page(2 * range + 1)?)?;
        }
        let mut uniform = Uniform(1);
        let holes = (0..4096).map(|_| page(2 * uniform.below(ranges + 1)));
        let holes = holes.collect::<Result<_, _>>()?;
        Ok(Self {
            host,
            buffer,
            holes,
        })
    }

    /// Promises one hole, anywhere between the ranges, and gives it back: `times` times. Says what one took, in
    /// nanoseconds.
    ///
    /// # Errors
    /// None, unless the core is broken.
    pub fn reserve_and_release(&self, times: usize) -> Result<f64, Error> {
        nanoseconds(times, || {
            for hole in self.holes.iter().cycle().take(times) {
                black_box(driver::reserve(&self.host, &self.buffer, *hole)?);
                black_box(driver::punch(&self.host, &self.buffer, *hole)?);
            }
            Ok(())
        })
    }
}

/// The bytes of one page.
fn page(index: u64) -> Result<ByteRange, Error> {
    ByteRange::new(
        ByteOffset::new(index << PAGE.shift()),
        ByteOffset::new((index + 1) << PAGE.shift()),
    )
}

/// A populated buffer, a [`BTreeMap`] with the same pages, and offsets to look up in both.
#[derive(Debug)]
pub struct Lookups {
    buffer: Buffer<Weighed<AtomicU64>>,
    tree: BTreeMap<u64, u64>,
    offsets: Vec<u64>,
}

impl Lookups {
    /// A buffer of `pages` pages, and as many uniform offsets.
    ///
    /// # Errors
    /// None, unless the core is broken.
    pub fn new(pages: u64) -> Result<Self, Error> {
        let host = Quiet::new(1, pages)?;
        let buffer = host.buffer(pages, Commitment::Promised)?;
        let all = ByteRange::at(ByteOffset::ZERO, buffer.map().size())?;
        driver::populate(&host, &buffer, all, &mut Content::Zeroes)?;
        // Built from ascending keys at once, the tree's nodes are full: its best shape.
        let frames = buffer.map().frames();
        let tree = frames.map(|(index, pfn, _)| (index.raw(), pfn.raw()));
        let tree = tree.collect();
        let mut uniform = Uniform(2);
        let end = buffer.map().size().raw();
        let offsets = (0..pages).map(|_| uniform.below(end)).collect();
        Ok(Self {
            buffer,
            tree,
            offsets,
        })
    }

    /// One look-up with [`page_at`](htlb_core::page_map::PageMap::page_at), in nanoseconds; it does not wait for the one before.
    ///
    /// # Errors
    /// None, unless the core is broken.
    pub fn page_at(&self) -> Result<f64, Error> {
        self.independent(|offset| self.look(offset))
    }

    /// The same, each offset known only when the page before it is.
    ///
    /// # Errors
    /// None, unless the core is broken.
    pub fn page_at_dependent(&self) -> Result<f64, Error> {
        self.dependent(|offset| self.look(offset))
    }

    /// One look-up in the tree, in nanoseconds; it does not wait for the one before.
    ///
    /// # Errors
    /// None, unless the tree is broken.
    pub fn btree(&self) -> Result<f64, Error> {
        self.independent(|offset| self.climb(offset))
    }

    /// The same, each offset known only when the page before it is.
    ///
    /// # Errors
    /// None, unless the tree is broken.
    pub fn btree_dependent(&self) -> Result<f64, Error> {
        self.dependent(|offset| self.climb(offset))
    }

    #[inline(always)]
    fn look(&self, offset: u64) -> Result<u64, Error> {
        let page = self.buffer.map().page_at(ByteOffset::new(offset))?;
        Ok(page.pfn.raw())
    }

    #[inline(always)]
    fn climb(&self, offset: u64) -> Result<u64, Error> {
        let index = offset >> PAGE.shift();
        self.tree.get(&index).copied().ok_or(Error::NotPresent)
    }

    #[inline(always)]
    fn independent(&self, find: impl Fn(u64) -> Result<u64, Error>) -> Result<f64, Error> {
        nanoseconds(self.offsets.len(), || {
            let mut sum = 0u64;
            for offset in &self.offsets {
                sum = sum.wrapping_add(find(*offset)?);
            }
            black_box(sum);
            Ok(())
        })
    }

    #[inline(always)]
    fn dependent(&self, find: impl Fn(u64) -> Result<u64, Error>) -> Result<f64, Error> {
        // Unknown to the compiler and zero: what is found decides nothing but when the next look-up can begin.
        let nothing = black_box(0);
        nanoseconds(self.offsets.len(), || {
            let mut found = 0u64;
            for offset in &self.offsets {
                found = find(*offset ^ (found & nothing))?;
            }
            black_box(found);
            Ok(())
        })
    }
}

/// A machine, half of whose pages are in use.
#[derive(Debug)]
pub struct Machine {
    host: Quiet,
    charge: Charge,
    nodes: u32,
    held: Vec<Frame>,
    next: usize,
}

impl Machine {
    /// A machine of `pages` pages, at least two, on `nodes` nodes; the pages in use are in no order.
    ///
    /// # Errors
    /// None, unless the core is broken.
    pub fn new(nodes: u8, pages: u64) -> Result<Self, Error> {
        let host = Quiet::new(nodes, pages)?;
        let charge = Charge {
            reach: Reach::ANY,
            account: AccountId::ROOT,
        };
        let mut held = Vec::new();
        for taken in 0..pages / 2 {
            let node = NodeId::new((taken % u64::from(nodes)) as u32)?;
            held.push(take(&host, charge, node.mask())?);
        }
        Uniform(3).shuffle(&mut held);
        Ok(Self {
            host,
            charge,
            nodes: nodes.into(),
            held,
            next: 0,
        })
    }

    /// Promises two pages, takes one of them, on one node after the other, gives the other promise up, and puts a
    /// page back that was taken long ago: `times` times. Says what one took, in nanoseconds.
    ///
    /// # Errors
    /// None, unless the core is broken.
    pub fn promise_take_put_release(&mut self, times: usize) -> Result<f64, Error> {
        let charge = self.charge;
        let mut stock = self.host.locked();
        nanoseconds(times, || {
            for turn in 0..times as u32 {
                let prefer = NodeId::new(turn % self.nodes)?.mask();
                let mut promise = stock
                    .reserve(charge, PageCount::new(2))
                    .map_err(|stop| refusal(&stop))?;
                let one = promise.split_off(PageCount::ONE).ok_or(Error::NoRoom)?;
                let (frame, condition) = stock
                    .take(one, prefer, Fill::Zeroed)
                    .map_err(|_| Error::NoRoom)?;
                black_box(condition);
                stock.release(promise);
                let place = self.held.get_mut(self.next).ok_or(Error::NoRoom)?;
                let old = mem::replace(place, frame);
                self.next = (self.next + 1) % self.held.len();
                if stock.put(old, charge, Condition::Dirty) != Returned::Kept {
                    return Err(Error::FrameInvalid);
                }
            }
            Ok(())
        })
    }
}

fn take(host: &Quiet, charge: Charge, prefer: NodeMask) -> Result<Frame, Error> {
    let taken = host.locked().take_free(charge, prefer, Fill::Zeroed);
    taken.map(|(frame, _)| frame).map_err(|stop| refusal(&stop))
}

fn refusal(stop: &Stop) -> Error {
    match stop {
        Stop::Fail(error) => *error,
        Stop::Metadata { .. } => Error::OutOfMetadata,
        Stop::Wait(_) => Error::Closed,
    }
}

/// Reserving and releasing one page among 100,000 disjoint reserved ranges, divided by the same among 100.
///
/// # Errors
/// None, unless the core is broken.
pub fn reserve_growth() -> Result<f64, Error> {
    let (many, few) = (Ranges::new(100_000)?, Ranges::new(100)?);
    let rounds = interleaved([&mut || many.reserve_and_release(OPERATIONS), &mut || {
        few.reserve_and_release(OPERATIONS)
    }])?;
    Ok(rounds.ratio(0, 1))
}

/// What [`page_at`] measured.
#[derive(Clone, Copy, Debug)]
pub struct PageAt {
    /// One look-up at a random offset of a buffer of 1 TiB, in nanoseconds.
    pub ns: f64,
    /// The time of a [`BTreeMap`] with the same pages divided by ours.
    pub vs_btree: f64,
    /// As `ns`, each offset known only after the look-up before.
    pub dependent_ns: f64,
    /// As `vs_btree`, each offset known only after the look-up before.
    pub dependent_vs_btree: f64,
}

/// Looks pages up in a buffer of 1 TiB, in turns with a [`BTreeMap`].
///
/// # Errors
/// None, unless the core is broken.
pub fn page_at() -> Result<PageAt, Error> {
    let lookups = Lookups::new(TEBIBYTE)?;
    let rounds = interleaved([
        &mut || lookups.page_at(),
        &mut || lookups.btree(),
        &mut || lookups.page_at_dependent(),
        &mut || lookups.btree_dependent(),
    ])?;
    Ok(PageAt {
        ns: rounds.median(0),
        vs_btree: rounds.ratio(1, 0),
        dependent_ns: rounds.median(2),
        dependent_vs_btree: rounds.ratio(3, 2),
    })
}

/// One promise, take, put and release at 16 TiB on 8 nodes, divided by the same at 1 GiB on one.
///
/// # Errors
/// None, unless the core is broken.
pub fn scale_16tib() -> Result<f64, Error> {
    let mut large = Machine::new(8, 16 * TEBIBYTE)?;
    let mut small = Machine::new(1, TEBIBYTE >> 10)?;
    let rounds = interleaved([
        &mut || large.promise_take_put_release(OPERATIONS),
        &mut || small.promise_take_put_release(OPERATIONS),
    ])?;
    Ok(rounds.ratio(0, 1))
}

/// The bytes of page map, pool and ledger for each page of a machine of 16 TiB on 8 nodes, all of it in one buffer.
///
/// # Errors
/// None, unless the core is broken.
pub fn metadata_bytes_per_page() -> Result<f64, Error> {
    let pages = 16 * TEBIBYTE;
    let host = Quiet::new(8, pages)?;
    let buffer = host.buffer(pages, Commitment::Promised)?;
    // The structures themselves count too, though not for much.
    let bytes = host.metadata() + mem::size_of_val(&buffer) + mem::size_of_val(&*host.locked());
    Ok(bytes as f64 / pages as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_bytes_of_metadata_per_page() {
        let bytes = metadata_bytes_per_page().unwrap();
        // Eight are the page map's slot.
        assert!((8.0..=10.0).contains(&bytes), "{bytes} bytes per page");
    }

    #[test]
    fn both_peers_find_the_same_pages() {
        let lookups = Lookups::new(1000).unwrap();
        assert_eq!(lookups.tree.len(), 1000);
        for offset in &lookups.offsets {
            assert_eq!(lookups.look(*offset), lookups.climb(*offset));
            assert!(lookups.look(*offset).is_ok());
        }
    }

    #[test]
    fn the_measured_operations_leave_everything_as_it_was() {
        let ranges = Ranges::new(50).unwrap();
        let before = (ranges.host.locked().counts(), ranges.buffer.map().census());
        assert_eq!(before.0.reserved.raw(), 50);
        assert!(ranges.reserve_and_release(200).unwrap() > 0.0);
        let after = (ranges.host.locked().counts(), ranges.buffer.map().census());
        assert_eq!(after, before);

        let mut machine = Machine::new(8, 4096).unwrap();
        let before = machine.host.locked().counts();
        assert_eq!(before.free.raw(), 2048);
        assert!(machine.promise_take_put_release(5000).unwrap() > 0.0);
        assert_eq!(machine.host.locked().counts(), before);
        assert_eq!(machine.host.locked().check(), Ok(()));
    }

    #[test]
    fn uniform_numbers_are_below_their_end_and_spread() {
        let mut uniform = Uniform(1);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[uniform.below(10) as usize] += 1;
        }
        assert!(
            seen.iter().all(|times| (800..1200).contains(times)),
            "{seen:?}"
        );
    }
}
