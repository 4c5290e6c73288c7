// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A place where names of a test meet no others.
//!
//! As root a world is a mount namespace, held by a process that sleeps, with an empty `/run`, `/dev/shm` and `/tmp`; each command
//! enters it. Others have a folder for `XDG_RUNTIME_DIR`, and the index in it ties their files to it.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use htlb_core::{HugeSize, PageCount};
use htlb_tests::host::PoolLease;
use htlb_tests::skip::skip;
use serde_json::Value;

/// Who runs the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    /// Whoever runs the tests.
    Same,
    /// A user without privileges; only root can be that.
    Nobody,
}

/// Loads take huge pages where there are some. So whoever counts those of the machine is alone, and all others are together.
static COUNTING: RwLock<()> = RwLock::new(());

thread_local! {
    /// Whether this test counts.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// The pool of 2 MiB pages, with as many available as were asked for, for this test alone until dropped.
pub(crate) struct Pool {
    _lease: PoolLease,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Pool {
    /// The pool, or a skip.
    pub(crate) fn with(test: &str, pages: u64) -> Option<Self> {
        let alone = COUNTING.write().unwrap_or_else(PoisonError::into_inner);
        match PoolLease::with_pages(HugeSize::MIB2, PageCount::new(pages)) {
            Ok(lease) => {
                COUNTS.set(true);
                Some(Self {
                    _lease: lease,
                    _alone: alone,
                })
            }
            Err(why) => {
                skip(test, &why.to_string());
                None
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        COUNTS.set(false);
    }
}

pub(crate) struct World {
    /// For the files of the test, as its commands see it.
    pub(crate) folder: PathBuf,
    /// The same folder, as the test sees it.
    outside: PathBuf,
    holder: Option<Child>,
    user: User,
    /// What a shell does outside of this world before a command enters it: to join a control group.
    pub(crate) before: Option<String>,
    _together: Option<RwLockReadGuard<'static, ()>>,
}

fn together() -> Option<RwLockReadGuard<'static, ()>> {
    // A test that counts is alone already.
    (!COUNTS.get()).then(|| COUNTING.read().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

impl World {
    /// A world for whoever runs the tests.
    pub(crate) fn new(test: &str) -> Self {
        // Without namespaces names are kept apart by the index alone.
        Self::with(test, "").unwrap_or_else(|_| Self::plain(test))
    }

    /// A world in which `script`, lines of a shell with what is to be mounted, was run; or a skip.
    pub(crate) fn mounted(test: &str, script: &str) -> Option<Self> {
        match Self::with(test, script) {
            Ok(world) => Some(world),
            Err(why) => {
                skip(test, &why);
                None
            }
        }
    }

    /// A world whose commands run without privileges; or a skip.
    pub(crate) fn unprivileged(test: &str) -> Option<Self> {
        if !is_root() {
            return Some(Self::plain(test));
        }
        let mut world = Self::mounted(test, "")?;
        world.user = User::Nobody;
        // The program lies where nobody may go.
        fs::copy(env!("CARGO_BIN_EXE_htlb"), world.inside("/tmp/htlb")).unwrap();
        world.folder = "/tmp/files".into();
        let _ = fs::remove_dir_all(&world.outside);
        world.outside = world.inside("/tmp/files");
        fs::create_dir(&world.outside).unwrap();
        fs::set_permissions(&world.outside, Permissions::from_mode(0o755)).unwrap();
        if !world
            .command("ls", &[])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            skip(test, "no other user can be had here (setpriv)");
            return None;
        }
        Some(world)
    }

    fn folder(test: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("htlb-cli-{test}-{}-{next}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        folder
    }

    fn plain(test: &str) -> Self {
        let folder = Self::folder(test);
        Self {
            outside: folder.clone(),
            folder,
            holder: None,
            user: User::Same,
            before: None,
            _together: together(),
        }
    }

    fn with(test: &str, script: &str) -> Result<Self, String> {
        if !is_root() {
            return Err("a mount namespace needs root".to_owned());
        }
        let folder = Self::folder(test);
        // The folder of this world stays reachable at its own place, under whatever is mounted on /tmp; the program is in
        // it, since the sources may lie below /tmp.
        let script = format!(
            "mount -t tmpfs -o mode=0755 none /run; mount -t tmpfs -o mode=1777 none /dev/shm; \
             touch '{0}/program'; mount --bind '{1}' '{0}/program'; \
             mkdir /run/keep; mount --rbind '{0}' /run/keep; mount -t tmpfs -o mode=1777 none /tmp; \
             mkdir -p '{0}'; mount --rbind /run/keep '{0}'; {script}
             echo ready; exec sleep 1000",
            folder.display(),
            env!("CARGO_BIN_EXE_htlb"),
        );
        let mut holder = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "--",
                "sh",
                "-euc",
                &script,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("no unshare(1): {error}"))?;
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
        if line.trim() != "ready" {
            let said = holder.wait_with_output().unwrap();
            fs::remove_dir_all(&folder).unwrap();
            let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            return Err(format!("no mount namespace can be made here: {said}"));
        }
        Ok(Self {
            outside: folder.clone(),
            folder,
            holder: Some(holder),
            user: User::Same,
            before: None,
            _together: together(),
        })
    }

    /// `path` of this world, seen from outside.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        match &self.holder {
            Some(holder) => PathBuf::from(format!("/proc/{}/root{path}", holder.id())),
            None => PathBuf::from(path),
        }
    }

    /// The command, as this world sees it.
    pub(crate) fn htlb(&self) -> PathBuf {
        match (self.user, &self.holder) {
            (User::Same, None) => env!("CARGO_BIN_EXE_htlb").into(),
            (User::Same, Some(_)) => self.folder.join("program"),
            (User::Nobody, _) => "/tmp/htlb".into(),
        }
    }

    /// `htlb COMMAND ARGS`.
    pub(crate) fn command(&self, command: &str, args: &[&str]) -> Command {
        let program = self.htlb();
        let mut built = self.program(program);
        built.arg(command).args(args);
        built
    }

    /// Any program, inside.
    pub(crate) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words: Vec<std::ffi::OsString> = Vec::new();
        if let Some(before) = &self.before {
            words.extend(["sh", "-euc"].map(Into::into));
            words.push(format!("{before}; exec \"$@\"").into());
            words.push("sh".into());
        }
        if let Some(holder) = &self.holder {
            words.push("nsenter".into());
            words.push(format!("--mount=/proc/{}/ns/mnt", holder.id()).into());
            words.push("--".into());
        }
        if self.user == User::Nobody {
            let drop = [
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--bounding-set=-all",
                "--inh-caps=-all",
            ];
            words.extend(drop.map(Into::into));
        }
        words.push(program.as_ref().into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .stdin(Stdio::null())
            .env_remove("XDG_RUNTIME_DIR");
        if self.holder.is_none() {
            command.env("XDG_RUNTIME_DIR", &self.folder);
        }
        command
    }

    pub(crate) fn run(&self, command: &str, args: &[&str]) -> Output {
        self.command(command, args).output().unwrap()
    }

    /// Its standard output; it must succeed.
    pub(crate) fn good(&self, command: &str, args: &[&str]) -> Vec<u8> {
        let output = self.run(command, args);
        assert!(
            output.status.success(),
            "htlb {command} {args:?}: {}",
            said(&output)
        );
        output.stdout
    }

    /// What it says on standard error; it must end with `code`.
    pub(crate) fn bad(&self, code: i32, command: &str, args: &[&str]) -> String {
        let output = self.run(command, args);
        assert_eq!(
            output.status.code(),
            Some(code),
            "htlb {command} {args:?}: {}",
            said(&output)
        );
        String::from_utf8(output.stderr).unwrap()
    }

    /// The object that it prints; it must succeed.
    pub(crate) fn json(&self, command: &str, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let text = self.good(command, &args);
        let object: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(object["schema"], 1);
        object
    }

    /// What is loaded from a pipe that gives `bytes`.
    pub(crate) fn load_pipe(&self, name: &str, bytes: &[u8], args: &[&str]) -> Output {
        let mut all = vec!["-", "--name", name];
        all.extend(args);
        let mut child = self
            .command("load", &all)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // A load that fails closes its end.
            scope.spawn(move || drop(pipe.write_all(bytes)));
            child.wait_with_output().unwrap()
        })
    }

    /// A file of the test with this content; its path for commands.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.outside.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// What [`World::file`] made, for the test.
    pub(crate) fn outside(&self, name: &str) -> PathBuf {
        self.outside.join(name)
    }

    /// The files that hold the bytes of buffers, whoever they belong to; and the loads in progress.
    pub(crate) fn memory_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.outside.join("htlb")];
        if self.holder.is_some() {
            folders
                .extend(["/run/htlb", "/dev/shm", "/tmp/htlb-65534"].map(|path| self.inside(path)));
        } else {
            // Those of other indices are other tests'.
            let tag = fs::read_to_string(self.folder.join("htlb/tag")).unwrap_or_default();
            let tag = tag.get(..16).unwrap_or("no tag");
            for folder in ["/dev/shm", "/tmp"] {
                let entries = fs::read_dir(folder).into_iter().flatten().flatten();
                let ours =
                    entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(tag));
                folders.extend(ours.map(|entry| entry.path()));
            }
        }
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    _ if entry.file_name() == "tag" => {}
                    _ => found.push(entry.path()),
                }
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut holder) = self.holder.take() {
            let _ = holder.kill();
            let _ = holder.wait();
        } else {
            for file in self.memory_files() {
                let _ = file
                    .parent()
                    .filter(|folder| !folder.starts_with(&self.folder))
                    .map(fs::remove_dir_all);
            }
        }
        let _ = fs::remove_dir_all(&self.outside);
    }
}

/// Both outputs and the code, for messages.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    )
}

/// Whether a file lies on shared memory of base pages by `parts` of the JSON.
pub(crate) fn is_shared_memory(part: &Value) -> bool {
    part["kind"] == "tmpfs" || part["kind"] == "disk"
}

/// The bytes of part number `part` as a file.
pub(crate) fn part_bytes(world: &World, part: &Value) -> Vec<u8> {
    let path = part["path"].as_str().unwrap();
    fs::read(world.inside(Path::new(path).to_str().unwrap())).unwrap()
}
