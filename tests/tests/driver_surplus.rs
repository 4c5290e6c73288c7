// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Surplus pages leave when nobody needs them any more, however that came about.

use htlb_core::{Class, Exclusive, HugeSize, PageCount};
use htlb_tests::conformance::{pool, MachineSpec};
use htlb_tests::sim::SimMachine;

const MIB2: HugeSize = HugeSize::MIB2;

/// Linux: `unlock_or_release_subpool` gives the minimum back by `hugetlb_acct_memory`, which returns surplus pages.
#[test]
fn the_end_of_an_account_lets_the_surplus_page_of_its_minimum_go() {
    let machine = SimMachine::new(&MachineSpec::of(&[pool(MIB2, 2)]));
    let owner = machine.owner(Some((MIB2, None, 2))).expect("two pages");
    let counts = || machine.stock_of(MIB2).with(|stock| stock.counts());
    machine.stock_of(MIB2).with(|stock| {
        let has_pages = |class: &Class| !stock.ledger().class(*class).nr.is_zero();
        let class = (0..Class::COUNT)
            .filter_map(Class::from_index)
            .find(has_pages);
        let class = class.expect("a class with pages");
        stock
            .ledger_mut()
            .retire(class, PageCount::ONE)
            .expect("persistent pages");
    });
    assert_eq!((counts().nr.raw(), counts().surplus.raw()), (2, 1));

    machine.close(owner).expect("an idle account");
    assert_eq!((counts().nr.raw(), counts().surplus.raw()), (1, 0));
    machine.audit().expect("nothing is lost");
}
