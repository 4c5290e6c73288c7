// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A machine's folders that nobody else uses, and what must be in them and in the pools.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use htlb_core::{HugeSize, PageCount};
use htlb_tests::figures;
use htlb_tests::host::{Counter, HugePools, Place, PoolLease};
use htlb_tests::skip::skip;
use htlb_tests::tree;
use htlb_user::store::{Config, Record, Store, StoreError};
use htlb_user::Named;
use rustix::fs::{flock, FlockOperation};

use crate::this_program;
use crate::victim::{is_whole, KEPT, KEPT_BYTES};

/// In the namespace.
const FILES: &str = "/run/files";
/// A file of which loads are made.
const SOURCE: &str = "/run/files/source";

/// Runs `child`, a test of this program, where it has the folders for itself and `pages` huge pages, and may make as many surplus ones.
pub(crate) fn in_a_namespace(test: &str, child: &str, pages: u64) {
    let lease = match PoolLease::with_pages(HugeSize::MIB2, PageCount::new(pages)) {
        Ok(lease) => lease,
        Err(why) => return skip(test, &why.to_string()),
    };
    let surplus = PageCount::new(pages);
    lease.set_overcommit(HugeSize::MIB2, surplus).unwrap();
    // A hugetlbfs that is mounted already would be used before one of ours, and is not empty perhaps.
    let script = "for mount in $(awk '$3 == \"hugetlbfs\" { print $2 }' /proc/mounts); do umount -l \"$mount\"; done
        for folder in /run /dev/shm; do mount -t tmpfs -o mode=1777 none $folder || exit 77; done
        chmod 755 /run && mkdir -m 1777 /run/files /run/tmp && export TMPDIR=/run/tmp && exec \"$@\"";
    let program = this_program(child);
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(program.get_program())
        .args(program.get_args())
        .env("HTLB_TEST_GROUND", "1")
        .stdin(Stdio::null())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skip(test, &format!("no unshare(1): {error}")),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("unshare failed") || output.status.code() == Some(77) {
        return skip(test, "no mount namespace can be made here");
    }
    assert!(output.status.success(), "{said}{errors}");
    let ours = |line: &&str| line.starts_with("killed:") || line.starts_with("at once:");
    said.lines().filter(ours).for_each(figures::note);
}

/// The counters of the pools, and the files, while there is but the buffer that is kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pools: Pools,
    /// Without those of the buffer that is kept, whose id changes with each load.
    files: BTreeSet<PathBuf>,
}

/// Total, free, reserved, surplus and overcommit pages, by size in bytes.
type Pools = BTreeMap<u64, [u64; 5]>;

pub(crate) struct Ground {
    store: Store,
}

impl Ground {
    /// The ground that the caller of [`in_a_namespace`] has made; none where a child's test is run by itself.
    pub(crate) fn told() -> Option<Self> {
        std::env::var_os("HTLB_TEST_GROUND")?;
        Some(Self {
            store: Store::open(Config::system(Vec::new()).unwrap()).unwrap(),
        })
    }

    /// Where victim number `number` says how far it is.
    pub(crate) fn phase_file(&self, number: u64) -> PathBuf {
        Path::new(FILES).join(format!("phase-{number}"))
    }

    pub(crate) fn source(&self) -> &'static str {
        SOURCE
    }

    /// Makes what is kept, and everything that the first one makes for those after it.
    pub(crate) fn start(&self) -> Start {
        fs::write(SOURCE, vec![7; KEPT_BYTES]).unwrap();
        for (name, page) in [(KEPT, "2M"), ("first", "base")] {
            let load = self.htlb(&[
                "load",
                SOURCE,
                "--name",
                name,
                "--page-size",
                page,
                "--strict",
            ]);
            assert!(load.status.success(), "{load:?}");
        }
        self.store.remove("first").unwrap();
        self.list();
        let kept = self.kept();
        let mut files = files();
        for path in self.files_of(&kept) {
            assert!(files.remove(&path), "{} is not there", path.display());
        }
        Start {
            pools: pools(),
            files,
        }
    }

    fn htlb(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_htlb"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// One `htlb ls`.
    pub(crate) fn list(&self) {
        let listing = self.htlb(&["ls", "--json"]);
        assert!(listing.status.success(), "{listing:?}");
        let text = String::from_utf8_lossy(&listing.stdout);
        assert!(text.contains(&format!("\"{KEPT}\"")), "{text}");
    }

    /// One `htlb cat` of what is kept, which is always there and always whole.
    pub(crate) fn cat(&self) {
        let content = self.htlb(&["cat", KEPT]);
        assert!(content.status.success(), "{:?}", content.stderr);
        assert!(content.stdout.len() == KEPT_BYTES && is_whole(&content.stdout));
    }

    fn kept(&self) -> Record {
        let named = Named::attach(&self.store, KEPT).unwrap();
        assert!(named.as_slice().len() == KEPT_BYTES && is_whole(named.as_slice()));
        named.record().clone()
    }

    fn files_of(&self, record: &Record) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = record.paths().collect();
        files.push(self.store.index().join("names").join(record.name.as_str()));
        files
    }

    /// Compares everything with the start, but for the names that victims had published: first with them, then without. Says how
    /// many there were.
    pub(crate) fn check(&self, start: &Start) -> u64 {
        self.no_locks();
        let mut records = Vec::new();
        for entry in self.store.list().unwrap() {
            match entry.state {
                Ok(record) => records.push(record),
                Err(error) => panic!("{}: {error}", entry.name),
            }
        }
        let (kept, others): (Vec<_>, Vec<_>) = records
            .into_iter()
            .partition(|record| record.name.as_str() == KEPT);
        assert_eq!(kept.len(), 1);
        self.compare(start, &kept, &others);
        for record in &others {
            let named = Named::attach(&self.store, record.name.as_str()).unwrap();
            assert!(is_whole(named.as_slice()), "{}", record.name);
            drop(named);
            let reaped = self.store.remove(record.name.as_str()).unwrap();
            assert_eq!(reaped.files, record.parts.len() as u64);
        }
        self.compare(start, &[self.kept()], &[]);
        others.len() as u64
    }

    fn compare(&self, start: &Start, kept: &[Record], others: &[Record]) {
        let mut expected = start.files.clone();
        for record in kept.iter().chain(others) {
            expected.extend(self.files_of(record));
        }
        let found = files();
        assert_eq!(found, expected, "files, without those that were killed");

        let mut counts = start.pools.clone();
        for part in others.iter().flat_map(|record| &record.parts) {
            if let Some([total, free, _, surplus, _]) = counts.get_mut(&part.page_size.bytes()) {
                let persistent = *total - *surplus;
                let used = *total - *free + part.len / part.page_size.bytes();
                // A page that comes back is surplus first.
                *surplus = used.saturating_sub(persistent);
                *total = persistent + *surplus;
                *free = *total - used;
            }
        }
        // The kernel may free a killed process's memory a moment after it is gone.
        let mut now = pools();
        for _ in 0..100 {
            if now == counts {
                return;
            }
            thread::sleep(Duration::from_millis(10));
            now = pools();
        }
        assert_eq!(
            now, counts,
            "total, free, reserved, surplus, overcommit by size"
        );
    }

    /// Nobody holds a lock on a folder, and no load is under way.
    fn no_locks(&self) {
        let index = self.store.index();
        for folder in [index.clone(), index.join("names"), index.join("loading")] {
            let opened = File::open(&folder).unwrap();
            let locked = flock(&opened, FlockOperation::NonBlockingLockExclusive);
            assert!(locked.is_ok(), "{} is locked", folder.display());
        }
        let loading: Vec<_> = fs::read_dir(index.join("loading")).unwrap().collect();
        assert!(loading.is_empty(), "{loading:?}");
        let missing = self.store.open_name("nobody published this");
        assert!(matches!(missing, Err(StoreError::NotFound { .. })));
    }
}

/// The surplus pages of 2 MiB that there are now.
pub(crate) fn surplus() -> u64 {
    pools()[&HugeSize::MIB2.bytes()][3]
}

fn pools() -> Pools {
    let pools = HugePools::system();
    let counters = [
        Counter::Total,
        Counter::Free,
        Counter::Reserved,
        Counter::Surplus,
        Counter::Overcommit,
    ];
    let sizes = pools.sizes().unwrap();
    let counts =
        |size| counters.map(|counter| pools.read(Place::Machine, size, counter).unwrap().raw());
    sizes
        .into_iter()
        .map(|size| (size.bytes(), counts(size)))
        .collect()
}

/// Everything below the folders that the command uses, folders too.
fn files() -> BTreeSet<PathBuf> {
    tree::below(["/run/htlb", "/dev/shm", "/run/tmp"].map(PathBuf::from))
}
