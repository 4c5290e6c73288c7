// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A second apt beside the machine's: the machine's mirror, proxy and keys, another release, an empty system.
//!
//! Since its list of installed packages is empty, what it would install is the whole closure of what was asked
//! for. It needs no privilege, and neither reads nor changes what the machine has installed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{bail, Context, Result};

use super::cache::Cache;
use super::command::{answer, replace};

/// The Debian release whose compilers are used; kernels come from its backports.
pub const RELEASE: &str = "trixie";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One package file on the mirror.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deb {
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// What apt calls the file when it downloads it.
    pub file: String,
    /// Bytes.
    pub size: u64,
    /// As the mirror's signed index gives it.
    pub hash: String,
}

impl Deb {
    /// `package=version`, the way apt wants it.
    pub fn pinned(&self) -> String {
        format!("{}={}", self.package, self.version)
    }
}

/// The second apt.
#[derive(Clone, Debug)]
pub struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Writes the sources of the second apt, from the machine's.
    ///
    /// # Errors
    ///
    /// The machine's apt knows no Debian mirror.
    pub fn configure(cache: &Cache) -> Result<Self> {
        let folder = cache.path("apt");
        for part in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let mirror = machine_mirror()?;
        let sources: String = ["", "-updates", "-backports"]
            .iter()
            .map(|suffix| format!("deb {signed}{mirror} {RELEASE}{suffix} main\n"))
            .collect();
        replace(&folder.join("sources.list"), &sources)?;
        replace(&folder.join("status"), "")?;
        Ok(Self { folder })
    }

    fn command(&self, program: &str) -> Command {
        let folder = self.folder.display();
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg("--quiet");
        for option in [
            format!("Dir::Etc::sourcelist={folder}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            format!("Dir::State::lists={folder}/lists"),
            format!("Dir::State::status={folder}/status"),
            format!("Dir::Cache={folder}"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "APT::Get::Assume-Yes=true".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            "APT::Architecture=amd64".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        if rustix::process::geteuid().is_root() {
            // The user `_apt` cannot read a cache below root's home.
            command.arg("-o").arg("APT::Sandbox::User=root");
        }
        command
    }

    /// Fetches the mirror's lists.
    ///
    /// # Errors
    ///
    /// The mirror cannot be reached, or lacks the release.
    pub fn update(&self) -> Result<()> {
        answer(self.command("apt-get").args(["--error-on=any", "update"])).map(drop)
    }

    /// Every package whose name begins so, with its versions.
    ///
    /// # Errors
    ///
    /// apt failed.
    pub fn versions(&self, prefix: &str) -> Result<BTreeMap<String, Vec<String>>> {
        let names = answer(self.command("apt-cache").args(["pkgnames", prefix]))?;
        let names: Vec<&str> = names.lines().collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        Ok(parse_madison(&answer(
            self.command("apt-cache").arg("madison").args(names),
        )?))
    }

    /// The package files that an empty system needs for `packages`: `name` or `name=version`, or a pattern.
    ///
    /// Essential packages are among them only if asked for (`?essential`): by Debian's rule none need depend on them.
    ///
    /// # Errors
    ///
    /// Not on the mirror, or not installable.
    pub fn closure(&self, packages: &[&str]) -> Result<Vec<Deb>> {
        let mut install = self.command("apt-get");
        install.args(["--simulate", "install"]).args(packages);
        let pinned: Vec<String> = parse_simulation(&answer(&mut install)?);
        self.files(&pinned)
    }

    /// The files of exactly these packages.
    ///
    /// # Errors
    ///
    /// Not on the mirror.
    pub fn files<S: AsRef<str>>(&self, pinned: &[S]) -> Result<Vec<Deb>> {
        let mut download = self.command("apt-get");
        download
            .args(["--print-uris", "download"])
            .args(pinned.iter().map(AsRef::as_ref));
        let mut debs = parse_uris(&answer(&mut download)?);
        if debs.len() != pinned.len() {
            bail!(
                "asked the mirror for {} packages, got {}",
                pinned.len(),
                debs.len()
            );
        }
        // apt's file names carry the version without its epoch or with it escaped; the pin has it as it is.
        for deb in &mut debs {
            let pin = pinned
                .iter()
                .map(AsRef::as_ref)
                .find_map(|pin| pin.strip_prefix(&format!("{}=", deb.package)));
            deb.version = pin
                .with_context(|| format!("the mirror answered with {}", deb.file))?
                .to_owned();
        }
        debs.sort();
        Ok(debs)
    }

    /// The command that downloads `debs` into its working folder, verifying what is there already.
    pub fn download(&self, debs: &[Deb]) -> Command {
        let mut command = self.command("apt-get");
        command.arg("download").args(debs.iter().map(Deb::pinned));
        command
    }
}

/// The mirror that the machine's apt uses for its own release, of whatever name and place.
fn machine_mirror() -> Result<String> {
    let format = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)";
    let targets = answer(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let own = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or_default();
    choose_mirror(&targets, own.trim_matches('"'))
        .context("the machine's apt has no source of Debian's main archive; add one to /etc/apt/sources.list")
}

fn choose_mirror(targets: &str, own: &str) -> Option<String> {
    let find = |wanted: &[&str]| {
        targets.lines().find_map(|line| {
            let mut fields = line.split('|');
            let (uri, release, component) = (fields.next()?, fields.next()?, fields.next()?);
            (component == "main" && wanted.contains(&release)).then(|| uri.to_owned())
        })
    };
    find(&[own]).or_else(|| find(&["stable", "oldstable", RELEASE]))
}

fn parse_madison(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('|').map(str::trim);
        if let (Some(name), Some(version), Some(source)) =
            (fields.next(), fields.next(), fields.next())
        {
            if source.ends_with("Packages") {
                found
                    .entry(name.to_owned())
                    .or_default()
                    .push(version.to_owned());
            }
        }
    }
    found
}

/// `Inst name (version release [architecture])`
fn parse_simulation(text: &str) -> Vec<String> {
    let pin = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        Some(format!("{}={}", name, rest.split_whitespace().next()?))
    };
    text.lines().filter_map(pin).collect()
}

/// `'address' file size hash`
fn parse_uris(text: &str) -> Vec<Deb> {
    let deb = |line: &str| {
        let mut fields = line.strip_prefix('\'')?.split_whitespace().skip(1);
        let (file, size, hash) = (fields.next()?, fields.next()?, fields.next()?);
        let mut name = file.split('_');
        Some(Deb {
            package: name.next()?.to_owned(),
            version: name.next()?.to_owned(),
            file: file.to_owned(),
            size: size.parse().ok()?,
            hash: hash.to_owned(),
        })
    };
    text.lines().filter_map(deb).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_release_names_the_mirror() {
        let targets = "http://tools.example/|nodistro|main\nhttp://mirror.example/debian-security/|bookworm-security|main\n\
                       http://mirror.example/debian/|bookworm|contrib\nhttp://mirror.example/debian/|bookworm|main\n";
        assert_eq!(
            choose_mirror(targets, "bookworm").as_deref(),
            Some("http://mirror.example/debian/")
        );
        assert_eq!(choose_mirror(targets, "sid"), None);
        assert_eq!(
            choose_mirror("http://mirror.example/d/|stable|main\n", "bookworm").as_deref(),
            Some("http://mirror.example/d/")
        );
    }

    #[test]
    fn what_apt_prints_is_understood() {
        let madison = "linux-source | 7.3.4-1 | http://mirror.example trixie-backports/main amd64 Packages\n\
                       linux-source |  6.12.9-1 | http://mirror.example trixie/main amd64 Packages\n\
                       linux-source | 6.12.9-1 | http://mirror.example trixie/main Sources\n";
        assert_eq!(
            parse_madison(madison)["linux-source"],
            ["7.3.4-1", "6.12.9-1"]
        );
        let simulation = "Reading package lists...\nInst gcc (4:14.2.0-1 Debian:13.6/stable [amd64])\n\
                          Inst libc6 (2.41-12 Debian:13.6/stable [amd64]) [x]\nConf gcc (4:14.2.0-1 x [amd64])\n";
        assert_eq!(
            parse_simulation(simulation),
            ["gcc=4:14.2.0-1", "libc6=2.41-12"]
        );
        let uris = "'http://mirror.example/b/busybox-static_1.37.0-6%2bb9_amd64.deb' busybox-static_1%3a1.37.0-6+b9_amd64.deb 955316 SHA256:598a\nnoise\n";
        let debs = parse_uris(uris);
        assert_eq!(debs.len(), 1);
        assert_eq!(
            (
                debs[0].package.as_str(),
                debs[0].size,
                debs[0].hash.as_str()
            ),
            ("busybox-static", 955_316, "SHA256:598a")
        );
        assert_eq!(debs[0].file, "busybox-static_1%3a1.37.0-6+b9_amd64.deb");
    }
}
