// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The core's side: a simulated machine of one node, an account for each mount, a buffer for each file.

use htlb_core::driver::{Commitment, Punched};
use htlb_core::ledger::AccountId;
use htlb_core::{
    Attempt, ByteLen, ByteOffset, ByteRange, Class, Error, Exclusive, Host, HugeSize, NodeMask,
    PageCount, PageIndex, Reach, Request, Stock,
};
use htlb_tests::sim::buffer::zeroes;
use htlb_tests::sim::machine::node;
use htlb_tests::sim::{Owner, SimBuffer, SimHost, SimMachine};

use crate::op::{Limits, Span, FILES, FILE_PAGES, MOUNTS};
use crate::subpool::Subpool;
use crate::world::Counted;
use crate::PAGE;

const SIZE: HugeSize = HugeSize::MIB2;
/// More pages than any case has.
const PLENTY: u64 = 1000;

/// A file.
#[derive(Debug)]
pub(crate) struct OpenFile<'m> {
    pub(crate) buffer: SimBuffer<'m>,
    pub(crate) mount: usize,
    /// Linux's size, in pages. The buffer is longer only where pages lie beyond it.
    pub(crate) end: u64,
}

/// A mount.
#[derive(Debug)]
pub(crate) struct Mount<'m> {
    owner: Owner,
    account: AccountId,
    pub(crate) subpool: Subpool,
    /// Promises to nobody, for what Linux holds back beyond the minimum.
    ballast: SimBuffer<'m>,
    held_back: u64,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Htlb<'m> {
    machine: &'m SimMachine,
    pub(crate) files: [Option<OpenFile<'m>>; FILES],
    pub(crate) mounts: [Option<Mount<'m>>; MOUNTS],
    overcommit: u64,
}

/// The bytes of some pages.
pub(crate) fn bytes(span: Span) -> ByteRange {
    let start = ByteOffset::new(span.at * PAGE);
    ByteRange::new(start, ByteOffset::new(span.end() * PAGE)).expect("a page at least")
}

impl OpenFile<'_> {
    /// How long the buffer is, in pages.
    pub(crate) fn len(&self) -> u64 {
        self.buffer.core().map().size().raw() / PAGE
    }

    pub(crate) fn is_present(&self, page: u64) -> bool {
        self.buffer.core().map().is_present(PageIndex::new(page))
    }

    /// Whether the page is promised and has not come.
    pub(crate) fn is_promised(&self, page: u64) -> bool {
        let map = self.buffer.core().map();
        let slot = map.pages(bytes(Span { at: page, len: 1 }));
        slot.is_ok_and(|slot| {
            let census = map.census_of(slot);
            census.of(SIZE).is_some_and(|of| of.promised.raw() == 1)
        })
    }

    pub(crate) fn present(&self) -> u64 {
        (0..FILE_PAGES)
            .filter(|page| self.is_present(*page))
            .count() as u64
    }

    /// Makes the buffer as long as its pages and Linux's size ask for, which takes nothing away.
    pub(crate) fn fit(&self) {
        let pages =
            (0..FILE_PAGES).filter(|page| self.is_present(*page) || self.is_promised(*page));
        let end = pages.max().map_or(0, |last| last + 1).max(self.end);
        let gone = self.buffer.truncate(ByteLen::new(end * PAGE));
        assert_eq!(gone, Ok(Punched::default()), "nothing was there");
    }
}

impl<'m> Htlb<'m> {
    pub(crate) fn new(machine: &'m SimMachine) -> Self {
        Self {
            machine,
            files: Default::default(),
            mounts: Default::default(),
            overcommit: 0,
        }
    }

    fn stock<T>(&self, f: impl FnOnce(&mut Stock<Vec<u64>>) -> T) -> T {
        self.machine.stock_of(SIZE).with(f)
    }

    pub(crate) fn counted(&self) -> Counted {
        let counts = self.stock(|stock| stock.counts());
        Counted {
            nr: counts.nr.raw(),
            free: counts.free.raw(),
            reserved: counts.reserved.raw(),
            surplus: counts.surplus.raw(),
        }
    }

    /// The invariants.
    pub(crate) fn audit(&self) -> Result<(), String> {
        self.machine.audit()
    }

    /// How many surplus pages there may be beyond those that are.
    pub(crate) fn headroom(&self) -> u64 {
        self.overcommit.saturating_sub(self.counted().surplus)
    }

    /// What the mount's files have and are promised.
    pub(crate) fn used(&self, mount: usize) -> u64 {
        self.usage(mount).0
    }

    /// The same, and what of the minimum is unused.
    fn usage(&self, mount: usize) -> (u64, u64) {
        let account = self.mount(mount).account;
        let usage = self.stock(|stock| stock.ledger().usage(account));
        let usage = usage.expect("an open account");
        (usage.used.raw(), usage.unused_minimum.raw())
    }

    /// What of the mount's minimum is unused.
    pub(crate) fn unused_minimum(&self, mount: usize) -> u64 {
        self.usage(mount).1
    }

    pub(crate) fn file(&self, file: usize) -> &OpenFile<'m> {
        self.files[file].as_ref().expect("an open file")
    }

    pub(crate) fn mount(&self, mount: usize) -> &Mount<'m> {
        self.mounts[mount].as_ref().expect("a mount")
    }

    fn subpool(&mut self, mount: usize) -> &mut Subpool {
        &mut self.mounts[mount].as_mut().expect("a mount").subpool
    }

    /// The system gives surplus pages, so many more, and no page beside them: Linux has none outside its pool.
    fn limit(&self, pages: u64) {
        self.machine.limit(SIZE, pages);
    }

    /// Runs `f` where surplus pages have no limit: it restores what Linux never let go.
    fn unlimited<T>(&self, f: impl FnOnce() -> T) -> T {
        let set =
            |pages| self.stock(|stock| stock.ledger_mut().set_overcommit(PageCount::new(pages)));
        set(u64::MAX);
        self.limit(PLENTY);
        let value = f();
        set(self.overcommit);
        value
    }

    /// Promises the pages again that an operation of htlb's own gave up, one by one.
    pub(crate) fn promise_again(&self, file: usize, pages: &[u64]) -> Result<(), Error> {
        self.unlimited(|| {
            pages.iter().try_for_each(|&at| {
                let one = Span { at, len: 1 };
                self.file(file).buffer.reserve(bytes(one)).map(drop)
            })
        })
    }

    /// Runs what may get pages or promises for a file.
    pub(crate) fn taking(
        &mut self,
        file: usize,
        f: impl FnOnce(&OpenFile<'m>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mount = self.file(file).mount;
        let (before, used) = (self.counted().nr, self.used(mount));
        let headroom = self.headroom();
        let held_back = self.mount(mount).held_back;
        let outcome = if held_back > 0 {
            // What is held back is for this mount; surplus pages that leave with it may come again.
            self.unlimited(|| {
                self.mount(mount).hold(held_back, 0);
                self.limit(headroom + before - self.counted().nr);
                f(self.file(file))
            })
        } else {
            self.limit(headroom);
            f(self.file(file))
        };
        if let Some(mount) = &mut self.mounts[mount] {
            mount.held_back = 0;
        }
        let got = self.used(mount) - used;
        self.subpool(mount).draw(got);
        self.hold_back(mount);
        outcome
    }

    /// A reservation of so many pages was refused for want of pages.
    pub(crate) fn refused(&mut self, mount: usize, pages: u64) {
        let used = self.used(mount);
        self.subpool(mount).refuse(used, pages);
        self.hold_back(mount);
    }

    /// The next so many pages of the mount's limit are lost.
    pub(crate) fn leak(&mut self, mount: usize, pages: u64) {
        let subpool = self.subpool(mount);
        subpool.leaked += pages;
        let left = subpool
            .limits
            .max
            .map(|max| PageCount::new(max - subpool.leaked));
        let account = self.mount(mount).account;
        let set = self.stock(|stock| stock.ledger_mut().set_limit(account, left));
        assert_eq!(
            set,
            Ok(()),
            "what is used and what is lost are within the limit"
        );
    }

    /// What Linux counts when so many pages and then so many promises come back to a mount, and whether it lets a page go
    /// that a minimum needs.
    pub(crate) fn give_back(
        &mut self,
        mount: usize,
        before: Counted,
        gone: Punched,
    ) -> (Counted, bool) {
        let mut used = self.used(mount) + gone.pages.raw() + gone.promises.raw();
        let mut counted = before;
        for _ in 0..gone.pages.raw() {
            used -= 1;
            let kept = self.subpool(mount).put(used, 1) == 0;
            counted.reserved += u64::from(kept);
            if counted.surplus > 0 {
                counted.surplus -= 1;
                counted.nr -= 1;
            } else {
                counted.free += 1;
            }
        }
        if !gone.promises.is_zero() {
            used -= gone.promises.raw();
            let unreserved = self.subpool(mount).put(used, gone.promises.raw());
            counted.reserved -= unreserved;
            let leave = unreserved.min(counted.surplus).min(counted.free);
            counted.surplus -= leave;
            counted.free -= leave;
            counted.nr -= leave;
        }
        // Reservations that came back after a page left may have made up for it.
        let parted = counted.reserved > counted.free;
        if !parted {
            self.hold_back(mount);
        }
        (counted, parted)
    }

    /// Whether Linux holds more back for the mount than its unused minimum.
    pub(crate) fn holds_back(&self, mount: usize) -> bool {
        self.mount(mount).held_back > 0
    }

    fn hold_back(&mut self, mount: usize) {
        let unused = self.usage(mount).1;
        let wanted = self.mount(mount).subpool.reserve.checked_sub(unused);
        let wanted = wanted.expect("Linux never holds less back than the unused minimum");
        let now = self.mount(mount).held_back;
        if now != wanted {
            self.unlimited(|| self.mount(mount).hold(now, wanted));
            if let Some(mount) = &mut self.mounts[mount] {
                mount.held_back = wanted;
            }
        }
    }

    /// An empty file.
    pub(crate) fn open(&mut self, file: usize, mount: usize) {
        let buffer = buffer(self.machine, self.mount(mount).owner, FILE_PAGES);
        self.files[file] = Some(OpenFile {
            buffer,
            mount,
            end: 0,
        });
    }

    /// A mount; the surplus pages for its minimum come first, as for any promise.
    pub(crate) fn open_mount(&mut self, mount: usize, limits: Limits) -> Result<(), Error> {
        let ballast = buffer(self.machine, Owner::FIRST, PLENTY);
        let attempt = ballast.core().parts().next().expect("one part").attempt;
        self.limit(self.headroom());
        let supplied = self.supply(&attempt, limits.min);
        let owner =
            supplied.and_then(|()| self.machine.owner(Some((SIZE, limits.max, limits.min))));
        let host = SimHost::new(self.machine, *owner.as_ref().unwrap_or(&Owner::FIRST));
        let owner = owner.inspect_err(|_| {
            while let Some(frame) = self.stock(Stock::drop_surplus) {
                host.free(frame, &attempt);
            }
        })?;
        self.mounts[mount] = Some(Mount {
            owner,
            account: host.account(&attempt),
            subpool: Subpool::new(limits),
            ballast,
            held_back: 0,
        });
        Ok(())
    }

    fn supply(&self, attempt: &Attempt, pages: u64) -> Result<(), Error> {
        let host = SimHost::new(self.machine, Owner::FIRST);
        loop {
            let short = htlb_core::driver::with_stock(&host, attempt, |stock| {
                let pages = PageCount::new(pages);
                stock
                    .ledger_mut()
                    .shortage(Reach::ANY, AccountId::ROOT, pages)
            })?;
            if short.is_zero() {
                return Ok(());
            }
            host.supply(attempt, NodeMask::ALL, short)?;
        }
    }

    /// The mount's end.
    pub(crate) fn close_mount(&mut self, mount: usize) {
        if let Some(gone) = self.mounts[mount].take() {
            assert_eq!(gone.held_back, 0, "an empty mount holds its minimum back");
            drop(gone.ballast);
            assert_eq!(self.machine.close(gone.owner), Ok(()));
        }
    }

    pub(crate) fn set_overcommit(&mut self, pages: u64) {
        self.overcommit = pages;
        self.stock(|stock| stock.ledger_mut().set_overcommit(PageCount::new(pages)));
    }

    /// Another number of persistent pages. What stays beyond it is surplus, also where it is free and promised.
    pub(crate) fn resize(&mut self, pages: u64) -> Result<(), Error> {
        self.limit(PLENTY);
        let persistent = self.machine.resize(SIZE, node(0), pages)?;
        let mut excess = persistent.saturating_sub(pages);
        for class in (0..Class::COUNT).filter_map(Class::from_index) {
            excess -= self.stock(|stock| {
                let counts = stock.ledger().class(class);
                let retired = excess.min(counts.nr.raw() - counts.surplus.raw());
                let done = stock.ledger_mut().retire(class, PageCount::new(retired));
                done.map_or(0, |()| retired)
            });
        }
        assert_eq!(excess, 0, "every persistent page can be called surplus");
        Ok(())
    }
}

impl Mount<'_> {
    /// Holds `wanted` pages back instead of `now`.
    fn hold(&self, now: u64, wanted: u64) {
        if wanted > now {
            let more = Span {
                at: now,
                len: wanted - now,
            };
            let held = self.ballast.reserve(bytes(more));
            assert_eq!(held, Ok(PageCount::new(more.len)), "Linux holds it back");
        } else {
            let less = Span {
                at: wanted,
                len: now - wanted,
            };
            let gone = self.ballast.punch(bytes(less)).expect("nobody pins it");
            assert_eq!(gone.promises.raw(), less.len);
        }
    }
}

/// A buffer of no page that can grow to so many, none of them promised.
fn buffer(machine: &SimMachine, owner: Owner, pages: u64) -> SimBuffer<'_> {
    let request = Request::builder(ByteLen::new(PAGE))
        .page_size(SIZE)
        .strict()
        .build()
        .expect("a legal request");
    let capacity = ByteLen::new(pages * PAGE);
    let made = machine.create(
        owner,
        &request,
        Commitment::Unpromised,
        capacity,
        &mut zeroes(),
    );
    let buffer = made.expect("slots are all that it needs");
    let end = if owner == Owner::FIRST {
        capacity
    } else {
        ByteLen::ZERO
    };
    buffer.truncate(end).expect("nobody pins it");
    buffer
}
