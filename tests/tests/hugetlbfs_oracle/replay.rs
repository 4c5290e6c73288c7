// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Cases by seed: how one is run, made shorter, and run again.

use std::panic::{catch_unwind, AssertUnwindSafe};

use htlb_tests::conformance::MachineSpec;
use htlb_tests::sim::SimMachine;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::linux::Linux;
use crate::op::{self, Op, MOUNTS};
use crate::world::{Counted, Kernel, Stepped, Tally, World};

/// How often a failing case is run again to make it shorter.
const SHORTER: usize = 3000;

/// How often a case is run again because the machine had no huge page for Linux where the pool may grow.
const WHOLE: usize = 20;

/// Why a case did not end as it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The two sides are not the same.
    Differs(String),
    /// The machine's memory is in pieces, so Linux gets less than its pool may have.
    Fragmented(String),
}

/// The operations of a seed.
fn tree(seed: u64) -> impl ValueTree<Value = Vec<Op>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let tree = op::case().new_tree(&mut runner);
    tree.expect("every case is legal")
}

/// Runs the case of a seed.
///
/// # Errors
/// The shortest case that fails like it, and how to run it again; or that there was no memory to run it.
pub(crate) fn seeded(
    seed: u64,
    linux: &mut Linux,
    kernel: Kernel,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut tree = tree(seed);
    let mut failed = match run(&tree.current(), linux, kernel, tally) {
        Ok(()) => return Ok(()),
        Err(Failure::Differs(why)) => (tree.current(), why),
        Err(fragmented) => return Err(fragmented),
    };
    let mut fails = true;
    for _ in 0..SHORTER {
        // A kernel that has lost count would fail whatever follows.
        if empty(linux, "").is_err() {
            break;
        }
        if !(if fails {
            tree.simplify()
        } else {
            tree.complicate()
        }) {
            break;
        }
        let ops = tree.current();
        match run(&ops, linux, kernel, &mut Tally::default()) {
            Ok(()) | Err(Failure::Fragmented(_)) => fails = false,
            Err(Failure::Differs(why)) => {
                fails = true;
                failed = (ops, why);
            }
        }
    }
    let (ops, why) = failed;
    let ops: Vec<String> = ops.iter().map(|op| format!("    {op:?},\n")).collect();
    Err(Failure::Differs(format!(
        "{why}\nin [\n{}]\nrun it again with HTLB_ORACLE_SEED={seed} cargo test -p htlb-tests --test hugetlbfs_oracle",
        ops.concat()
    )))
}

/// Runs one case on an empty machine, and leaves it empty: again where Linux had less memory than the case has.
///
/// # Errors
/// What was not the same on both sides.
pub(crate) fn run(
    ops: &[Op],
    linux: &mut Linux,
    kernel: Kernel,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let mut last = String::new();
    for _ in 0..WHOLE {
        let (fragmented, before) = (linux.fragmented(), tally.clone());
        let Err(why) = once(ops, linux, kernel, tally) else {
            return Ok(());
        };
        if linux.fragmented() == fragmented {
            return Err(Failure::Differs(why));
        }
        *tally = before;
        tally.fragmented += 1;
        linux.compact();
        last = why;
    }
    Err(Failure::Fragmented(last))
}

fn once(ops: &[Op], linux: &mut Linux, kernel: Kernel, tally: &mut Tally) -> Result<(), String> {
    empty(linux, "before the case")?;
    let outcome = catch_unwind(AssertUnwindSafe(|| steps(ops, linux, kernel, tally)));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        Err(format!("a panic: {}", text.unwrap_or("of another kind")))
    });
    outcome.and(empty(linux, "after the case"))
}

fn empty(linux: &mut Linux, when: &str) -> Result<(), String> {
    match linux.clear() {
        Ok(counted) if counted == Counted::default() => Ok(()),
        left => Err(format!("{when} the kernel has {left:?}")),
    }
}

fn steps(ops: &[Op], linux: &mut Linux, kernel: Kernel, tally: &mut Tally) -> Result<(), String> {
    let machine = SimMachine::new(&MachineSpec::of(&[]));
    let mut world = World::new(&machine, linux, kernel, tally);
    let end = (0..MOUNTS)
        .map(|mount| Op::Unmount { mount })
        .chain([Op::Overcommit { pages: 0 }, Op::Resize { pages: 0 }]);
    for (number, op) in ops.iter().copied().chain(end).enumerate() {
        match world.step(op) {
            Ok(Stepped::Done | Stepped::Nothing) => {}
            Ok(Stepped::Parted) => return Ok(()),
            Err(why) => return Err(format!("step {number}, {op:?}: {why}")),
        }
    }
    match world.htlb.counted() {
        counted if counted == Counted::default() => Ok(()),
        counted => Err(format!("the core ends with {counted:?}")),
    }
}
