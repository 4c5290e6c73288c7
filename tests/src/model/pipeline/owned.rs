// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One buffer, what was written into it, and what it was promised.

use std::collections::BTreeMap;

use htlb_core::page_map::{PagePin, Seal};
use htlb_core::{Blank, ByteLen, ByteOffset, ByteRange, Error, Fill, HugeSize, PageIndex, Pfn};

use super::machine::{in_part, unchanged, Outcome};
use super::{At, Producer, MIB2};
use crate::sim::SimBuffer;

/// A buffer in use.
pub(super) struct Owned<'m> {
    buffer: SimBuffer<'m>,
    fill: Fill,
    /// Bytes that were written and must be there; all others are zero.
    written: BTreeMap<u64, u8>,
    /// Where every page can be had, from and to.
    promised: Option<(u64, u64)>,
    pins: Vec<PagePin>,
    seals: Vec<Seal>,
}

impl<'m> Owned<'m> {
    pub(super) fn new(buffer: SimBuffer<'m>, fill: Fill, promised: Option<(u64, u64)>) -> Self {
        Self {
            buffer,
            fill,
            written: BTreeMap::new(),
            promised,
            pins: Vec::new(),
            seals: Vec::new(),
        }
    }

    fn size(&self) -> u64 {
        self.buffer.core().map().size().raw()
    }

    fn offset(&self, at: At) -> u64 {
        let size = self.size();
        let unit = if size < MIB2.bytes() {
            HugeSize::BASE
        } else {
            MIB2
        };
        let exact = (u128::from(size) * u128::from(at.0) / 255) as u64;
        match at.1 {
            // Up to the size itself, which may be no multiple.
            true if at.0 == 255 => size,
            true => exact / unit.bytes() * unit.bytes(),
            false => exact,
        }
    }

    fn range(&self, a: At, b: At) -> Result<ByteRange, Error> {
        let (a, b) = (self.offset(a), self.offset(b));
        let end = if a == b { self.size() } else { b };
        ByteRange::new(ByteOffset::new(a.min(end)), ByteOffset::new(a.max(end)))
    }

    fn index(&self, offset: u64) -> Result<PageIndex, Error> {
        self.buffer.core().map().index_at(ByteOffset::new(offset))
    }

    /// What was promised can be had, unless the host fails.
    fn kept(&self, offset: u64, failing: bool, error: Error) {
        if let Some((start, end)) = self.promised {
            let promised = (start..end).contains(&offset) && offset < self.size();
            assert!(failing || !promised, "a promise was broken: {error:?}");
        }
    }

    pub(super) fn frame(&self, at: At) -> Option<Pfn> {
        let found = self.buffer.page_at(self.offset(at));
        found.ok().map(|located| located.pfn)
    }

    pub(super) fn reserve(&mut self, a: At, b: At) -> Outcome {
        let range = self.range(a, b).map_err(unchanged)?;
        self.buffer.reserve(range).map_err(unchanged)?;
        let (start, end) = (range.start().raw(), range.end().raw());
        self.promised = Some(match self.promised {
            // Side by side or one within the other they are one.
            Some((from, to)) if from <= end && start <= to => (from.min(start), to.max(end)),
            _ => (start, end),
        });
        // Once more there is nothing left to promise.
        assert_eq!(self.buffer.reserve(range).map(|pages| pages.raw()), Ok(0));
        Ok(())
    }

    pub(super) fn populate(&mut self, a: At, b: At, failing: bool) -> Outcome {
        let range = self.range(a, b).map_err(unchanged)?;
        let populated = self.buffer.populate(range);
        if let Err(error) = populated {
            // A range that does not fit its pages is refused whatever was promised.
            let fits = !matches!(
                error,
                Error::RangeUnaligned | Error::RangeBeyondEnd | Error::RangeEmpty
            );
            if let (Some((start, end)), true) = (self.promised, fits) {
                let within = start <= range.start().raw() && range.end().raw() <= end;
                assert!(failing || !within, "a promise was broken: {error:?}");
            }
        }
        populated.map(drop).map_err(in_part)
    }

    pub(super) fn populate_page(&mut self, at: At, failing: bool) -> Outcome {
        let offset = self.offset(at);
        let index = self.index(offset).map_err(unchanged)?;
        match self.buffer.populate_page(index) {
            Ok((located, _)) => {
                let found = self.buffer.page_at(offset).map(|found| found.pfn);
                assert_eq!(found, Ok(located.pfn));
                Ok(())
            }
            Err(error) => {
                self.kept(offset, failing, error);
                Err(unchanged(error))
            }
        }
    }

    pub(super) fn fault(&mut self, at: At, failing: bool) -> Outcome {
        let offset = self.offset(at);
        match self.buffer.fault(offset) {
            Ok(located) => {
                assert!(offset < self.size());
                let found = self.buffer.page_at(offset);
                assert_eq!(found, Ok(located));
                Ok(())
            }
            Err(error) => {
                assert_eq!(error == Error::RangeBeyondEnd, offset >= self.size());
                self.kept(offset, failing, error);
                Err(unchanged(error))
            }
        }
    }

    pub(super) fn produce(&mut self, a: At, b: At, how: Producer, failing: bool) -> Outcome {
        let range = self.range(a, b).map_err(unchanged)?;
        let buffer = &self.buffer;
        let other = match how {
            Producer::TouchesAnother(at) => Some(self.offset(at)),
            _ => None,
        };
        let mut produced = Vec::new();
        let mut produce = |blank: &Blank| {
            let (len, byte) = match how {
                Producer::Writes(len, byte) => (len % 16, byte),
                Producer::Fails(byte) => (3, byte),
                Producer::TouchesItsPage => {
                    let found = buffer.fault(blank.offset);
                    match found {
                        Err(Error::WouldDeadlock) => {}
                        Err(Error::Interrupted) if failing => {}
                        found => panic!("the page that is being filled: {found:?}"),
                    }
                    (0, 0)
                }
                Producer::TouchesAnother(_) => {
                    // It is there afterwards, or there is a reason.
                    let _ = other.map(|offset| buffer.fault(offset));
                    (0, 0)
                }
            };
            buffer.produce(blank, 0, &vec![byte; len.into()]);
            if matches!(how, Producer::Fails(_)) {
                return Err(Error::FillFailed);
            }
            produced.push((blank.offset, blank.size.bytes(), len, byte));
            Ok(len.into())
        };
        let outcome = buffer.populate_with(range, &mut produce);
        for (start, bytes, len, byte) in produced {
            // One whose clearing failed is not there.
            if self.buffer.page_at(start).is_ok() {
                self.written
                    .retain(|at, _| !(start..start + bytes).contains(at));
                let size = self.size();
                let new = (start..start + u64::from(len)).filter(|at| *at < size);
                self.written.extend(new.map(|at| (at, byte)));
            }
        }
        outcome.map(drop).map_err(in_part)
    }

    pub(super) fn write(&mut self, at: At, byte: u8) -> Outcome {
        let offset = self.offset(at);
        self.buffer.write(offset, &[byte]).map_err(unchanged)?;
        self.written.insert(offset, byte);
        Ok(())
    }

    pub(super) fn read(&mut self, at: At) -> Outcome {
        let offset = self.offset(at);
        let mut byte = [0xa5];
        self.buffer.read(offset, &mut byte).map_err(unchanged)?;
        let written = self.written.get(&offset).copied();
        if self.fill == Fill::Zeroed || written.is_some() {
            assert_eq!(byte[0], written.unwrap_or(0), "at {offset}");
        }
        // And all that was ever written, where it is still present.
        for (at, expected) in &self.written {
            self.buffer.read(*at, &mut byte).map_err(unchanged)?;
            assert_eq!(byte[0], *expected, "at {at}");
        }
        Ok(())
    }

    /// Nothing is known any more of what lay there.
    fn forget(&mut self, start: u64, end: u64) {
        self.written.retain(|at, _| !(start..end).contains(at));
        self.promised = self.promised.and_then(|(from, to)| {
            let before = (from, to.min(start));
            let after = (from.max(end), to);
            [before, after].into_iter().find(|(from, to)| from < to)
        });
    }

    pub(super) fn punch(&mut self, a: At, b: At) -> Outcome {
        let range = self.range(a, b).map_err(unchanged)?;
        self.buffer.punch(range).map_err(unchanged)?;
        assert!(self.seals.is_empty(), "a sealed buffer was punched");
        self.forget(range.start().raw(), range.end().raw());
        let found = self.buffer.page_at(range.start().raw()).map(drop);
        if !range.is_empty() {
            assert_eq!(found, Err(Error::NotPresent));
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self, at: At) -> Outcome {
        self.resize(self.offset(at))
    }

    pub(super) fn grow(&mut self, pages: u8, by: i8) -> Outcome {
        let pages = u64::from(pages % 4) * MIB2.bytes();
        self.resize((self.size() + pages).saturating_add_signed(by.into()))
    }

    fn resize(&mut self, size: u64) -> Outcome {
        let capacity = self.buffer.core().map().extents().capacity().raw();
        let before = self.size();
        let outcome = self.buffer.truncate(ByteLen::new(size));
        assert_eq!(outcome == Err(Error::BeyondCapacity), size > capacity);
        outcome.map_err(unchanged)?;
        assert_eq!(self.size(), size);
        if size < before {
            assert!(self.seals.is_empty(), "a sealed buffer was truncated");
            self.forget(size, u64::MAX);
        }
        Ok(())
    }

    pub(super) fn pin(&mut self, at: At) -> Outcome {
        let pin = self.buffer.pin(self.offset(at)).map_err(unchanged)?;
        self.pins.push(pin);
        Ok(())
    }

    pub(super) fn unpin(&mut self) -> Outcome {
        if let Some(pin) = self.pins.pop() {
            self.buffer.unpin(pin);
        }
        Ok(())
    }

    pub(super) fn seal(&mut self) -> Outcome {
        let seal = self.buffer.seal().map_err(unchanged)?;
        self.seals.push(seal);
        Ok(())
    }

    pub(super) fn unseal(&mut self) -> Outcome {
        if let Some(seal) = self.seals.pop() {
            self.buffer.unseal(seal);
        }
        Ok(())
    }

    /// The end, which pins and seals forbid.
    pub(super) fn release(&mut self) -> Result<(), Error> {
        let forbidden = !self.pins.is_empty() || !self.seals.is_empty();
        let released = self.buffer.release().map(drop);
        assert_eq!(released.is_err(), forbidden, "{released:?}");
        released
    }

    /// The end, after everybody has let go.
    pub(super) fn end(&mut self) {
        for pin in self.pins.drain(..) {
            self.buffer.unpin(pin);
        }
        for seal in self.seals.drain(..) {
            self.buffer.unseal(seal);
        }
        assert_eq!(self.release(), Ok(()));
    }
}
