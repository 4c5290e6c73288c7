// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The limits that control groups put on this process.
//!
//! Version 1, version 2, and both at once: a controller belongs to one hierarchy, found by `/proc/self/cgroup`, its mount by
//! `/proc/self/mountinfo`. A limit holds for a group and everything below it, so what applies
//! is the minimum on the way up; in a container the way ends where the mount does, and [`Limits::view`] says so.

use std::path::{Path, PathBuf};

use htlb_core::{ByteLen, HugeSize};

use super::mounts::{self, Mount};
use super::root::below;
use super::{Error, Root};

const SELF: &str = "/proc/self/cgroup";

/// The control groups of this process that have to do with memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    hugetlb: Option<Group>,
    memory: Option<Group>,
    /// Whether hugetlb pages also count as memory.
    pub hugetlb_is_memory: Accounting,
}

/// Whether hugetlb pages count against `memory.max` (cgroup2 mounted `memory_hugetlb_accounting`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounting {
    /// They do not.
    Apart,
    /// They do.
    AsMemory,
}

/// A hierarchy's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// One for all.
    V2,
}

/// How much of the way to the top can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All of it, from the process's group.
    Whole,
    /// It begins, or ends, at the mount: there may be further limits above.
    FromMount,
}

/// The process's place in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    /// Directories from the process's group up to the mount.
    path: Vec<PathBuf>,
    view: View,
}

/// A limit that applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The smallest maximum on the way up; `None` is unlimited.
    pub max: Option<ByteLen>,
    /// The group that sets it, as a directory.
    pub set_by: Option<PathBuf>,
    /// The least room below any maximum on the way up; `None` is unlimited.
    pub room: Option<ByteLen>,
    /// How often this process's group met a limit, its own or one above, where counted.
    pub refused: u64,
    /// The hierarchy's version.
    pub version: Version,
    /// How much of the way up was seen.
    pub view: View,
}

/// The limits on pages of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugetlbLimits {
    /// The page size.
    pub size: HugeSize,
    /// On pages in use: exceeding it is a SIGBUS at the touch, `EFAULT` when populating.
    #[doc(alias = "hugetlb.2MB.max")]
    pub pages: Limits,
    /// On reservations: exceeding it is `ENOMEM` at `mmap`. `None` before Linux 5.7.
    #[doc(alias = "hugetlb.2MB.rsvd.max")]
    pub reservations: Option<Limits>,
}

impl HugetlbLimits {
    /// The bytes that can still be mapped and populated; `None` is unlimited.
    #[must_use]
    pub fn room(&self) -> Option<ByteLen> {
        let reservations = self.reservations.as_ref().and_then(|limits| limits.room);
        self.pages.room.into_iter().chain(reservations).min()
    }

    /// The command that lifts the limit with the least room; `None` where nothing is limited.
    #[must_use]
    pub fn command(&self) -> Option<String> {
        let pages = self.pages.room.map(|room| (room, "", &self.pages));
        let reservations = self.reservations.as_ref();
        let reservations =
            reservations.and_then(|limits| limits.room.map(|room| (room, "rsvd.", limits)));
        let least = [pages, reservations].into_iter().flatten();
        let (_, kind, limits) = least.min_by_key(|(room, ..)| *room)?;
        let file = match limits.version {
            Version::V1 => format!("hugetlb.{}.{kind}limit_in_bytes", limit_name(self.size)),
            Version::V2 => format!("hugetlb.{}.{kind}max", limit_name(self.size)),
        };
        let value = match limits.version {
            Version::V1 => "-1",
            Version::V2 => "max",
        };
        let path = limits.set_by.as_ref()?.join(file);
        Some(format!("echo {value} | sudo tee {}", path.display()))
    }
}

/// The four files of one limit.
struct Files {
    max: String,
    current: String,
    /// A file of `key value` lines, or of one number, and the key.
    refused: (String, Option<&'static str>),
}

impl Cgroups {
    /// Finds the groups of this process; none where there is no `/proc` or nothing is mounted.
    ///
    /// ```
    /// use htlb_core::HugeSize;
    /// use htlb_user::system::{cgroup::Cgroups, Root};
    /// let root = Root::host();
    /// let groups = Cgroups::find(&root)?;
    /// if let Some(limits) = groups.hugetlb(&root, HugeSize::MIB2)? {
    ///     println!("{:?} bytes of 2 MiB pages left", limits.room());
    /// }
    /// # Ok::<(), htlb_user::system::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Found`] for a line that cannot be understood.
    pub fn find(root: &Root) -> Result<Self, Error> {
        let text = root.text(SELF)?.unwrap_or_default();
        let mounts = mounts::read(root)?;
        let mut groups = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            // The path comes last and may contain colons.
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                return Err(Error::found(
                    &root.path(SELF),
                    "hierarchy:controllers:path",
                    line,
                ));
            };
            groups.push((controllers, path));
        }
        let find = |controller: &str| {
            let bound = groups
                .iter()
                .find(|(names, _)| names.split(',').any(|name| name == controller));
            match bound {
                Some((_, path)) => Group::v1(root, &mounts, controller, path),
                None => {
                    let (_, path) = groups.iter().find(|(names, _)| names.is_empty())?;
                    Group::v2(root, &mounts, path)
                }
            }
        };
        let counts = mounts.iter().any(|mount| {
            mount.kind == "cgroup2"
                && mount
                    .options
                    .iter()
                    .any(|o| o == "memory_hugetlb_accounting")
        });
        Ok(Self {
            hugetlb: find("hugetlb"),
            memory: find("memory"),
            hugetlb_is_memory: if counts {
                Accounting::AsMemory
            } else {
                Accounting::Apart
            },
        })
    }

    /// The limits on pages of `size`; `None` where no group of the process has the controller.
    ///
    /// # Errors
    /// [`Error::Found`] where a limit is no number.
    pub fn hugetlb(&self, root: &Root, size: HugeSize) -> Result<Option<HugetlbLimits>, Error> {
        let Some(group) = &self.hugetlb else {
            return Ok(None);
        };
        let name = limit_name(size);
        let files = |kind: &str| match group.version {
            Version::V2 => Files {
                max: format!("hugetlb.{name}.{kind}max"),
                current: format!("hugetlb.{name}.{kind}current"),
                refused: (format!("hugetlb.{name}.events"), Some("max")),
            },
            Version::V1 => Files {
                max: format!("hugetlb.{name}.{kind}limit_in_bytes"),
                current: format!("hugetlb.{name}.{kind}usage_in_bytes"),
                refused: (format!("hugetlb.{name}.{kind}failcnt"), None),
            },
        };
        let Some(pages) = group.limits(root, &files(""))? else {
            return Ok(None);
        };
        let reservations = group.limits(root, &files("rsvd."))?;
        Ok(Some(HugetlbLimits {
            size,
            pages,
            reservations,
        }))
    }

    /// The limit on ordinary memory, transparent huge pages included; `None` where no group has the controller.
    ///
    /// # Errors
    /// As [`Cgroups::hugetlb`].
    pub fn memory(&self, root: &Root) -> Result<Option<Limits>, Error> {
        let Some(group) = &self.memory else {
            return Ok(None);
        };
        let files = match group.version {
            Version::V2 => Files {
                max: "memory.max".into(),
                current: "memory.current".into(),
                refused: ("memory.events".into(), Some("oom")),
            },
            Version::V1 => Files {
                max: "memory.limit_in_bytes".into(),
                current: "memory.usage_in_bytes".into(),
                refused: ("memory.failcnt".into(), None),
            },
        };
        group.limits(root, &files)
    }

    /// What of the group's counted memory is page cache, which the kernel takes back when the limit is met.
    ///
    /// # Errors
    /// As [`Cgroups::hugetlb`].
    #[doc(alias = "inactive_file")]
    pub fn reclaimable(&self, root: &Root) -> Result<ByteLen, Error> {
        let Some(group) = &self.memory else {
            return Ok(ByteLen::ZERO);
        };
        let (Some(directory), names) = (
            group.path.first(),
            match group.version {
                Version::V1 => ["total_inactive_file", "total_active_file"],
                Version::V2 => ["inactive_file", "active_file"],
            },
        ) else {
            return Ok(ByteLen::ZERO);
        };
        let path = directory.join("memory.stat");
        let text = root.text(&path)?.unwrap_or_default();
        let mut sum = 0_u64;
        for (_, count) in text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .filter(|(name, _)| names.contains(name))
        {
            let count: u64 = count
                .trim()
                .parse()
                .map_err(|_| Error::found(&root.path(&path), "lines of key and number", &text))?;
            sum = sum.saturating_add(count);
        }
        Ok(ByteLen::new(sum))
    }
}

impl Group {
    fn v1(root: &Root, mounts: &[Mount], controller: &str, path: &str) -> Option<Self> {
        let fits = |m: &&Mount| m.kind == "cgroup" && m.options.iter().any(|o| o == controller);
        Self::in_mount(root, Version::V1, mounts.iter().rfind(fits)?, path)
    }

    fn v2(root: &Root, mounts: &[Mount], path: &str) -> Option<Self> {
        let mount = mounts.iter().rfind(|mount| mount.kind == "cgroup2")?;
        Self::in_mount(root, Version::V2, mount, path)
    }

    /// The directories from the process's group up to the mount.
    ///
    /// A bind mount shows only a part (`mount.root`); a namespace writes paths relative to its own root, `/../x` for what
    /// lies outside. Where the group is not below what is mounted, the mount itself is the best that can be said.
    fn in_mount(root: &Root, version: Version, mount: &Mount, path: &str) -> Option<Self> {
        let inside = Path::new(path).strip_prefix(&mount.root).ok();
        let leaf = inside.and_then(|tail| below(&mount.at, tail));
        // In a namespace the mount's root looks like the real one; these files tell which it is.
        let is_top = match version {
            Version::V1 => root.exists(mount.at.join("release_agent")),
            Version::V2 => !root.exists(mount.at.join("cgroup.type")),
        };
        let whole = leaf.is_some() && is_top;
        let leaf = leaf.unwrap_or_else(|| mount.at.clone());
        Some(Self {
            version,
            path: leaf
                .ancestors()
                .take_while(|directory| directory.starts_with(&mount.at))
                .map(Path::to_owned)
                .collect(),
            view: if whole { View::Whole } else { View::FromMount },
        })
    }

    fn limits(&self, root: &Root, files: &Files) -> Result<Option<Limits>, Error> {
        let mut limits: Option<Limits> = None;
        for directory in &self.path {
            // The top group of version 2 has no limits, and a controller may be off in some groups.
            let Some(max) = maximum(root, &directory.join(&files.max))? else {
                continue;
            };
            let current = root.number(directory.join(&files.current))?.unwrap_or(0);
            let refused = refusals(root, directory, files)?;
            let first = limits.is_none();
            let limits = limits.get_or_insert(Limits {
                max: None,
                set_by: None,
                room: None,
                refused: 0,
                version: self.version,
                view: self.view,
            });
            // Version 2 counts in every group above the one that met the limit too, version 1 only where the limit is.
            if first || self.version == Version::V1 {
                limits.refused = limits.refused.saturating_add(refused);
            }
            if let Maximum::Bytes(max) = max {
                if limits.max.is_none_or(|old| max < old) {
                    limits.max = Some(max);
                    limits.set_by = Some(directory.clone());
                }
                let room = ByteLen::new(max.raw().saturating_sub(current));
                limits.room = Some(limits.room.map_or(room, |old| old.min(room)));
            }
        }
        Ok(limits)
    }
}

enum Maximum {
    Unlimited,
    Bytes(ByteLen),
}

fn maximum(root: &Root, path: &Path) -> Result<Option<Maximum>, Error> {
    // Version 1 writes the largest count of pages, in bytes: i64::MAX rounded down to some page size.
    const UNLIMITED: u64 = 1 << 62;
    let Some(text) = root.text(path)? else {
        return Ok(None);
    };
    match (text.trim(), text.trim().parse()) {
        ("max", _) => Ok(Some(Maximum::Unlimited)),
        (_, Ok(bytes)) if bytes >= UNLIMITED => Ok(Some(Maximum::Unlimited)),
        (_, Ok(bytes)) => Ok(Some(Maximum::Bytes(ByteLen::new(bytes)))),
        _ => Err(Error::found(
            &root.path(path),
            "max, or a number of bytes",
            &text,
        )),
    }
}

fn refusals(root: &Root, directory: &Path, files: &Files) -> Result<u64, Error> {
    let path = directory.join(&files.refused.0);
    let Some(key) = files.refused.1 else {
        return Ok(root.number(&path)?.unwrap_or(0));
    };
    let Some(text) = root.text(&path)? else {
        return Ok(0);
    };
    let mut words = text.lines().filter_map(|line| line.split_once(' '));
    match words.find(|(name, _)| *name == key) {
        None => Ok(0),
        Some((_, count)) => count
            .trim()
            .parse()
            .map_err(|_| Error::found(&root.path(&path), "lines of key and number", &text)),
    }
}

/// A page size in the controller's file names: `2MB`, `1GB`, `64KB`.
fn limit_name(size: HugeSize) -> String {
    match size.bytes() {
        bytes @ 0x4000_0000.. => format!("{}GB", bytes >> 30),
        bytes @ 0x10_0000.. => format!("{}MB", bytes >> 20),
        bytes => format!("{}KB", bytes >> 10),
    }
}
