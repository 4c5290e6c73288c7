// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A machine under test that checks itself after every step.

use htlb_core::driver::Commitment;
use htlb_core::ledger::Counts;
use htlb_core::page_map::Located;
use htlb_core::{ByteLen, ByteOffset, ByteRange, Error, HugeSize, Pfn, Request, RequestBuilder};

use super::{Gone, Got, Limits, Machine, Order, OwnerId, Pages, Produce};

/// 2 MiB.
pub(super) const PAGE: u64 = 2 << 20;

/// A machine under test.
pub struct Rig<'m> {
    machine: &'m dyn Machine,
}

/// A buffer under test.
pub struct Buf<'r> {
    rig: &'r Rig<'r>,
    pages: Box<dyn Pages + 'r>,
}

/// The bytes of the 2 MiB pages from `first` up to, not including, `end`.
///
/// # Panics
/// If that is none.
#[must_use]
pub(super) fn pages(first: u64, end: u64) -> ByteRange {
    ByteRange::new(ByteOffset::new(first * PAGE), ByteOffset::new(end * PAGE)).expect("a range")
}

/// A request for so many 2 MiB pages and nothing else.
pub(super) fn strict(count: u64) -> RequestBuilder {
    Request::builder(ByteLen::new(count * PAGE))
        .page_size(HugeSize::MIB2)
        .strict()
}

/// Which of its limits a machine names when it is short of pages is its own affair: here they are all
/// [`Error::NoRoom`].
pub(super) fn short<T>(outcome: Result<T, Error>) -> Result<T, Error> {
    outcome.map_err(|error| match error {
        Error::OutOfPages | Error::OvercommitLimit | Error::OutOfReach => Error::NoRoom,
        error => error,
    })
}

/// Gives an answer to a body: a shortage by one name, everything else as it is.
trait Answer {
    fn named(self) -> Self;
}

impl<T> Answer for Result<T, Error> {
    fn named(self) -> Self {
        short(self)
    }
}

impl Answer for () {
    fn named(self) -> Self {}
}

impl Answer for Vec<Got> {
    fn named(self) -> Self {
        self
    }
}

impl<'m> Rig<'m> {
    /// Over this machine.
    pub fn new(machine: &'m dyn Machine) -> Self {
        Self { machine }
    }

    /// The machine itself, whose calls are not checked one by one: for threads, and inside producers.
    #[must_use]
    pub fn machine(&self) -> &'m dyn Machine {
        self.machine
    }

    /// Asks the machine to compare its books.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self) {
        if let Err(broken) = self.machine.check() {
            panic!("{broken}");
        }
    }

    fn checked<T: Answer>(&self, answer: T) -> T {
        self.check();
        answer.named()
    }

    /// A buffer of so many promised 2 MiB pages.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn promised(&self, count: u64) -> Buf<'_> {
        self.of(0, strict(count), Commitment::Promised)
            .expect("promised pages")
    }

    /// A buffer of so many 2 MiB pages, none of them promised.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn unpromised(&self, count: u64) -> Buf<'_> {
        self.of(0, strict(count), Commitment::Unpromised)
            .expect("a buffer of holes")
    }

    /// A buffer that cannot grow.
    ///
    /// # Errors
    /// Those of [`Machine::create`].
    ///
    /// # Panics
    /// If no machine could meet the request.
    pub fn of(
        &self,
        owner: OwnerId,
        request: RequestBuilder,
        commitment: Commitment,
    ) -> Result<Buf<'_>, Error> {
        let request = request.build().expect("a legal request");
        let capacity = request.size();
        self.create(
            owner,
            &Order {
                request,
                commitment,
                capacity,
            },
            None,
        )
    }

    /// A buffer.
    ///
    /// # Errors
    /// Those of [`Machine::create`].
    pub fn create(
        &self,
        owner: OwnerId,
        order: &Order,
        produce: Option<Produce<'_>>,
    ) -> Result<Buf<'_>, Error> {
        let made = self.checked(self.machine.create(owner, order, produce));
        Ok(Buf {
            rig: self,
            pages: made?,
        })
    }

    /// As [`Machine::owner`].
    ///
    /// # Errors
    /// As there.
    pub fn owner(&self, limits: Option<Limits>) -> Result<OwnerId, Error> {
        self.checked(self.machine.owner(limits))
    }

    /// As [`Machine::close`].
    ///
    /// # Errors
    /// As there.
    pub fn close(&self, owner: OwnerId) -> Result<(), Error> {
        self.checked(self.machine.close(owner))
    }

    /// The counts of the 2 MiB pool.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.machine.counts(HugeSize::MIB2, None)
    }

    /// The counts of every pool.
    #[must_use]
    pub fn all_counts(&self) -> Vec<Counts> {
        [HugeSize::MIB2, HugeSize::GIB1]
            .map(|size| self.machine.counts(size, None))
            .into()
    }

    /// Pages, free pages, and pages that promises need, of 2 MiB.
    #[must_use]
    pub fn nr_free_reserved(&self) -> (u64, u64, u64) {
        let counts = self.counts();
        (counts.nr.raw(), counts.free.raw(), counts.reserved.raw())
    }

    /// As [`Machine::resize`].
    ///
    /// # Errors
    /// As there.
    pub fn resize(&self, size: HugeSize, node: u32, pages: u64) -> Result<u64, Error> {
        self.checked(self.machine.resize(size, node, pages))
    }

    /// As [`Machine::demote`].
    ///
    /// # Errors
    /// As there.
    pub fn demote(&self, node: u32) -> Result<(), Error> {
        self.checked(self.machine.demote(node))
    }

    /// As [`Machine::hold`].
    pub fn hold(&self, page: Pfn) {
        self.machine.hold(page);
        self.check();
    }

    /// As [`Machine::let_go`].
    pub fn let_go(&self, page: Pfn) {
        self.machine.let_go(page);
        self.check();
    }
}

macro_rules! checked {
    ($($(#[$doc:meta])+ $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)+) => {
        impl Buf<'_> {
            $($(#[$doc])+
            pub fn $name(&self, $($arg: $type),*) -> $answer {
                self.rig.checked(self.pages.$name($($arg),*))
            })+
        }
    };
}

checked! {
    /// As [`Pages::reserve`].
    ///
    /// # Errors
    /// As there.
    reserve(range: ByteRange) -> Result<u64, Error>;
    /// As [`Pages::fault`].
    ///
    /// # Errors
    /// As there.
    fault(offset: u64) -> Result<Located, Error>;
    /// As [`Pages::page_at`].
    ///
    /// # Errors
    /// As there.
    page_at(offset: u64) -> Result<Located, Error>;
    /// As [`Pages::pin`].
    ///
    /// # Errors
    /// As there.
    pin(offset: u64) -> Result<(), Error>;
    /// As [`Pages::unpin`].
    unpin(offset: u64) -> ();
    /// As [`Pages::seal`].
    ///
    /// # Errors
    /// As there.
    seal() -> Result<(), Error>;
    /// As [`Pages::unseal`].
    unseal() -> ();
    /// As [`Pages::punch`].
    ///
    /// # Errors
    /// As there.
    punch(range: ByteRange) -> Result<Gone, Error>;
    /// As [`Pages::read`].
    ///
    /// # Errors
    /// As there.
    read(offset: u64, bytes: &mut [u8]) -> Result<(), Error>;
    /// As [`Pages::write`].
    ///
    /// # Errors
    /// As there.
    write(offset: u64, bytes: &[u8]) -> Result<(), Error>;
    /// As [`Pages::receipt`].
    receipt() -> Vec<Got>;
}

impl Buf<'_> {
    /// The buffer itself, whose calls are not checked one by one: for threads, and inside producers.
    #[must_use]
    pub fn raw(&self) -> &dyn Pages {
        &*self.pages
    }

    /// Populates a range with zeroes.
    ///
    /// # Errors
    /// As [`Pages::populate`].
    pub fn populate(&self, range: ByteRange) -> Result<u64, Error> {
        self.rig.checked(self.pages.populate(range, None))
    }

    /// Populates a range with what `produce` writes.
    ///
    /// # Errors
    /// As [`Pages::populate`].
    pub fn populate_with(&self, range: ByteRange, produce: Produce<'_>) -> Result<u64, Error> {
        self.rig.checked(self.pages.populate(range, Some(produce)))
    }

    /// Makes it `size` bytes long.
    ///
    /// # Errors
    /// As [`Pages::truncate`].
    pub fn truncate(&self, size: u64) -> Result<Gone, Error> {
        self.rig.checked(self.pages.truncate(ByteLen::new(size)))
    }

    /// Gives everything back.
    ///
    /// # Errors
    /// As [`Pages::release`].
    pub fn release(&mut self) -> Result<Gone, Error> {
        let gone = self.pages.release();
        self.rig.checked(gone)
    }

    /// The byte at an offset.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn byte(&self, offset: u64) -> u8 {
        let mut byte = [0xaa];
        self.read(offset, &mut byte).expect("a byte");
        byte[0]
    }
}
