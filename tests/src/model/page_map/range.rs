// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Operations on ranges: punch, truncate, reservations.

use htlb_core::page_map::{Origin, Removed};
use htlb_core::{ByteLen, Error, Stop, WaitFor};

use super::page::{boundaries, size_of, Page, Punch, Was};
use super::world::{index, nobody, pick, wait, World};

impl World {
    pub(super) fn may_punch(&self) -> Result<(), Stop> {
        if !self.tokens.seals.is_empty() {
            Err(Stop::Fail(Error::Sealed))
        } else if !self.tokens.promises.is_empty() {
            Err(Stop::Wait(WaitFor::Seal))
        } else {
            Ok(())
        }
    }

    pub(super) fn may_remove(&self, mut slots: std::ops::Range<usize>) -> Result<(), Stop> {
        slots.try_for_each(|slot| match self.pages[slot] {
            Page::Present { pins: 1.., .. } => Err(Stop::Fail(Error::Pinned)),
            page if page.is_claimed() => Err(wait(slot)),
            _ => Ok(()),
        })
    }

    pub(super) fn hold(&mut self, slots: std::ops::Range<usize>) {
        for page in &mut self.pages[slots] {
            let was = match *page {
                Page::Hole => Was::Hole,
                Page::Promised => Was::Promised,
                Page::Present { pfn, .. } => Was::Present(pfn),
                page => panic!("{page:?} cannot be held"),
            };
            *page = Page::Held { was, waited: false };
        }
    }

    pub(super) fn claim_range(&mut self, a: usize, b: usize) {
        let Some((a, b, range)) = self.range(a, b) else {
            return;
        };
        let expected = self.may_punch().and_then(|()| self.may_remove(a..b));
        match self.map.claim_range(range, nobody) {
            Ok(claim) => {
                assert_eq!(expected, Ok(()));
                self.hold(a..b);
                let punch = Punch {
                    next: a,
                    end: b,
                    truncated_from: None,
                };
                self.tokens.ranges.push((claim, punch));
            }
            Err(stop) => assert_eq!(Err(stop), expected),
        }
    }

    pub(super) fn truncate(&mut self, at: usize, by: i64) {
        let new = boundaries()[at].saturating_add_signed(by);
        let (first, end) = (self.slots_for(new), self.slots_for(self.size));
        let expected = self.may_punch().and_then(|()| self.may_remove(first..end));
        match self.map.truncate(ByteLen::new(new), nobody) {
            Ok(claim) => {
                assert_eq!(expected, Ok(()));
                let punch = if new < self.size {
                    self.hold(first..end);
                    Punch {
                        next: first,
                        end,
                        truncated_from: Some(std::mem::replace(&mut self.size, new)),
                    }
                } else {
                    Punch {
                        next: first,
                        end: first,
                        truncated_from: None,
                    }
                };
                self.tokens.ranges.push((claim, punch));
            }
            Err(stop) => assert_eq!(Err(stop), expected),
        }
    }

    pub(super) fn next_removed(&mut self, nth: usize) {
        let open = self.tokens.ranges.len();
        if open == 0 {
            return;
        }
        let (claim, punch) = &mut self.tokens.ranges[nth % open];
        let emptied = self.map.next_removed(claim);
        if punch.next == punch.end {
            assert!(emptied.is_none());
            return;
        }
        let slot = punch.next;
        punch.next += 1;
        let emptied = emptied.unwrap();
        assert_eq!(emptied.index, index(slot));
        let Page::Held { was, .. } = self.pages[slot] else {
            panic!("slot {slot} was lost by its punch");
        };
        assert_eq!(emptied.wake.target(), self.settle(slot, Page::Hole));
        match (emptied.removed, was) {
            (Removed::Nothing, Was::Hole) => {}
            (Removed::Promise(size), Was::Promised) => assert_eq!(size, size_of(slot)),
            (Removed::Frame(frame), Was::Present(pfn)) => {
                assert_eq!((frame.pfn(), frame.size()), (pfn, size_of(slot)));
                assert!(self.returned.insert(frame.into_pfn().raw()));
            }
            (removed, was) => panic!("{removed:?} where {was:?} was"),
        }
    }

    pub(super) fn end_range(&mut self, nth: usize) {
        let Some((claim, punch)) = pick(&mut self.tokens.ranges, nth) else {
            return;
        };
        let mut expected = Vec::new();
        for slot in punch.next..punch.end {
            let Page::Held { was, .. } = self.pages[slot] else {
                panic!("slot {slot} was lost by its punch");
            };
            expected.extend(self.settle(slot, was.page()));
        }
        if let (Some(old), true) = (punch.truncated_from, punch.next < punch.end) {
            self.size = self.size.max(old);
        }
        expected.extend(self.left());
        let mut woken = Vec::new();
        self.map.end_range(claim, |what| woken.push(what));
        assert_eq!(woken, expected);
    }

    pub(super) fn claim_holes(&mut self, a: usize, b: usize) {
        let Some((a, b, range)) = self.range(a, b) else {
            return;
        };
        let expected = if self.tokens.ranges.is_empty() {
            (a..b).try_for_each(|slot| match self.pages[slot] {
                Page::Filling {
                    origin: Origin::Hole,
                    ..
                }
                | Page::Held { .. } => Err(wait(slot)),
                _ => Ok(()),
            })
        } else {
            Err(Stop::Wait(WaitFor::Seal))
        };
        match self.map.claim_holes(range, nobody) {
            Err(stop) => assert_eq!(Err(stop), expected),
            Ok(claim) => {
                assert_eq!(expected, Ok(()));
                let holes: Vec<usize> = (a..b)
                    .filter(|&slot| self.pages[slot] == Page::Hole)
                    .collect();
                for (size, count) in claim.holes().iter() {
                    let expected = holes.iter().filter(|&&slot| size_of(slot) == size).count();
                    assert_eq!(count.raw(), expected as u64);
                }
                for &slot in &holes {
                    self.hold(slot..slot + 1);
                }
                self.tokens.promises.push((claim, holes));
            }
        }
    }

    pub(super) fn end_promises(&mut self, nth: usize, becomes: Page) {
        let Some((claim, holes)) = pick(&mut self.tokens.promises, nth) else {
            return;
        };
        let mut expected = Vec::new();
        for slot in holes {
            expected.extend(self.settle(slot, becomes));
        }
        expected.extend(self.left());
        let mut woken = Vec::new();
        match becomes {
            Page::Promised => self.map.commit_promises(claim, |what| woken.push(what)),
            _ => self.map.abort_promises(claim, |what| woken.push(what)),
        }
        assert_eq!(woken, expected);
    }

    pub(super) fn unpromise(&mut self, a: usize, b: usize) {
        let Some((a, b, range)) = self.range(a, b) else {
            return;
        };
        let expected = if self.tokens.promises.is_empty() {
            (a..b).try_for_each(|slot| match self.pages[slot] {
                Page::Filling {
                    origin: Origin::Promised,
                    ..
                }
                | Page::Held {
                    was: Was::Promised, ..
                } => Err(wait(slot)),
                _ => Ok(()),
            })
        } else {
            Err(Stop::Wait(WaitFor::Seal))
        };
        match self.map.unpromise(range, nobody) {
            Err(stop) => assert_eq!(Err(stop), expected),
            Ok(counts) => {
                assert_eq!(expected, Ok(()));
                for (size, count) in counts.iter() {
                    let promised = (a..b).filter(|&slot| {
                        size_of(slot) == size && self.pages[slot] == Page::Promised
                    });
                    assert_eq!(count.raw(), promised.count() as u64);
                }
                for page in &mut self.pages[a..b] {
                    if *page == Page::Promised {
                        *page = Page::Hole;
                    }
                }
            }
        }
    }
}
