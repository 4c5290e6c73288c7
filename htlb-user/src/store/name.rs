// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a buffer may be called, and what its files are called.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use crate::sys::file;

/// The name of a buffer: 1 to 200 bytes that can be printed, with no slash, and neither `.` nor `..`.
///
/// ```
/// use htlb_user::store::Name;
/// assert_eq!(Name::new("model-7b.gguf")?.as_str(), "model-7b.gguf");
/// assert!(Name::new("../escape").is_err());
/// # Ok::<(), htlb_user::store::StoreError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The longest name, in bytes: below `NAME_MAX` of every file system.
    pub const MAX: usize = 200;

    /// Checks a name.
    ///
    /// # Errors
    /// [`StoreError::NameInvalid`] with the rule that it breaks.
    pub fn new(name: &str) -> Result<Self, StoreError> {
        let broken = if name.is_empty() {
            "it is empty"
        } else if name.len() > Self::MAX {
            "it is longer than 200 bytes"
        } else if name == "." || name == ".." {
            "it means a folder"
        } else if name.contains('/') {
            "it contains a slash"
        } else if !name.chars().all(is_printable) {
            "it contains a character that cannot be printed"
        } else {
            return Ok(Self(name.to_owned()));
        };
        Err(StoreError::NameInvalid {
            name: name.to_owned(),
            broken,
        })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Neither a control character, nor a line break or a reversal of direction that would make a listing lie.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = StoreError;

    fn try_from(name: String) -> Result<Self, StoreError> {
        Self::new(&name)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// What the files of one load are called: 128 random bits, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(u128);

impl Id {
    pub(super) fn random() -> io::Result<Self> {
        file::random().map(|bytes| Self(u128::from_ne_bytes(bytes)))
    }

    /// The name of part number `part`'s file.
    pub(crate) fn part(self, part: usize) -> String {
        format!("{self}.{part}")
    }

    /// The load that a file belongs to, if [`Id::part`] made its name.
    pub(crate) fn of_part(file_name: &str) -> Option<Self> {
        let (id, part) = file_name.split_once('.')?;
        let id: Self = id.parse().ok()?;
        // Only the one spelling that `part` gives: a file called otherwise is somebody else's.
        part.parse()
            .is_ok_and(|part| id.part(part) == file_name)
            .then_some(id)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Id {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        u128::from_str_radix(text, 16)
            .map(Self)
            .ok()
            .filter(|id| id.to_string() == text)
            .ok_or(StoreError::IdInvalid)
    }
}

impl TryFrom<String> for Id {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self, StoreError> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_lie_or_escape_are_refused() {
        for good in ["a", ".hidden", "two words", "größe", &"x".repeat(200)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "/",
            "a\nb",
            "a\0",
            "\u{7f}",
            "x\u{202e}y",
            "a\u{2028}",
            &"x".repeat(201),
        ] {
            let error = Name::new(bad).unwrap_err();
            assert!(matches!(error, StoreError::NameInvalid { .. }), "{bad:?}");
        }
    }

    #[test]
    fn ids_have_one_spelling() {
        let id = Id(0xabc);
        assert_eq!(id.to_string().parse::<Id>().unwrap(), id);
        assert_eq!(Id::of_part(&id.part(12)), Some(id));
        for bad in [
            "abc",
            "+0000000000000000000000000000abc",
            "00000000000000000000000000000ABC",
            "",
            "../../x",
        ] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
        for bad in [
            &format!("{id}"),
            &format!("{id}."),
            &format!("{id}.01"),
            &format!("{id}.0x"),
            "notes.txt",
        ] {
            assert_eq!(Id::of_part(bad), None, "{bad}");
        }
    }
}
