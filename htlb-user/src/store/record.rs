// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The record of a name: which files hold its bytes, and how many bytes there are.
//!
//! A hugetlbfs knows neither exact lengths nor written text, so this is a file of its own: one JSON object.
//! The reader is strict and bounded; nothing in a record can make it panic, read without end, or leave the
//! folder that the record names.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use htlb_core::HugeSize;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::name::{Id, Name};
use super::place::PlaceKind;
use crate::sys::file;

/// The version of the record's form that this program writes, and the only one it reads.
const VERSION: u32 = 1;
/// The longest record that is read, in bytes.
const MAX_BYTES: u64 = 256 << 10;
/// The most parts.
const MAX_PARTS: usize = 256;
/// The longest free text, in bytes.
const MAX_TEXT: usize = 8 << 10;

/// What is known about a published buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Record {
    /// The version of this form.
    version: u32,
    /// The name.
    pub name: Name,
    /// What its files are called.
    pub id: Id,
    /// The exact length of the content, in bytes.
    pub len: u64,
    /// The files, in the order of their bytes.
    pub parts: Vec<Part>,
    /// When it was published: nanoseconds since 1970, UTC.
    pub created_ns: u64,
    /// Who loaded it.
    pub owner: Owner,
    /// The boot in which it was loaded; empty if unknown. Its memory did not survive another.
    pub boot: String,
    /// What the loader has to say.
    pub meta: Meta,
}

/// One file of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Part {
    /// What kind of memory it is.
    pub kind: PlaceKind,
    /// The folder that holds the file.
    pub folder: PathBuf,
    /// The page size.
    #[serde(with = "page_size")]
    pub page_size: HugeSize,
    /// Where in the buffer it begins, in bytes.
    pub offset: u64,
    /// The length of the file, in bytes: whole pages.
    pub len: u64,
}

/// The process that loaded a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The process, in its own pid namespace.
    pub pid: u32,
    /// When that process started, in clock ticks since boot; 0 if unknown. With `pid` it names one process.
    pub started: u64,
}

/// What the loader has to say about a buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// Where the bytes came from.
    pub source: Option<String>,
    /// Which rung of the ladder served them, and why.
    pub rung: Option<String>,
}

mod page_size {
    use htlb_core::HugeSize;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        size: &HugeSize,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(size.bytes())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<HugeSize, D::Error> {
        HugeSize::from_bytes(u64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl Record {
    pub(super) fn new(
        name: Name,
        id: Id,
        len: u64,
        parts: Vec<Part>,
        meta: Meta,
    ) -> Result<Self, StoreError> {
        let record = Self {
            version: VERSION,
            name,
            id,
            len,
            parts,
            created_ns: now_ns(),
            owner: Owner::this_process(),
            boot: boot(),
            meta,
        };
        record.check().map_err(|reason| record.invalid(reason))?;
        Ok(record)
    }

    /// Reads the record of `name`. `Ok(None)`: there is none.
    pub(super) fn read(path: &Path, name: &Name) -> Result<Option<Self>, StoreError> {
        // A link, or a pipe that would block, is no record of ours.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(StoreError::io("open the record", path))?,
        };
        Self::read_file(&file, name)
            .map(Some)
            .map_err(|reason| StoreError::RecordInvalid {
                name: name.to_string(),
                reason,
            })
    }

    fn read_file(file: &File, name: &Name) -> Result<Self, String> {
        let found = file.metadata().map_err(|error| error.to_string())?;
        if !found.is_file() || found.uid() != file::effective_uid() {
            return Err("it is not a file of this user".to_owned());
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|error| error.to_string())?;
        Self::parse(&text).and_then(|record| {
            if record.name == *name {
                Ok(record)
            } else {
                Err("it was written for another name".to_owned())
            }
        })
    }

    /// Parses and checks a record.
    ///
    /// # Errors
    /// What is wrong with it. No input panics.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() as u64 > MAX_BYTES {
            return Err(format!("it is longer than {MAX_BYTES} bytes"));
        }
        let record: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        record.check()?;
        Ok(record)
    }

    pub(super) fn to_text(&self) -> Result<Vec<u8>, StoreError> {
        let mut text = serde_json::to_vec(self).map_err(|error| self.invalid(error.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "version {} of its form is unknown to this program",
                self.version
            ));
        }
        if self.parts.len() > MAX_PARTS {
            return Err(format!("more than {MAX_PARTS} parts"));
        }
        let texts = [&self.meta.source, &self.meta.rung];
        if texts
            .into_iter()
            .flatten()
            .chain([&self.boot])
            .any(|text| text.len() > MAX_TEXT)
        {
            return Err(format!("a text of more than {MAX_TEXT} bytes"));
        }
        let mut end = 0_u64;
        for part in &self.parts {
            if !part.folder.is_absolute() {
                return Err("a folder that is not absolute".to_owned());
            }
            if part.len == 0 || part.len % part.page_size.bytes() != 0 {
                return Err("a part that is not whole pages".to_owned());
            }
            if part.offset != end {
                return Err("parts with a gap or an overlap".to_owned());
            }
            end = end
                .checked_add(part.len)
                .filter(|end| *end <= i64::MAX as u64)
                .ok_or("too long")?;
        }
        if self.len > end {
            return Err(format!("{} bytes in parts of {end} bytes", self.len));
        }
        Ok(())
    }

    pub(super) fn invalid(&self, reason: String) -> StoreError {
        StoreError::RecordInvalid {
            name: self.name.to_string(),
            reason,
        }
    }

    /// The paths of the files, in the order of their bytes.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = PathBuf> + '_ {
        let parts = self.parts.iter().enumerate();
        parts.map(|(number, part)| self.part_path(number, part))
    }

    /// The path of part number `part`'s file.
    pub(super) fn part_path(&self, number: usize, part: &Part) -> PathBuf {
        part.folder.join(self.id.part(number))
    }

    /// The first file that does not exist.
    pub(super) fn missing(&self) -> Option<PathBuf> {
        self.parts
            .iter()
            .enumerate()
            .map(|(number, part)| self.part_path(number, part))
            .find(|path| matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound))
    }

    /// Whether it is from another boot than this one, as far as is known.
    pub(super) fn is_from_another_boot(&self) -> bool {
        let now = boot();
        !self.boot.is_empty() && !now.is_empty() && self.boot != now
    }
}

impl Owner {
    fn this_process() -> Self {
        Self {
            uid: file::effective_uid(),
            pid: std::process::id(),
            started: fs::read_to_string("/proc/self/stat")
                .map_or(0, |stat| start_time(&stat).unwrap_or(0)),
        }
    }
}

/// Field 22 of `/proc/PID/stat`, counted from behind the program's name, which may contain anything.
pub(crate) fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

fn now_ns() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u64, len: u64) -> Part {
        Part {
            kind: PlaceKind::Tmpfs,
            folder: "/dev/shm/x".into(),
            page_size: HugeSize::BASE,
            offset,
            len,
        }
    }

    fn record(len: u64, parts: Vec<Part>) -> Result<Record, StoreError> {
        Record::new(
            Name::new("n").unwrap(),
            Id::random().unwrap(),
            len,
            parts,
            Meta::default(),
        )
    }

    #[test]
    fn a_record_survives_its_text() {
        let record = record(5000, vec![part(0, 4096), part(4096, 4096)]).unwrap();
        assert_eq!(Record::parse(&record.to_text().unwrap()).unwrap(), record);
        assert!(record.owner.started > 0 && !record.is_from_another_boot());
    }

    #[test]
    fn layouts_that_cannot_be_are_refused() {
        for (len, parts) in [
            (1, vec![]),
            (4097, vec![part(0, 4096)]),
            (1, vec![part(0, 0)]),
            (1, vec![part(0, 100)]),
            (1, vec![part(4096, 4096)]),
            (1, vec![part(0, 4096), part(0, 4096)]),
            (1, vec![part(0, 1 << 62), part(1 << 62, 1 << 62)]),
            (
                1,
                vec![part(0, u64::MAX << 12), part(u64::MAX << 12, 1 << 62)],
            ),
        ] {
            assert!(
                record(len, parts.clone()).is_err(),
                "{len} bytes in {parts:?}"
            );
        }
    }

    #[test]
    fn hostile_text_is_an_error() {
        let good = String::from_utf8(
            record(4096, vec![part(0, 4096)])
                .unwrap()
                .to_text()
                .unwrap(),
        )
        .unwrap();
        for (from, to) in [
            ("\"version\":1", "\"version\":2"),
            ("\"version\":1", "\"version\":1,\"more\":1"),
            ("\"version\":1", "\"version\":1,\"version\":1"),
            ("\"name\":\"n\"", "\"name\":\"../n\""),
            ("\"len\":4096", "\"len\":-1"),
            ("\"len\":4096", "\"len\":1e300"),
            ("\"page_size\":4096", "\"page_size\":0"),
            ("\"page_size\":4096", "\"page_size\":12288"),
            ("/dev/shm/x", "dev/shm"),
            ("\"id\":\"", "\"id\":\"../"),
            ("tmpfs", "floppy"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from} is not in the record");
            assert!(Record::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for cut in 0..good.trim_end().len() {
            assert!(
                Record::parse(&good.as_bytes()[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        assert!(Record::parse("[".repeat(200_000).as_bytes()).is_err());
        assert!(Record::parse(&vec![b' '; 300 << 10]).is_err());
    }

    #[test]
    fn the_start_time_is_found_behind_a_wild_name() {
        let fields: Vec<String> = (3..40).map(|field| field.to_string()).collect();
        assert_eq!(
            start_time(&format!("17 (a) b (c d) {}", fields.join(" "))),
            Some(22)
        );
        assert_eq!(start_time("17 (a"), None);
    }
}
