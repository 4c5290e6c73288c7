// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the fuzz targets call and nobody else reaches: parsers behind functions that read the real files.

use std::io;

use crate::store::Id;
use crate::sys::pagemap::{huge_in_smaps, HugeMapped};
use crate::sys::process::Stat;

/// The start time in a line of `/proc/<pid>/stat`, and whether the process has ended.
pub fn stat(line: &[u8]) -> Option<(u64, bool)> {
    Stat::parse(line).map(|stat| (stat.start, stat.ended))
}

/// The start time in a line of `/proc/<pid>/stat`, as the owner of a record has it.
pub fn start_time(line: &str) -> Option<u64> {
    crate::store::start_time(line)
}

/// What of a range is huge, by the text of `/proc/self/smaps`.
///
/// # Errors
/// Where a known field has no number.
pub fn huge_in(smaps: &[u8], first: u64, end: u64) -> io::Result<HugeMapped> {
    huge_in_smaps(smaps, first, end)
}

/// The load that a file belongs to, by its name, and what the name says of the load's first part.
pub fn id_of_part(file_name: &str) -> Option<(Id, String)> {
    Id::of_part(file_name).map(|id| (id, id.part(0)))
}
