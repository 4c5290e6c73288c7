// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A buffer of the module.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use htlb_core::uapi::{
    self, Info, Lookup, Populate, Punch, Record, Reserve, Seal, SealFlags, Truncate,
};
use htlb_core::{HugeSize, NodeId, Rung};

use super::error::{self, DeviceError, Meanings};
use crate::sys::device::{self, exchange, How, Mapping};

/// A buffer of the module, by its file descriptor. It lives as long as a descriptor, a mapping or a dma-buf of it does.
#[derive(Debug)]
pub struct DeviceBuffer {
    fd: OwnedFd,
}

/// What a punch or a cut took, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Pages.
    pub removed: u64,
    /// Promises of pages that had not come yet.
    pub unpromised: u64,
}

/// A part of a buffer that one rung of the ladder served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its length in bytes.
    pub bytes: u64,
    /// The size of its pages.
    pub size: HugeSize,
    /// The rung; `None` for donated pages, which no rung gave.
    pub rung: Option<Rung>,
}

/// Where a byte lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Where {
    /// Its physical address.
    pub physical: u64,
    /// The size of its page.
    pub size: HugeSize,
    /// The node of its page.
    pub node: Option<NodeId>,
}

/// What a dma-buf may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// Its file may be mapped for reading only.
    ReadOnly,
    /// And for writing.
    Writable,
}

impl From<OwnedFd> for DeviceBuffer {
    /// Nothing is asked of the descriptor: [`DeviceBuffer::info`] fails if it is no buffer.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<DeviceBuffer> for OwnedFd {
    fn from(buffer: DeviceBuffer) -> Self {
        buffer.fd
    }
}

impl AsFd for DeviceBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl DeviceBuffer {
    /// A buffer that another process made and passed on.
    ///
    /// # Errors
    /// [`DeviceError`] with `ENOTTY` for a descriptor of anything else.
    pub fn attach(fd: OwnedFd) -> Result<Self, DeviceError> {
        let buffer = Self { fd };
        buffer.info().map(|_| buffer)
    }

    fn ask<R: Record>(
        &self,
        record: &mut R,
        asked: impl FnOnce() -> String,
        meanings: Meanings,
    ) -> Result<i32, DeviceError> {
        exchange(self.fd.as_fd(), record)
            .map_err(|error| DeviceError::new(asked(), &error, meanings))
    }

    /// Another descriptor of the same buffer. Seals of either are the file's, since both are one open file.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.fd.try_clone().map(|fd| Self { fd })
    }

    /// What was got, and what of it is there.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn info(&self) -> Result<Info, DeviceError> {
        let mut info = Info::default();
        self.ask(&mut info, || "look at a buffer".into(), error::LOOK)?;
        Ok(info)
    }

    /// The parts, each of one page size, as [`DeviceBuffer::info`] lists them.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn parts(&self) -> Result<Vec<Part>, DeviceError> {
        self.info().map(|info| parts_of(&info))
    }

    /// The size in bytes.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn size(&self) -> Result<u64, DeviceError> {
        self.info().map(|info| info.bytes)
    }

    /// Promises a page for every hole of a range, all of them or none; says how many bytes were neither promised nor populated before.
    ///
    /// # Errors
    /// [`DeviceError`]; no promise is left of it.
    pub fn reserve(&self, offset: u64, len: u64) -> Result<u64, DeviceError> {
        let mut reserve = Reserve {
            offset,
            len,
            ..Reserve::default()
        };
        self.ask(&mut reserve, || on("reserve", offset, len), error::FILL)?;
        Ok(reserve.promised)
    }

    /// Puts a page into every hole of a range; says how many bytes had none before.
    ///
    /// # Errors
    /// [`DeviceError`]; the pages before the one that failed stay.
    pub fn populate(&self, offset: u64, len: u64) -> Result<u64, DeviceError> {
        let mut populate = Populate {
            offset,
            len,
            ..Populate::default()
        };
        self.ask(&mut populate, || on("populate", offset, len), error::FILL)?;
        Ok(populate.populated)
    }

    /// Gives pages and promises of a range back and revokes every mapping of them, here and in other processes.
    ///
    /// # Errors
    /// [`DeviceError`] with [`htlb_core::Error::Pinned`] or [`htlb_core::Error::Sealed`]; nothing is gone then.
    pub fn punch(&self, offset: u64, len: u64) -> Result<Cut, DeviceError> {
        let mut punch = Punch {
            offset,
            len,
            ..Punch::default()
        };
        self.ask(&mut punch, || on("punch", offset, len), error::CUT)?;
        Ok(Cut {
            removed: punch.removed,
            unpromised: punch.unpromised,
        })
    }

    /// Gives the buffer another size, up to its capacity; what is added are holes.
    ///
    /// # Errors
    /// As [`DeviceBuffer::punch`], and [`htlb_core::Error::BeyondCapacity`].
    pub fn truncate(&self, bytes: u64) -> Result<Cut, DeviceError> {
        let mut truncate = Truncate {
            bytes,
            ..Truncate::default()
        };
        let asked = || format!("give a buffer the size of {bytes} bytes");
        self.ask(&mut truncate, asked, error::CUT)?;
        Ok(Cut {
            removed: truncate.removed,
            unpromised: truncate.unpromised,
        })
    }

    /// Forbids punching and truncating until [`DeviceBuffer::unseal`], or until the last descriptor of this open file is closed.
    ///
    /// # Errors
    /// [`DeviceError`] with [`htlb_core::Error::PinOverflow`].
    pub fn seal(&self) -> Result<(), DeviceError> {
        self.change_seal(SealFlags::ADD, "seal a buffer")
    }

    /// Takes one seal of this open file away.
    ///
    /// # Errors
    /// [`DeviceError`] where there is none.
    pub fn unseal(&self) -> Result<(), DeviceError> {
        self.change_seal(SealFlags::REMOVE, "unseal a buffer")
    }

    fn change_seal(&self, flags: SealFlags, asked: &str) -> Result<(), DeviceError> {
        let mut seal = Seal {
            flags: flags.bits(),
            ..Seal::default()
        };
        self.ask(&mut seal, || asked.into(), error::SEAL).map(drop)
    }

    /// Where the byte at `offset` lies. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// [`DeviceError`] with [`htlb_core::Error::NotPresent`] where there is no page.
    pub fn lookup(&self, offset: u64) -> Result<Where, DeviceError> {
        let asked = || format!("look up the address of the byte at offset {offset}");
        let mut lookup = Lookup {
            offset,
            ..Lookup::default()
        };
        self.ask(&mut lookup, asked, error::LOOK)?;
        Ok(Where {
            physical: lookup.physical,
            size: HugeSize::from_bytes(lookup.page_bytes)
                .map_err(|cause| DeviceError::of_cause(asked(), cause))?,
            node: u32::try_from(lookup.node)
                .ok()
                .and_then(|node| NodeId::new(node).ok()),
        })
    }

    /// A dma-buf of a range, for devices; a `len` of 0 goes up to the end.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn export(&self, offset: u64, len: u64, access: Export) -> Result<OwnedFd, DeviceError> {
        let flags = match access {
            Export::ReadOnly => libc::O_CLOEXEC,
            Export::Writable => libc::O_CLOEXEC | libc::O_RDWR,
        };
        let mut export = uapi::Export {
            // CAST: flags of open(2), which are not negative.
            flags: flags as u32,
            offset,
            len,
            ..uapi::Export::default()
        };
        device::export(self.fd.as_fd(), &mut export)
            .map_err(|error| DeviceError::new(on("export", offset, len), &error, error::LOOK))
    }

    /// Maps a range at an address where its pages can be as large in the page table as they are.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn map(&self, offset: u64, len: usize, how: How) -> Result<Mapping, DeviceError> {
        let alignment = self.page_bytes_at(offset)?;
        Mapping::new(self.fd.as_fd(), offset, len, how, alignment)
            .map_err(|error| DeviceError::new(on("map", offset, len as u64), &error, error::LOOK))
    }

    /// The size of the page at an offset, also where there is none yet; that of the last part past the end.
    fn page_bytes_at(&self, offset: u64) -> Result<usize, DeviceError> {
        let mut end = 0_u64;
        let parts = self.parts()?;
        let part = parts.iter().find(|part| {
            end = end.saturating_add(part.bytes);
            offset < end
        });
        let bytes = part
            .or(parts.last())
            .map_or(HugeSize::BASE.bytes(), |part| part.size.bytes());
        Ok(usize::try_from(bytes).unwrap_or(crate::sys::base_page_bytes()))
    }
}

fn on(what: &str, offset: u64, len: u64) -> String {
    format!("{what} {len} bytes at offset {offset}")
}

/// The parts that an answer lists.
pub(super) fn parts_of(info: &Info) -> Vec<Part> {
    let listed = info.page_bytes.iter().zip(&info.extent_bytes).enumerate();
    listed
        .filter_map(|(extent, (page, bytes))| {
            Some(Part {
                bytes: *bytes,
                size: HugeSize::from_bytes(*page).ok().filter(|_| *bytes > 0)?,
                rung: info.rung(extent),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_those_that_have_bytes() {
        let rungs = [
            Info::rung_number(Rung::Pool),
            Info::rung_number(Rung::System),
        ];
        let info = Info {
            page_bytes: [1 << 30, 2 << 20, 0],
            extent_bytes: [2 << 30, 6 << 20, 0],
            rungs: u64::from(rungs[0]) | u64::from(rungs[1]) << 8,
            ..Info::default()
        };
        let part = |bytes, size, rung| Part {
            bytes,
            size,
            rung: Some(rung),
        };
        assert_eq!(
            parts_of(&info),
            [
                part(2 << 30, HugeSize::GIB1, Rung::Pool),
                part(6 << 20, HugeSize::MIB2, Rung::System)
            ]
        );
        assert_eq!(parts_of(&Info::default()), []);
    }
}
