// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! An operation in the steps between which others may see what it has done: the unit that a test by hand, one at a time,
//! and a thread of a model both run.

use crate::map::{bytes, frame, offset, Shared, REUSED};
use htlb_core::page_map::{
    Claim, FilledClaim, Origin, PagePin, PromiseClaim, RangeClaim, Removed, Seal,
};
use htlb_core::{Error, HugeSize, PageCount, PageIndex, Stop, WaitFor, Wake};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Fill,
    GiveUp,
    LookUp,
    Pin,
    Punch,
    /// A punch that ends before its last slot.
    EndPunch,
    Truncate,
    /// A truncate that ends before its last slot.
    EndTruncate,
    Grow,
    Seal,
    Reserve,
    Refuse,
    Unpromise,
}

impl Operation {
    pub(crate) const ALL: [Self; 13] = [
        Self::Fill,
        Self::GiveUp,
        Self::LookUp,
        Self::Pin,
        Self::Punch,
        Self::EndPunch,
        Self::Truncate,
        Self::EndTruncate,
        Self::Grow,
        Self::Seal,
        Self::Reserve,
        Self::Refuse,
        Self::Unpromise,
    ];
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    More,
    Done,
    /// Nothing was done.
    Blocked(WaitFor),
}

enum Held {
    Nothing,
    Filled(FilledClaim),
    Pin(PagePin),
    Range(RangeClaim),
    /// With the page of each slot when it was sealed.
    Seal(Seal, Vec<Option<u64>>),
    Promises(PromiseClaim),
    Ended,
}

/// Somebody in the middle of an operation. What concerns one slot concerns the last; the rest concerns all.
pub(crate) struct Actor {
    operation: Operation,
    /// The frame that it fills.
    pfn: u64,
    held: Held,
    said: String,
}

impl Actor {
    /// The actor of that number.
    pub(crate) fn new(number: usize, operation: Operation) -> Self {
        Self {
            operation,
            pfn: 1 + number as u64,
            held: Held::Nothing,
            said: String::new(),
        }
    }

    /// What came of it, so far.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// To the end, with waits.
    pub(crate) fn run(&mut self, shared: &Shared) {
        loop {
            match self.step(shared) {
                Progress::More => {}
                Progress::Done => return,
                Progress::Blocked(what) => shared.wait(what),
            }
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.held, Held::Ended)
    }

    /// The next step.
    pub(crate) fn step(&mut self, shared: &Shared) -> Progress {
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => match self.begin(shared) {
                Ok(Held::Ended) => self.end(None),
                Ok(held) => {
                    self.held = held;
                    Progress::More
                }
                Err(Stop::Wait(what)) => Progress::Blocked(what),
                // Which of the two it is depends on whether the size is looked at before the slot; both mean no page.
                Err(Stop::Fail(Error::NotPresent | Error::RangeBeyondEnd))
                    if matches!(self.operation, Operation::LookUp | Operation::Pin) =>
                {
                    self.end(Some("no page".to_owned()))
                }
                Err(stop) => self.end(Some(format!("{stop:?}"))),
            },
            held => {
                self.go_on(shared, held);
                self.end(None)
            }
        }
    }

    fn end(&mut self, said: Option<String>) -> Progress {
        self.held = Held::Ended;
        self.said.extend(said);
        Progress::Done
    }

    fn begin(&mut self, shared: &Shared) -> Result<Held, Stop> {
        let map = &shared.map;
        let last = PageIndex::new(shared.slots() - 1);
        let wake = |what| shared.wake(what);
        Ok(match self.operation {
            Operation::Fill | Operation::GiveUp => match map.claim(last, wake)? {
                Claim::Present(page) => {
                    self.sees(shared, page.pfn.raw());
                    self.said = format!("found page {}", page.pfn.raw());
                    Held::Ended
                }
                Claim::Granted(claim) => {
                    let frame = frame(self.pfn);
                    Held::Filled(map.attach(claim, frame).map_err(|refused| refused.error)?)
                }
            },
            Operation::LookUp => {
                let page = map.page_at(offset(last.raw()))?;
                self.sees(shared, page.pfn.raw());
                self.said = format!("page {}", page.pfn.raw());
                Held::Ended
            }
            Operation::Pin => {
                let pin = map.pin(last)?;
                holds(shared, pin.pfn().raw());
                self.said = format!("pinned page {}", pin.pfn().raw());
                Held::Pin(pin)
            }
            Operation::Punch | Operation::EndPunch => {
                Held::Range(map.claim_range(shared.all(), wake)?)
            }
            Operation::Truncate | Operation::EndTruncate => {
                Held::Range(map.truncate(bytes(last.raw()), wake)?)
            }
            Operation::Grow => {
                let from = map.grow(bytes(shared.slots()))?;
                self.said = format!("grew from {from}");
                Held::Ended
            }
            Operation::Seal => Held::Seal(map.seal()?, pages(shared)),
            Operation::Reserve | Operation::Refuse => {
                Held::Promises(map.claim_holes(shared.all(), wake)?)
            }
            Operation::Unpromise => {
                let gone = count(map.unpromise(shared.all(), wake)?.of(HugeSize::BASE));
                shared.give_back_promises(gone);
                self.said = format!("gave {gone} back");
                Held::Ended
            }
        })
    }

    fn go_on(&mut self, shared: &Shared, held: Held) {
        let map = &shared.map;
        let wake = |what| shared.wake(what);
        match held {
            Held::Filled(filled) if self.operation == Operation::Fill => {
                shared.fill(self.pfn);
                if filled.origin() == Origin::Promised {
                    shared.give_back_promises(1);
                }
                let (_, owed) = map.commit(filled);
                pay(shared, owed);
                self.said = "put".to_owned();
            }
            Held::Filled(filled) => {
                let (claim, frame) = map.detach(filled);
                assert_eq!(frame.into_pfn().raw(), self.pfn);
                let (_, owed) = map.abort(claim);
                pay(shared, owed);
                self.said = "gave up".to_owned();
            }
            Held::Pin(pin) => {
                let pfn = pin.pfn().raw();
                holds(shared, pfn);
                let page = map.page_at(offset(pin.index().raw()));
                assert_eq!(page.map(|page| page.pfn.raw()), Ok(pfn), "a pinned page");
                map.unpin(pin);
            }
            Held::Range(mut claim) => {
                let mut pages = Vec::new();
                let mut promises = 0;
                let stays = match self.operation {
                    Operation::EndPunch | Operation::EndTruncate => PageCount::ONE,
                    _ => PageCount::ZERO,
                };
                while claim.count() > stays {
                    let emptied = map.next_removed(&mut claim).unwrap();
                    match emptied.removed {
                        Removed::Frame(frame) => {
                            let pfn = frame.into_pfn().raw();
                            holds(shared, pfn);
                            shared.reuse(pfn);
                            pages.push(pfn);
                        }
                        Removed::Promise(_) => promises += 1,
                        Removed::Nothing => {}
                    }
                    pay(shared, emptied.wake);
                }
                shared.give_back_promises(promises);
                map.end_range(claim, wake);
                self.said = format!("removed {pages:?} and {promises}");
            }
            Held::Seal(seal, before) => {
                for (now, before) in pages(shared).into_iter().zip(before) {
                    if let Some(pfn) = before {
                        assert_eq!(now, before, "a page went under a seal");
                        holds(shared, pfn);
                    }
                }
                map.unseal(seal);
                self.said = "sealed".to_owned();
            }
            Held::Promises(claim) if self.operation == Operation::Reserve => {
                let pages = count(claim.holes().of(HugeSize::BASE));
                shared.promises(pages);
                map.commit_promises(claim, wake);
                self.said = format!("promised {pages}");
            }
            Held::Promises(claim) => {
                let pages = count(claim.holes().of(HugeSize::BASE));
                map.abort_promises(claim, wake);
                self.said = format!("refused {pages}");
            }
            Held::Nothing | Held::Ended => panic!("a step after the last"),
        }
    }

    /// A page that was found without a hold may be gone by now, but it never is empty.
    fn sees(&self, shared: &Shared, pfn: u64) {
        let content = shared.content(pfn);
        assert!(
            content == pfn || content == REUSED,
            "{:?} saw page {pfn} before its contents",
            self.operation
        );
    }
}

/// A page that cannot go has its contents, and nobody has reused it.
fn holds(shared: &Shared, pfn: u64) {
    assert_eq!(
        shared.content(pfn),
        pfn,
        "a held page was not filled, or was reused"
    );
}

fn pages(shared: &Shared) -> Vec<Option<u64>> {
    let page = |slot| shared.map.page_at(offset(slot)).ok();
    (0..shared.slots())
        .map(|slot| page(slot).map(|page| page.pfn.raw()))
        .collect()
}

fn count(pages: Option<&PageCount>) -> u64 {
    pages.map_or(0, |pages| pages.raw())
}

fn pay(shared: &Shared, owed: Wake) {
    if let Some(what) = owed.target() {
        shared.wake(what);
    }
}
