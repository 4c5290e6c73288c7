// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! When the kernel makes transparent huge pages.

use htlb_core::HugeSize;

use super::root::size_of_directory;
use super::{Error, Root};

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// When memory gets transparent huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Whenever one fits.
    Always,
    /// Where `madvise` asked for it; for shared memory the kernel says `advise`.
    Advised,
    /// Never.
    Never,
    /// Shared memory only: whenever one fits wholly into the file.
    WithinSize,
    /// Shared memory only: everywhere, for testing.
    Force,
    /// Shared memory only: nowhere, even where it was asked for.
    Deny,
}

/// How hard the kernel tries at a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defrag {
    /// Everybody waits for compaction.
    Always,
    /// Nobody waits; a thread of the kernel compacts.
    Defer,
    /// Those who advised wait, for the others a thread compacts.
    DeferAdvised,
    /// Those who advised wait.
    Advised,
    /// Nobody waits, nothing compacts.
    Never,
}

/// The state of transparent huge pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thp {
    /// For anonymous memory.
    pub enabled: When,
    /// How hard it tries.
    pub defrag: Option<Defrag>,
    /// For shared memory without a mount option: memfds, shared anonymous memory.
    pub shmem: Option<When>,
    /// The size that one entry of the page tables maps.
    pub pmd_size: Option<HugeSize>,
    /// The sizes that are set one by one, ascending (Linux 6.8); inherited settings are resolved.
    pub sizes: Vec<ThpSize>,
}

/// The setting of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThpSize {
    /// The size.
    pub size: HugeSize,
    /// For anonymous memory; `None` where this size has no such setting.
    pub anonymous: Option<When>,
    /// For shared memory; `None` where this size has no such setting.
    pub shmem: Option<When>,
}

impl Thp {
    /// When anonymous memory gets pages of `size`.
    #[must_use]
    pub fn anonymous(&self, size: HugeSize) -> When {
        match self.sizes.iter().find(|setting| setting.size == size) {
            Some(setting) => setting.anonymous.unwrap_or(When::Never),
            // Before 6.8 there is one size and one setting.
            None if Some(size) == self.pmd_size && self.sizes.is_empty() => self.enabled,
            None => When::Never,
        }
    }

    /// When shared memory gets pages of `size`.
    #[must_use]
    pub fn shared(&self, size: HugeSize) -> When {
        match (self.shmem, self.sizes.iter().find(|s| s.size == size)) {
            // The kernel lets these two overrule every size.
            (Some(When::Deny), _) => When::Deny,
            (Some(When::Force), _) if Some(size) == self.pmd_size => When::Force,
            (
                _,
                Some(ThpSize {
                    shmem: Some(when), ..
                }),
            ) => *when,
            (Some(when), _) if Some(size) == self.pmd_size => when,
            _ => When::Never,
        }
    }
}

/// The state; `None` where the kernel was built without, or there is no `/sys`.
///
/// ```
/// use htlb_core::HugeSize;
/// use htlb_user::system::{thp, Root};
/// if let Some(thp) = thp::read(&Root::host())? {
///     println!("anonymous memory gets 2 MiB pages: {:?}", thp.anonymous(HugeSize::MIB2));
/// }
/// # Ok::<(), htlb_user::system::Error>(())
/// ```
///
/// # Errors
/// [`Error::Found`] where a file has no `[choice]` or one that is unknown.
pub fn read(root: &Root) -> Result<Option<Thp>, Error> {
    let Some(enabled) = choice(root, &format!("{THP}/enabled"), when)? else {
        return Ok(None);
    };
    let shmem = choice(root, &format!("{THP}/shmem_enabled"), when)?;
    let mut sizes = Vec::new();
    for name in root.names(THP)? {
        let Some(size) = size_of_directory(&name) else {
            continue;
        };
        let setting = |file: &str, inherited: Option<When>| {
            let found = choice(root, &format!("{THP}/{name}/{file}"), |word| match word {
                "inherit" => Some(inherited),
                word => when(word).map(Some),
            });
            found.map(Option::flatten)
        };
        sizes.push(ThpSize {
            size,
            anonymous: setting("enabled", Some(enabled))?,
            shmem: setting("shmem_enabled", shmem)?,
        });
    }
    sizes.sort_unstable_by_key(|setting| setting.size);
    let pmd = root.number(format!("{THP}/hpage_pmd_size"))?;
    Ok(Some(Thp {
        enabled,
        defrag: choice(root, &format!("{THP}/defrag"), defrag)?,
        shmem,
        pmd_size: pmd.and_then(|bytes| HugeSize::from_bytes(bytes).ok()),
        sizes,
    }))
}

/// The meaning of a word, of the settings and of a tmpfs's `huge=`.
pub(super) fn when(word: &str) -> Option<When> {
    Some(match word {
        "always" => When::Always,
        "madvise" | "advise" => When::Advised,
        "never" => When::Never,
        "within_size" => When::WithinSize,
        "force" => When::Force,
        "deny" => When::Deny,
        _ => return None,
    })
}

fn defrag(word: &str) -> Option<Defrag> {
    Some(match word {
        "always" => Defrag::Always,
        "defer" => Defrag::Defer,
        "defer+madvise" => Defrag::DeferAdvised,
        "madvise" => Defrag::Advised,
        "never" => Defrag::Never,
        _ => return None,
    })
}

/// The word in brackets: `always [madvise] never`.
fn choice<T>(
    root: &Root,
    path: &str,
    meaning: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    let Some(text) = root.text(path)? else {
        return Ok(None);
    };
    let word = text
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    match word.and_then(meaning) {
        Some(chosen) => Ok(Some(chosen)),
        None => Err(Error::found(
            &root.path(path),
            "one known word in brackets",
            &text,
        )),
    }
}
