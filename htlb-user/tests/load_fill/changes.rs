// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Sources that change meanwhile, and memory that differs from its source.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use htlb_user::load::{fill, verify, LoadError, Source, Span};

use super::memory::{pattern, Pages};
use super::scratch::Scratch;
use super::{load, small};

#[test]
fn a_source_that_changes_is_an_error() {
    let scratch = Scratch::new("changes");
    type Touch = fn(&Path);
    let touches: [(&str, Touch); 4] = [
        ("grown", |path| {
            OpenOptions::new()
                .append(true)
                .open(path)
                .unwrap()
                .write_all(b"more")
                .unwrap();
        }),
        ("written", |path| {
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .write_all_at(b"X", 9)
                .unwrap();
        }),
        ("cut", |path| {
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(4096)
                .unwrap();
        }),
        ("emptied", |path| {
            OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(0)
                .unwrap();
        }),
    ];
    for (name, touch) in touches {
        let path = scratch.file(name, &pattern(100_000));
        let source = Source::open(&path).unwrap();
        // Straight after the opening: the time stamps must tell even a write of the next microsecond.
        touch(&path);
        let mut memory = Pages::new(1 << 20);
        let error = fill(&source, &mut [Span::new(memory.bytes())], &small(), |_| {}).unwrap_err();
        match name {
            "cut" | "emptied" => assert!(
                matches!(
                    error,
                    LoadError::Short {
                        expected: 100_000,
                        ..
                    }
                ),
                "{error}"
            ),
            _ => assert!(matches!(error, LoadError::Changed { .. }), "{error}"),
        }
    }
}

#[test]
fn verify_names_the_first_byte_that_differs() {
    let scratch = Scratch::new("verify");
    let content = pattern((2 << 20) + 100);
    let path = scratch.file("source", &content);
    let mut memory = Pages::new(3 << 20);
    load(&path, &mut memory).unwrap();
    let source = Source::open(&path).unwrap();
    let first = |bytes: &mut [u8]| match verify(&source, &mut [Span::new(bytes)], &small(), |_| {})
    {
        Ok(_) => None,
        Err(LoadError::Mismatch { offset, .. }) => Some(offset as usize),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(first(memory.bytes()), None);
    // From the end to the front: each is the first of all those before it. The last two lie behind the end.
    for at in [
        (3 << 20) - 1,
        (2 << 20) + 100,
        (2 << 20) + 99,
        1 << 20,
        (1 << 20) - 1,
        65_536,
        4096,
        0,
    ] {
        memory.bytes()[at] ^= 0x40;
        assert_eq!(first(memory.bytes()), Some(at));
    }
}
