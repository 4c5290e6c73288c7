// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! `htlb_importer.ko`: a device that attaches to dma-bufs of any exporter.
//!
//! ```no_run
//! # use std::os::fd::BorrowedFd;
//! # fn example(dma_buf: BorrowedFd<'_>) -> std::io::Result<()> {
//! use htlb_tests::kmod::importer::{Direction, Importer, View};
//! let device = Importer::open()?;
//! let attachment = device.attach(dma_buf)?;
//! let table = device.map(&attachment, Direction::FromDevice)?;
//! device.select(&attachment, View::Device)?;
//! device.write_at(b"what a device would write", 0)?;
//! assert!(u64::from(table.dma_entries) <= attachment.bytes / 4096);
//! device.unmap(&attachment)?;
//! device.detach(attachment)
//! # }
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::{exchange, read_write, write};

/// Its node; every open file of it is a device of its own.
pub const DEVICE: &str = "/dev/htlb_importer";

const GROUP: u8 = b'j';

/// Which way data goes, numbered as in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// Both ways.
    Bidirectional = 0,
    /// The device reads.
    ToDevice = 1,
    /// The device writes.
    FromDevice = 2,
}

/// Through what [`Importer::read_at`] and [`Importer::write_at`] reach a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum View {
    /// The kernel's mapping, from [`Importer::vmap`].
    Vmap = 0,
    /// The device's addresses, from [`Importer::map`]: what DMA would do.
    Device = 1,
}

/// A device attached to a dma-buf.
#[derive(Debug, PartialEq, Eq)]
pub struct Attachment {
    id: u32,
    /// The size of the dma-buf in bytes.
    pub bytes: u64,
}

/// What the exporter gave the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Entries of the table as made: `orig_nents`.
    pub cpu_entries: u32,
    /// Entries as mapped for the device: `nents`.
    pub dma_entries: u32,
    /// The sum of their lengths in bytes.
    pub bytes: u64,
    /// The device's address of the first.
    pub first: u64,
}

/// A part of a buffer, as the device is to address it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The device's address.
    pub address: u64,
    /// The length in bytes.
    pub length: u64,
}

macro_rules! records {
    ($($name:ident { $($field:ident: $type:ty),+ })+) => {$(
        #[repr(C)]
        #[derive(Default)]
        struct $name { $($field: $type),+ }

        const _: () = assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())+);

        // SAFETY: integers only, and no padding, as their sizes add up to that of the whole.
        unsafe impl super::Record for $name {}
    )+};
}

records! {
    Device { dma_bits: u32, max_segment: u32 }
    Attach { fd: i32, id: u32, bytes: u64 }
    Map { id: u32, direction: u32, cpu_entries: u32, dma_entries: u32, bytes: u64, first: u64 }
    Part { id: u32, index: u32, address: u64, length: u64 }
    Id { id: u32, reserved: u32 }
    Choice { id: u32, choice: u32 }
}

/// A device. What it is attached to, it is detached from when this goes.
#[derive(Debug)]
pub struct Importer(File);

impl Importer {
    /// A new device, which reaches all memory and takes segments of any length.
    ///
    /// # Errors
    ///
    /// The module is not loaded.
    pub fn open() -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(DEVICE)?;
        Ok(Self(file))
    }

    /// Limits what the device reaches, before its first attachment: address bits, and bytes of a segment.
    ///
    /// # Errors
    ///
    /// `EBUSY` once it is attached; `EINVAL` for no mask and for segments below a page; `EIO` for a mask that the
    /// machine cannot serve.
    pub fn limit(&self, dma_bits: u32, max_segment: u32) -> io::Result<()> {
        let mut device = Device {
            dma_bits,
            max_segment,
        };
        exchange::<{ write::<Device>(GROUP, 1) }, _>(&self.0, &mut device)
    }

    /// Attaches to a dma-buf.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another file; the exporter's refusal.
    pub fn attach(&self, buffer: BorrowedFd<'_>) -> io::Result<Attachment> {
        let mut attach = Attach {
            fd: buffer.as_raw_fd(),
            ..Attach::default()
        };
        exchange::<{ read_write::<Attach>(GROUP, 2) }, _>(&self.0, &mut attach)?;
        Ok(Attachment {
            id: attach.id,
            bytes: attach.bytes,
        })
    }

    /// Maps the buffer for the device.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is; the exporter's refusal.
    pub fn map(&self, attachment: &Attachment, direction: Direction) -> io::Result<Table> {
        let mut map = Map {
            id: attachment.id,
            direction: direction as u32,
            ..Map::default()
        };
        exchange::<{ read_write::<Map>(GROUP, 3) }, _>(&self.0, &mut map)?;
        Ok(Table {
            cpu_entries: map.cpu_entries,
            dma_entries: map.dma_entries,
            bytes: map.bytes,
            first: map.first,
        })
    }

    /// One entry of the mapped table.
    ///
    /// # Errors
    ///
    /// `ENXIO` if it is not mapped, `ERANGE` for an index past the last.
    pub fn entry(&self, attachment: &Attachment, index: u32) -> io::Result<Entry> {
        let mut part = Part {
            id: attachment.id,
            index,
            ..Part::default()
        };
        exchange::<{ read_write::<Part>(GROUP, 4) }, _>(&self.0, &mut part)?;
        Ok(Entry {
            address: part.address,
            length: part.length,
        })
    }

    /// All entries of the mapped table.
    ///
    /// # Errors
    ///
    /// As [`Importer::entry`].
    pub fn entries(&self, attachment: &Attachment, table: &Table) -> io::Result<Vec<Entry>> {
        (0..table.dma_entries)
            .map(|index| self.entry(attachment, index))
            .collect()
    }

    /// The kernel's `dma_buf_begin_cpu_access`.
    ///
    /// # Errors
    ///
    /// The exporter's.
    pub fn begin_cpu_access(
        &self,
        attachment: &Attachment,
        direction: Direction,
    ) -> io::Result<()> {
        self.choose::<{ write::<Choice>(GROUP, 5) }>(attachment, direction as u32)
    }

    /// The kernel's `dma_buf_end_cpu_access`.
    ///
    /// # Errors
    ///
    /// The exporter's.
    pub fn end_cpu_access(&self, attachment: &Attachment, direction: Direction) -> io::Result<()> {
        self.choose::<{ write::<Choice>(GROUP, 6) }>(attachment, direction as u32)
    }

    /// Maps the buffer into the kernel.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is; the exporter's refusal.
    pub fn vmap(&self, attachment: &Attachment) -> io::Result<()> {
        self.on::<{ write::<Id>(GROUP, 7) }>(attachment)
    }

    /// Takes that mapping away.
    ///
    /// # Errors
    ///
    /// `ENXIO` if there is none.
    pub fn vunmap(&self, attachment: &Attachment) -> io::Result<()> {
        self.on::<{ write::<Id>(GROUP, 8) }>(attachment)
    }

    /// Says what is read and written from now on.
    ///
    /// # Errors
    ///
    /// `ENXIO` if it is not mapped that way; `EOPNOTSUPP` for a device behind an IOMMU.
    pub fn select(&self, attachment: &Attachment, view: View) -> io::Result<()> {
        self.choose::<{ write::<Choice>(GROUP, 9) }>(attachment, view as u32)
    }

    /// Reads from the selected view, up to the buffer's end.
    ///
    /// # Errors
    ///
    /// `ENXIO` where none is selected.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    /// Writes through the selected view, up to the buffer's end.
    ///
    /// # Errors
    ///
    /// `ENXIO` where none is selected.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    /// Takes the device's mapping away.
    ///
    /// # Errors
    ///
    /// `ENXIO` if there is none.
    pub fn unmap(&self, attachment: &Attachment) -> io::Result<()> {
        self.on::<{ write::<Id>(GROUP, 10) }>(attachment)
    }

    /// Detaches, from whatever is still mapped too.
    ///
    /// # Errors
    ///
    /// `ENOENT` for another device's attachment.
    pub fn detach(&self, attachment: Attachment) -> io::Result<()> {
        self.on::<{ write::<Id>(GROUP, 11) }>(&attachment)
    }

    fn on<const OPCODE: u32>(&self, attachment: &Attachment) -> io::Result<()> {
        let mut id = Id {
            id: attachment.id,
            reserved: 0,
        };
        exchange::<OPCODE, _>(&self.0, &mut id)
    }

    fn choose<const OPCODE: u32>(&self, attachment: &Attachment, choice: u32) -> io::Result<()> {
        let mut choice = Choice {
            id: attachment.id,
            choice,
        };
        exchange::<OPCODE, _>(&self.0, &mut choice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_records_are_those_of_the_modules_header() {
        let header = include_str!("../../kmod/htlb_importer/htlb_importer.h");
        for (name, fields) in [
            ("device", "__u32 dma_bits __u32 max_segment"),
            ("attach", "__s32 fd __u32 id __u64 bytes"),
            (
                "map",
                "__u32 id __u32 direction __u32 cpu_entries __u32 dma_entries __u64 bytes __u64 first",
            ),
            ("entry", "__u32 id __u32 index __u64 address __u64 length"),
            ("id", "__u32 id __u32 reserved"),
            ("choice", "__u32 id __u32 choice"),
        ] {
            let start = format!("struct htlb_importer_{name} {{\n");
            let (_, rest) = header.split_once(&start).expect("the record is there");
            let (body, _) = rest.split_once('}').expect("and ends");
            let found: Vec<&str> = body
                .lines()
                .filter_map(|line| line.split_once(';').map(|(field, _)| field.trim()))
                .collect();
            assert_eq!(found.join(" "), fields);
        }
        assert_eq!(read_write::<Map>(GROUP, 3), 0xC020_6A03);
        assert_eq!(write::<Id>(GROUP, 11), 0x4008_6A0B);
    }
}
