// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers in a file of their own, passed on by descriptor.
//!
//! A shareable buffer never lies in the pools' windows: whoever has the pool's file could read, punch and signal every
//! other buffer in it, and a seal against shrinking does not stop a hole.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use htlb_core::driver::{self, Commitment};
use htlb_core::{
    policy, Attempt, ByteLen, ByteOffset, ByteRange, Charge, Error as Cause, Fallback, Host,
    HugeSize, NodePolicy, Placement, Reach, Request, Rung, Supply,
};

use super::make::Made;
use super::{Buffer, BufferBuilder, Live};
use crate::advice;
use crate::arena::{refused, Arena, Fresh, Growth, Kin, Slots};
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

impl BufferBuilder {
    pub(super) fn make_shareable(&self, placement: &Placement) -> Made {
        let mut refusals = Vec::new();
        let mut refusal = Cause::NoRoom;
        for attempt in self
            .rungs(placement)
            .filter(|attempt| attempt.rung != Rung::Pool)
        {
            match self.own_file(placement, attempt) {
                Ok((core, host)) => {
                    for earlier in refusals {
                        host.note(earlier);
                    }
                    return Ok((core, host, Home::Memfd));
                }
                Err(cause) => {
                    let why = match attempt.rung {
                        Rung::Transparent => NO_THP.into(),
                        Rung::Pool | Rung::System | Rung::Base => {
                            let pages = attempt.size.pages_for(self.room());
                            advice::why_short(self.shared.root(), attempt, cause, pages)
                        }
                    };
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
    ) -> Result<(htlb_core::Buffer<Slots>, BufferHost), Cause> {
        let kin = kin_of(attempt);
        let kind = match kin {
            Kin::Hugetlb => Kind::Hugetlb(attempt.size),
            Kin::Transparent => return Err(Cause::PageSizeUnsupported),
            Kin::Base => Kind::Shmem,
        };
        let pages = attempt.size.pages_for(self.room());
        let len = attempt.size.len_of(pages)?;
        advice::check_memory(self.shared.root(), kin, len)?;
        let file = Memfd::new(kind)?;
        file.set_len(len)?;
        file.add_seals(Seals::SHRINK.and(Seals::GROW))?;
        let arena = Arc::new(Arena::new(kin, attempt.size, self.shared.nodes())?);
        let growth = Growth {
            pages,
            reach: attempt.reach,
            nodes: self.nodes,
            supply: Supply::Persistent,
            threads: self.threads,
        };
        let backing = Backing::Shared(file.share(), Peers::Trusted);
        arena.grow_in(&growth, backing, |_| ())?;
        let shared = Arc::clone(&self.shared);
        let host = BufferHost::new(shared, Some(arena), None, self.nodes, self.threads);
        let core = whole_arena(&host, placement, attempt, self.room())?;
        Ok((core, host))
    }
}

/// Why the rung of transparent huge pages gives nothing to be shared.
const NO_THP: &str = "memory to be shared gets transparent huge pages only where the administrator says so, and then without \
     being asked; see /sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// A buffer that has every page of its own arena set aside for it.
fn whole_arena(
    host: &BufferHost,
    placement: &Placement,
    attempt: &Attempt,
    room: ByteLen,
) -> Result<htlb_core::Buffer<Slots>, Cause> {
    let charge = Charge {
        reach: attempt.reach,
        account: host.account(attempt),
    };
    let core =
        driver::plan(host, &placement.only(attempt), Commitment::Unpromised)?.build(host, room)?;
    // What fails here goes with the arena, which nobody else has.
    host.set_run_aside(attempt, charge, attempt.size.pages_for(room))?;
    Ok(core)
}

impl Buffer {
    /// The file behind a shareable buffer, and where in it the buffer begins: pass both on, and the length.
    ///
    /// Whoever has the file can read, write and punch the buffer, not shorten it. Touching what a peer has punched may be a
    /// signal: it is the one thing here that is not told by a value.
    ///
    /// # Errors
    /// [`Cause::FrameInvalid`] for a buffer that was not made shareable.
    pub fn share(&self) -> Result<(OwnedFd, u64), Error> {
        self.here()
            .map_err(|cause| self.error("share the buffer".into(), cause))?;
        let file = self
            .host()
            .own_arena()
            .and_then(|arena| arena.shared_file());
        let file = file.ok_or_else(|| {
            Error::new("share the buffer", Cause::FrameInvalid)
                .found("it lies in pages that the process shares with other buffers")
                .advise("make it with BufferBuilder::shareable")
        })?;
        Ok((file, 0))
    }
}

/// A file that can be attached.
struct Found {
    kin: Kin,
    size: HugeSize,
    /// The bytes to map, in whole pages.
    len: ByteLen,
}

/// Why not, and what was found.
type Refused = (Cause, Option<String>);

impl Pools {
    /// The first `bytes` bytes of a file in memory that another process shared, every page of it present.
    ///
    /// ```
    /// use htlb_user::buffer::Access;
    /// let pools = htlb_user::Pools::new()?;
    /// let mut here = pools.buffer(8192).base_pages().shareable().create()?;
    /// here.write_at(4096, b"to be seen")?;
    /// let (file, _) = here.share()?;
    /// // In another process, which got the descriptor:
    /// let there = pools.attach(file, 8192, Access::Copies)?;
    /// let mut bytes = [0; 10];
    /// there.read_at(4096, &mut bytes)?;
    /// assert_eq!(&bytes, b"to be seen");
    /// # Ok::<(), htlb_user::Error>(())
    /// ```
    ///
    /// # Errors
    /// The file is shorter, is neither hugetlb nor shared memory, is not open for writing, has pages missing that the
    /// system cannot give, or, except for [`Access::Copies`], may be shortened by peers.
    pub fn attach(&self, file: OwnedFd, bytes: u64, access: Access) -> Result<Buffer, Error> {
        let began = std::time::Instant::now();
        let fail = |cause| Error::new(format!("attach {bytes} bytes of shared memory"), cause);
        let shared = self.shared();
        let _inside = shared.enter().map_err(|cause| fail(cause).forked())?;
        let (arena, size) = self
            .adopt_file(file, bytes, access)
            .map_err(|(cause, found)| match found {
                Some(found) => fail(cause).found(found),
                None => fail(cause),
            })?;
        let made = || {
            let request = Request::builder(ByteLen::new(bytes))
                .page_size(size)
                .fallback(Fallback::STRICT)
                .build()?;
            let placement = policy::resolve(&request, &shared.topology_with(size))?;
            // The last rung of a size can be asked for pages of the system; here they are there.
            let attempt = placement.attempts().last();
            let attempt = Attempt {
                reach: Reach::ANY,
                ..*attempt.ok_or(Cause::PageSizeUnsupported)?
            };
            let nodes = NodePolicy::Default;
            let host = BufferHost::new(Arc::clone(shared), Some(arena), None, nodes, 1);
            let core = whole_arena(&host, &placement, &attempt, ByteLen::new(bytes))?;
            Ok(Live { core, host })
        };
        let live = made().map_err(fail)?;
        // Publishing the pages changes no byte of them, so that may be done for a reader too.
        let mut buffer = Buffer::register(live, Home::Memfd, Access::Copies, bytes);
        buffer.populate_all(None)?;
        buffer.access = access;
        buffer.took = began.elapsed();
        Ok(buffer)
    }

    fn adopt_file(
        &self,
        file: OwnedFd,
        bytes: u64,
        access: Access,
    ) -> Result<(Arc<Arena>, HugeSize), Refused> {
        let plain = |cause: Cause| (cause, None);
        let Found { kin, size, len } = look_at(file.as_fd(), bytes, access)?;
        let peers = match access {
            Access::Copies => Peers::Untrusted,
            Access::InPlace | Access::InPlaceReadOnly => Peers::Trusted,
        };
        let guarded = len
            .checked_add(size.bytes())
            .ok_or(plain(Cause::SizeTooLarge))?;
        let window = Window::reserve(Backing::Shared(file, peers), guarded, size, Fork::Exclude)
            .map(Arc::new)
            .map_err(|error| (refused(error), Some(error.to_string())))?;
        let range = ByteRange::at(ByteOffset::ZERO, len).map_err(plain)?;
        window
            .map(range)
            .map_err(|error| (refused(error), Some(error.to_string())))?;
        window
            .populate_write(range)
            .map_err(|error| (Cause::from(error), Some(error.to_string())))?;
        let arena = Arc::new(Arena::new(kin, size, self.shared().nodes()).map_err(plain)?);
        // What the peer wrote stays: as far as this process goes the pages are as they should be.
        let fresh = Fresh {
            window,
            range,
            reach: Reach::ANY,
            nodes: NodePolicy::Default,
            supply: Supply::Persistent,
        };
        arena.adopt(fresh, |_| ()).map_err(plain)?;
        Ok((arena, size))
    }
}

/// Whether a file can be attached, and how.
fn look_at(file: BorrowedFd<'_>, bytes: u64, access: Access) -> Result<Found, Refused> {
    let plain = |cause: Cause| (cause, None);
    let system = FileSystem::of(file).map_err(|failure| plain(failure.into()))?;
    let (kin, size) = if system.is_hugetlbfs() {
        let size = HugeSize::from_bytes(system.block).map_err(plain)?;
        (Kin::Hugetlb, size)
    } else if system.is_tmpfs() {
        (Kin::Base, HugeSize::BASE)
    } else {
        let found = "the file is neither of huge pages nor of shared memory".into();
        return Err((Cause::PageSizeUnsupported, Some(found)));
    };
    let there = memfd::len(file).map_err(|failure| plain(failure.into()))?;
    let pages = size.pages_for(ByteLen::new(bytes));
    let len = size.len_of(pages).map_err(plain)?;
    if bytes == 0 {
        return Err(plain(Cause::SizeZero));
    }
    if there.raw() < bytes {
        let found = format!("the file has {there} bytes");
        return Err((Cause::RangeBeyondEnd, Some(found)));
    }
    let seals = memfd::seals(file).ok();
    let fixed = seals.is_some_and(|seals| seals.contains(Seals::SHRINK));
    if access != Access::Copies && !fixed {
        let found =
            "the file is not sealed against shrinking, so a peer could take the memory away";
        return Err((Cause::Sealed, Some(found.into())));
    }
    Ok(Found { kin, size, len })
}
