// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! One process: what a name promises.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{symlink, FileExt, PermissionsExt};

use htlb_core::HugeSize;
use htlb_user::store::{Backing, Config, Meta, Mount, PlaceKind, Store, StoreError};

use super::{content, is_not_found, publish, read, Root};

const SHARED: Backing = Backing::SharedMemory;

#[test]
fn a_name_is_loaded_read_listed_and_removed() {
    let root = Root::new("life");
    let store = root.store();
    // Makes its folder, which stays.
    store.place(SHARED).unwrap();
    let start = root.listing();
    assert!(is_not_found(&store.open_name("a")));
    let record = publish(&store, "a", SHARED, 7).unwrap();
    assert_eq!((record.len, record.parts.len()), (10_007, 2));
    assert_eq!(record.owner.pid, std::process::id());
    assert!(record
        .parts
        .iter()
        .all(|part| part.page_size == HugeSize::BASE));

    let named = store.open_name("a").unwrap();
    assert_eq!((named.record(), named.len()), (&record, 10_007));
    let second = named.map(1).unwrap().unwrap();
    assert!(second.bytes()[..10_007 - 4096]
        .iter()
        .all(|byte| *byte == 7));
    assert!(second.bytes()[10_007 - 4096..]
        .iter()
        .all(|byte| *byte == 0));
    let mut across = [0; 10];
    assert_eq!(named.read_at(&mut across, 4091).unwrap(), 10);
    assert_eq!(named.read_at(&mut across, 10_000).unwrap(), 7);
    assert_eq!(named.read_at(&mut across, u64::MAX).unwrap(), 0);
    assert!(named.map(2).is_none());

    let list = store.list().unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].state.as_ref().unwrap(), &record);
    let reaped = store.remove("a").unwrap();
    assert_eq!((reaped.files, reaped.bytes), (2, 12_288));
    assert!(is_not_found(&store.remove("a")));
    assert!(store.list().unwrap().is_empty());
    assert_eq!(root.listing(), start);
    // Removed, but whole for who has it open.
    let mut found = Vec::new();
    assert_eq!(named.copy_to(&mut found).unwrap(), 10_007);
    assert_eq!(found, content(7));
}

#[test]
fn a_pending_buffer_is_invisible_and_leaves_nothing() {
    let root = Root::new("pending");
    let store = root.store();
    // Makes its folder, which stays.
    store.place(SHARED).unwrap();
    let start = root.listing();
    let mut pending = store.create("a").unwrap();
    let part = pending.add(SHARED, 5000).unwrap();
    assert_eq!(pending.parts()[part].len(), 8192);
    pending.resize(part, 100_000).unwrap();
    assert!(is_not_found(&store.open_name("a")));
    assert_eq!(
        store.reap().unwrap(),
        Default::default(),
        "a living load is not reaped"
    );
    pending.add(SHARED, 1).unwrap();
    pending.discard_last();
    assert_eq!(pending.parts().len(), 1);
    drop(pending);
    assert_eq!(root.listing(), start);

    let mut pending = store.create("a").unwrap();
    let part = pending.add(SHARED, 5000).unwrap();
    let error = pending
        .add(Backing::Hugetlb(HugeSize::GIB1), 1)
        .unwrap_err();
    assert!(matches!(error, StoreError::NoHugetlbfs { .. }), "{error}");
    assert!(matches!(
        pending.resize(part, u64::MAX),
        Err(StoreError::LengthInvalid { .. })
    ));
    assert!(matches!(
        pending.resize(9, 1),
        Err(StoreError::LengthInvalid { .. })
    ));
    let error = pending.publish(8193, Meta::default()).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::LengthInvalid {
                len: 8193,
                parts: 8192
            }
        ),
        "{error}"
    );
    assert_eq!(root.listing(), start);

    // A file that was cut behind our back.
    let mut pending = store.create("a").unwrap();
    pending.add(SHARED, 5000).unwrap();
    fs::File::from(pending.parts()[0].file().try_clone_to_owned().unwrap())
        .set_len(1)
        .unwrap();
    assert!(pending.publish(1, Meta::default()).is_err());
    let meta = Meta {
        source: Some("x".repeat(100_000)),
        rung: None,
    };
    assert!(matches!(
        store.create("a").unwrap().publish(0, meta),
        Err(StoreError::RecordInvalid { .. })
    ));
    assert_eq!(root.listing(), start);
}

#[test]
fn no_bytes_are_a_buffer_too() {
    let root = Root::new("empty");
    let store = root.store();
    store
        .create("void")
        .unwrap()
        .publish(0, Meta::default())
        .unwrap();
    let named = store.open_name("void").unwrap();
    assert!(named.is_empty() && named.parts().len() == 0);
    assert_eq!(named.copy_to(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn a_replaced_name_keeps_its_readers_and_frees_its_files() {
    let root = Root::new("replace");
    let store = root.store();
    publish(&store, "a", SHARED, 1).unwrap();
    let old = store.open_name("a").unwrap();
    let count = root.listing().len();
    publish(&store, "a", SHARED, 2).unwrap();
    assert_eq!(read(&store, "a").unwrap(), 2);
    assert_eq!(root.listing().len(), count, "the old files are gone");
    let mut found = Vec::new();
    old.copy_to(&mut found).unwrap();
    assert_eq!(found, content(1));
}

#[test]
fn published_files_are_read_only_and_checked() {
    let root = Root::new("checked");
    let store = root.store();
    let record = publish(&store, "a", SHARED, 3).unwrap();
    let path = record.parts[0].folder.join(format!("{}.0", record.id));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o400);
    let refused = |reason: &str| {
        let error = store.open_name("a").unwrap_err();
        assert!(
            matches!(error, StoreError::RecordInvalid { .. }) && error.to_string().contains(reason),
            "{error}"
        );
    };
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    refused("writable");
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(8192)
        .unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    refused("8192 bytes instead of 4096");
    fs::rename(&path, path.with_extension("away")).unwrap();
    fs::create_dir(&path).unwrap();
    refused("not a file");
    fs::remove_dir(&path).unwrap();
    symlink(path.with_extension("away"), &path).unwrap();
    assert!(store.open_name("a").is_err(), "a link is not followed");
    fs::remove_file(&path).unwrap();
    assert!(matches!(store.open_name("a"), Err(StoreError::Lost { .. })));
    assert!(matches!(
        store.list().unwrap()[0].state,
        Err(StoreError::Lost { .. })
    ));
    store.remove("a").unwrap();
    assert!(is_not_found(&store.open_name("a")));
}

#[test]
fn an_unreadable_record_is_kept_and_protects_every_file() {
    let root = Root::new("unreadable");
    let store = root.store();
    publish(&store, "good", SHARED, 3).unwrap();
    let record = publish(&store, "bad", SHARED, 4).unwrap();
    let path = store.index().join("names/bad");
    let text = fs::read_to_string(&path).unwrap();
    for damage in [
        "",
        "{}",
        &text[..text.len() / 2],
        &text.replace("\"version\":1", "\"version\":9"),
    ] {
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, damage).unwrap();
        assert!(
            matches!(
                store.open_name("bad"),
                Err(StoreError::RecordInvalid { .. })
            ),
            "{damage}"
        );
        let reaped = store.reap().unwrap();
        assert_eq!((reaped.files, reaped.unreadable.len()), (0, 1));
    }
    assert!(record.parts[0]
        .folder
        .join(format!("{}.0", record.id))
        .exists());
    assert_eq!(read(&store, "good").unwrap(), 3);
    assert_eq!(store.list().unwrap().len(), 2);
    // A pipe in place of the record neither blocks nor is read.
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap()
        .success());
    assert!(matches!(
        store.open_name("bad"),
        Err(StoreError::RecordInvalid { .. })
    ));
    assert_eq!(store.remove("bad").unwrap().files, 2);
    assert_eq!(read(&store, "good").unwrap(), 3);
}

#[test]
fn a_record_moved_to_another_name_is_refused() {
    let root = Root::new("moved");
    let store = root.store();
    publish(&store, "a", SHARED, 3).unwrap();
    fs::rename(store.index().join("names/a"), store.index().join("names/b")).unwrap();
    let error = store.open_name("b").unwrap_err();
    assert!(error.to_string().contains("another name"), "{error}");
}

#[test]
fn names_of_another_boot_are_forgotten_with_their_memory_gone() {
    let root = Root::new("boot");
    let store = root.store();
    // All first: each publication reaps.
    let records = [("gone", 1), ("kept", 2), ("now", 3)]
        .map(|(name, tag)| publish(&store, name, SHARED, tag).unwrap());
    for record in records {
        let path = store.index().join("names").join(record.name.as_str());
        if record.name.as_str() != "now" {
            let text = fs::read_to_string(&path)
                .unwrap()
                .replace(&record.boot, "another-boot");
            fs::write(&path, text).unwrap();
        }
        if record.name.as_str() != "kept" {
            fs::remove_file(record.parts[1].folder.join(format!("{}.1", record.id))).unwrap();
        }
    }
    let reaped = store.reap().unwrap();
    // "now" is lost too, but in this boot: it may only be mounted elsewhere.
    assert_eq!(
        reaped
            .names
            .iter()
            .map(|name| name.as_str())
            .collect::<Vec<_>>(),
        ["gone"]
    );
    assert_eq!(reaped.files, 1);
    assert_eq!(read(&store, "kept").unwrap(), 2);
    assert!(matches!(
        store.open_name("now"),
        Err(StoreError::Lost { .. })
    ));
}

#[test]
fn two_indexes_that_share_a_folder_leave_each_other_alone() {
    let root = Root::new("indexes");
    let (one, two) = (root.config(), {
        let mut config = root.config();
        config.index = root.0.join("other-index");
        config
    });
    let (one, two) = (Store::open(one).unwrap(), Store::open(two).unwrap());
    publish(&one, "a", SHARED, 1).unwrap();
    publish(&two, "a", SHARED, 2).unwrap();
    let reaped = one.reap().unwrap();
    assert_eq!((reaped.files, reaped.others.len()), (0, 1));
    assert_eq!(two.reap().unwrap().files, 0);
    assert_eq!((read(&one, "a").unwrap(), read(&two, "a").unwrap()), (1, 2));
}

#[test]
fn strange_files_are_left_alone() {
    let root = Root::new("strange");
    let store = root.store();
    let folder = publish(&store, "a", SHARED, 1).unwrap().parts[0]
        .folder
        .clone();
    for path in [
        folder.join("notes.txt"),
        folder.join("00.1"),
        store.index().join("names/line\nbreak"),
    ] {
        fs::write(path, "mine").unwrap();
    }
    // This one is in the loaders' folder and locked by nobody: it is garbage, whatever it is called.
    fs::write(store.index().join("loading/left"), "{\"version\":").unwrap();
    let before = root.listing();
    let reaped = store.reap().unwrap();
    assert_eq!(
        (reaped.loads, reaped.files, reaped.unreadable.len()),
        (1, 0, 0)
    );
    assert_eq!(before.difference(&root.listing()).count(), 1);
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn places_that_will_not_do_are_named() {
    let root = Root::new("places");
    let mut config = Config::within(&root.0, Vec::new()).unwrap();
    let plain = root.0.join("memory");
    config.mounts = vec![Mount {
        path: plain.clone(),
        page_size: HugeSize::MIB2,
    }];
    config.shared_memory.insert(0, "/no/such/folder".into());
    let store = Store::open(config.clone()).unwrap();
    let error = store
        .place(Backing::Hugetlb(HugeSize::MIB2))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(plain.to_str().unwrap()) && error.contains("no hugetlbfs with"),
        "{error}"
    );
    let place = store.place(SHARED).unwrap();
    assert!(
        place.folder.starts_with(&plain)
            && matches!(place.kind, PlaceKind::Tmpfs | PlaceKind::Disk)
    );
    config.shared_memory.truncate(1);
    let error = Store::open(config)
        .unwrap()
        .place(SHARED)
        .unwrap_err()
        .to_string();
    assert!(error.contains("/no/such/folder"), "{error}");
}

#[test]
fn an_index_that_others_can_write_is_refused() {
    let root = Root::new("refused");
    let config = root.config();
    drop(Store::open(config.clone()).unwrap());
    fs::set_permissions(&config.index, Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(
        Store::open(config.clone()),
        Err(StoreError::FolderRefused { .. })
    ));
    fs::set_permissions(&config.index, Permissions::from_mode(0o700)).unwrap();
    OpenOptions::new()
        .write(true)
        .open(config.index.join("tag"))
        .unwrap()
        .write_all_at(b"zz", 0)
        .unwrap();
    assert!(
        matches!(Store::open(config), Err(StoreError::FolderRefused { .. })),
        "a damaged tag"
    );
}

#[test]
fn a_published_mapping_has_no_writable_span() {
    let root = Root::new("span");
    let store = root.store();
    publish(&store, "a", SHARED, 1).unwrap();
    let named = store.open_name("a").unwrap();
    let mut memory = named.map(0).unwrap().unwrap();
    memory.populate().unwrap();
    assert!(memory.span().is_none());
    let mut sink = Vec::new();
    sink.write_all(memory.bytes()).unwrap();
    assert_eq!(sink, [1; 4096]);
}
