// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What may be locked, and what counts against that.

use htlb_core::ByteLen;
use htlb_user::sys::process::Limit;
use htlb_user::system::memlock::{self, Capability, Charge, Membership, Use};

use super::names;
use super::tree::Tree;

#[test]
fn what_counts_against_memlock() {
    let limit = |bytes| Limit {
        soft: bytes,
        hard: None,
    };
    let some = limit(Some(ByteLen::new(65536)));
    let tree = Tree::new(&[
        (
            "proc/self/status",
            "Gid:\t5\t5\t5\t5\nGroups:\t7 9 \nCapEff:\t0000000000000000\n",
        ),
        ("proc/sys/vm/hugetlb_shm_group", "0\n"),
    ]);
    let root = tree.root();
    let plain = memlock::read_with(&root, some).unwrap();
    assert_eq!(
        (plain.capability, plain.shm_member),
        (Capability::Lacking, Membership::Outside)
    );
    let counted = Charge::Counted(ByteLen::new(65536));
    assert_eq!(plain.charge(Use::HugetlbMapping), Charge::Free);
    assert_eq!(plain.charge(Use::ShmHugetlb), Charge::Refused);
    assert_eq!(
        plain.charge(Use::MlockHugetlb),
        Charge::Checked(ByteLen::new(65536))
    );
    for what in [Use::Mlock, Use::RdmaPin, Use::IoUringFixed, Use::VfioPin] {
        assert_eq!(plain.charge(what), counted);
    }
    tree.write("proc/sys/vm/hugetlb_shm_group", b"9\n");
    let member = memlock::read_with(&root, some).unwrap();
    assert_eq!(member.charge(Use::ShmHugetlb), Charge::Free);
    let unlimited = memlock::read_with(&root, limit(None)).unwrap();
    assert_eq!(unlimited.charge(Use::RdmaPin), Charge::Free);
    tree.write("proc/self/status", b"CapEff:\t0000000000004000\n");
    let capable = memlock::read_with(&root, some).unwrap();
    assert!(Use::ALL
        .iter()
        .all(|what| capable.charge(*what) == Charge::Free));
    tree.write("proc/self/status", b"CapEff:\tyes\n");
    names(memlock::read_with(&root, some), "proc/self/status", "yes");
}
