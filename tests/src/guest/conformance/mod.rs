// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The conformance suite on the module: through `/dev/htlb` and its buffers' files, and, for what only a driver can do,
//! through a driver.
//!
//! The cases' machines are made by sizing the module's pools. A case's one node is the guest's second, whose memory lies
//! above 4 GiB altogether, so that a page below a mask is one of the first node.

mod buffer;
mod low;
mod machine;

use anyhow::Result;

use super::{skip, Case, Group, Module};
use crate::conformance::Ability::{
    Demote, DirtyWithinOwner, FilledAtBirth, FiniteSystem, OwnThread, Refusal,
};
use crate::conformance::{self, Ability, Unavailable, CASES};
use machine::{Kernel, Runs};

pub(super) const GROUP: Group = Group {
    name: "conformance",
    modules: &[
        Module::new("htlb", "overcommit_2m=0 overcommit_1g=0"),
        Module::new("htlb_probe", ""),
    ],
    cases: || {
        CASES
            .iter()
            .filter(|case| case.lacking(LACKS).is_none())
            .map(|case| Case::new(case.name, move || run(case)).within(120))
            .collect()
    },
};

/// The module breaks no page of 1 GiB, and keeps none for an owner. The kernel's own supply is as large as its memory; what
/// populates a buffer from the start are zeroes. A producer is a program here, and no thread of the program that waits for it;
/// files are closed whatever they are used for.
const LACKS: &[Ability] = &[
    Demote,
    DirtyWithinOwner,
    FilledAtBirth,
    FiniteSystem,
    OwnThread,
    Refusal,
];

fn run(case: &conformance::Case) -> Result<()> {
    let runs = if case.needs.contains(&Ability::Physical) {
        Runs::Wanted
    } else {
        Runs::Whatever
    };
    match case.attempt(|spec| Kernel::new(spec, runs)) {
        Ok(()) => Ok(()),
        Err(Unavailable(why)) => skip(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_some_case_needs_is_lacking() {
        for ability in LACKS {
            let needed = CASES.iter().any(|case| case.needs.contains(ability));
            assert!(needed, "no case needs {ability:?}");
        }
        let few = CASES.iter().filter(|case| case.lacking(LACKS).is_some());
        assert!(few.count() <= 20, "most of the suite applies");
    }
}
