// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Buffers in a file of their own, passed on by descriptor.
//!
//! A shareable buffer never lies in the pools' windows: whoever has the pool's file could read, punch and signal every
//! other buffer in it, and a seal against shrinking does not stop a hole.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use htlb_core::driver::{self, Commitment};
use htlb_core::{Attempt, ByteLen, Charge, Error as Cause, Host, Placement, Rung, Supply};

use super::make::Made;
use super::{Buffer, BufferBuilder};
use crate::advice;
use crate::arena::{Arena, Growth, Kin, Slots};
use crate::device::DeviceBuffer;
use crate::error::Error;
use crate::host::{kin_of, BufferHost};
use crate::pools::Wanted;
use crate::receipt::{Giver, Home, Refusal};
use crate::sys::memfd::{Kind, Memfd, Seals};
use crate::sys::window::{Backing, Peers};

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
            if self.shared.device().serves(kin_of(attempt), attempt.size) {
                match self.own_device_buffer(placement, attempt) {
                    Ok((core, host)) => {
                        for earlier in refusals {
                            host.note(earlier);
                        }
                        return Ok((core, host, Home::Device));
                    }
                    Err((cause, why)) => {
                        refusals.push(Refusal {
                            giver: Giver::Device,
                            rung: attempt.rung,
                            size: attempt.size,
                            why,
                        });
                        refusal = cause;
                    }
                }
            }
            if self.shared.device().is_sole() {
                continue;
            }
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
                        giver: Giver::Kernel,
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
            device: None,
        };
        let backing = Backing::Shared(file.share(), Peers::Trusted);
        arena.grow_in(&growth, backing, |_| ())?;
        self.over(arena, placement, attempt)
    }

    /// A buffer of the device, in the manner of [`BufferBuilder::own_file`], contiguous as is asked. It is sealed, as a file is.
    fn own_device_buffer(
        &self,
        placement: &Placement,
        attempt: &Attempt,
    ) -> Result<(htlb_core::Buffer<Slots>, BufferHost), (Cause, String)> {
        let wanted = Wanted {
            size: attempt.size,
            pages: attempt.size.pages_for(self.room()),
            reach: attempt.reach,
            nodes: self.nodes,
            contiguity: self.contiguity,
        };
        let (file, rung) = self.shared.device().make(&wanted)?;
        let mapped = || {
            let file = self.sealed(file)?;
            let kin = kin_of(attempt);
            let arena = Arc::new(Arena::new(kin, attempt.size, self.shared.nodes())?);
            let growth = Growth {
                pages: wanted.pages,
                reach: wanted.reach,
                nodes: wanted.nodes,
                supply: Supply::Persistent,
                threads: self.threads,
                device: Some(rung),
            };
            arena.grow_in(&growth, Backing::Shared(file, Peers::Trusted), |_| ())?;
            self.over(arena, placement, attempt)
        };
        mapped().map_err(|cause: Cause| {
            let why = format!("{} of its pages could not be mapped: {cause}", wanted.pages);
            (cause, why)
        })
    }

    /// The same buffer, not to be punched or truncated by those who get it.
    fn sealed(&self, file: OwnedFd) -> Result<OwnedFd, Cause> {
        let buffer = DeviceBuffer::from(file);
        match buffer.seal() {
            Ok(()) => Ok(buffer.into()),
            Err(error) => Err(error.cause().unwrap_or(Cause::Sealed)),
        }
    }

    fn over(
        &self,
        arena: Arc<Arena>,
        placement: &Placement,
        attempt: &Attempt,
    ) -> Result<(htlb_core::Buffer<Slots>, BufferHost), Cause> {
        let shared = Arc::clone(&self.shared);
        let host = BufferHost::new(shared, Some(arena), None, self.nodes, self.threads);
        let core = whole_arena(&host, placement, attempt, self.room())?;
        Ok((core, host))
    }

    /// Contiguous runs, which the device makes, and hugetlb has by luck only. `None` where the device has none either.
    pub(super) fn make_runs(&self, placement: &Placement) -> Option<Made> {
        let device = self.shared.device();
        let mut refusals = Vec::new();
        for attempt in self.rungs(placement) {
            let serves = device.serves(kin_of(attempt), attempt.size);
            if attempt.rung == Rung::Pool || !serves {
                continue;
            }
            match self.own_device_buffer(placement, attempt) {
                Ok((core, host)) => return Some(Ok((core, host, Home::Device))),
                Err((cause, why)) => refusals.push((
                    cause,
                    Refusal {
                        giver: Giver::Device,
                        rung: attempt.rung,
                        size: attempt.size,
                        why,
                    },
                )),
            }
        }
        let (cause, _) = refusals.last().filter(|_| device.is_sole())?;
        let cause = *cause;
        let refusals = refusals.into_iter().map(|(_, refusal)| refusal).collect();
        Some(Err((cause, refusals)))
    }
}

/// Why the rung of transparent huge pages gives nothing to be shared.
const NO_THP: &str = "memory to be shared gets transparent huge pages only where the administrator says so, and then without \
     being asked; see /sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// A buffer that has every page of its own arena set aside for it.
pub(super) fn whole_arena(
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
    /// signal: it is the one thing here that is not told by a value. A buffer of the kernel module ([`Home::Device`]) is sealed: peers can
    /// neither punch nor shorten it.
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
