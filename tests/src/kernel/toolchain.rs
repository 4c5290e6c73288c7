// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The toolchain: Debian packages unpacked into a folder, entered like a machine of its own.
//!
//! Entering makes a mount and a process namespace (and a user namespace, where the caller is not root), so that
//! whatever is mounted or started inside is gone when the command ends, however it ends.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive;
use super::cache::{Cache, Entry, Leftover};
use super::command::answer;
use super::packages::Plan;
use super::progress::Progress;

/// Counts changes to how the folder is made from the packages.
const RECIPE: &str = "recipe 1";

/// A folder of the machine, and where it is seen inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    outside: PathBuf,
    inside: PathBuf,
}

impl Bind {
    /// A folder at a place of its own.
    pub fn at(outside: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        Self {
            outside: outside.into(),
            inside: inside.into(),
        }
    }

    /// A folder at the same place, so that paths in messages mean the same on both sides.
    pub fn same(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self {
            outside: folder.clone(),
            inside: folder,
        }
    }
}

/// The compilers and tools of the Debian release that carries the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    root: PathBuf,
}

/// The toolchain's place in the cache.
pub fn entry(cache: &Cache, plan: &Plan) -> Entry {
    let inputs = plan
        .toolchain_debs
        .iter()
        .flat_map(|deb| [deb.file.as_str(), deb.hash.as_str()]);
    cache.entry("toolchain", inputs.chain([RECIPE]))
}

/// Downloads and unpacks the toolchain.
///
/// # Errors
///
/// No mirror, a full disk, no right to enter namespaces.
pub fn prepare(cache: &Cache, plan: &Plan, progress: &Progress) -> Result<Toolchain> {
    let root = entry(cache, plan).complete(Leftover::Discard, |root| {
        let stage = progress.stage("toolchain");
        let folder = archive::download(cache, &plan.toolchain_debs, &stage)?;
        // The packages of a merged /usr put nothing elsewhere, but their programs are called by the old names.
        for name in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(root.join("usr").join(name))?;
            symlink(format!("usr/{name}"), root.join(name))?;
        }
        archive::unpack(&folder, &plan.toolchain_debs, root, &stage)?;
        // What the packages' scripts would have done and a kernel build misses.
        symlink("mawk", root.join("usr/bin/awk"))?;
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\n")?;
        let toolchain = Toolchain {
            root: root.to_owned(),
        };
        answer(&mut toolchain.enter(&[], ["/usr/sbin/ldconfig"]))
            .map(drop)
            .context(
                "the toolchain is entered in namespaces of its own; if they are forbidden here, run as root, or: \
                 sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000 \
                 kernel.apparmor_restrict_unprivileged_userns=0 (those that this machine has)",
            )
    })?;
    Ok(Toolchain { root })
}

/// Runs as the first process of the new namespaces: mounts, then becomes the command.
///
/// `/proc` is bound where a container forbids a fresh one. `/tmp` is fresh: two commands at once both have the
/// process id 1, of which `make` names its job server.
const ENTER: &str = r#"
set -e
root=$1 binds=$2 cwd=$3; shift 3
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$binds" -gt 0 ]; do
	mkdir -p "$root$2"
	mount --rbind "$1" "$root$2"
	shift 2; binds=$((binds - 1))
done
exec chroot "$root" /usr/bin/env -i -C "$cwd" PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8 TERM="$TERM" "$@"
"#;

impl Toolchain {
    /// The command that runs `program` (with its arguments) inside, in the folder of the last bind.
    ///
    /// Killing it kills everything it started.
    pub fn enter<S: AsRef<OsStr>>(
        &self,
        binds: &[Bind],
        program: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--propagation",
            "private",
        ]);
        command.args(["--pid", "--fork", "--kill-child"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command
            .args(["/bin/sh", "-c", ENTER, "enter"])
            .arg(&self.root)
            .arg(binds.len().to_string());
        command.arg(binds.last().map_or(Path::new("/"), |bind| &bind.inside));
        for bind in binds {
            command.arg(&bind.outside).arg(&bind.inside);
        }
        command.args(program);
        command
    }

    /// Where a path of the inside is on the machine.
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}
