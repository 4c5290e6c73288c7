// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Operations on one slot: claims, frames, pins, waits.

use htlb_core::page_map::{Claim, Origin};
use htlb_core::{Error, Frame, HugeSize, Pfn, Stop, Waiting};

use super::page::{size_of, Page};
use super::world::{index, nobody, pick, wait, World};

impl World {
    pub(super) fn claim(&mut self, slot: usize) {
        let answer = self.map.claim(index(slot), nobody);
        let page = self.pages[slot];
        match answer {
            Ok(Claim::Granted(claim)) => {
                assert!(self.below_size(slot));
                let origin = match page {
                    Page::Hole => Origin::Hole,
                    Page::Promised => Origin::Promised,
                    page => panic!("{page:?} was granted"),
                };
                assert_eq!(
                    (claim.index(), claim.size(), claim.origin()),
                    (index(slot), size_of(slot), origin)
                );
                self.pages[slot] = Page::Filling {
                    origin,
                    pfn: None,
                    waited: false,
                };
                self.tokens.claims.push(claim);
            }
            Ok(Claim::Present(located)) => {
                assert!(self.below_size(slot));
                assert!(matches!(page, Page::Present { pfn, .. } if pfn == located.pfn));
            }
            Err(Stop::Fail(Error::RangeBeyondEnd)) => assert!(!self.below_size(slot)),
            Err(stop) => {
                assert_eq!(stop, wait(slot));
                assert!(page.is_claimed() && self.below_size(slot));
            }
        }
    }

    pub(super) fn attach(&mut self, nth: usize) {
        let Some(claim) = pick(&mut self.tokens.claims, nth) else {
            return;
        };
        let slot = claim.index().raw() as usize;
        self.next_frame += HugeSize::GIB1.base_pages();
        let frame = Frame::new(Pfn::new(self.next_frame), claim.size()).unwrap();
        if let Page::Filling { pfn, .. } = &mut self.pages[slot] {
            *pfn = Some(frame.pfn());
        }
        self.tokens
            .filled
            .push(self.map.attach(claim, frame).unwrap());
    }

    pub(super) fn detach(&mut self, nth: usize) {
        let Some(filled) = pick(&mut self.tokens.filled, nth) else {
            return;
        };
        let slot = filled.index().raw() as usize;
        let (claim, frame) = self.map.detach(filled);
        let Page::Filling { pfn, .. } = &mut self.pages[slot] else {
            panic!("{:?} is not being filled", self.pages[slot]);
        };
        assert_eq!(*pfn, Some(frame.pfn()));
        *pfn = None;
        assert!(self.returned.insert(frame.into_pfn().raw()));
        self.tokens.claims.push(claim);
    }

    pub(super) fn commit(&mut self, nth: usize) {
        let Some(filled) = pick(&mut self.tokens.filled, nth) else {
            return;
        };
        let slot = filled.index().raw() as usize;
        let pfn = filled.pfn();
        let wakes = self.settle(slot, Page::Present { pfn, pins: 0 });
        let (located, wake) = self.map.commit(filled);
        assert_eq!((located.pfn, located.size), (pfn, size_of(slot)));
        assert_eq!(wake.target(), wakes);
    }

    pub(super) fn abort(&mut self, nth: usize) {
        let Some(claim) = pick(&mut self.tokens.claims, nth) else {
            return;
        };
        let slot = claim.index().raw() as usize;
        let Page::Filling { origin, .. } = self.pages[slot] else {
            panic!("{:?} is not being filled", self.pages[slot]);
        };
        let page = match origin {
            Origin::Hole => Page::Hole,
            Origin::Promised => Page::Promised,
        };
        let wakes = self.settle(slot, page);
        let (was, wake) = self.map.abort(claim);
        assert_eq!((was, wake.target()), (origin, wakes));
    }

    pub(super) fn pin(&mut self, slot: usize) {
        let below = self.below_size(slot);
        let answer = self.map.pin(index(slot));
        match (answer, &mut self.pages[slot]) {
            (Err(Stop::Fail(Error::RangeBeyondEnd)), _) => assert!(!below),
            (Ok(pin), Page::Present { pfn, pins }) => {
                assert!(below);
                assert_eq!((pin.pfn(), pin.size()), (*pfn, size_of(slot)));
                *pins += 1;
                self.tokens.pins.push(pin);
            }
            (Err(Stop::Fail(Error::NotPresent)), Page::Hole | Page::Promised) => assert!(below),
            (Err(stop), page) => {
                assert!(page.is_claimed() && below);
                assert_eq!(stop, wait(slot));
            }
            (Ok(pin), page) => panic!("{pin:?} on {page:?}"),
        }
    }

    pub(super) fn wait(&mut self, slot: usize, held: Option<usize>) {
        let answer = self.map.prepare_wait(index(slot), held.map(index));
        let expected = if !self.pages[slot].is_claimed() {
            Ok(Waiting::Retry)
        } else if held.is_some_and(|held| slot >= held) {
            Err(Error::WouldDeadlock)
        } else {
            Ok(Waiting::Sleep)
        };
        assert_eq!(answer, expected);
        if let (Ok(Waiting::Sleep), Page::Filling { waited, .. } | Page::Held { waited, .. }) =
            (answer, &mut self.pages[slot])
        {
            *waited = true;
        }
    }
}
