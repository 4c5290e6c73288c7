// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The rights to the bytes of one buffer's pages, kept between two looks at them.
//!
//! A page lies in at most one lease, and a lease is in one of three places: here and nowhere else, here and in slices that
//! read it, or with the one who writes. So a page that leaves its slot can be let go exactly where its lease is here alone,
//! or where a fresh one can be had: user space's own check, as the folio's reference count is the kernel's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use htlb_core::{ByteLen, ByteOffset, Error};

use crate::arena::{number, Arena};
use crate::locks::locked;
use crate::pools::back_off;
use crate::sys::lease::{self, Lease};

/// How often a copy under way is waited for: some seconds, and it takes less than one.
const PATIENCE: u32 = 100_000;

/// Leases that do not overlap, by the address of their first byte.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    here: BTreeMap<usize, Arc<Lease>>,
    /// How many are with those who write.
    out: usize,
}

/// The shared right to bytes that follow each other in memory.
#[derive(Debug)]
pub(crate) struct Held {
    first: Arc<Lease>,
    more: Vec<Arc<Lease>>,
    /// Where the wanted bytes begin in the first lease.
    from: usize,
    len: usize,
}

impl Held {
    /// The bytes; none where untrusted peers may write them.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        lease::bytes_across(&self.first, &self.more)?.get(self.from..self.from + self.len)
    }

    /// Fewer of the bytes: `len` from `from` on.
    pub(crate) fn narrow(&mut self, from: usize, len: usize) {
        self.from += from;
        self.len = len;
    }

    /// The first address.
    pub(crate) fn address(&self) -> *mut u8 {
        self.first.as_ptr().as_ptr().wrapping_add(self.from)
    }

    /// Copies bytes of the first page out.
    pub(crate) fn copy_to(&self, at: usize, to: &mut [u8]) -> Result<(), Error> {
        self.first
            .copy_to(ByteOffset::new((self.from + at) as u64), to)
    }
}

/// The exclusive right to bytes that follow each other in memory. To be given back.
#[derive(Debug)]
pub(crate) struct HeldAlone {
    /// The only one of its `Arc`, which is kept for the next time.
    lease: Arc<Lease>,
    /// Where the wanted bytes begin in it.
    from: usize,
    len: usize,
}

impl HeldAlone {
    /// The bytes; none where untrusted peers may write them.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.lease.bytes()?.get(self.from..self.from + self.len)
    }

    /// The bytes, to write.
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        let lease = Arc::get_mut(&mut self.lease)?;
        lease.bytes_mut()?.get_mut(self.from..self.from + self.len)
    }

    /// Copies bytes in, at `at` of the wanted ones.
    pub(crate) fn copy_from(&mut self, at: usize, from: &[u8]) -> Result<(), Error> {
        let at = ByteOffset::new((self.from + at) as u64);
        let lease = Arc::get_mut(&mut self.lease).ok_or(Error::Pinned)?;
        lease.copy_from(at, from)
    }

    /// Zeroes the wanted bytes from `at` on.
    pub(crate) fn zero_from(&mut self, at: usize) -> Result<(), Error> {
        let len = self.len.saturating_sub(at);
        let at = ByteOffset::new((self.from + at) as u64);
        let lease = Arc::get_mut(&mut self.lease).ok_or(Error::Pinned)?;
        lease.zero_part(at, len)
    }

    /// Fewer of the bytes: `len` from `from` on.
    pub(crate) fn narrow(&mut self, from: usize, len: usize) {
        self.from += from;
        self.len = len;
    }
}

/// Whether a page can be used by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grip {
    /// Nobody can reach its bytes.
    Free,
    /// Somebody may.
    Held,
}

impl Leases {
    /// The right to read `len` bytes from `at`, for as long as somebody holds it. Whole pages.
    ///
    /// # Errors
    /// [`Error::Pinned`] while somebody writes a part of it.
    pub(crate) fn hold(&self, arena: &Arena, at: usize, len: usize) -> Result<Held, Error> {
        let mut kept = locked(&self.0);
        let leases = &mut kept.here;
        if let Some((base, lease)) = leases.range(..=at).next_back() {
            if base + bytes(lease) >= at + len {
                return Ok(Held {
                    first: Arc::clone(lease),
                    more: Vec::new(),
                    from: at - base,
                    len,
                });
            }
        }
        for (start, len) in gaps(leases, at, len) {
            let lease = take(arena, start, len)?;
            leases.insert(start, Arc::new(lease));
        }
        let mut parts = overlapping(leases, at, len)
            .filter_map(|base| leases.get_key_value(&base))
            .map(|(base, lease)| (*base, Arc::clone(lease)));
        let (base, first) = parts.next().ok_or(Error::FrameInvalid)?;
        Ok(Held {
            first,
            more: parts.map(|(_, lease)| lease).collect(),
            from: at - base,
            len,
        })
    }

    /// The right to write `len` bytes from `at`. Whole pages.
    ///
    /// # Errors
    /// [`Error::Pinned`] while somebody reads or writes a part of it; nothing has changed then.
    pub(crate) fn hold_alone(
        &self,
        arena: &Arena,
        at: usize,
        len: usize,
    ) -> Result<HeldAlone, Error> {
        let mut kept = locked(&self.0);
        let Kept { here: leases, out } = &mut *kept;
        let (start, lease) = match take_whole(leases, at, len)? {
            Some(whole) => whole,
            None => join_parts(leases, arena, at, len)?,
        };
        *out = out.saturating_add(1);
        Ok(HeldAlone {
            lease,
            from: at - start,
            len,
        })
    }

    /// Keeps what was written for the next one.
    pub(crate) fn give_back(&self, held: HeldAlone) {
        let mut kept = locked(&self.0);
        kept.out = kept.out.saturating_sub(1);
        kept.here.insert(start_of(&held.lease), held.lease);
    }

    /// Whether nobody holds a right to any page.
    pub(crate) fn are_here(&self) -> bool {
        let kept = locked(&self.0);
        let mut leases = kept.here.values();
        kept.out == 0 && leases.all(|lease| Arc::strong_count(lease) == 1)
    }

    /// Forgets the right to one page that nobody holds now: copying page by page is to leave nothing behind.
    pub(crate) fn forget(&self, at: usize, len: usize) {
        let mut kept = locked(&self.0);
        let idle = |lease: &Arc<Lease>| bytes(lease) == len && Arc::strong_count(lease) == 1;
        if kept.here.get(&at).is_some_and(idle) {
            kept.here.remove(&at);
        }
    }

    /// Gives up the right to the bytes of a page that left its slot.
    ///
    /// No slice is alive then, since it would seal the buffer. Who still holds the lease copies another page of it, and is
    /// waited for.
    pub(crate) fn let_go(&self, arena: &Arena, at: usize, len: usize) -> Grip {
        let mut rounds = 0;
        while rounds < PATIENCE {
            if let Some(grip) = self.try_let_go(arena, at, len) {
                return grip;
            }
            back_off(&mut rounds);
        }
        Grip::Held
    }

    /// As [`Leases::let_go`]; `None` while somebody copies.
    fn try_let_go(&self, arena: &Arena, at: usize, len: usize) -> Option<Grip> {
        let mut kept = locked(&self.0);
        let leases = &mut kept.here;
        let Some(base) = overlapping(leases, at, len).next() else {
            // Nobody here has it. A writer that was forgotten has it for ever.
            return Some(match take(arena, at, len) {
                Ok(_) => Grip::Free,
                Err(_) => Grip::Held,
            });
        };
        let lease = match Arc::try_unwrap(leases.remove(&base)?) {
            Ok(lease) => lease,
            Err(shared) => {
                leases.insert(base, shared);
                return None;
            }
        };
        // INVARIANT: leases are in whole pages, so that these cuts are where pages meet.
        let (head, rest) = cut(lease, at - base);
        let (page, tail) = match rest {
            Some(rest) => cut(rest, len),
            None => (None, None),
        };
        for kept in [head, tail].into_iter().flatten() {
            leases.insert(start_of(&kept), Arc::new(kept));
        }
        drop(page);
        Some(Grip::Free)
    }
}

/// What lies before `at` bytes, and what from there on.
fn cut(mut lease: Lease, at: usize) -> (Option<Lease>, Option<Lease>) {
    if at == 0 {
        return (None, Some(lease));
    }
    if at >= bytes(&lease) {
        return (Some(lease), None);
    }
    // CAST: usize is at most 64 bits wide on Linux.
    let rest = lease.split_off(ByteLen::new(at as u64)).ok();
    (Some(lease), rest)
}

/// Takes the one lease out that has all of `at..at + len`, if there is one; where it begins.
///
/// # Errors
/// [`Error::Pinned`] where somebody else has it too.
fn take_whole(
    leases: &mut BTreeMap<usize, Arc<Lease>>,
    at: usize,
    len: usize,
) -> Result<Option<(usize, Arc<Lease>)>, Error> {
    let Some((base, lease)) = leases.range_mut(..=at).next_back() else {
        return Ok(None);
    };
    let base = *base;
    if base + bytes(lease) < at + len {
        return Ok(None);
    }
    if Arc::get_mut(lease).is_none() {
        return Err(Error::Pinned);
    }
    Ok(leases.remove(&base).map(|lease| (base, lease)))
}

/// Makes one lease of those that have a part of `at..at + len`, and of fresh ones; where it begins.
///
/// # Errors
/// [`Error::Pinned`] where somebody else has a part; nothing has changed then.
fn join_parts(
    leases: &mut BTreeMap<usize, Arc<Lease>>,
    arena: &Arena,
    at: usize,
    len: usize,
) -> Result<(usize, Arc<Lease>), Error> {
    let bases: Vec<usize> = overlapping(leases, at, len).collect();
    let shared = |base: &usize| {
        leases
            .get(base)
            .is_some_and(|lease| Arc::strong_count(lease) > 1)
    };
    if bases.iter().any(shared) {
        return Err(Error::Pinned);
    }
    let fresh = gaps(leases, at, len)
        .into_iter()
        .map(|(start, len)| take(arena, start, len))
        .collect::<Result<Vec<_>, _>>()?;
    // INVARIANT: under the lock nobody can share what was not shared a moment ago.
    let mut parts: Vec<Lease> = bases
        .iter()
        .filter_map(|base| Arc::into_inner(leases.remove(base)?))
        .chain(fresh)
        .collect();
    parts.sort_unstable_by_key(start_of);
    let mut parts = parts.into_iter();
    let mut whole = parts.next().ok_or(Error::FrameInvalid)?;
    for next in parts {
        whole = match whole.join(next) {
            Ok(both) => both,
            Err((first, second)) => {
                // Not in one window, which whoever asked has checked: as it was.
                for lease in [first, second] {
                    leases.insert(start_of(&lease), Arc::new(lease));
                }
                return Err(Error::NoContiguousRun);
            }
        };
    }
    Ok((start_of(&whole), Arc::new(whole)))
}

/// The leases that have a part of `at..at + len`, ascending.
fn overlapping(
    leases: &BTreeMap<usize, Arc<Lease>>,
    at: usize,
    len: usize,
) -> impl Iterator<Item = usize> + '_ {
    let first = leases
        .range(..=at)
        .next_back()
        .filter(move |(base, lease)| **base + bytes(lease) > at)
        .map_or(at, |(base, _)| *base);
    leases.range(first..at + len).map(|(base, _)| *base)
}

/// The parts of `at..at + len` that no lease here has: start and length, ascending.
fn gaps(leases: &BTreeMap<usize, Arc<Lease>>, at: usize, len: usize) -> Vec<(usize, usize)> {
    let mut gaps = Vec::new();
    let mut next = at;
    for (base, lease) in overlapping(leases, at, len).filter_map(|base| leases.get_key_value(&base))
    {
        if *base > next {
            gaps.push((next, base - next));
        }
        next = next.max(base + bytes(lease));
    }
    if next < at + len {
        gaps.push((next, at + len - next));
    }
    gaps
}

fn take(arena: &Arena, at: usize, len: usize) -> Result<Lease, Error> {
    // CAST: usize is at most 64 bits wide on Linux.
    match arena.lease(number(at), ByteLen::new(len as u64)) {
        // Not here, so with somebody who writes.
        Err(Error::FrameInvalid) => Err(Error::Pinned),
        outcome => outcome,
    }
}

/// The length of a lease in bytes.
fn bytes(lease: &Lease) -> usize {
    // CAST: made of a usize.
    lease.len().raw() as usize
}

fn start_of(lease: &Lease) -> usize {
    lease.as_ptr().as_ptr().addr()
}
