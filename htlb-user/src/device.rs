// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `/dev/htlb`, the device of the kernel module: buffers that the kernel owns, by file descriptor.
//!
//! [`Device`] makes buffers and looks after the module's pools; [`DeviceBuffer`] is one of its buffers. Each call here is one call of the
//! kernel with the same name and the records of [`htlb_core::uapi`]: nothing is counted or decided on this side. Programs
//! rather use [`crate::Pools`], which takes pages from the device where there is one and does without where there is none.
//!
//! ```no_run
//! use htlb_core::{ByteLen, HugeSize, Request};
//! use htlb_user::buffer::Populate;
//! use htlb_user::device::{Device, Export, How};
//! let device = Device::open()?;
//! let request = Request::builder(ByteLen::new(8 << 20)).page_size(HugeSize::MIB2).build()?;
//! let buffer = device.create(&request, request.size(), Populate::Now)?;
//! let mut mapping = buffer.map(0, 8 << 20, How::SHARED)?; // four page-table entries
//! mapping.write_at(0, b"hello")?;
//! let dma_buf = buffer.export(0, 0, Export::Writable)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod buffer;
mod error;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use htlb_core::uapi::{
    self, Create, CreateFlags, Import, Limit, LimitFlags, Resize, ResizeFlags, Stats,
};
use htlb_core::{ByteLen, HugeSize, NodeId, Request};

use crate::buffer::Populate;
use crate::sys::device::{exchange, exchange_for_fd};

pub use crate::sys::device::{ioctl_bytes, Faults, How, Mapping, Protection, Sharing};
pub use buffer::{Cut, DeviceBuffer, Export, Part, Where};
pub use error::DeviceError;

/// The device of the module, open.
#[derive(Debug)]
pub struct Device {
    file: File,
}

/// Which limit is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Account {
    /// Of the buffers made through this [`Device`] value.
    ThisFile,
    /// Of all buffers that processes of a user made.
    User(u32),
}

impl Account {
    const fn flags(self) -> (LimitFlags, u32) {
        match self {
            Self::ThisFile => (LimitFlags::empty(), 0),
            Self::User(uid) => (LimitFlags::USER, uid),
        }
    }
}

fn node_number(node: Option<NodeId>) -> i32 {
    node.map_or(uapi::NODE_ANY, |node| i32::from(node.raw()))
}

impl Device {
    /// Opens `/dev/htlb`.
    ///
    /// # Errors
    /// `ENOENT` where the module is not loaded, `EACCES` where this user may not use it, `ENOTTY` where something else has the name.
    pub fn open() -> io::Result<Self> {
        Self::open_at(uapi::DEVICE.as_ref())
    }

    /// Opens the device under another name.
    ///
    /// # Errors
    /// As [`Device::open`].
    pub fn open_at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let device = Self { file };
        match device.stats_record(HugeSize::BASE.bytes(), uapi::NODE_ANY) {
            // The module knows every call of its own; what does not know this one is something else.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Err(error),
            _ => Ok(device),
        }
    }

    /// A buffer for `request` that can grow to `capacity` (0 for its size).
    ///
    /// # Errors
    /// [`DeviceError`]; no page, no promise and no descriptor is left then.
    pub fn create(
        &self,
        request: &Request,
        capacity: ByteLen,
        populate: Populate,
    ) -> Result<DeviceBuffer, DeviceError> {
        let asked = || format!("make a buffer of {} bytes", request.size().raw());
        let mut record = Create::from_request(request, capacity)
            .map_err(|cause| DeviceError::of_cause(asked(), cause))?;
        record.flags |= match populate {
            Populate::Now => CreateFlags::POPULATE,
            Populate::Later => CreateFlags::empty(),
            Populate::Unpromised => CreateFlags::NORESERVE,
        }
        .bits();
        self.create_record(&record)
            .map(DeviceBuffer::from)
            .map_err(|error| DeviceError::new(asked(), &error, error::CREATE))
    }

    /// A buffer for a record as it is, but for its size field.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn create_record(&self, record: &Create) -> io::Result<OwnedFd> {
        exchange_for_fd(self.file.as_fd(), &mut { *record })
    }

    /// The module's pool of one page size, on one node or on all.
    ///
    /// # Errors
    /// [`DeviceError`] with [`htlb_core::Error::PageSizeUnsupported`] for a size that the module has no pages of.
    pub fn stats(&self, size: HugeSize, node: Option<NodeId>) -> Result<Stats, DeviceError> {
        self.stats_record(size.bytes(), node_number(node))
            .map_err(|error| {
                DeviceError::new(
                    format!("look at the module's {size} pages"),
                    &error,
                    error::POOL,
                )
            })
    }

    fn stats_record(&self, page_bytes: u64, node: i32) -> io::Result<Stats> {
        let mut stats = Stats {
            page_bytes,
            node,
            ..Stats::default()
        };
        exchange(self.file.as_fd(), &mut stats)?;
        Ok(stats)
    }

    /// Grows or shrinks the pool of one page size to `target` bytes, surplus apart. Says what it has then: less than was asked for
    /// where pages are short, more where promises and buffers need them. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn resize(
        &self,
        size: HugeSize,
        node: Option<NodeId>,
        target: ByteLen,
    ) -> Result<ByteLen, DeviceError> {
        let asked = format!(
            "resize the module's pool of {size} pages to {} bytes",
            target.raw()
        );
        self.set_size(asked, size, node, target, ResizeFlags::empty())
    }

    /// How many bytes of surplus the pool of one page size may have, over all nodes. Needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn allow_surplus(&self, size: HugeSize, most: ByteLen) -> Result<(), DeviceError> {
        let asked = format!("allow {} bytes of surplus {size} pages", most.raw());
        self.set_size(asked, size, None, most, ResizeFlags::OVERCOMMIT)
            .map(drop)
    }

    fn set_size(
        &self,
        asked: String,
        size: HugeSize,
        node: Option<NodeId>,
        target: ByteLen,
        flags: ResizeFlags,
    ) -> Result<ByteLen, DeviceError> {
        let mut resize = Resize {
            flags: flags.bits(),
            page_bytes: size.bytes(),
            target: target.raw(),
            node: node_number(node),
            ..Resize::default()
        };
        exchange(self.file.as_fd(), &mut resize)
            .map_err(|error| DeviceError::new(asked, &error, error::POOL))?;
        Ok(ByteLen::new(resize.reached))
    }

    /// Sets what an account may use of one page size, `None` for no limit, and what it is guaranteed. A file may lower its own;
    /// a user's, and any guarantee, need `CAP_SYS_ADMIN`. Says what is in use.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn limit(
        &self,
        account: Account,
        size: HugeSize,
        most: Option<ByteLen>,
        least: ByteLen,
    ) -> Result<ByteLen, DeviceError> {
        let (flags, uid) = account.flags();
        let mut limit = Limit {
            flags: flags.bits(),
            page_bytes: size.bytes(),
            max: most.map_or(uapi::NO_LIMIT, ByteLen::raw),
            min: least.raw(),
            uid,
            ..Limit::default()
        };
        exchange(self.file.as_fd(), &mut limit).map_err(|error| {
            DeviceError::new(format!("limit {size} pages"), &error, error::POOL)
        })?;
        Ok(ByteLen::new(limit.used))
    }

    /// What an account may use of one page size, what it is guaranteed, and what it uses.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn usage(&self, account: Account, size: HugeSize) -> Result<Limit, DeviceError> {
        let (flags, uid) = account.flags();
        let mut limit = Limit {
            flags: (flags | LimitFlags::QUERY).bits(),
            page_bytes: size.bytes(),
            uid,
            ..Limit::default()
        };
        exchange(self.file.as_fd(), &mut limit).map_err(|error| {
            DeviceError::new(
                format!("look at the limit of {size} pages"),
                &error,
                error::POOL,
            )
        })?;
        Ok(limit)
    }

    /// A buffer over pages of a hugetlb memfd, which both share from now on. It keeps them until its end, whatever becomes of the
    /// memfd, and cannot give back a part of them.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn import(
        &self,
        memfd: BorrowedFd<'_>,
        offset: u64,
        len: u64,
    ) -> Result<DeviceBuffer, DeviceError> {
        let mut import = Import {
            // CAST: a flag of open(2), which is not negative.
            flags: libc::O_CLOEXEC as u32,
            offset,
            len,
            memfd: memfd.as_raw_fd(),
            ..Import::default()
        };
        exchange_for_fd(self.file.as_fd(), &mut import)
            .map(DeviceBuffer::from)
            .map_err(|error| {
                let asked = format!("import {len} bytes at offset {offset} of a memfd");
                DeviceError::of_donation(asked, &error)
            })
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
