// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A published buffer, opened.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use htlb_core::HugeSize;

use super::error::StoreError;
use super::record::{Part, Record};
use crate::sys::file::{self, FileMapping, Joined};

/// How much is read at once by [`Opened::copy_to`].
const COPY_BYTES: usize = 1 << 20;

/// A published buffer, with all its files open.
///
/// It stays whole for as long as this value lives, whoever removes or replaces its name meanwhile.
#[derive(Debug)]
pub struct Opened {
    record: Record,
    /// As many as the record has parts, in the same order.
    files: Vec<File>,
}

/// Why the files of a record cannot be opened.
#[derive(Debug)]
pub(super) enum NotAttached {
    /// One is not there: the name was replaced or removed meanwhile, or the memory is lost.
    Missing(PathBuf),
    /// One is there, and is not what was published.
    Bad(StoreError),
}

impl Opened {
    pub(super) fn attach(record: Record) -> Result<Self, NotAttached> {
        let mut files = Vec::with_capacity(record.parts.len());
        for (number, part) in record.parts.iter().enumerate() {
            let path = record.part_path(number, part);
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
            let file = match OpenOptions::new()
                .read(true)
                .custom_flags(flags)
                .open(&path)
            {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(NotAttached::Missing(path))
                }
                opened => opened
                    .map_err(StoreError::io("open the file", &path))
                    .map_err(NotAttached::Bad)?,
            };
            let found = file
                .metadata()
                .map_err(StoreError::io("ask about the file", &path))
                .map_err(NotAttached::Bad)?;
            let reason = if !found.is_file() || found.uid() != file::effective_uid() {
                "is not a file of this user".to_owned()
            } else if found.mode() & 0o222 != 0 {
                "is writable, as no published file is".to_owned()
            } else if found.len() != part.len {
                format!("has {} bytes instead of {}", found.len(), part.len)
            } else {
                files.push(file);
                continue;
            };
            return Err(NotAttached::Bad(
                record.invalid(format!("{} {reason}", path.display())),
            ));
        }
        Ok(Self { record, files })
    }

    /// What was published.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The exact length of the content, in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.record.len
    }

    /// Whether there is no content.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.record.len == 0
    }

    /// The parts and their open files, in the order of their bytes.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (&Part, BorrowedFd<'_>)> {
        self.record
            .parts
            .iter()
            .zip(self.files.iter().map(AsFd::as_fd))
    }

    /// Maps part number `part`, read-only. `None` if there is no such part.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn map(&self, part: usize) -> Option<Result<FileMapping, StoreError>> {
        let (file, part) = self.files.get(part).zip(self.record.parts.get(part))?;
        let len = usize::try_from(part.len).unwrap_or(usize::MAX);
        Some(
            FileMapping::readable(file, len).map_err(StoreError::io("map a file of", &part.folder)),
        )
    }

    /// Maps all files, read-only, as one stretch of bytes: whole pages.
    pub(crate) fn map_all(&self) -> Result<Joined, StoreError> {
        let parts = &self.record.parts;
        let files: Vec<_> = self.files.iter().zip(parts.iter().map(|p| p.len)).collect();
        // Transparent huge pages are mapped as such only where the address allows it.
        let sizes = parts.iter().map(|part| part.page_size);
        let align = sizes.max().unwrap_or(HugeSize::BASE).max(HugeSize::MIB2);
        let folder = parts.first().map_or(Path::new(""), |part| &part.folder);
        Joined::readable(&files, align).map_err(StoreError::io("map the files of", folder))
    }

    /// Reads from `offset` as much as fits, across parts and never past the end of the content; the number of bytes.
    ///
    /// # Errors
    /// What `pread(2)` says; `UnexpectedEof` if a file became shorter.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len().saturating_sub(offset);
        let wanted = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let mut done = 0;
        for (part, file) in self.record.parts.iter().zip(&self.files) {
            let place = offset + done as u64;
            let Some(inside) = place
                .checked_sub(part.offset)
                .filter(|inside| *inside < part.len)
            else {
                continue;
            };
            let count = usize::try_from(part.len - inside)
                .unwrap_or(usize::MAX)
                .min(wanted - done);
            file.read_exact_at(&mut buffer[done..][..count], inside)?;
            done += count;
        }
        Ok(done)
    }

    /// Writes exactly the content; the number of bytes.
    ///
    /// # Errors
    /// Those of the reads and of the writer.
    pub fn copy_to(&self, writer: &mut impl Write) -> io::Result<u64> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut done = 0;
        loop {
            match self.read_at(&mut buffer, done)? {
                0 => return Ok(done),
                found => {
                    writer.write_all(&buffer[..found])?;
                    done += found as u64;
                }
            }
        }
    }
}
