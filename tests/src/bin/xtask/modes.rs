// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The ways the same test programs are run: what they may do, and what they find.
//!
//! Where we are root, each program gets a mount namespace with an empty `/run` and `/dev/shm` of its own:
//! whatever it mounts or names is gone when it ends, even if it was killed.

use crate::workspace::Workspace;
use std::fs;
use std::io;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Who runs the tests where we are root and they are not.
const NOBODY: u32 = 65534;

/// A way to run the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As whoever calls, who is not root, with the pool as it is.
    AsFound,
    /// As root, with pages in the pool.
    Pool,
    /// As root, with no huge page and a read-only `/sys`, so that nothing can make one.
    Empty,
    /// As a user without any privilege, with pages in the pool.
    Unprivileged,
    /// As root of a user namespace only, with no huge page.
    Container,
}

impl Mode {
    /// The name, as in `HTLB_TEST_MODE`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::AsFound => "as-found",
            Self::Pool => "pool",
            Self::Empty => "empty",
            Self::Unprivileged => "unprivileged",
            Self::Container => "container",
        }
    }

    /// Whether the pool has pages in this mode.
    pub(crate) const fn has_pages(self) -> bool {
        matches!(self, Self::Pool | Self::Unprivileged)
    }

    const fn user(self) -> Option<u32> {
        match self {
            Self::AsFound | Self::Pool | Self::Empty => None,
            Self::Unprivileged | Self::Container => Some(NOBODY),
        }
    }

    /// Why this mode cannot be had here, if it cannot.
    pub(crate) fn obstacle(self, sandbox: &Sandbox) -> Option<String> {
        if self == Self::AsFound {
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            return Some("only root can size the pool and become another user".to_owned());
        }
        let works = |mode: Self| {
            sandbox
                .command(mode, Path::new("true"))
                .stdin(Stdio::null())
                .output()
                .is_ok_and(|output| output.status.success())
        };
        if self == Self::Container && works(Self::Unprivileged) && !works(Self::Container) {
            return Some(htlb_tests::skip::NO_USER_NAMESPACES.to_owned());
        }
        (!works(self)).then(|| "a private mount namespace could not be made".to_owned())
    }
}

/// The folders a mode's programs may write to, and the commands that shut them in.
#[derive(Debug)]
pub(crate) struct Sandbox {
    scratch: PathBuf,
    /// For temporary files, where every user may go: a test may try another one.
    temporary: PathBuf,
    /// What must be reachable for any user.
    open: Vec<PathBuf>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // What a test left there is of no use to anybody; what cannot be removed is the system's to clean.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

impl Sandbox {
    /// Makes an empty scratch folder for `mode`.
    pub(crate) fn new(workspace: &Workspace, mode: Mode) -> io::Result<Self> {
        let scratch = workspace.logs().join("scratch").join(mode.name());
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let name = format!("htlb-xtask-{}-{}", std::process::id(), mode.name());
        let temporary = std::env::temp_dir().join(name);
        fs::create_dir_all(&temporary)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o1777))?;
        let sandbox = Self {
            scratch,
            temporary,
            open: vec![workspace.root().to_owned(), workspace.target().to_owned()],
        };
        for folder in ["home", "logs", "runtime"] {
            let folder = sandbox.scratch.join(folder);
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
            if let Some(user) = mode.user() {
                chown(&folder, Some(user), Some(user))?;
            }
        }
        Ok(sandbox)
    }

    /// Where a program of this name logs its skips.
    pub(crate) fn skip_log(&self, program: &str) -> PathBuf {
        self.log(program, "skips")
    }

    /// Where a program of this name writes its figures.
    pub(crate) fn figures_log(&self, program: &str) -> PathBuf {
        self.log(program, "figures")
    }

    fn log(&self, program: &str, what: &str) -> PathBuf {
        self.scratch
            .join("logs")
            .join(format!("{}.{what}", program.replace('/', "-")))
    }

    /// `program` as `mode` has it run; arguments may be added.
    pub(crate) fn command(&self, mode: Mode, program: &Path) -> Command {
        let mut command = if mode == Mode::AsFound {
            Command::new(program)
        } else {
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "--propagation", "private", "--"])
                .args(["sh", "-euc", &self.script(mode), "sh"]);
            if let Some(user) = mode.user() {
                command
                    .arg("setpriv")
                    .args([format!("--reuid={user}"), format!("--regid={user}")])
                    .args(["--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
            }
            if mode == Mode::Container {
                command.args(["unshare", "--user", "--map-root-user", "--mount", "--"]);
            }
            command.arg(program);
            command
        };
        let runtime = self.scratch.join("runtime");
        command
            .env("HTLB_TEST_MODE", mode.name())
            .env(htlb_tests::host::POOL_LOCK, runtime.join("pool.lock"))
            .env("HOME", self.scratch.join("home"))
            .env("TMPDIR", &self.temporary)
            .env("XDG_RUNTIME_DIR", &runtime)
            .env_remove("XDG_CACHE_HOME")
            .env("RUST_BACKTRACE", "1");
        command
    }

    /// What is mounted before the program starts.
    fn script(&self, mode: Mode) -> String {
        let mut lines = vec![
            "mount -t tmpfs -o mode=0755 tmpfs /run".to_owned(),
            "mount -t tmpfs -o mode=1777 tmpfs /dev/shm".to_owned(),
        ];
        if matches!(mode, Mode::Empty | Mode::Container) {
            lines.push("mount -o remount,bind,ro /sys".to_owned());
            lines.push("mount --bind /proc/sys/vm /proc/sys/vm".to_owned());
            lines.push("mount -o remount,bind,ro /proc/sys/vm".to_owned());
        }
        if mode.user().is_some() {
            lines.extend(reopen(&self.open, &closed_above));
        }
        lines.push("cd \"$PWD\"".to_owned());
        lines.push("exec \"$@\"".to_owned());
        lines.join("; ")
    }
}

/// The topmost folder above `path` that not everyone may pass through.
fn closed_above(path: &Path) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    above
        .into_iter()
        .find(|folder| fs::metadata(folder).is_ok_and(|folder| folder.mode() & 0o001 == 0))
        .map(Path::to_owned)
}

/// Commands that make each of `paths` reachable for everyone at its own place, because the paths are compiled
/// into the tests: the closed folder is covered by an empty open one, in which only the path is bound again.
fn reopen(paths: &[PathBuf], closed_above: &dyn Fn(&Path) -> Option<PathBuf>) -> Vec<String> {
    let mut keep = Vec::new();
    let mut cover: Vec<String> = Vec::new();
    let mut put_back = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let Some(closed) = closed_above(path) else {
            continue;
        };
        let (path, closed) = (quoted(path), quoted(&closed));
        keep.push(format!("mkdir /run/keep-{number}"));
        keep.push(format!("mount --rbind {path} /run/keep-{number}"));
        let line = format!("mount -t tmpfs -o mode=0755 tmpfs {closed}");
        if !cover.contains(&line) {
            cover.push(line);
        }
        put_back.push(format!("mkdir -p {path}"));
        put_back.push(format!("mount --rbind /run/keep-{number} {path}"));
    }
    [keep, cover, put_back].concat()
}

/// For the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', "'\\''"))
}

/// The mode of a plain test run: the fullest one that this user can have.
pub(crate) fn fullest() -> Mode {
    if rustix::process::geteuid().is_root() {
        Mode::Pool
    } else {
        Mode::AsFound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_path_needs_nothing() {
        assert!(reopen(&[PathBuf::from("/a/b")], &|_| None).is_empty());
    }

    #[test]
    fn two_paths_under_one_closed_folder_cover_it_once() {
        let paths = [PathBuf::from("/shut/w"), PathBuf::from("/shut/t x")];
        let lines = reopen(&paths, &|_| Some(PathBuf::from("/shut")));
        let covers = lines.iter().filter(|line| line.contains("tmpfs"));
        assert_eq!(covers.count(), 1);
        let last = "mount --rbind /run/keep-1 '/shut/t x'";
        assert_eq!(lines.last().map(String::as_str), Some(last));
    }

    #[test]
    fn a_quote_in_a_path_does_not_end_it() {
        assert_eq!(quoted(Path::new("/a'b")), r"'/a'\''b'");
    }
}
