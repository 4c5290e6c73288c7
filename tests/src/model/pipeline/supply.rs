// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pools that change, accounts that end, and the end of everything.

use htlb_core::{AddressBits, Exclusive, HugeSize, PageCount};

use super::machine::{in_part, unchanged, Bench, Outcome};
use super::{Few, Nth, On, Pool, GIB1, MIB2};
use crate::sim::machine::node;

impl Bench<'_> {
    pub(super) fn grow_pool(&mut self, size: Pool, on: On, pages: Few, bits: u8) -> Outcome {
        let below = AddressBits::new([64, 34, 32, 31][usize::from(bits % 4)]).expect("legal");
        // One of the large pages at a time: a node has eight.
        let pages = match size.size() {
            GIB1 => pages.pages().min(1),
            _ => pages.pages(),
        };
        let grown = self.machine.grow(size.size(), self.node(on), pages, below);
        // Those that came before the tables were full stay.
        assert!(grown.map_err(in_part)? <= pages);
        Ok(())
    }

    pub(super) fn resize(&mut self, size: Pool, on: On, pages: Few) -> Outcome {
        let target = pages.pages();
        let on = self.node(on);
        let reached = self.machine.resize(size.size(), on, target);
        let reached = reached.map_err(in_part)?;
        let counts = self.machine.stock_of(size.size());
        let counts = counts.with(|stock| stock.ledger().node(on));
        assert_eq!(reached, counts.nr.raw() - counts.surplus.raw());
        Ok(())
    }

    pub(super) fn overcommit(&self, size: HugeSize, pages: u64) {
        let stock = self.machine.stock_of(size);
        stock.with(|stock| stock.ledger_mut().set_overcommit(PageCount::new(pages)));
    }

    pub(super) fn close(&mut self, nth: Nth) -> Outcome {
        let Some(at) = nth.of(self.owners.len()) else {
            return Ok(());
        };
        // The owner stays: what it asks for later must be refused.
        self.machine.close(self.owners[at]).map_err(unchanged)
    }

    /// Gives everything back, and empties the pools.
    pub(super) fn finish(mut self) {
        for mut buffer in self.buffers.drain(..) {
            buffer.end();
        }
        for pfn in self.held.drain(..) {
            self.machine.let_go(pfn);
        }
        self.machine.retry_all_limbo();
        self.machine.empty_magazines(None);
        assert_eq!(self.machine.audit(), Ok(()));
        for owner in self.owners.drain(..) {
            // Those that were closed before are unknown by now.
            let _ = self.machine.close(owner);
        }
        for size in [MIB2, GIB1] {
            self.overcommit(size, 0);
            // Such as came for an account's minimum, and stay until somebody wants the memory.
            self.machine.drop_surplus(size);
            for on in self.machine.topology().nodes.iter() {
                let left = self.machine.resize(size, node(on.raw().into()), 0);
                assert_eq!(left, Ok(0));
            }
            let counts = self.machine.stock_of(size).with(|stock| stock.counts());
            assert!(
                counts.nr.is_zero() && counts.reserved.is_zero(),
                "{counts:?}"
            );
        }
        assert_eq!(self.machine.audit(), Ok(()));
        assert_eq!(self.machine.pages(), 0, "pages are left");
    }
}
