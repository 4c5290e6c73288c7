// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The runner keeps its word: each mode is what its name says, and a lease on the real pools is undone.

use htlb_core::{HugeSize, PageCount};
use htlb_tests::host::{HugePools, PoolLease};
use htlb_tests::skip::skip;
use std::io;
use std::path::Path;

const SIZE: HugeSize = HugeSize::MIB2;

/// What trying to add one page to the pool says, the pool left as it was.
fn try_to_grow() -> io::Result<()> {
    let lease = PoolLease::take()?;
    let available = lease.pools().available(SIZE)?;
    let more = PageCount::new(available.raw() + 1);
    lease.make_available(SIZE, more).map(drop)
}

#[test]
fn the_mode_is_what_its_name_says() {
    let Ok(mode) = std::env::var("HTLB_TEST_MODE") else {
        return skip("the_mode_is_what_its_name_says", "not run by cargo xtask");
    };
    let is_root = rustix::process::geteuid().is_root();
    let pages = HugePools::system()
        .available(SIZE)
        .map_or(0, PageCount::raw);
    let grown = try_to_grow().map_err(|error| error.kind());
    match mode.as_str() {
        "pool" => {
            assert!(is_root && pages > 0, "{pages} pages");
            assert_eq!(grown, Ok(()));
        }
        "empty" => {
            assert!(is_root && pages == 0, "{pages} pages");
            assert_eq!(grown, Err(io::ErrorKind::ReadOnlyFilesystem));
        }
        "unprivileged" => {
            assert!(!is_root && pages > 0, "{pages} pages");
            assert_eq!(grown, Err(io::ErrorKind::PermissionDenied));
        }
        "container" => {
            assert!(is_root && pages == 0, "{pages} pages");
            assert!(grown.is_err());
        }
        "as-found" => assert!(!is_root),
        other => panic!("no such mode: {other}"),
    }
}

#[test]
fn the_mode_has_its_own_folders_and_finds_the_sources() {
    if std::env::var_os("HTLB_TEST_MODE").is_none() {
        return skip(
            "the_mode_has_its_own_folders_and_finds_the_sources",
            "not run by cargo xtask",
        );
    }
    let file = std::env::temp_dir().join("machine-test");
    std::fs::write(&file, "x").expect("TMPDIR is the mode's own");
    std::fs::remove_file(&file).expect("TMPDIR is the mode's own");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    assert!(manifest.is_file(), "{} is out of reach", manifest.display());
    let folder = std::env::current_dir().expect("the package's folder is in reach");
    assert_eq!(folder, Path::new(env!("CARGO_MANIFEST_DIR")));
}

#[test]
fn a_lease_on_the_real_pool_gives_exactly_what_is_asked_and_takes_it_back() {
    let name = "a_lease_on_the_real_pool_gives_exactly_what_is_asked_and_takes_it_back";
    for pages in [3, 1, 0].map(PageCount::new) {
        let lease = match PoolLease::with_pages(SIZE, pages) {
            Ok(lease) => lease,
            Err(why) => return skip(name, &why.to_string()),
        };
        assert_eq!(
            lease.pools().available(SIZE).expect("it was just read"),
            pages
        );
    }
    // The pool's size before a lease is known only under another one.
    let outer = PoolLease::take().expect("it was just taken");
    let journal = outer.pools().settings().expect("they were just read");
    let total = outer
        .set_total(SIZE, PageCount::ZERO)
        .expect("it was just set");
    assert!(total.is_zero(), "{} pages are in use", total.raw());
    drop(outer);
    let again = PoolLease::take().expect("it was just taken");
    assert_eq!(
        again.pools().settings().expect("they were just read"),
        journal
    );
}
