// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What devices, donors and those who call wrongly do.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::{ensure, Result};
use htlb_core::uapi::{
    Create, Export, Import, Info, Limit, LimitFlags, Lookup, Populate, Punch, Reserve, Resize,
    Seal, Stats, Truncate,
};
use rustix::fs::{
    fallocate, fcntl_add_seals, ftruncate, memfd_create, FallocateFlags, MemfdFlags, SealFlags,
};

use super::super::raw::{self, Place};
use super::actor::Actor;
use super::plan::Dice;
use super::tally::Kind;
use super::view::HUGE;
use super::world::Made;
use crate::kmod::importer::{Attachment, Direction, Importer, View};

const MIB2: u64 = HUGE as u64;

/// A device, attached to a dma-buf.
pub(super) struct Attached {
    importer: Importer,
    attachment: Attachment,
}

impl Actor<'_> {
    /// Attaches a device, has it and the kernel read, and detaches it; what it is attached to goes with its file, too.
    pub(super) fn use_device(&mut self, kind: Kind) -> Result<()> {
        match kind {
            Kind::Attach => {
                if self.exports.is_empty() {
                    return Ok(());
                }
                let chosen = self.dice.index(self.exports.len());
                let Ok(importer) = Importer::open() else {
                    // A process without rights.
                    self.note(kind, false);
                    return Ok(());
                };
                if self.dice.one_in(4) {
                    importer.limit(self.dice.pick(&[28, 32, 64]), 1 << 21)?;
                }
                let attached = importer.attach(self.exports[chosen].as_fd());
                if let Some(attachment) = self.came(kind, attached)? {
                    self.attached = Some(Attached {
                        importer,
                        attachment,
                    });
                }
            }
            Kind::Transfer => {
                let Some(attached) = &self.attached else {
                    return Ok(());
                };
                let by_kernel = self.dice.one_in(3);
                let direction = self
                    .dice
                    .pick(&[Direction::Bidirectional, Direction::FromDevice]);
                let done = attached.transfer(by_kernel, direction);
                // The importer itself says EIO where its view is gone.
                self.note(kind, done.is_ok());
            }
            _ => {
                let Some(attached) = self.attached.take() else {
                    self.note(kind, false);
                    return Ok(());
                };
                let done = match self.dice.one_in(2) {
                    true => attached.importer.detach(attached.attachment),
                    false => Ok(()),
                };
                self.came(kind, done)?;
            }
        }
        Ok(())
    }

    /// A memfd becomes a buffer, or its donor does to it what a donor can.
    pub(super) fn donate(&mut self, kind: Kind) -> Result<()> {
        if kind == Kind::Donor {
            let Some(memfd) = &self.memfd else {
                return Ok(());
            };
            let seals = SealFlags::from_bits_retain(1 << self.dice.below(6));
            let done = match self.dice.below(3) {
                0 => ftruncate(memfd, self.dice.below(3) * MIB2),
                1 => {
                    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(memfd, hole, 0, MIB2)
                }
                _ => fcntl_add_seals(memfd, seals),
            };
            return self.came(kind, done).map(drop);
        }
        if self.memfd.is_none() || self.dice.one_in(4) {
            self.memfd = memfd(2 * MIB2).ok();
        }
        let Some(memfd) = &self.memfd else {
            return Ok(());
        };
        let bytes = (1 + self.dice.below(2)) * MIB2;
        let done = self.device.import(memfd.as_fd(), 0, bytes);
        if let Some(buffer) = self.came(kind, done)? {
            let made = Made {
                buffer,
                bytes,
                stamp: self.world.common.stamp(),
            };
            self.world.replace(&mut self.dice, Some(made));
        }
        Ok(())
    }

    /// A call that is wrong, or may be.
    pub(super) fn wrong_call(&mut self, kind: Kind) -> Result<()> {
        const PLACES: [Place; 8] = [
            Place::Null,
            Place::Kernel,
            Place::NonCanonical,
            Place::Top,
            Place::Unmapped,
            Place::HalfMapped,
            Place::ReadOnly,
            Place::HalfReadOnly,
        ];
        let Some(made) = self.world.any(&mut self.dice) else {
            return Ok(());
        };
        let (number, size, on_device) = self.dice.pick(&CALLS);
        if kind == Kind::Scribbled && (number == Resize::IOCTL || number == Limit::IOCTL) {
            // Words of other records could ask for all memory there is, or take it from all others.
            return Ok(());
        }
        let fd = match on_device {
            true => self.device.as_fd().as_raw_fd(),
            false => made.buffer.as_fd().as_raw_fd(),
        };
        let makes_a_file = number == Create::IOCTL || number == Import::IOCTL;
        let mut bytes = record(&mut self.dice, number, size);
        let done = match kind {
            Kind::Scribbled => self.scribbled(fd, number, &bytes),
            Kind::Garbage => self.arena.ioctl(fd, number, Place::Good, &mut bytes)?,
            _ => {
                let place = self.dice.pick(&PLACES);
                let done = self.arena.ioctl(fd, number, place, &mut bytes)?;
                if makes_a_file && matches!(place, Place::ReadOnly | Place::HalfReadOnly) {
                    // It is read, and nothing is written: no bad place.
                    done.map_err(|_| libc::EFAULT).and_then(|fd| {
                        raw::close(fd);
                        Err(libc::EFAULT)
                    })
                } else {
                    done
                }
            }
        };
        if let (Ok(value), true) = (done, makes_a_file) {
            raw::close(value);
        }
        if let (Ok(_), true, Kind::Garbage) = (done, number == Export::IOCTL, kind) {
            let fd: [u8; 4] = bytes[24..28].try_into()?;
            raw::close(i64::from(i32::from_ne_bytes(fd)));
        }
        self.note(kind, done.is_ok());
        let is_odd = done.is_err_and(|errno| matches!(errno, libc::EIO | libc::ENOTTY));
        ensure!(!is_odd, "{number:#x} with {bytes:x?}: {done:?}");
        ensure!(
            kind != Kind::BadPointer || done.is_err(),
            "{number:#x} on a bad pointer: {done:?}"
        );
        Ok(())
    }

    /// The record lies where other threads of this process write records, too.
    fn scribbled(&self, fd: RawFd, number: u32, bytes: &[u8]) -> Result<i64, i32> {
        let place = self.world.scribbles.pointer(0);
        for (word, chunk) in bytes.chunks_exact(8).enumerate() {
            let value = u64::from_ne_bytes(chunk.try_into().unwrap_or_default());
            // SAFETY: in the area, which is longer than any record; others do the same at the same time, as atomics do.
            let word = unsafe { &*place.cast::<AtomicU64>().add(word) };
            word.store(value, Ordering::Relaxed);
        }
        // SAFETY: as above.
        let size = unsafe { &*place.cast::<AtomicU32>() };
        size.store(bytes.len() as u32, Ordering::Relaxed);
        // SAFETY: the kernel reads and writes no more than a page from there on.
        let done = unsafe { libc::ioctl(fd, number as libc::Ioctl, place) };
        match done {
            -1 => Err(io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or_default()),
            value => Ok(i64::from(value)),
        }
    }
}

impl Attached {
    fn transfer(&self, by_kernel: bool, direction: Direction) -> io::Result<()> {
        let mut bytes = [0; 64];
        if by_kernel {
            self.importer.vmap(&self.attachment)?;
            self.importer.select(&self.attachment, View::Vmap)?;
            self.importer
                .begin_cpu_access(&self.attachment, direction)?;
            self.importer.read_at(&mut bytes, 0)?;
            self.importer.end_cpu_access(&self.attachment, direction)?;
            self.importer.vunmap(&self.attachment)
        } else {
            self.importer.map(&self.attachment, direction)?;
            self.importer.select(&self.attachment, View::Device)?;
            self.importer.read_at(&mut bytes, 4096)?;
            self.importer.unmap(&self.attachment)
        }
    }
}

/// Every ioctl: its number, the size of its record, and whether it is the device's.
const CALLS: [(u32, u32, bool); 13] = [
    (Create::IOCTL, Create::SIZE, true),
    (Stats::IOCTL, Stats::SIZE, true),
    (Resize::IOCTL, Resize::SIZE, true),
    (Limit::IOCTL, Limit::SIZE, true),
    (Import::IOCTL, Import::SIZE, true),
    (Populate::IOCTL, Populate::SIZE, false),
    (Reserve::IOCTL, Reserve::SIZE, false),
    (Punch::IOCTL, Punch::SIZE, false),
    (Truncate::IOCTL, Truncate::SIZE, false),
    (Seal::IOCTL, Seal::SIZE, false),
    (Info::IOCTL, Info::SIZE, false),
    (Lookup::IOCTL, Lookup::SIZE, false),
    (Export::IOCTL, Export::SIZE, false),
];

/// A record of numbers that mean something, none of which asks for all the memory there is.
fn record(dice: &mut Dice, number: u32, size: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..size / 8)
        .flat_map(|_| {
            let word = dice.pick(&[
                0,
                0,
                0,
                0,
                1,
                2,
                4096,
                MIB2,
                MIB2,
                2 * MIB2,
                4 * MIB2,
                u64::MAX,
            ]);
            // All ones are too much for a pool, and for nothing else.
            let word = if number == Resize::IOCTL {
                word & (8 * MIB2 - 1)
            } else {
                word
            };
            word.to_ne_bytes()
        })
        .collect();
    bytes[..4].copy_from_slice(&size.to_ne_bytes());
    let flags = dice.pick(&[0, 0, 1, 2, 4, 0x11]);
    // The limit of a user is for the other users of this machine, too.
    let user = LimitFlags::USER.bits();
    let flags: u32 = if number == Limit::IOCTL {
        flags & !user
    } else {
        flags
    };
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// A memfd of so many bytes in huge pages.
pub(super) fn memfd(bytes: u64) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC
        | MemfdFlags::HUGETLB
        | MemfdFlags::ALLOW_SEALING
        | MemfdFlags::HUGE_2MB;
    let fd = memfd_create("donated", flags)?;
    ftruncate(&fd, bytes)?;
    Ok(fd)
}
