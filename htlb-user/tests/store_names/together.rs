// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Processes that load, read, replace, remove and die at once, with one name.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use htlb_user::store::{Backing, Store, StoreError, UnlinkedFiles};

use super::{child, is_not_found, publish, read, Root, Setting};

const PROCESSES: u8 = 4;

#[test]
#[ignore = "the child of the other tests of this module"]
fn contender() {
    let Some(setting) = Setting::told() else {
        return;
    };
    let number: u8 = std::env::var("HTLB_TEST_NUMBER").unwrap().parse().unwrap();
    let store = Store::open(setting.config()).unwrap();
    let end = Instant::now() + Duration::from_millis(1500);
    let (mut reads, mut turn) = (0, usize::from(number));
    while Instant::now() < end {
        turn += 1;
        if turn % 3 == 0 {
            // A tag that no other process gives.
            publish(
                &store,
                "a",
                setting.backing(),
                1 + number + PROCESSES * (turn % 50) as u8,
            )
            .unwrap();
        }
        match read(&store, "a") {
            Ok(_) => reads += 1,
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        if turn % 7 == 0 {
            let removed = store.remove("a");
            assert!(removed.is_ok() || is_not_found(&removed), "{removed:?}");
        }
        for entry in store.list().unwrap() {
            entry.state.unwrap();
        }
    }
    assert!(reads > 10, "only {reads} reads");
}

fn contend(setting: &Setting, number: u8) -> Child {
    let mut command = child("together::contender");
    setting.tell(&mut command);
    command
        .env("HTLB_TEST_NUMBER", number.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn nobody_sees_half_a_file() {
    for unlinked_files in [UnlinkedFiles::WherePossible, UnlinkedFiles::Never] {
        let root = Root::new("together");
        let setting = Setting {
            root: root.0.clone(),
            mount: None,
            unlinked_files,
        };
        let store = Store::open(setting.config()).unwrap();
        publish(&store, "a", Backing::SharedMemory, 1).unwrap();
        store.remove("a").unwrap();
        let start = root.listing();
        let contenders: Vec<_> = (0..PROCESSES)
            .map(|number| contend(&setting, number))
            .collect();
        // Two more that are killed wherever they are, again and again.
        let end = Instant::now() + Duration::from_millis(1300);
        let mut turn = 0;
        while Instant::now() < end {
            let mut victims = [contend(&setting, 0), contend(&setting, 1)];
            std::thread::sleep(Duration::from_millis(20 + turn * 13 % 50));
            for victim in &mut victims {
                victim.kill().unwrap();
                victim.wait().unwrap();
            }
            turn += 1;
        }
        for mut contender in contenders {
            assert!(contender.wait().unwrap().success());
        }
        let removed = store.remove("a");
        assert!(removed.is_ok() || is_not_found(&removed), "{removed:?}");
        store.reap().unwrap();
        assert_eq!(root.listing(), start);
    }
}

#[test]
fn threads_are_as_apart_as_processes() {
    let root = Root::new("threads");
    let store = root.store();
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let store = &store;
            scope.spawn(move || {
                for turn in 0..60_u8 {
                    publish(store, "a", Backing::SharedMemory, 1 + number * 60 + turn).unwrap();
                    match read(store, "a") {
                        Ok(_) | Err(StoreError::NotFound { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if turn % 5 == number {
                        let removed = store.remove("a");
                        assert!(removed.is_ok() || is_not_found(&removed), "{removed:?}");
                    }
                }
            });
        }
    });
    let left = store.list().unwrap().len();
    assert!(left <= 1);
    if left == 1 {
        assert_eq!(store.remove("a").unwrap().files, 2);
    }
    assert_eq!(store.reap().unwrap(), Default::default());
}
