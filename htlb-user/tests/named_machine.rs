// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What named buffers ask of a machine, on machines made of files.

use std::fs;
use std::path::{Path, PathBuf};

use htlb_core::{policy, ByteLen, HugeSize, NodeMask, PageChoice, Request, Rung};
use htlb_user::named::Machine;
use htlb_user::system::cgroup::Cgroups;
use htlb_user::system::mounts;
use htlb_user::system::thp::When;
use htlb_user::system::Root;

struct Files(PathBuf);

impl Files {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let root = std::env::temp_dir().join(format!("htlb-machine-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(root)
    }

    fn root(&self) -> Root {
        Root::at(&self.0)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn rungs(machine: &Machine, page: PageChoice, bytes: u64) -> Vec<(Rung, HugeSize)> {
    let request = Request::builder(ByteLen::new(bytes))
        .page(page)
        .build()
        .unwrap();
    let topology = machine.topology(page, Some(Path::new("/dev/shm")));
    let ladder = policy::resolve(&request, &topology).unwrap();
    ladder
        .attempts()
        .filter(|attempt| attempt.rung != Rung::Pool)
        .map(|attempt| (attempt.rung, attempt.size))
        .collect()
}

const MEMINFO: &str = "MemTotal: 1000 kB\nMemAvailable: 900 kB\nHugePages_Total: 0\nHugePages_Free: 0\nHugePages_Rsvd: 0\nHugePages_Surp: 0\nHugepagesize: 2048 kB\n";
const POOL_1G: &str = "sys/kernel/mm/hugepages/hugepages-1048576kB";

#[test]
fn empty_pools_that_nobody_named_are_passed_over() {
    let files = Files::new(
        "pools",
        &[
            ("proc/meminfo", MEMINFO),
            (
                "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                "0\n",
            ),
            (&format!("{POOL_1G}/nr_hugepages"), "0\n"),
        ],
    );
    let two = [(Rung::System, HugeSize::MIB2), (Rung::Base, HugeSize::BASE)];
    let machine = Machine::at(files.root());
    assert_eq!(rungs(&machine, PageChoice::Automatic, 3 << 30), two);
    let gib = (Rung::System, HugeSize::GIB1);
    assert_eq!(
        rungs(&machine, PageChoice::Huge(HugeSize::GIB1), 3 << 30)[0],
        gib
    );
    fs::write(files.0.join(POOL_1G).join("nr_hugepages"), "1\n").unwrap();
    fs::write(files.0.join(POOL_1G).join("free_hugepages"), "1\n").unwrap();
    assert_eq!(rungs(&machine, PageChoice::Automatic, 3 << 30)[0], gib);
}

#[test]
fn a_machine_of_which_nothing_is_known_has_base_pages() {
    let machine = Machine::at(Root::at("/nonexistent"));
    assert_eq!(machine.nodes(), NodeMask::from_bits(1));
    assert_eq!(
        rungs(&machine, PageChoice::Automatic, 3 << 30),
        [(Rung::Base, HugeSize::BASE)]
    );
    // Without /sys the default size is known still.
    let files = Files::new("proc", &[("proc/meminfo", MEMINFO)]);
    let machine = Machine::at(files.root());
    assert_eq!(
        rungs(&machine, PageChoice::Automatic, 3 << 20)[0],
        (Rung::System, HugeSize::MIB2)
    );
}

#[test]
fn transparent_pages_follow_the_settings_and_the_mount() {
    const THP: &str = "sys/kernel/mm/transparent_hugepage";
    let case = |enabled: &str, shmem: &str, options: &str| {
        let mountinfo = format!(
            "1 0 0:1 / / rw - ext4 /dev/x rw\n2 1 0:2 / /dev/shm rw - tmpfs tmpfs rw{options}\n3 1 0:3 / /dev/shmem rw - tmpfs tmpfs rw\n"
        );
        let files = Files::new(
            "thp",
            &[
                (&format!("{THP}/enabled"), enabled),
                (&format!("{THP}/shmem_enabled"), shmem),
                (&format!("{THP}/hpage_pmd_size"), "2097152\n"),
                ("proc/self/mountinfo", &mountinfo),
            ],
        );
        let rungs = rungs(&Machine::at(files.root()), PageChoice::Automatic, 3 << 20);
        rungs.contains(&(Rung::Transparent, HugeSize::MIB2))
    };
    let (always, madvise, never) = (
        "[always] madvise never",
        "always [madvise] never",
        "always madvise [never]",
    );
    assert!(case(
        madvise,
        "always within_size [advise] never deny force",
        ""
    ));
    assert!(case(
        always,
        "[always] within_size advise never deny force",
        ""
    ));
    assert!(!case(
        never,
        "always within_size [advise] never deny force",
        ""
    ));
    assert!(case(
        never,
        "always within_size advise never deny [force]",
        ""
    ));
    let off = "always within_size advise [never] deny force";
    assert!(!case(madvise, off, ""));
    assert!(case(madvise, off, ",huge=within_size"));
    assert!(!case(madvise, off, ",huge=never"));
    assert!(!case(
        madvise,
        "always within_size advise never [deny] force",
        ",huge=always"
    ));
}

#[test]
fn the_mount_that_is_seen_decides() {
    let files = Files::new(
        "mounts",
        &[(
            "proc/self/mountinfo",
            "1 0 0:1 / / rw - tmpfs root rw,huge=always\n2 1 0:2 / /a rw - tmpfs none rw,huge=never\n\
             3 2 0:3 / /a rw - tmpfs none rw,huge=advise\n4 1 0:4 / /b rw - ext4 /dev/x rw\n",
        )],
    );
    let of = |path: &str| mounts::transparent(&files.root(), Path::new(path)).unwrap();
    assert_eq!(of("/a/x"), Some(When::Advised));
    assert_eq!(of("/b/x"), None);
    assert_eq!(of("/ab"), Some(When::Always));
}

#[test]
fn a_limit_names_the_command_that_lifts_it() {
    let files = Files::new(
        "groups",
        &[
            ("proc/self/cgroup", "0::/a/b\n"),
            (
                "proc/self/mountinfo",
                "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 none rw\n",
            ),
            ("sys/fs/cgroup/a/hugetlb.2MB.max", "8388608\n"),
            ("sys/fs/cgroup/a/hugetlb.2MB.current", "0\n"),
            ("sys/fs/cgroup/a/b/hugetlb.2MB.max", "max\n"),
            ("sys/fs/cgroup/a/b/hugetlb.2MB.current", "0\n"),
            ("sys/fs/cgroup/a/b/hugetlb.2MB.rsvd.max", "4194304\n"),
            ("sys/fs/cgroup/a/b/hugetlb.2MB.rsvd.current", "2097152\n"),
            ("sys/fs/cgroup/a/b/memory.max", "1048576\n"),
            ("sys/fs/cgroup/a/b/memory.current", "1048576\n"),
            (
                "sys/fs/cgroup/a/b/memory.stat",
                "anon 5\ninactive_file 4096\nactive_file 8192\n",
            ),
        ],
    );
    let groups = Cgroups::find(&files.root()).unwrap();
    let limits = groups
        .hugetlb(&files.root(), HugeSize::MIB2)
        .unwrap()
        .unwrap();
    assert_eq!(limits.room(), Some(ByteLen::new(2 << 20)));
    assert_eq!(
        limits.command().as_deref(),
        Some("echo max | sudo tee /sys/fs/cgroup/a/b/hugetlb.2MB.rsvd.max")
    );
    assert_eq!(groups.reclaimable(&files.root()).unwrap().raw(), 12_288);
    assert_eq!(
        groups.memory(&files.root()).unwrap().unwrap().room,
        Some(ByteLen::ZERO)
    );
}
