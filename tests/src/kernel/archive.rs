// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Package files: fetched once, unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use anyhow::{bail, Context, Result};

use super::apt::{Apt, Deb};
use super::cache::Cache;
use super::command::{answer, logged};
use super::progress::Stage;

/// Downloads package files that are not there yet; returns the folder they are in.
///
/// # Errors
///
/// The mirror no longer has them (`--refresh` finds newer ones), or cannot be reached.
pub fn download(cache: &Cache, debs: &[Deb], stage: &Stage<'_>) -> Result<PathBuf> {
    let folder = cache.path("packages");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let is_here =
        |deb: &Deb| fs::metadata(folder.join(&deb.file)).is_ok_and(|meta| meta.len() == deb.size);
    if !debs.iter().all(is_here) {
        let bytes: u64 = debs.iter().map(|deb| deb.size).sum();
        stage.say(format!(
            "downloading {} packages, {} MB",
            debs.len(),
            bytes / 1_000_000
        ));
        let mut apt = Apt::configure(cache)?.download(debs);
        let log = folder.with_extension(format!(
            "{}.log",
            debs.first().map_or("none", |deb| &deb.package)
        ));
        logged(apt.current_dir(&folder), &log, stage)
            .context("if these versions are gone from the mirror, --refresh")?;
        fs::remove_file(&log)?;
    }
    Ok(folder)
}

/// Unpacks package files over each other, as many at a time as there are processors. Their scripts do not run.
///
/// # Errors
///
/// A damaged file, or a full disk.
pub fn unpack(folder: &Path, debs: &[Deb], into: &Path, stage: &Stage<'_>) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some(deb) = debs.get(next.fetch_add(1, Relaxed)) {
            stage.say(format!("unpacking {}", deb.package));
            answer(
                Command::new("dpkg-deb")
                    .arg("--extract")
                    .arg(folder.join(&deb.file))
                    .arg(into),
            )?;
        }
        Ok(())
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("unpacking panicked")))
        })
    })
}

/// Sees to it that the few programs are there that are used outside the toolchain.
///
/// # Errors
///
/// Something is missing and could not be installed; the message has the command that does it.
pub fn require_host_tools() -> Result<()> {
    const TOOLS: [(&str, &str); 6] = [
        ("/usr/bin/apt-get", "apt"),
        ("/usr/bin/dpkg-deb", "dpkg"),
        ("/usr/bin/xz", "xz-utils"),
        ("/usr/bin/unshare", "util-linux"),
        ("/usr/bin/setpriv", "util-linux"),
        (
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "debian-archive-keyring",
        ),
    ];
    let mut missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(path, _)| !Path::new(path).exists())
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    if missing.contains(&"apt") || missing.contains(&"dpkg") {
        bail!("kernels are prepared from Debian's packages, and this machine has no apt");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!(
        "apt-get install --yes --no-install-recommends {}",
        missing.join(" ")
    );
    if !rustix::process::geteuid().is_root() {
        bail!("these packages are missing; run: sudo {install}");
    }
    eprintln!("{install}");
    answer(Command::new("apt-get").args(["update", "--quiet"]))?;
    answer(Command::new("sh").args(["-c", &format!("DEBIAN_FRONTEND=noninteractive {install}")]))
        .map(drop)
}
