// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What a store keeps by name, and lines of `/proc`: an error, or what comes back the same.
#![no_main]

use htlb_user::fuzzing;
use htlb_user::store::{Id, Name, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    record(bytes);
    process(bytes);
    smaps(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        names(text);
    }
});

fn record(bytes: &[u8]) {
    let Ok(record) = Record::parse(bytes) else {
        return;
    };
    let mut end = 0;
    for (part, path) in record.parts.iter().zip(record.paths()) {
        assert_eq!(part.offset, end, "a gap");
        assert_eq!(
            path.parent(),
            part.folder.components().as_path().into(),
            "outside of its folder"
        );
        assert!(part.folder.is_absolute() && part.len % part.page_size.bytes() == 0);
        end += part.len;
    }
    assert!(record.len <= end);
    let text = serde_json::to_vec(&record).expect("a record can be written");
    assert_eq!(Record::parse(&text).as_ref(), Ok(&record));
}

/// Two readers of one line find the same.
fn process(bytes: &[u8]) {
    let found = fuzzing::stat(bytes);
    if let Ok(line) = std::str::from_utf8(bytes) {
        assert_eq!(found.map(|(start, _)| start), fuzzing::start_time(line));
    }
}

fn smaps(bytes: &[u8]) {
    let all = fuzzing::huge_in(bytes, 0, u64::MAX);
    let some = fuzzing::huge_in(bytes, 0x1000, 0x8000);
    if let (Ok(all), Ok(some)) = (all, some) {
        assert!(some.bytes <= all.bytes, "a part has more than the whole");
    }
}

fn names(text: &str) {
    if let Ok(name) = Name::new(text) {
        assert_eq!(name.as_str(), text);
        let path = std::path::Path::new("/folder").join(text);
        assert_eq!(
            path.parent(),
            Some("/folder".as_ref()),
            "a name that escapes"
        );
        assert!(text.len() <= Name::MAX && !text.contains(['/', '\n', '\0']));
    }
    if let Ok(id) = text.parse::<Id>() {
        assert_eq!(id.to_string(), text);
    }
    if let Some((id, first)) = fuzzing::id_of_part(text) {
        let stem = text.split_once('.').map(|(stem, _)| stem);
        assert_eq!(stem, Some(id.to_string().as_str()));
        assert_eq!(fuzzing::id_of_part(&first), Some((id, first)));
    }
}
