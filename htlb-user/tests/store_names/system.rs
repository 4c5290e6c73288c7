// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The folders that a store uses on a system, with and without rights.
//!
//! Needs root, to put file systems of its own over `/run`, `/tmp` and `/dev/shm`.

use std::path::Path;
use std::process::Command;

use htlb_core::HugeSize;
use htlb_user::store::{Backing, Config, Store};

use super::{in_own_namespace, publish, read};

fn mount(options: &str, path: &str) {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "none", path]);
    assert!(command.status().unwrap().success());
}

#[test]
fn the_index_is_where_this_user_may_write() {
    in_own_namespace("system::system_child");
}

#[test]
#[ignore = "the child of the_index_is_where_this_user_may_write"]
fn system_child() {
    if std::env::var_os("HTLB_TEST_NAMESPACE").is_none() {
        return;
    }
    std::env::remove_var("XDG_RUNTIME_DIR");
    mount("mode=0755", "/run");
    mount("mode=1777", "/tmp");
    mount("mode=1777", "/dev/shm");

    let config = Config::system(Vec::new()).unwrap();
    assert_eq!(config.index, Path::new("/run/htlb/index"));
    let store = Store::open(config).unwrap();
    publish(&store, "a", Backing::SharedMemory, 1).unwrap();
    assert_eq!(read(&store, "a").unwrap(), 1);
    // A page size that no machine has cannot be mounted, and the message says what was tried.
    let no_size = Backing::Hugetlb(HugeSize::from_order(1).unwrap());
    let error = store.place(no_size).unwrap_err().to_string();
    assert!(
        error.contains("mount a hugetlbfs on /run/htlb/mounts/"),
        "{error}"
    );
    store.remove("a").unwrap();

    // A container whose /run cannot be written: the runtime folder if there is one, else /tmp.
    mount("mode=0755,ro", "/run");
    assert_eq!(
        Config::system(Vec::new()).unwrap().index,
        Path::new("/tmp/htlb-0")
    );
    std::fs::create_dir("/tmp/runtime").unwrap();
    std::env::set_var("XDG_RUNTIME_DIR", "/tmp/runtime");
    assert_eq!(
        Config::system(Vec::new()).unwrap().index,
        Path::new("/tmp/runtime/htlb")
    );
    std::env::set_var("XDG_RUNTIME_DIR", "relative");
    let config = Config::system(Vec::new()).unwrap();
    assert_eq!(config.index, Path::new("/tmp/htlb-0"));
    Store::open(config).unwrap();

    // Somebody else was in /tmp first.
    let given = std::os::unix::fs::chown("/tmp/htlb-0", Some(12_345), None);
    if given.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
        // The root of a user namespace knows nobody else; what came before has passed.
        return;
    }
    let error = Config::system(Vec::new()).unwrap_err().to_string();
    assert!(
        error.contains("/tmp/htlb-0") && error.contains("12345"),
        "{error}"
    );
}
