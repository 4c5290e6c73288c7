// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! A process killed with SIGKILL at every stage: the next command finds nothing of it.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use htlb_user::store::{Backing, Store, UnlinkedFiles};

use super::{child, is_not_found, publish, read, Root, Setting};

/// The stage at which this process dies; counted from 0, over all that it does.
static DEATH: AtomicUsize = AtomicUsize::new(usize::MAX);
static REACHED: AtomicUsize = AtomicUsize::new(0);

fn perhaps_die() {
    if REACHED.fetch_add(1, Ordering::Relaxed) == DEATH.load(Ordering::Relaxed) {
        let pid = std::process::id().to_string();
        let _ = Command::new("kill").args(["-KILL", &pid]).status();
        // Not reached: SIGKILL needs no consent.
        std::process::abort();
    }
}

#[test]
#[ignore = "the child of the other tests of this module"]
fn victim() {
    let Some(setting) = Setting::told() else {
        return;
    };
    DEATH.store(
        std::env::var("HTLB_TEST_DEATH").unwrap().parse().unwrap(),
        Ordering::Relaxed,
    );
    let mut config = setting.config();
    config.on_stage = |_| perhaps_die();
    let store = Store::open(config).unwrap();
    match std::env::var("HTLB_TEST_ACT").unwrap().as_str() {
        "load" => drop(publish(&store, "a", setting.backing(), 2).unwrap()),
        "remove" => drop(store.remove("a").unwrap()),
        act => panic!("{act}"),
    }
}

/// Runs `act` to its death at stage `death`; whether it lived to the end.
fn survives(setting: &Setting, act: &str, death: usize) -> bool {
    let mut command = child("crash::victim");
    setting.tell(&mut command);
    let output = command
        .env("HTLB_TEST_ACT", act)
        .env("HTLB_TEST_DEATH", death.to_string())
        .output()
        .unwrap();
    assert!(
        output.status.success() || output.status.signal() == Some(9),
        "{act}, stage {death}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.status.success()
}

/// Kills loads and removals at every stage, with and without a buffer under that name before.
pub(crate) fn die_everywhere(root: &Root, setting: &Setting, backing: Backing) {
    let store = Store::open(setting.config()).unwrap();
    // The folders that the first load makes are there to stay.
    publish(&store, "a", backing, 1).unwrap();
    store.remove("a").unwrap();
    let start = root.listing();

    for had_one in [false, true] {
        let (mut death, mut published) = (0, 0);
        loop {
            if had_one {
                publish(&store, "a", backing, 1).unwrap();
            }
            let lived = survives(setting, "load", death);
            store.reap().unwrap();
            let found = read(&store, "a");
            match &found {
                Ok(2) => published += 1,
                Ok(tag) => assert!(
                    had_one && *tag == 1 && published == 0,
                    "stage {death} left {tag}"
                ),
                Err(_) => assert!(
                    is_not_found(&found) && !had_one && published == 0,
                    "stage {death}: {found:?}"
                ),
            }
            if found.is_ok() {
                let reaped = store.remove("a").unwrap();
                assert_eq!(
                    reaped.files, 2,
                    "stage {death}: only the files of the name were left"
                );
            }
            assert_eq!(root.listing(), start, "stage {death}");
            if lived {
                break;
            }
            death += 1;
        }
        // Of 2 parts: the intent made and locked, 2 files made, 2 sealed, 2 linked, the record, the name.
        assert_eq!(
            (death, published),
            (10, 2),
            "every stage was died at, and after the last the name is there"
        );
    }

    let mut death = 0;
    loop {
        publish(&store, "a", backing, 1).unwrap();
        let lived = survives(setting, "remove", death);
        assert!(is_not_found(&read(&store, "a")));
        let reaped = store.reap().unwrap();
        assert_eq!(reaped.files, if lived { 0 } else { 2 });
        assert_eq!(root.listing(), start);
        if lived {
            break;
        }
        death += 1;
    }
    assert_eq!(death, 1);
}

#[test]
fn death_at_every_stage_leaves_nothing() {
    for unlinked_files in [UnlinkedFiles::WherePossible, UnlinkedFiles::Never] {
        let root = Root::new("crash");
        let setting = Setting {
            root: root.0.clone(),
            mount: None,
            unlinked_files,
        };
        die_everywhere(&root, &setting, Backing::SharedMemory);
    }
}
