// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Mounts of hugetlbfs.

use std::path::PathBuf;

use htlb_core::HugeSize;
use htlb_user::system::mounts::{self, Access};

use super::tree::Tree;
use super::{mib, names};

#[test]
fn mounts_with_every_escape() {
    let tree = Tree::new(&[
        ("proc/meminfo", "Hugepagesize: 2048 kB\n"),
        (
            "proc/self/mountinfo",
            "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
             40 27 0:40 / /dev/hugepages rw,relatime shared:3 master:1 - hugetlbfs none rw,pagesize=1024M,size=2147483648,min_size=1073741824,nr_inodes=12k\n\
             41 27 0:41 / /mnt/a\\040b\\134c\\011d\\999\\04 ro - hugetlbfs - with\\040space rw\n\
             42 27 0:42 / /mnt/x rw - hugetlbfs none ro,gid=100,mode=1770,pagesize=2M\n\
             43 27 0:43 / /mnt/short rw - hugetlbfs none\n",
        ),
    ]);
    let found = mounts::hugetlbfs(&tree.root()).unwrap();
    assert_eq!(found.len(), 4);
    assert_eq!(found[0].page_size, Some(HugeSize::GIB1));
    assert_eq!(
        (found[0].limit, found[0].minimum, found[0].inodes),
        (Some(mib(2048)), Some(mib(1024)), Some(12288))
    );
    assert_eq!(found[1].path, PathBuf::from("/mnt/a b\\c\td\\999\\04"));
    assert_eq!(
        (found[1].access, found[1].page_size),
        (Access::ReadOnly, Some(HugeSize::MIB2))
    );
    assert_eq!(
        (found[2].access, found[3].access),
        (Access::ReadOnly, Access::ReadWrite)
    );
    for (line, text) in [
        ("1 2 3", "1 2 3"),
        ("1 2 0:1 / relative rw - hugetlbfs none rw", "relative"),
        ("1 2 0:1 / /x rw hugetlbfs none rw", "/x"),
        (
            "1 2 0:1 / /x rw - hugetlbfs none pagesize=3M",
            "pagesize=3M",
        ),
        (
            "1 2 0:1 / /x rw - hugetlbfs none pagesize=18446744073709551615G",
            "pagesize",
        ),
        ("1 2 0:1 / /x rw - hugetlbfs none size=", "size="),
    ] {
        tree.write("proc/self/mountinfo", line.as_bytes());
        names(mounts::hugetlbfs(&tree.root()), "mountinfo", text);
    }
}
