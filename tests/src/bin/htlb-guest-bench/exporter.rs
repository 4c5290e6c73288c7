// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The three that give memory to programs and devices, each with its memory there before anything is measured.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use htlb_core::{ByteLen, HugeSize, Request};
use htlb_tests::dma_buf;
use htlb_tests::vm::bench::sample::{Exporter, SIZE};
use htlb_user::buffer::Populate;
use htlb_user::device::{Device, DeviceBuffer, Export};
use rustix::fs::MemfdFlags;

/// A buffer of [`SIZE`] bytes, populated.
pub(crate) enum Memory {
    /// Of `/dev/htlb`.
    Htlb(DeviceBuffer),
    /// Of a hugetlb memfd.
    Udmabuf { memfd: OwnedFd, exported: OwnedFd },
    /// Of the heap: born as a dma-buf.
    SystemHeap(OwnedFd),
}

impl Memory {
    pub(crate) fn new(exporter: Exporter) -> Result<Self> {
        match exporter {
            Exporter::Htlb => {
                let request = Request::builder(ByteLen::new(SIZE as u64))
                    .page_size(HugeSize::MIB2)
                    .strict()
                    .build()
                    .context("a buffer of 2 MiB pages")?;
                let device = Device::open().context("opening /dev/htlb")?;
                let buffer = device.create(&request, request.size(), Populate::Now)?;
                Ok(Self::Htlb(buffer))
            }
            Exporter::Udmabuf => Self::udmabuf(huge_memfd(SIZE)?),
            Exporter::SystemHeap => {
                let buffer = dma_buf::from_heap("/dev/dma_heap/system", SIZE as u64);
                Ok(Self::SystemHeap(
                    buffer.context("allocating from the system heap")?,
                ))
            }
        }
    }

    /// A memfd of [`SIZE`] bytes, exported by udmabuf.
    pub(crate) fn udmabuf(memfd: OwnedFd) -> Result<Self> {
        let exported = udmabuf(&memfd)?;
        Ok(Self::Udmabuf { memfd, exported })
    }

    /// The file that a program maps.
    pub(crate) fn mapped(&self) -> BorrowedFd<'_> {
        match self {
            Self::Htlb(buffer) => buffer.as_fd(),
            Self::Udmabuf { exported, .. } => exported.as_fd(),
            Self::SystemHeap(buffer) => buffer.as_fd(),
        }
    }

    /// One more dma-buf of it. The heap has only the one that was born with the memory.
    pub(crate) fn export(&self) -> Result<OwnedFd> {
        match self {
            Self::Htlb(buffer) => Ok(buffer.export(0, 0, Export::Writable)?),
            Self::Udmabuf { memfd, .. } => udmabuf(memfd),
            Self::SystemHeap(buffer) => Ok(buffer.try_clone()?),
        }
    }
}

/// A memfd with pages of 2 MiB, which cannot shrink. Its pages come when they are touched or pinned.
pub(crate) fn huge_memfd(len: usize) -> Result<OwnedFd> {
    let pages = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    dma_buf::memfd(len as u64, pages).context("making a hugetlb memfd")
}

fn udmabuf(memfd: &OwnedFd) -> Result<OwnedFd> {
    dma_buf::udmabuf(memfd.as_fd(), SIZE as u64).context("exporting a memfd through udmabuf")
}
