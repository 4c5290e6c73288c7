// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pools that grow, shrink, and break large pages up.

use htlb_core::{
    AddressBits, Class, Error, Exclusive, HugeSize, Level, NodeId, PageCount, Reach, Stock, Stop,
    Supply,
};

use super::faults::Call;
use super::machine::{lock, SimMachine};

impl SimMachine {
    /// Adds persistent pages below a mask; says how many could be had.
    ///
    /// # Errors
    /// [`Error::OutOfMetadata`].
    pub fn grow(
        &self,
        size: HugeSize,
        on: NodeId,
        pages: u64,
        below: AddressBits,
    ) -> Result<u64, Error> {
        self.on_host(|_| self.grow_inside(size, on, pages, below))
    }

    fn grow_inside(
        &self,
        size: HugeSize,
        on: NodeId,
        pages: u64,
        below: AddressBits,
    ) -> Result<u64, Error> {
        let mut attempt = self.attempt(size);
        attempt.reach = Reach::new(on.mask(), below)?;
        for grown in 0..pages {
            match self.bring(&attempt, on.mask(), Supply::Persistent) {
                Ok(()) => {}
                Err(Error::OutOfPages) => return Ok(grown),
                Err(error) => return Err(error),
            }
        }
        Ok(pages)
    }

    /// Makes the pool of a node `target` persistent pages large, as far as that is possible, and says how many it has
    /// then. Pages in use beyond that become surplus, and leave when they come back.
    ///
    /// # Errors
    /// [`Error::OutOfMetadata`].
    pub fn resize(&self, size: HugeSize, on: NodeId, target: u64) -> Result<u64, Error> {
        self.on_host(|_| self.resize_inside(size, on, target))
    }

    fn resize_inside(&self, size: HugeSize, on: NodeId, target: u64) -> Result<u64, Error> {
        self.retry_limbo();
        let stock = self.stock_of(size);
        let persistent = || {
            let counts = stock.with(|stock| stock.ledger().node(on));
            counts.nr.raw() - counts.surplus.raw()
        };
        let classes = || {
            (0..Level::COUNT)
                .rev()
                .filter_map(Level::from_index)
                .map(|level| Class { node: on, level })
        };
        let now = persistent();
        if target >= now {
            let mut left = PageCount::new(target - now);
            for class in classes() {
                let absorbed = stock.with(|stock| stock.ledger_mut().absorb(class, left));
                left = PageCount::new(left.raw() - absorbed.raw());
            }
            self.grow_inside(size, on, left.raw(), AddressBits::ALL)?;
            return Ok(persistent());
        }
        let mut excess = now - target;
        for class in classes() {
            while excess > 0 {
                match stock.with(|stock| stock.shrink(class)) {
                    Ok(frame) => {
                        excess -= 1;
                        lock(&self.memory).free(frame.into_pfn(), size);
                    }
                    Err(_) => break,
                }
            }
        }
        for class in classes() {
            let in_use = |stock: &mut Stock<Vec<u64>>| {
                let counts = stock.ledger().class(class);
                let used = counts.nr.raw() - counts.free.raw();
                let retired = used.saturating_sub(counts.surplus.raw()).min(excess);
                let done = stock.ledger_mut().retire(class, PageCount::new(retired));
                done.map_or(0, |()| retired)
            };
            excess -= stock.with(in_use);
        }
        Ok(persistent())
    }

    /// The system wants memory back: lets every surplus page go that no promise needs.
    pub fn drop_surplus(&self, size: HugeSize) {
        self.on_host(|_| {
            while let Some(frame) = self.stock_of(size).with(Stock::drop_surplus) {
                lock(&self.memory).free(frame.into_pfn(), size);
            }
        });
    }

    /// Breaks one free 1 GiB page of a node into pages of 2 MiB.
    ///
    /// # Errors
    /// Those of [`Stock::demote`].
    pub fn demote(&self, on: NodeId) -> Result<(), Error> {
        self.on_host(|_| self.demote_inside(on))
    }

    fn demote_inside(&self, on: NodeId) -> Result<(), Error> {
        let (large, small) = (self.stock_of(HugeSize::GIB1), self.stock_of(HugeSize::MIB2));
        let class_of = |pfn, size| Class::of(pfn, size, on);
        let mut refusal = Error::NoRoom;
        for level in (0..Level::COUNT).rev().filter_map(Level::from_index) {
            loop {
                let outcome = large.with(|large| {
                    small.with(|small| {
                        let pfn = large.demote(Class { node: on, level }, small, class_of)?;
                        lock(&self.memory).split(pfn, HugeSize::MIB2);
                        Ok(())
                    })
                });
                match outcome {
                    Ok(()) => return Ok(()),
                    Err(Stop::Metadata { table, words }) => {
                        if self.faults.hit(Call::Words) {
                            return Err(Error::OutOfMetadata);
                        }
                        let bigger = vec![0; words];
                        drop(small.with(|stock| stock.adopt(table, bigger)));
                    }
                    Err(Stop::Fail(error)) => {
                        refusal = error;
                        break;
                    }
                    Err(Stop::Wait(what)) => panic!("a stock does not wait: {what:?}"),
                }
            }
        }
        Err(refusal)
    }
}
