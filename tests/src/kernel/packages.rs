// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What Debian ships today: the newest Rust-enabled kernel of which the mirror holds image, headers and source of
//! one version, and the packages of the toolchain. The answer is kept, so that a day's later runs ask nobody.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::apt::{Apt, Deb};
use super::cache::Cache;
use super::command::replace;
use super::progress::Progress;
use super::Freshness;

/// The oldest kernel whose Rust abstractions the module is written against.
const OLDEST_KERNEL: &str = "7.2";

/// What the toolchain is made of, before dependencies.
const TOOLCHAIN: &[&str] = &[
    // What a shell script takes for granted.
    "?essential",
    // The compilers of Debian's kernel, and clang: KASAN and Rust together need it.
    "gcc-14",
    "gcc-14-for-host",
    "gcc",
    "clang-19",
    "lld-19",
    "llvm-19",
    "rustc",
    "rust-src",
    "bindgen",
    "rustfmt",
    // What Kbuild calls.
    "make",
    "bc",
    "flex",
    "bison",
    "libelf-dev",
    "libssl-dev",
    "libdw-dev",
    "cpio",
    "kmod",
    "xz-utils",
    "pahole",
    "python3-minimal",
    "perl",
    // The virtual machine.
    "qemu-system-x86",
    "busybox-static",
];

/// The kernel that Debian ships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPackages {
    /// What `uname -r` says.
    pub release: String,
    /// Debian's version, the same for all its packages.
    pub version: String,
    /// The package of the source.
    pub source: String,
}

impl KernelPackages {
    /// `.config` and `Module.symvers`.
    pub fn headers(&self) -> String {
        format!("linux-headers-{}", self.release)
    }

    /// The image.
    pub fn binary(&self) -> String {
        format!("linux-binary-{}", self.release)
    }

    /// Debian's own modules.
    pub fn modules(&self) -> String {
        format!("linux-modules-{}", self.release)
    }

    fn packages(&self) -> [String; 4] {
        [
            self.source.clone(),
            self.headers(),
            self.binary(),
            self.modules(),
        ]
    }
}

/// Which package files everything is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kernel.
    pub kernel: KernelPackages,
    /// Its files.
    pub kernel_debs: Vec<Deb>,
    /// The toolchain's files.
    pub toolchain_debs: Vec<Deb>,
}

/// Finds what to use: today's answer, or the mirror's, or yesterday's where the mirror cannot be reached.
///
/// # Errors
///
/// The mirror has no suitable kernel; or it cannot be reached, and never was.
pub fn plan(cache: &Cache, freshness: Freshness, progress: &Progress) -> Result<Plan> {
    if let Some(plan) = kept_plan(cache, freshness) {
        return Ok(plan);
    }
    let stage = progress.stage("asking the mirror what Debian ships");
    match (
        Plan::from_mirror(&Apt::configure(cache)?),
        Plan::load(cache),
    ) {
        (Ok(plan), _) => {
            replace(&cache.path("plan"), &plan.to_text())?;
            Ok(plan)
        }
        (Err(error), Ok(plan)) => {
            drop(stage);
            eprintln!(
                "the mirror did not answer; going on with {}: {error:#}",
                plan.kernel.version
            );
            Ok(plan)
        }
        (Err(error), Err(_)) => Err(error),
    }
}

/// The kept answer, if it is young enough.
pub fn kept_plan(cache: &Cache, freshness: Freshness) -> Option<Plan> {
    if freshness == Freshness::Now {
        return None;
    }
    let asked = fs::metadata(cache.path("plan"))
        .and_then(|meta| meta.modified())
        .ok()?;
    // A clock that was set back makes the answer old.
    let age = asked.elapsed().ok()?;
    (age < Duration::from_secs(24 * 60 * 60))
        .then(|| Plan::load(cache).ok())
        .flatten()
}

impl Plan {
    fn from_mirror(apt: &Apt) -> Result<Self> {
        apt.update()?;
        let mut available = apt.versions("linux-source-")?;
        for kind in ["linux-headers-", "linux-binary-", "linux-modules-"] {
            available.append(&mut apt.versions(kind)?);
        }
        let kernel = newest_kernel(&available).with_context(|| {
            format!("the mirror has no complete set of kernel packages from {OLDEST_KERNEL} on")
        })?;
        let pinned = kernel
            .packages()
            .map(|package| format!("{package}={}", kernel.version));
        Ok(Self {
            kernel_debs: apt.files(&pinned)?,
            toolchain_debs: apt.closure(TOOLCHAIN)?,
            kernel,
        })
    }

    /// Reads what the last question to the mirror gave.
    ///
    /// # Errors
    ///
    /// It was never asked.
    pub fn load(cache: &Cache) -> Result<Self> {
        let path = cache.path("plan");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::from_text(&text).with_context(|| format!("{} is damaged; remove it", path.display()))
    }

    fn to_text(&self) -> String {
        let kernel = &self.kernel;
        let mut text = format!(
            "kernel {} {} {}\n",
            kernel.release, kernel.version, kernel.source
        );
        for (kind, debs) in [("image", &self.kernel_debs), ("tool", &self.toolchain_debs)] {
            for deb in debs {
                text += &format!(
                    "{kind} {} {} {} {} {}\n",
                    deb.package, deb.version, deb.file, deb.size, deb.hash
                );
            }
        }
        text + "end\n"
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let kernel = match lines.next()?.split(' ').collect::<Vec<_>>()[..] {
            ["kernel", release, version, source] => KernelPackages {
                release: release.into(),
                version: version.into(),
                source: source.into(),
            },
            _ => return None,
        };
        let mut plan = Self {
            kernel,
            kernel_debs: Vec::new(),
            toolchain_debs: Vec::new(),
        };
        loop {
            let (kind, package, version, file, size, hash) =
                match lines.next()?.split(' ').collect::<Vec<_>>()[..] {
                    ["end"] => return Some(plan),
                    [kind, package, version, file, size, hash] => {
                        (kind, package, version, file, size, hash)
                    }
                    _ => return None,
                };
            let debs = match kind {
                "image" => &mut plan.kernel_debs,
                "tool" => &mut plan.toolchain_debs,
                _ => return None,
            };
            debs.push(Deb {
                package: package.into(),
                version: version.into(),
                file: file.into(),
                size: size.parse().ok()?,
                hash: hash.into(),
            });
        }
    }

    /// The file names of every package.
    pub fn files(&self) -> Vec<String> {
        self.kernel_debs
            .iter()
            .chain(&self.toolchain_debs)
            .map(|deb| deb.file.clone())
            .collect()
    }

    /// One of the kernel's package files.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub fn kernel_deb(&self, package: &str) -> Result<&Deb> {
        let found = self.kernel_debs.iter().find(|deb| deb.package == package);
        found.with_context(|| format!("{package} is not among the kernel's packages"))
    }
}

/// The newest version that is there as source, headers, image and modules; plain flavour, not `cloud` nor `rt`.
fn newest_kernel(available: &BTreeMap<String, Vec<String>>) -> Option<KernelPackages> {
    let has = |package: &str, version: &String| {
        available
            .get(package)
            .is_some_and(|all| all.contains(version))
    };
    let mut found = Vec::new();
    for (package, versions) in available {
        let release = match package.strip_prefix("linux-headers-") {
            Some(release)
                if release
                    .strip_suffix("-amd64")
                    .is_some_and(|abi| !abi.contains('-')) =>
            {
                release
            }
            _ => continue,
        };
        for version in versions {
            let source = available
                .keys()
                .find(|name| name.starts_with("linux-source-") && has(name, version));
            if let Some(source) = source {
                found.push(KernelPackages {
                    release: release.into(),
                    version: version.clone(),
                    source: source.clone(),
                });
            }
        }
    }
    found.retain(|kernel| {
        let complete = kernel
            .packages()
            .iter()
            .all(|package| has(package, &kernel.version));
        complete && compare_versions(&kernel.version, OLDEST_KERNEL) != Ordering::Less
    });
    found
        .into_iter()
        .max_by(|a, b| compare_versions(&a.version, &b.version))
}

/// Debian's order of versions, asked of the program that defines it.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let is = |relation: &str| {
        Command::new("dpkg")
            .args(["--compare-versions", a, relation, b])
            .status()
            .is_ok_and(|status| status.success())
    };
    match (is("lt"), is("eq")) {
        (true, _) => Ordering::Less,
        (_, true) => Ordering::Equal,
        _ => Ordering::Greater,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(entries: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        entries
            .iter()
            .map(|(name, versions)| {
                (
                    (*name).into(),
                    versions.iter().map(|v| (*v).into()).collect(),
                )
            })
            .collect()
    }

    const COMPLETE_7_2: [(&str, &[&str]); 4] = [
        ("linux-headers-7.2.12+deb13-amd64", &["7.2.12-1~bpo13+1"]),
        ("linux-binary-7.2.12+deb13-amd64", &["7.2.12-1~bpo13+1"]),
        ("linux-modules-7.2.12+deb13-amd64", &["7.2.12-1~bpo13+1"]),
        ("linux-source-7.2", &["7.2.9-1~bpo13+1", "7.2.12-1~bpo13+1"]),
    ];

    #[test]
    fn the_newest_complete_kernel_is_chosen() {
        let mut there = mirror(&COMPLETE_7_2);
        there.append(&mut mirror(&[
            ("linux-headers-7.2.9+deb13-amd64", &["7.2.9-1~bpo13+1"]),
            ("linux-binary-7.2.9+deb13-amd64", &["7.2.9-1~bpo13+1"]),
            ("linux-modules-7.2.9+deb13-amd64", &["7.2.9-1~bpo13+1"]),
            // Half uploaded.
            ("linux-headers-7.3.5+deb13-amd64", &["7.3.5-1~bpo13+1"]),
            ("linux-source-7.3", &["7.3.5-1~bpo13+1"]),
            // Another flavour, and one without Rust.
            (
                "linux-headers-7.3.5+deb13-cloud-amd64",
                &["7.3.5-1~bpo13+1"],
            ),
            ("linux-headers-6.12.9+deb13-amd64", &["6.12.9-1"]),
            ("linux-binary-6.12.9+deb13-amd64", &["6.12.9-1"]),
            ("linux-modules-6.12.9+deb13-amd64", &["6.12.9-1"]),
            ("linux-source-6.12", &["6.12.9-1"]),
        ]));
        let chosen = newest_kernel(&there).expect("two are complete");
        assert_eq!(chosen.release, "7.2.12+deb13-amd64");
        assert_eq!(chosen.source, "linux-source-7.2");
        assert_eq!(chosen.version, "7.2.12-1~bpo13+1");

        for missing in there
            .keys()
            .filter(|name| name.contains("7.2"))
            .cloned()
            .collect::<Vec<_>>()
        {
            there.remove(&missing);
        }
        assert_eq!(newest_kernel(&there), None);
    }

    #[test]
    fn a_plan_survives_being_written_and_damage_is_seen() {
        let deb = |package: &str| Deb {
            package: package.into(),
            version: "1:2-3".into(),
            file: format!("{package}_1%3a2-3_amd64.deb"),
            size: 7,
            hash: "SHA256:00".into(),
        };
        let plan = Plan {
            kernel: newest_kernel(&mirror(&COMPLETE_7_2)).expect("complete"),
            kernel_debs: vec![deb("linux-source-7.2")],
            toolchain_debs: vec![deb("gcc"), deb("make")],
        };
        let text = plan.to_text();
        assert_eq!(Plan::from_text(&text), Some(plan));
        for cut in 0..text.len() - 1 {
            assert_eq!(Plan::from_text(&text[..cut]), None, "cut at {cut}");
        }
    }
}
