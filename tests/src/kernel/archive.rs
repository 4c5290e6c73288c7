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

/// What is used outside the toolchain, and the package that has it.
const HOST_TOOLS: [(&str, &str); 7] = [
    ("/usr/bin/apt-get", "apt"),
    ("/usr/bin/dpkg-deb", "dpkg"),
    ("/usr/bin/tar", "tar"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/setpriv", "util-linux"),
    (
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
];

/// Sees to it that the few programs are there that are used outside the toolchain: as root by installing them.
///
/// # Errors
///
/// Something is missing and could not be installed; the message has the command that does it.
pub fn require_host_tools() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("this is made from Debian's packages for x86-64, and this machine is another");
    }
    let missing = missing_packages(|path| path.exists());
    if missing.contains(&"apt") || missing.contains(&"dpkg") {
        bail!("this is made from Debian's packages, and this machine has no apt");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let install = install_command(&missing);
    if !rustix::process::geteuid().is_root() {
        bail!("these packages are missing; run: sudo {install}");
    }
    eprintln!("{install}");
    answer(Command::new("apt-get").args(["update", "--quiet"]))?;
    answer(
        Command::new("sh")
            .args(["-c", &install])
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .with_context(|| format!("these packages are missing, and could not be installed: {install}"))
    .map(drop)
}

/// The packages of the tools that are not there, each once.
fn missing_packages(is_there: impl Fn(&Path) -> bool) -> Vec<&'static str> {
    let mut missing: Vec<&str> = HOST_TOOLS
        .iter()
        .filter(|(path, _)| !is_there(Path::new(path)))
        .map(|(_, package)| *package)
        .collect();
    missing.dedup();
    missing
}

fn install_command(packages: &[&str]) -> String {
    format!(
        "apt-get install --yes --no-install-recommends {}",
        packages.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_command_installs_what_is_missing_and_nothing_else() {
        assert_eq!(missing_packages(|_| true), Vec::<&str>::new());
        let missing = missing_packages(|path| {
            !["xz", "unshare", "setpriv"]
                .iter()
                .any(|gone| path.ends_with(gone))
        });
        assert_eq!(
            install_command(&missing),
            "apt-get install --yes --no-install-recommends xz-utils util-linux"
        );
        assert_eq!(missing_packages(|_| false).first(), Some(&"apt"));
    }
}
