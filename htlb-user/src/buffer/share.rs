// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers in a file of their own, passed on by descriptor.
//!
//! A shareable buffer never lies in the pools' windows: whoever has the pool's file could read, punch and signal every
//! other buffer in it, and a seal against shrinking does not stop a hole.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use htlb_core::driver::{self, Commitment};
use htlb_core::{
    policy, Attempt, ByteLen, ByteOffset, ByteRange, Charge, Condition, Error as Cause, Fallback,
    Host, HugeSize, Placement, Reach, Request, Rung, Supply,
};

use super::{Buffer, BufferBuilder, Live};
use crate::arena::{Arena, Binding, Growth, Kin, Slots};
use crate::error::Error;
use crate::host::{kin_of, BufferHost};
use crate::pools::Pools;
use crate::receipt::{Home, Refusal};
use crate::sys::memfd::{self, Kind, Memfd, Seals};
use crate::sys::path::FileSystem;
use crate::sys::window::{Backing, Fork, Peers, Window};

/// What this process may do with the bytes of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Slices to read and to write. For shared memory that is the caller's word that no peer writes while a slice lives.
    InPlace,
    /// Slices to read, on the same word.
    InPlaceReadOnly,
    /// Copies in and out only: peers may write at any time, and a slice would be a lie.
    Copies,
}

type Made = (htlb_core::Buffer<Slots>, BufferHost, Home);

impl BufferBuilder {
    pub(super) fn make_shareable(
        &self,
        placement: &Placement,
        binding: Binding,
    ) -> Result<Made, (Cause, Vec<Refusal>)> {
        let mut refusals = Vec::new();
        let mut refusal = Cause::NoRoom;
        for attempt in placement
            .attempts()
            .filter(|attempt| attempt.rung != Rung::Pool)
        {
            match self.own_file(placement, attempt, binding) {
                Ok((core, host)) => {
                    for earlier in refusals {
                        host.repeat(earlier);
                    }
                    return Ok((core, host, Home::Memfd));
                }
                Err(cause) => {
                    let pages = attempt.size.pages_for(ByteLen::new(self.capacity));
                    let why = crate::advice::why_short(self.shared.root(), attempt, cause, pages);
                    refusals.push(Refusal {
                        rung: attempt.rung,
                        size: attempt.size,
                        why,
                    });
                    refusal = cause;
                }
            }
        }
        Err((refusal, refusals))
    }

    fn own_file(
        &self,
        placement: &Placement,
        attempt: &Attempt,
        binding: Binding,
    ) -> Result<(htlb_core::Buffer<Slots>, BufferHost), Cause> {
        let kind = match kin_of(attempt) {
            Kin::Hugetlb => Kind::Hugetlb(attempt.size),
            // Shared memory gets huge pages only where the administrator said so; then it does without being asked.
            Kin::Transparent => return Err(Cause::PageSizeUnsupported),
            Kin::Base => Kind::Shmem,
        };
        let pages = attempt.size.pages_for(ByteLen::new(self.capacity));
        let len = attempt.size.len_of(pages)?;
        let file = Memfd::new(kind)?;
        file.set_len(len)?;
        file.add_seals(Seals::SHRINK.and(Seals::GROW))?;
        let arena = Arc::new(Arena::new(
            kin_of(attempt),
            attempt.size,
            self.shared.nodes(),
        )?);
        let growth = Growth {
            pages,
            reach: attempt.reach,
            binding,
            prefer: placement
                .preferred(htlb_core::PageIndex::ZERO)
                .and(attempt.reach.nodes()),
            supply: Supply::Persistent,
            threads: self.threads,
        };
        arena.grow_in(&growth, Backing::Shared(file.share(), Peers::Trusted))?;
        let host = BufferHost::new(Arc::clone(&self.shared), Some(arena), binding, self.threads);
        let core = whole_arena(&host, placement, attempt, self.capacity)?;
        Ok((core, host))
    }
}

/// A buffer that has every page of its own arena set aside for it.
fn whole_arena(
    host: &BufferHost,
    placement: &Placement,
    attempt: &Attempt,
    capacity: u64,
) -> Result<htlb_core::Buffer<Slots>, Cause> {
    let charge = Charge {
        reach: attempt.reach,
        account: host.account(attempt),
    };
    let core = driver::plan(host, &placement.only(attempt), Commitment::Unpromised)?
        .build(host, ByteLen::new(capacity))?;
    host.take_aside(
        attempt,
        charge,
        attempt.size.pages_for(ByteLen::new(capacity)),
    )?;
    Ok(core)
}

impl Buffer {
    /// The file behind a shareable buffer, and where in it the buffer begins: pass both on, and the length.
    ///
    /// # Errors
    /// [`Cause::FrameInvalid`] for a buffer that was not made shareable.
    pub fn share(&self) -> Result<(OwnedFd, u64), Error> {
        let fail = || {
            Error::new("share the buffer", Cause::FrameInvalid)
                .found("it lies in pages that the process shares with other buffers")
                .advise("make it with BufferBuilder::shareable")
        };
        let arena = self.host().own_arena().ok_or_else(fail)?;
        let file = arena.shared_file().ok_or_else(fail)?;
        Ok((file, 0))
    }
}

impl Pools {
    /// The first `bytes` bytes of a file in memory that another process shared, every page of it present.
    ///
    /// # Errors
    /// The file is shorter, is neither hugetlb nor shared memory, or has pages missing that the system cannot give.
    pub fn attach(&self, file: OwnedFd, bytes: u64, access: Access) -> Result<Buffer, Error> {
        let began = std::time::Instant::now();
        let asked = || format!("attach {bytes} bytes of shared memory");
        let fail = |cause| Error::new(asked(), cause);
        let (arena, size) = self
            .adopt_file(file, bytes, access)
            .map_err(|(cause, found)| match found {
                Some(found) => fail(cause).found(found),
                None => fail(cause),
            })?;
        let request = Request::builder(ByteLen::new(bytes))
            .page_size(size)
            .fallback(Fallback::STRICT)
            .build()
            .map_err(fail)?;
        let shared = self.shared();
        let placement = policy::resolve(&request, &shared.topology_with(size)).map_err(fail)?;
        // The last rung of a size can be asked for pages of the system; here they are there.
        let attempt = *placement
            .attempts()
            .last()
            .ok_or_else(|| fail(Cause::PageSizeUnsupported))?;
        let attempt = Attempt {
            reach: Reach::ANY,
            ..attempt
        };
        let inside = shared.enter();
        let host = BufferHost::new(Arc::clone(shared), Some(arena), Binding::Preferred, 1);
        let core = whole_arena(&host, &placement, &attempt, bytes).map_err(fail)?;
        let live = Arc::new(Live { core, host });
        let place = shared.register(&live);
        let buffer = Buffer {
            live: Some(live),
            place,
            keep: None,
            home: Home::Memfd,
            access,
            took: began.elapsed(),
            asked: ByteLen::new(bytes),
        };
        buffer.populate_all(None)?;
        drop(inside);
        Ok(buffer)
    }

    fn adopt_file(
        &self,
        file: OwnedFd,
        bytes: u64,
        access: Access,
    ) -> Result<(Arc<Arena>, HugeSize), (Cause, Option<String>)> {
        let plain = |cause: Cause| (cause, None);
        let borrowed: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(&file);
        let system = FileSystem::of(borrowed).map_err(|failure| plain(failure.into()))?;
        let (kin, size) = if system.is_hugetlbfs() {
            (
                Kin::Hugetlb,
                HugeSize::from_bytes(system.block).map_err(plain)?,
            )
        } else {
            (Kin::Base, HugeSize::BASE)
        };
        let len = memfd::len(borrowed).map_err(|failure| plain(failure.into()))?;
        let pages = size.pages_for(ByteLen::new(bytes));
        let needed = size.len_of(pages).map_err(plain)?;
        if bytes == 0 || len.raw() < bytes || (kin == Kin::Hugetlb && len < needed) {
            return Err((
                Cause::RangeBeyondEnd,
                Some(format!("the file has {len} bytes")),
            ));
        }
        let seals = memfd::seals(borrowed).ok();
        if access != Access::Copies && seals.is_some_and(|seals| !seals.contains(Seals::SHRINK)) {
            return Err((
                Cause::OutOfReach,
                Some("the file is not sealed against shrinking, so a peer could take the memory away".into()),
            ));
        }
        let peers = if access == Access::Copies {
            Peers::Untrusted
        } else {
            Peers::Trusted
        };
        let guard = ByteLen::new(needed.raw() + size.bytes());
        let window = Window::reserve(Backing::Shared(file, peers), guard, size, Fork::Exclude)
            .map(Arc::new)
            .map_err(|error| (crate::arena::refused(error), Some(error.to_string())))?;
        let range = ByteRange::at(ByteOffset::ZERO, needed).map_err(plain)?;
        window
            .map(range)
            .map_err(|error| (crate::arena::refused(error), Some(error.to_string())))?;
        window
            .populate_write(range)
            .map_err(|error| (Cause::from(error), Some(error.to_string())))?;
        let arena = Arc::new(Arena::new(kin, size, self.shared().nodes()).map_err(plain)?);
        // What the peer wrote stays: as far as this process goes the pages are as they should be.
        arena
            .adopt(
                window,
                range,
                Reach::ANY,
                Supply::Persistent,
                Condition::Clean,
            )
            .map_err(plain)?;
        Ok((arena, size))
    }
}
