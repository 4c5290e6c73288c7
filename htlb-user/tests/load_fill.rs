// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Loads from real files, devices and pipes: every byte, every error, nothing behind the end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use htlb_user::load::{fill, fill_stream, verify, LoadError, Options, Report, Sink, Source, Span};

/// A folder on a disk file system, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        // On the disk where that is ours to write: direct I/O is to be had there.
        let disk = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let probe = disk.join(format!("htlb-probe-{name}-{}", std::process::id()));
        let writable = fs::create_dir(&probe)
            .and_then(|()| fs::remove_dir(&probe))
            .is_ok();
        let fallback = std::env::temp_dir();
        Self::within(if writable { disk } else { &fallback }, name)
    }

    fn within(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("htlb-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Bytes that differ at every place, so that a misplaced block shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1)
        .collect()
}

/// Memory that begins on a page.
struct Pages(Vec<u8>, usize, usize);

impl Pages {
    fn new(len: usize) -> Self {
        let memory = vec![0xee; len + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self(memory, start, len)
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.0[self.1..][..self.2]
    }
}

fn small() -> Options<'static> {
    Options {
        request_bytes: 64 << 10,
        ..Options::default()
    }
}

fn load(path: &Path, memory: &mut Pages) -> Result<Report, LoadError> {
    fill(
        &Source::open(path)?,
        &mut [Span::new(memory.bytes())],
        &small(),
        |_| {},
    )
}

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
fn what_is_no_file_is_told_apart() {
    let folder = Source::open(Path::new("/")).unwrap_err();
    assert!(matches!(
        folder,
        LoadError::NotReadable {
            kind: "directory",
            ..
        }
    ));
    let missing = Source::open(Path::new("/no/such/file")).unwrap_err();
    assert!(missing.to_string().contains("/no/such/file"), "{missing}");
    // A size that means nothing: 0 in /proc, a whole page in /sys.
    assert_eq!(
        Source::open(Path::new("/proc/self/status")).unwrap().len(),
        None
    );
    let stream = fill(
        &Source::open(Path::new("/proc/version")).unwrap(),
        &mut [],
        &small(),
        |_| {},
    )
    .unwrap_err();
    assert!(matches!(stream, LoadError::Unsized { .. }));
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
            "standard_input_child",
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

/// A loop device whose size is no multiple of 4096. Needs root and a free loop device.
#[test]
fn a_block_device_is_a_source() {
    let scratch = Scratch::new("block");
    let content = pattern((1 << 20) + 512);
    let image = scratch.file("image", &content);
    let made = Command::new("losetup")
        .args(["--read-only", "--find", "--show"])
        .arg(&image)
        .output();
    let device = match made {
        Ok(made) if made.status.success() => {
            String::from_utf8(made.stdout).unwrap().trim().to_owned()
        }
        _ => {
            eprintln!("SKIPPED a_block_device_is_a_source: no loop device can be made here");
            return;
        }
    };
    let mut memory = Pages::new(2 << 20);
    let report = load(Path::new(&device), &mut memory);
    let detached = Command::new("losetup")
        .args(["--detach", &device])
        .status()
        .unwrap();
    let report = report.unwrap();
    assert_eq!(report.bytes, content.len() as u64);
    assert!(report.direct_bytes > 0, "{report:?}");
    assert_eq!(memory.bytes()[..content.len()], content);
    assert!(detached.success());
}
