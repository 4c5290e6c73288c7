// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Files of every length, into memory of every kind.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use htlb_user::load::{fill, verify, LoadError, Options, Source, Span};

use super::memory::{pattern, Pages};
use super::scratch::Scratch;
use super::{load, small};

#[test]
fn every_length_around_blocks_and_requests_arrives() {
    let scratch = Scratch::new("lengths");
    for len in [
        0,
        1,
        511,
        512,
        513,
        4095,
        4096,
        4097,
        65535,
        65536,
        65537,
        70_000,
        1 << 20,
        (1 << 20) + 777,
    ] {
        let content = pattern(len);
        let path = scratch.file("source", &content);
        let mut memory = Pages::new(len.next_multiple_of(4096) + 8192);
        let report = load(&path, &mut memory).unwrap();
        assert_eq!(report.bytes, len as u64);
        assert_eq!(report.direct_bytes + report.buffered_bytes, len as u64);
        assert_eq!(memory.bytes()[..len], content);
        assert!(
            memory.bytes()[len..].iter().all(|byte| *byte == 0),
            "a tail of {len} is not zero"
        );
        if Source::open(&path).unwrap().is_direct() {
            assert_eq!(
                report.direct_bytes, len as u64,
                "the unaligned tail is read by the device too"
            );
        }
    }
}

#[test]
fn memory_that_no_device_can_write_is_filled_through_the_page_cache() {
    let scratch = Scratch::new("unaligned");
    let content = pattern(300_001);
    let path = scratch.file("source", &content);
    let mut memory = Pages::new(300_100);
    let source = Source::open(&path).unwrap();
    let report = fill(
        &source,
        &mut [Span::new(&mut memory.bytes()[3..300_004])],
        &small(),
        |_| {},
    )
    .unwrap();
    assert_eq!(report.buffered_bytes, 300_001);
    assert_eq!(memory.bytes()[3..300_004], content);
    assert_eq!(
        (memory.bytes()[2], memory.bytes()[300_004]),
        (0xee, 0xee),
        "written outside the span"
    );
}

#[test]
fn the_rest_of_a_block_that_no_device_wrote_is_zero_too() {
    let scratch = Scratch::new("rest");
    let content = pattern(100_001);
    let source = Source::open(&scratch.file("source", &content)).unwrap();
    let mut memory = Pages::new(120_000);
    // Unaligned, so it is read through the page cache, though its requests were cut for direct I/O.
    let mut spans = [Span::new(&mut memory.bytes()[3..])];
    fill(&source, &mut spans, &small(), |_| {}).unwrap();
    verify(&source, &mut spans, &small(), |_| {}).unwrap();
    assert!(memory.bytes()[100_004..].iter().all(|byte| *byte == 0));
}

#[test]
fn scattered_pages_are_filled_in_order() {
    let scratch = Scratch::new("scattered");
    let content = pattern(40 * 4096 - 100);
    let path = scratch.file("source", &content);
    let mut memory = Pages::new(40 * 4096);
    let mut spans: Vec<_> = memory.bytes().chunks_mut(4096).map(Span::new).collect();
    spans.reverse();
    let source = Source::open(&path).unwrap();
    let report = fill(&source, &mut spans, &small(), |_| {}).unwrap();
    verify(&source, &mut spans, &small(), |_| {}).unwrap();
    assert_eq!(report.bytes, content.len() as u64);
    let found: Vec<u8> = memory
        .bytes()
        .chunks(4096)
        .rev()
        .flatten()
        .copied()
        .collect();
    assert_eq!(found[..content.len()], content);
}

#[test]
fn several_requests_are_in_flight() {
    let scratch = Scratch::new("flight");
    let path = scratch.file("source", &pattern(32 << 20));
    let mut memory = Pages::new(32 << 20);
    let options = Options {
        in_flight: 4,
        request_bytes: 1 << 20,
        cancel: None,
    };
    let mut last = 0;
    let report = fill(
        &Source::open(&path).unwrap(),
        &mut [Span::new(memory.bytes())],
        &options,
        |at| {
            assert!(at.bytes >= last && at.total == Some(32 << 20));
            last = at.bytes;
        },
    )
    .unwrap();
    assert_eq!((report.requests, last), (32, 32 << 20));
    // What comes from the page cache may be there before the next thread starts.
    let least = if report.direct_bytes > 0 { 2 } else { 1 };
    assert!(
        (least..=4).contains(&report.in_flight_max),
        "{} in flight",
        report.in_flight_max
    );
}

#[test]
fn a_sparse_file_and_a_memory_file_system_are_sources() {
    let scratch = Scratch::new("sparse");
    let path = scratch.0.join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len((3 << 20) + 5).unwrap();
    file.write_all_at(b"island", 2 << 20).unwrap();
    drop(file);
    let mut memory = Pages::new(4 << 20);
    load(&path, &mut memory).unwrap();
    assert_eq!(&memory.bytes()[2 << 20..][..6], b"island");
    assert_eq!(memory.bytes().iter().filter(|byte| **byte != 0).count(), 6);

    let shm = Scratch::within(Path::new("/dev/shm"), "tmpfs");
    let content = pattern(200_000);
    let report = load(&shm.file("source", &content), &mut memory).unwrap();
    assert_eq!((report.direct_bytes, report.buffered_bytes), (0, 200_000));
    assert_eq!(memory.bytes()[..200_000], content);
}

#[test]
fn too_little_memory_is_refused_before_a_byte_is_read() {
    let scratch = Scratch::new("small");
    let path = scratch.file("source", &pattern(5000));
    let mut memory = Pages::new(4096);
    let error = load(&path, &mut memory).unwrap_err();
    assert!(
        matches!(
            error,
            LoadError::TooSmall {
                needed: 5000,
                found: 4096
            }
        ),
        "{error}"
    );
    assert!(memory.bytes().iter().all(|byte| *byte == 0xee));
}
