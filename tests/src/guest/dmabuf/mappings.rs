// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a program sees that maps a dma-buf.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{ensure, Result};
use htlb_user::buffer::Populate;
use htlb_user::device::{Export, How, Mapping};

use super::{buffer, bytes_of, errno, map, map_as, pattern, whole, BASE, PAGE};
use crate::guest::expect_in_log;
use crate::kmod::leaves::{self, Leaves};

fn leaves(mapping: &Mapping) -> Result<Leaves> {
    Ok(leaves::count(mapping.address(), mapping.len())?)
}

fn of_2m(pmd: u64) -> Leaves {
    Leaves {
        pmd,
        ..Leaves::default()
    }
}

pub(super) fn a_mapping_is_made_of_huge_entries() -> Result<()> {
    let buffer = buffer(4 * PAGE, Populate::Now)?;
    let mapping = map_as(&whole(&buffer)?, 0, 4 * PAGE, How::SHARED.ahead())?;
    ensure!(leaves(&mapping)? == of_2m(4), "{:?}", leaves(&mapping)?);
    // Of a range too, as long as it begins with a page.
    let range = buffer.export(PAGE, 2 * PAGE, Export::Writable)?;
    let mapping = map_as(&range, 0, 2 * PAGE, How::SHARED.ahead())?;
    ensure!(leaves(&mapping)? == of_2m(2), "{:?}", leaves(&mapping)?);
    Ok(())
}

pub(super) fn a_mapping_begins_where_the_range_does() -> Result<()> {
    let buffer = buffer(2 * PAGE, Populate::Now)?;
    let mut owner = buffer.map(0, usize::try_from(2 * PAGE)?, How::SHARED)?;
    let written = pattern(5, 2 * PAGE);
    owner.write_at(0, &written)?;
    for (offset, len) in [
        (0, PAGE),
        (PAGE, PAGE),
        (3 * BASE, PAGE),
        (PAGE - BASE, 2 * BASE),
    ] {
        let range = buffer.export(offset, len, Export::Writable)?;
        let at = usize::try_from(offset)?;
        let bytes = usize::try_from(len)?;
        let mut mapping = map(&range, 0, len)?;
        ensure!(
            bytes_of(&mapping, 0, bytes)? == written[at..at + bytes],
            "{len} from {offset}"
        );
        // A part of the range.
        let part = map(&range, len - BASE, BASE)?;
        let end = at + bytes;
        ensure!(
            bytes_of(&part, 0, 4096)? == written[end - 4096..end],
            "{len} from {offset}"
        );
        // And what is written there is in the buffer.
        mapping.write_at(1, b"written")?;
        ensure!(bytes_of(&owner, offset + 1, 7)? == b"written");
        owner.write_at(0, &written)?;
    }
    Ok(())
}

pub(super) fn a_punch_revokes_mappings_of_the_dma_buf() -> Result<()> {
    let buffer = buffer(3 * PAGE, Populate::Now)?;
    let range = buffer.export(PAGE, 2 * PAGE, Export::Writable)?;
    let mut mapping = map_as(&range, 0, 2 * PAGE, How::SHARED.ahead())?;
    mapping.write_at(0, &pattern(1, 2 * PAGE))?;
    ensure!(leaves(&mapping)? == of_2m(2));
    buffer.punch(0, PAGE)?;
    ensure!(
        leaves(&mapping)? == of_2m(2),
        "what is punched is not in the range"
    );
    buffer.punch(PAGE, PAGE)?;
    ensure!(leaves(&mapping)? == of_2m(1), "{:?}", leaves(&mapping)?);
    ensure!(
        bytes_of(&mapping, 0, 4096)? == [0; 4096],
        "a new page is zeroed"
    );
    let second = usize::try_from(PAGE)?;
    ensure!(bytes_of(&mapping, PAGE, 4096)? == pattern(1, 2 * PAGE)[second..second + 4096]);
    Ok(())
}

pub(super) fn a_private_copy_stays_private() -> Result<()> {
    let buffer = buffer(PAGE, Populate::Now)?;
    let dma_buf = whole(&buffer)?;
    let mut shared = map(&dma_buf, 0, PAGE)?;
    shared.write_at(0, b"shared")?;
    let mut private = map_as(&dma_buf, 0, PAGE, How::PRIVATE)?;
    ensure!(bytes_of(&private, 0, 6)? == b"shared");
    private.write_at(0, b"secret")?;
    ensure!(bytes_of(&private, 0, 6)? == b"secret");
    ensure!(bytes_of(&shared, 0, 6)? == b"shared");
    Ok(())
}

pub(super) fn a_reader_cannot_map_for_writing() -> Result<()> {
    let buffer = buffer(PAGE, Populate::Now)?;
    let reader = buffer.export(0, 0, Export::ReadOnly)?;
    let attempt = Mapping::new(reader.as_fd(), 0, 4096, How::SHARED, 4096);
    ensure!(errno(attempt) == Some(libc::EACCES));
    let mapping = map_as(&reader, 0, PAGE, How::READ)?;
    // SAFETY: changes what may be done with bytes that nobody borrows; it fails, or the test does.
    let more = unsafe {
        libc::mprotect(
            mapping.as_ptr().as_ptr().cast(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
        )
    };
    ensure!(more == -1, "a mapping of a reader's became writable");
    ensure!(std::io::Error::last_os_error().raw_os_error() == Some(libc::EACCES));
    ensure!(bytes_of(&mapping, 0, 4096)? == [0; 4096]);
    Ok(())
}

pub(super) fn a_mapping_ends_with_the_range() -> Result<()> {
    let buffer = buffer(4 * PAGE, Populate::Now)?;
    let range: OwnedFd = buffer.export(PAGE, PAGE, Export::Writable)?;
    for (offset, len) in [
        (0, 2 * PAGE),
        (PAGE, BASE),
        (BASE, PAGE),
        ((1 << 62) - BASE, BASE),
    ] {
        let attempt = Mapping::new(
            range.as_fd(),
            offset,
            usize::try_from(len)?,
            How::READ,
            4096,
        );
        let refused = errno(attempt);
        ensure!(
            matches!(refused, Some(libc::EINVAL | libc::EOVERFLOW)),
            "{len} from {offset}: {refused:?}"
        );
    }
    // Nor does a mapping grow beyond it.
    let mapping = map(&range, 0, PAGE)?;
    let (old, new) = (mapping.len(), 2 * mapping.len());
    // SAFETY: it fails, or the test does before `mapping` is used again.
    let grown = unsafe {
        libc::mremap(
            mapping.as_ptr().as_ptr().cast(),
            old,
            new,
            libc::MREMAP_MAYMOVE,
        )
    };
    ensure!(grown == libc::MAP_FAILED, "a mapping grew beyond its range");
    Ok(())
}

pub(super) fn a_page_comes_with_the_touch() -> Result<()> {
    let buffer = buffer(2 * PAGE, Populate::Later)?;
    let mapping = map(&whole(&buffer)?, 0, 2 * PAGE)?;
    ensure!(buffer.info()?.populated == 0);
    ensure!(mapping.byte(usize::try_from(PAGE)? + 12345)? == 0);
    ensure!(buffer.info()?.populated == PAGE);
    ensure!(leaves(&mapping)? == of_2m(1), "{:?}", leaves(&mapping)?);
    Ok(())
}

/// `remap_file_pages` asks nobody but the file of the area, which is the buffer's: all of the buffer would be seen.
pub(super) fn a_mapping_shows_no_other_pages() -> Result<()> {
    expect_in_log("remap_file_pages")?;
    let buffer = buffer(4 * PAGE, Populate::Now)?;
    let len = usize::try_from(PAGE)?;
    let range = buffer.export(PAGE, PAGE, Export::Writable)?;
    let window = map(&range, 0, PAGE)?;
    let own = buffer.map(2 * PAGE, len, How::SHARED)?;
    let remap = |mapping: &Mapping, page: usize| {
        // SAFETY: other bytes may be seen there afterwards, of which nobody has a reference.
        let done = unsafe {
            libc::syscall(
                libc::SYS_remap_file_pages,
                mapping.address(),
                len,
                0,
                page,
                0,
            )
        };
        if done == 0 {
            Ok(())
        } else {
            Err(std::io::Error::last_os_error())
        }
    };
    for page in [0, 512, 1024, 1536] {
        let refused = errno(remap(&window, page));
        ensure!(refused == Some(libc::EINVAL), "page {page}: {refused:?}");
    }
    // Whoever has the buffer's own file may see all of it.
    remap(&own, 0)?;
    Ok(())
}
