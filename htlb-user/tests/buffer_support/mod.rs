// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What the tests of buffers share.
#![allow(dead_code, unreachable_pub)]

use std::env;
use std::process::{Command, Output, Stdio};

use htlb_core::{Error as Cause, HugeSize, PageCount, Rung};
use htlb_tests::host::PoolLease;
use htlb_tests::skip::skip;
use htlb_user::pools::{DeviceUse, PoolState, Pools, PoolsBuilder};

pub const MIB2: u64 = 2 << 20;
pub const PAGE: u64 = 4096;

/// The right to use so many huge pages of 2 MiB; says why not where there are none to be had.
///
/// Where the pool cannot be sized, one that has enough will do: tests that need an end of it set [`PoolsBuilder::limit`].
pub fn huge(test: &str, pages: u64) -> Option<PoolLease> {
    match PoolLease::with_at_least(HugeSize::MIB2, PageCount::new(pages)) {
        Ok(lease) => Some(lease),
        Err(why) => {
            skip(test, &why.to_string());
            None
        }
    }
}

/// Whether transparent huge pages can be had at this moment.
pub fn transparent(test: &str) -> bool {
    let pools = Pools::new().unwrap();
    match pools.buffer(2 * MIB2).transparent().strict().create() {
        Ok(_) => true,
        Err(error) => {
            skip(test, &error.to_string());
            false
        }
    }
}

/// Pools that hold at most so many hugetlb pages of 2 MiB, and check their books in every test.
pub fn limited(pages: u64) -> Pools {
    limits(pages).build().unwrap()
}

pub fn limits(pages: u64) -> PoolsBuilder {
    Pools::builder().device(DeviceUse::Never).limit(
        Rung::System,
        HugeSize::MIB2,
        PageCount::new(pages),
    )
}

/// Pages, free and promised ones of one pool, after its books were checked.
pub fn counts(pools: &Pools, rung: Rung, size: HugeSize) -> (u64, u64, u64) {
    pools.check().unwrap();
    let is_it = |pool: &PoolState| pool.rung == rung && pool.size == size;
    let counts = pools.state().into_iter().find(is_it).unwrap().counts;
    (counts.nr.raw(), counts.free.raw(), counts.reserved.raw())
}

pub fn base(pools: &Pools) -> (u64, u64, u64) {
    counts(pools, Rung::Base, HugeSize::BASE)
}

pub fn mib2(pools: &Pools) -> (u64, u64, u64) {
    counts(pools, Rung::System, HugeSize::MIB2)
}

/// The reason for an error, in the core's terms.
pub fn cause<T: std::fmt::Debug>(outcome: Result<T, htlb_user::Error>) -> Cause {
    outcome.unwrap_err().cause()
}

const ROLE: &str = "HTLB_TEST_ROLE";

/// What this process plays, where it is a child of [`again`].
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// The same test of this program once more, in a process of its own, which plays `role`.
pub fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, role);
    command
}

/// As [`again`], under a shell that prepares the way.
pub fn again_after(script: &str, test: &str, role: &str) -> Command {
    let again = again(test, role);
    let mut shell = Command::new("unshare");
    shell
        .args(["--mount", "--propagation", "private", "sh", "-euc"])
        .arg(format!("{script}\nexec \"$@\""))
        .arg("sh")
        .arg(again.get_program())
        .args(again.get_args())
        .env(ROLE, role);
    shell
}

/// Ends the test with what the child said, unless it went well.
pub fn went_well(mut command: Command) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        status.success(),
        "{status}\n{}\n{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
}

/// Whether a private mount namespace can be had.
pub fn can_unshare() -> bool {
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "true"]);
    unshare
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
