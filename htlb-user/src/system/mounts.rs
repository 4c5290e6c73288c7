// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Mounted file systems, by `/proc/self/mountinfo`; those of hugetlbfs above all.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use htlb_core::{ByteLen, HugeSize};

use super::root::bytes_with_suffix;
use super::thp::{self, When};
use super::{meminfo, Error, Root};
use crate::sys::path::{self, FileSystem};
use crate::sys::Failure;

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The directory of the file system that is the root of this mount.
    pub(super) root: PathBuf,
    /// Where it is mounted.
    pub(super) at: PathBuf,
    pub(super) kind: OsString,
    /// Whether mount or file system is read-only.
    pub(super) access: Access,
    /// The file system's own options.
    pub(super) options: Vec<OsString>,
}

/// Whether a mount takes new files, as far as the mount goes; permissions are another matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mounted `ro`.
    ReadOnly,
    /// Mounted `rw`.
    ReadWrite,
}

/// One mounted hugetlbfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugetlbMount {
    /// Where.
    pub path: PathBuf,
    /// The size of its pages; `None` where neither the mount nor the system says.
    pub page_size: Option<HugeSize>,
    /// The most that its files may hold (`size=`).
    pub limit: Option<ByteLen>,
    /// What is reserved for it (`min_size=`).
    pub minimum: Option<ByteLen>,
    /// The most files (`nr_inodes=`).
    pub inodes: Option<u64>,
    /// Whether it takes new files.
    pub access: Access,
}

impl HugetlbMount {
    /// Checks that this process may create files here.
    ///
    /// # Errors
    /// `EACCES`, `EROFS`; `ENOENT` where another mount hides it.
    pub fn check_writable(&self) -> Result<(), Failure> {
        path::check_writable(&self.path)?;
        match FileSystem::at(&self.path)?.is_hugetlbfs() {
            true => Ok(()),
            false => Err(Failure::new("statfs", libc::ENOENT)),
        }
    }
}

/// Every hugetlbfs that this process sees, in mount order; none where there is no `/proc`.
///
/// # Errors
/// [`Error::Found`] for a line or an option that cannot be understood.
pub fn hugetlbfs(root: &Root) -> Result<Vec<HugetlbMount>, Error> {
    let default = meminfo::read(root)?.huge_size;
    let mut found = Vec::new();
    for mount in read(root)? {
        if mount.kind != "hugetlbfs" {
            continue;
        }
        let mut hugetlb = HugetlbMount {
            path: mount.at,
            page_size: default,
            limit: None,
            minimum: None,
            inodes: None,
            access: mount.access,
        };
        for option in &mount.options {
            let text = option.to_string_lossy();
            let Some((name, value)) = text.split_once('=') else {
                continue;
            };
            let wrong = || Error::found(&root.path(MOUNTINFO), "a size in a mount option", &text);
            let bytes = || bytes_with_suffix(value).ok_or_else(wrong);
            match name {
                "pagesize" => {
                    let size = HugeSize::from_bytes(bytes()?.raw());
                    hugetlb.page_size = Some(size.map_err(|_| wrong())?);
                }
                "size" => hugetlb.limit = Some(bytes()?),
                "min_size" => hugetlb.minimum = Some(bytes()?),
                "nr_inodes" => hugetlb.inodes = Some(bytes()?.raw()),
                _ => {}
            }
        }
        found.push(hugetlb);
    }
    Ok(found)
}

/// When files below `path` get transparent huge pages by the mount option of their tmpfs; `None` where it has none.
///
/// # Errors
/// As [`hugetlbfs`].
#[doc(alias = "huge=")]
pub fn transparent(root: &Root, path: &Path) -> Result<Option<When>, Error> {
    let mounts = read(root)?;
    // Of those with the longest path the last one covers the others.
    let mount = mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.at))
        .max_by_key(|mount| mount.at.components().count());
    let Some(mount) = mount.filter(|mount| mount.kind == "tmpfs") else {
        return Ok(None);
    };
    let mut options = mount.options.iter().filter_map(|option| option.to_str());
    let word = options.find_map(|option| option.strip_prefix("huge="));
    Ok(word.and_then(thp::when))
}

/// Every mount.
pub(super) fn read(root: &Root) -> Result<Vec<Mount>, Error> {
    let bytes = root.bytes(MOUNTINFO)?.unwrap_or_default();
    bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse(line).ok_or_else(|| {
                let found = String::from_utf8_lossy(line);
                Error::found(
                    &root.path(MOUNTINFO),
                    "a mount in ten fields or more",
                    &found,
                )
            })
        })
        .collect()
}

/// `36 35 98:0 /root /at rw,noatime master:1 - ext3 /dev/sda rw,errors=continue`
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = unescape(fields.nth(3)?);
    let at = unescape(fields.next()?);
    let flags = fields.next()?;
    fields.find(|field| *field == b"-")?;
    let kind = unescape(fields.next()?);
    let _source = fields.next()?;
    // Some systems leave the last field out where it would be empty.
    let options = fields.next().unwrap_or_default();
    if !at.starts_with(b"/") {
        return None;
    }
    let read_only = [flags, options]
        .iter()
        .any(|list| list.split(|byte| *byte == b',').any(|word| word == b"ro"));
    Some(Mount {
        root: PathBuf::from(OsString::from_vec(root)),
        at: PathBuf::from(OsString::from_vec(at)),
        kind: OsString::from_vec(kind),
        access: if read_only {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        },
        options: options
            .split(|byte| *byte == b',')
            .map(|word| OsStr::from_bytes(&unescape(word)).to_owned())
            .collect(),
    })
}

/// Undoes `\040` for a space and the like; what is no such escape stays as it is.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}
