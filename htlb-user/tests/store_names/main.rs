// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Named buffers, as files on a real kernel: what they promise, processes that die, and processes at once.

mod crash;
mod full;
mod hugetlb;
mod names;
mod system;
mod together;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use htlb_core::HugeSize;
use htlb_tests::tree;
use htlb_user::store::{Backing, Config, Meta, Mount, Record, Store, StoreError, UnlinkedFiles};

/// A folder on shared memory, or on whatever there is, removed at the end.
pub(crate) struct Root(pub(crate) PathBuf);

impl Root {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let shared = Path::new("/dev/shm");
        let temporary = std::env::temp_dir();
        let base = if shared.is_dir() { shared } else { &temporary };
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("htlb-test-{name}-{}-{next}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    pub(crate) fn config(&self) -> Config {
        Config::within(&self.0, Vec::new()).unwrap()
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(self.config()).unwrap()
    }

    /// Every file below, but for the records' content.
    pub(crate) fn listing(&self) -> BTreeSet<PathBuf> {
        tree::below([self.0.clone()])
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // What a test mounted here, in its own namespace, keeps the folders from being removed.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let fields = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for path in fields.filter(|path| Path::new(path).starts_with(&self.0)) {
            let _ = Command::new("umount").arg(path).status();
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Content that says which load it is of: every byte, and the length.
pub(crate) fn content(tag: u8) -> Vec<u8> {
    vec![tag; 10_000 + usize::from(tag)]
}

/// Loads content in two parts.
pub(crate) fn publish(
    store: &Store,
    name: &str,
    backing: Backing,
    tag: u8,
) -> Result<Record, StoreError> {
    let content = content(tag);
    let mut pending = store.create(name)?;
    let mut rest = &content[..];
    for len in [4096, content.len() - 4096] {
        let part = pending.add(backing, len as u64)?;
        let mut memory = pending.parts()[part].map()?;
        memory.populate().unwrap();
        let room = memory.len();
        let mut span = memory.span().unwrap();
        assert!(room >= len);
        rest = &rest[span.write(rest)..];
    }
    assert!(rest.is_empty());
    pending.publish(content.len() as u64, Meta::default())
}

/// The tag of a load that is found whole.
pub(crate) fn read(store: &Store, name: &str) -> Result<u8, StoreError> {
    let named = store.open_name(name)?;
    let mut found = Vec::new();
    named.copy_to(&mut found).unwrap();
    let tag = found[0];
    assert!(
        found == content(tag),
        "half a file, or a mixture, of {} bytes",
        found.len()
    );
    Ok(tag)
}

pub(crate) fn is_not_found<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::NotFound { .. }))
}

/// This test program again, for one test that only runs as a child.
pub(crate) fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        test,
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

/// Runs a test in a child with mounts of its own, or says loudly that it cannot.
pub(crate) fn in_own_namespace(test: &str) {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]);
    command.arg(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        test,
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    match command.env("HTLB_TEST_NAMESPACE", "1").output() {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            said.lines()
                .filter(|line| line.contains("SKIPPED"))
                .for_each(|line| eprintln!("{line}"));
        }
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
            eprintln!("SKIPPED {test}: no mount namespace can be made here: run the tests as root");
        }
        Ok(output) => panic!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => eprintln!("SKIPPED {test}: no unshare(1): {error}"),
    }
}

/// What a child is told about the store it shall use, and what it makes of it.
pub(crate) struct Setting {
    pub(crate) root: PathBuf,
    /// A hugetlbfs with 2 MiB pages, or none.
    pub(crate) mount: Option<PathBuf>,
    pub(crate) unlinked_files: UnlinkedFiles,
}

impl Setting {
    pub(crate) fn tell(&self, command: &mut Command) {
        command.env("HTLB_TEST_ROOT", &self.root);
        if let Some(mount) = &self.mount {
            command.env("HTLB_TEST_MOUNT", mount);
        }
        if self.unlinked_files == UnlinkedFiles::Never {
            command.env("HTLB_TEST_LINKED", "1");
        }
    }

    /// `None`: this is not a child.
    pub(crate) fn told() -> Option<Self> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Some(Self {
            root: path("HTLB_TEST_ROOT")?,
            mount: path("HTLB_TEST_MOUNT"),
            unlinked_files: match path("HTLB_TEST_LINKED") {
                Some(_) => UnlinkedFiles::Never,
                None => UnlinkedFiles::WherePossible,
            },
        })
    }

    pub(crate) fn config(&self) -> Config {
        let mount = |path: &PathBuf| Mount {
            path: path.clone(),
            page_size: HugeSize::MIB2,
        };
        let mut config =
            Config::within(&self.root, self.mount.iter().map(mount).collect()).unwrap();
        config.unlinked_files = self.unlinked_files;
        config
    }

    pub(crate) fn backing(&self) -> Backing {
        match self.mount {
            Some(_) => Backing::Hugetlb(HugeSize::MIB2),
            None => Backing::SharedMemory,
        }
    }
}
