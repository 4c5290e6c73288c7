// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Packages of another Debian release, unpacked beside the system, installed nowhere.
//!
//! apt runs with sources, lists, archives and a record of installed packages of its own. The mirror is the one
//! that this machine's own sources name.

use crate::child::Log;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const FETCH_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Another release, as apt sees it from its own folder.
#[derive(Debug)]
pub(crate) struct Release {
    folder: PathBuf,
}

impl Release {
    /// Fetches the package lists of `suite` into `folder`.
    pub(crate) fn update(suite: &str, folder: PathBuf, log: &mut Log) -> io::Result<Self> {
        for sub in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(sub))?;
        }
        let mirror = mirror(log)?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(folder.join("sources.list"), source)?;
        // Nothing is installed as far as this apt knows, so that it names every dependency down to libc.
        fs::write(folder.join("status"), "")?;
        let release = Self { folder };
        log.must(release.apt().arg("update"), FETCH_LIMIT)?;
        Ok(release)
    }

    /// The file names of `package` and all it depends on; they contain the versions.
    pub(crate) fn closure(&self, package: &str, log: &mut Log) -> io::Result<Vec<String>> {
        let output = log.must(
            self.apt().args(["install", "--print-uris", package]),
            FETCH_LIMIT,
        )?;
        file_names(&output, package)
    }

    /// The file name of `package` alone.
    pub(crate) fn single(&self, package: &str, log: &mut Log) -> io::Result<Vec<String>> {
        let output = log.must(
            self.apt().args(["download", "--print-uris", package]),
            FETCH_LIMIT,
        )?;
        file_names(&output, package)
    }

    /// Unpacks `with_dependencies` and all it depends on, and `alone` without, into `folder`.
    pub(crate) fn unpack(
        &self,
        with_dependencies: &str,
        alone: &str,
        folder: &Path,
        log: &mut Log,
    ) -> io::Result<()> {
        let archives = self.folder.join("archives");
        log.must(
            self.apt()
                .args(["install", "--download-only", with_dependencies]),
            FETCH_LIMIT,
        )?;
        log.must(
            self.apt().args(["download", alone]).current_dir(&archives),
            FETCH_LIMIT,
        )?;
        let mut debs = Vec::new();
        for entry in fs::read_dir(&archives)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                debs.push(path);
            }
        }
        for deb in debs {
            let mut dpkg = Command::new("dpkg");
            dpkg.arg("-x").arg(&deb).arg(folder);
            log.must(&mut dpkg, FETCH_LIMIT)?;
            fs::remove_file(deb)?;
        }
        Ok(())
    }

    fn apt(&self) -> Command {
        let mut apt = Command::new("apt-get");
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache::archives", "archives"),
        ] {
            let path = self.folder.join(path);
            apt.arg("-o").arg(format!("{option}={}", path.display()));
        }
        apt.args(["-o", "Dir::Etc::sourceparts=/dev/null"])
            .args(["-o", "Dir::Cache::pkgcache="])
            .args(["-o", "Dir::Cache::srcpkgcache="])
            // The folder may be one that apt's own user cannot enter.
            .args(["-o", "APT::Sandbox::User="])
            .args(["-o", "APT::Install-Recommends=false"])
            .args(["-q", "-y"])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C");
        apt
    }
}

/// Whether this machine is one that can fetch Debian's packages; if not, why.
pub(crate) fn obstacle() -> Option<&'static str> {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !there("apt-get") || !there("dpkg") {
        Some("apt-get and dpkg are not installed")
    } else if !Path::new(KEYRING).exists() {
        Some("debian-archive-keyring is not installed")
    } else {
        None
    }
}

/// The mirror that this machine's sources name for its own release.
fn mirror(log: &mut Log) -> io::Result<String> {
    let os = fs::read_to_string("/etc/os-release")?;
    let suite = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .ok_or_else(|| io::Error::other("/etc/os-release names no release"))?;
    let mut apt = Command::new("apt-get");
    apt.args(["update", "--print-uris"]).env("LC_ALL", "C");
    let output = log.must(&mut apt, FETCH_LIMIT)?;
    mirror_of(&output, suite.trim_matches('"'))
        .map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("no apt source has the release {suite}")))
}

/// Lines such as `'http://m.example/debian/dists/bookworm/InRelease' m.example_debian_dists_bookworm_InRelease 0`.
fn mirror_of<'a>(print_uris: &'a str, suite: &str) -> Option<&'a str> {
    let end = format!("/dists/{suite}/InRelease");
    print_uris.lines().find_map(|line| {
        line.strip_prefix('\'')?
            .split_once('\'')?
            .0
            .strip_suffix(&end)
    })
}

/// Lines such as `'http://m.example/p_1.2_amd64.deb' p_1.2_amd64.deb 1234 SHA256:…`.
fn file_names(print_uris: &str, package: &str) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = print_uris
        .lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|name| name.ends_with(".deb"))
        .map(str::to_owned)
        .collect();
    names.sort();
    if names.is_empty() {
        let text = format!("apt finds no package {package}");
        return Err(io::Error::other(text));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_with_the_release_itself() {
        let output = "\
'http://m.example/debian-security/dists/bookworm-security/InRelease' x 0
'http://m.example/debian/dists/bookworm/InRelease' y 0 ";
        assert_eq!(
            mirror_of(output, "bookworm"),
            Some("http://m.example/debian")
        );
        assert_eq!(mirror_of(output, "sid"), None);
    }

    #[test]
    fn only_packages_are_listed() {
        let output = "\
Reading package lists...
'http://m.example/b.deb' b_1%3a2_amd64.deb 5 SHA256:0
'http://m.example/a.deb' a_1_amd64.deb 5 SHA256:0
";
        let names = file_names(output, "b").unwrap();
        assert_eq!(names, ["a_1_amd64.deb", "b_1%3a2_amd64.deb"]);
        assert!(file_names("Reading package lists...\n", "b").is_err());
    }
}
