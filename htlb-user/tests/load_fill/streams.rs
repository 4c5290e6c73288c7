// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Pipes, and what else has no length: read to the end, or until told to stop.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use htlb_user::load::{fill, fill_stream, LoadError, Options, Sink, Source, Span};

use super::memory::{pattern, Pages};
use super::scratch::Scratch;
use super::small;

#[test]
fn a_raised_flag_stops_a_file_and_a_silent_pipe() {
    let scratch = Scratch::new("cancel");
    let path = scratch.file("source", &pattern(1 << 20));
    let cancel = AtomicBool::new(true);
    let options = Options {
        cancel: Some(&cancel),
        ..small()
    };
    let mut memory = Pages::new(1 << 20);
    let error = fill(
        &Source::open(&path).unwrap(),
        &mut [Span::new(memory.bytes())],
        &options,
        |_| {},
    )
    .unwrap_err();
    assert!(matches!(error, LoadError::Cancelled));

    cancel.store(false, Ordering::Relaxed);
    let fifo = scratch.0.join("fifo");
    assert!(Command::new("mkfifo")
        .arg(&fifo)
        .status()
        .unwrap()
        .success());
    // Both ends: an open for reading would wait for a writer.
    let _writer = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .unwrap();
    let source = Source::open(&fifo).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            cancel.store(true, Ordering::Relaxed);
        });
        let error = fill_stream(&source, &mut Chunks::new(4096, 9), &options, |_| {}).unwrap_err();
        assert!(matches!(error, LoadError::Cancelled));
    });
}

/// A sink of pieces of one size, and at most so many.
struct Chunks {
    pieces: Vec<Vec<u8>>,
    size: usize,
    most: usize,
}

impl Chunks {
    fn new(size: usize, most: usize) -> Self {
        Self {
            pieces: Vec::new(),
            size,
            most,
        }
    }
}

impl Sink for Chunks {
    fn grow(&mut self, filled: u64) -> io::Result<Span<'_>> {
        assert_eq!(filled as usize, self.pieces.len() * self.size);
        if self.pieces.len() == self.most {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.pieces.push(vec![0xee; self.size]);
        Ok(Span::new(self.pieces.last_mut().unwrap()))
    }
}

#[test]
fn a_pipe_is_read_to_its_end_and_the_sink_grows_no_further() {
    let scratch = Scratch::new("pipe");
    let fifo = scratch.0.join("fifo");
    assert!(Command::new("mkfifo")
        .arg(&fifo)
        .status()
        .unwrap()
        .success());
    for (len, size, pieces) in [
        (0, 4096, 0),
        (1, 100, 1),
        (100_000, 30_000, 4),
        (90_000, 30_000, 3),
        (5000, 7, 715),
    ] {
        let content = pattern(len);
        let writer = std::thread::spawn({
            let (fifo, content) = (fifo.clone(), content.clone());
            move || {
                let mut pipe = OpenOptions::new().write(true).open(fifo).unwrap();
                for part in content.chunks(8000) {
                    pipe.write_all(part).unwrap();
                }
            }
        });
        let source = Source::open(&fifo).unwrap();
        assert_eq!(source.len(), None);
        let mut sink = Chunks::new(size, usize::MAX);
        let report = fill_stream(&source, &mut sink, &small(), |_| {}).unwrap();
        writer.join().unwrap();
        let found = sink.pieces.concat();
        assert_eq!((report.bytes, sink.pieces.len()), (len as u64, pieces));
        assert_eq!(found[..len], content);
        assert!(found[len..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_stream_larger_than_its_memory_is_an_error() {
    let error = fill_stream(
        &Source::open("/dev/zero".as_ref()).unwrap(),
        &mut Chunks::new(4096, 3),
        &small(),
        |_| {},
    );
    assert!(matches!(error, Err(LoadError::Sink(_))));
}

#[test]
fn standard_input_is_a_file_or_a_stream() {
    let scratch = Scratch::new("stdin");
    let content = pattern(70_000);
    let path = scratch.file("source", &content);
    for how in ["file", "pipe"] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([
            "--exact",
            "streams::standard_input_child",
            "--nocapture",
            "--include-ignored",
        ]);
        child.env("HTLB_TEST_STDIN", how);
        let status = if how == "file" {
            child.stdin(File::open(&path).unwrap()).status()
        } else {
            let mut child = child.stdin(std::process::Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(&content).unwrap();
            child.wait()
        };
        assert!(status.unwrap().success(), "{how}");
    }
}

#[test]
#[ignore = "the child of standard_input_is_a_file_or_a_stream"]
fn standard_input_child() {
    let Ok(how) = std::env::var("HTLB_TEST_STDIN") else {
        return;
    };
    let source = Source::stdin().unwrap();
    let mut memory = Pages::new(80_000);
    let found = if how == "file" {
        assert_eq!(source.len(), Some(70_000));
        fill(&source, &mut [Span::new(memory.bytes())], &small(), |_| {}).unwrap();
        memory.bytes()[..70_000].to_vec()
    } else {
        assert_eq!(source.len(), None);
        let mut sink = Chunks::new(7000, 10);
        fill_stream(&source, &mut sink, &small(), |_| {}).unwrap();
        sink.pieces.concat()
    };
    assert!(found == pattern(70_000));
}
