// SPDX-License-Identifier: GPL-2.0-only
//! `/sys/kernel/debug/htlb`: `state`, what there is; `check`, whether the books agree, looked at while nobody changes them.

use htlb_core::stock::{Held, Violation};
use htlb_core::{Error as Reason, Exclusive, HugeSize};
use kernel::debugfs::{Dir, File, Writer};
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::machine::{Machine, SIZES};

/// The folder and its files.
#[pin_data]
pub(crate) struct Files {
    #[pin]
    state: File<State>,
    #[pin]
    check: File<Check>,
    folder: Dir,
}

struct State(Arc<Machine>);
struct Check(Arc<Machine>);

impl Files {
    /// Makes them.
    pub(crate) fn new(machine: Arc<Machine>) -> impl PinInit<Self, Error> {
        let folder = Dir::new(c"htlb");
        try_pin_init!(Self {
            state <- folder.read_only_file(c"state", State(machine.clone())),
            check <- folder.read_only_file(c"check", Check(machine)),
            folder: folder.clone(),
        })
    }
}

impl Writer for State {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for size in SIZES {
            let Some(lock) = self.0.stock(size) else { continue };
            let (counts, overcommit) = lock.with(|stock| (stock.counts(), stock.ledger().overcommit()));
            writeln!(
                f,
                "{} KiB: {} pages, {} free, {} promised, {} surplus of {}, {} in limbo",
                size.bytes() >> 10,
                counts.nr.raw(),
                counts.free.raw(),
                counts.reserved.raw(),
                counts.surplus.raw(),
                overcommit.raw(),
                self.0.limbo().len(Some(size)),
            )?;
        }
        let mut buffers = 0u64;
        let mut sealed = 0u64;
        self.0.each_buffer(|buffer| {
            buffers = buffers.saturating_add(1);
            sealed = sealed.saturating_add(u64::from(buffer.map().is_sealed()));
        });
        writeln!(f, "{} buffers, {} of them sealed", buffers, sealed)
    }
}

impl Writer for Check {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.check() {
            Ok(None) => writeln!(f, "ok"),
            Ok(Some((size, violation))) => {
                writeln!(f, "the books of the {} KiB pages are wrong: {:?}", size.bytes() >> 10, violation)
            }
            Err(reason) => writeln!(f, "not checked: {}", reason.as_str()),
        }
    }
}

impl Machine {
    /// Compares the books of every stock with the slots of every buffer, while nobody changes either; the first that is wrong.
    pub(crate) fn check(&self) -> Result<Option<(HugeSize, Violation)>, Reason> {
        self.at_rest(|| SIZES.into_iter().find_map(|size| Some((size, self.violation(size)?))))
    }

    fn violation(&self, size: HugeSize) -> Option<Violation> {
        let lock = self.stock(size)?;
        let mut held = Held::default();
        self.each_buffer(|buffer| {
            let serves = |part: &htlb_core::Part| part.attempt.size == size && self.stock_of(&part.attempt).is_some();
            let more = lock.with(|stock| stock.held_by(buffer.core(), serves));
            held.promises = held.promises.saturating_add(more.promises);
            held.pages = held.pages.saturating_add(more.pages);
        });
        held.pages = held.pages.saturating_add(self.limbo().len(Some(size)) as u64);
        lock.with(|stock| stock.audit(held)).err()
    }
}
