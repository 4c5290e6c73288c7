// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where the defaults of the load engine come from: run with
//! `cargo test --release -p htlb-user --test load_speed -- --ignored --nocapture`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use htlb_core::HugeSize;
use htlb_user::load::{fill, Options, Source, Span};
use htlb_user::store::{Backing, Config, Meta, Mount, Store};

const LEN: usize = 1 << 30;
const ROUNDS: usize = 5;

fn drop_cache(path: &Path) {
    let file = File::open(path).unwrap();
    // SAFETY: an open file; advice changes no memory.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn source() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("htlb-load-speed");
    let mut file = File::create(&path).unwrap();
    let mut block = vec![0u8; 8 << 20];
    for at in 0..LEN / block.len() {
        let mut state = at as u64 + 1;
        for word in block.chunks_mut(8) {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    path
}

#[test]
#[ignore = "a measurement: a file of 1 GiB, minutes"]
fn in_flight_and_request_size() {
    let path = source();
    let mut memory = vec![1u8; LEN + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let memory = &mut memory[start..][..LEN];
    let cases: Vec<(usize, usize)> = [1, 2, 4, 8]
        .into_iter()
        .flat_map(|in_flight| {
            [512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20].map(|bytes| (in_flight, bytes))
        })
        .collect();
    let mut seconds = vec![Vec::new(); cases.len()];
    let (mut buffered, mut copied) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        for place in 0..cases.len() {
            // Another order each round, and the first round only warms.
            let case = (place * 7 + round * 3) % cases.len();
            let (in_flight, request_bytes) = cases[case];
            let options = Options {
                in_flight,
                request_bytes,
                cancel: None,
            };
            drop_cache(&path);
            let report = fill(
                &Source::open(&path).unwrap(),
                &mut [Span::new(memory)],
                &options,
                |_| {},
            )
            .unwrap();
            assert_eq!(report.bytes, LEN as u64);
            if round > 0 {
                seconds[case].push(report.elapsed.as_secs_f64());
            }
        }
        drop_cache(&path);
        let began = Instant::now();
        let mut file = File::open(&path).unwrap();
        file.read_exact(memory).unwrap();
        buffered.push(began.elapsed().as_secs_f64());
        drop_cache(&path);
        let began = Instant::now();
        let mut to = File::create("/dev/shm/htlb-load-speed").unwrap();
        let (mut file, mut block) = (File::open(&path).unwrap(), vec![0; 1 << 20]);
        loop {
            match file.read(&mut block).unwrap() {
                0 => break,
                n => to.write_all(&block[..n]).unwrap(),
            }
        }
        copied.push(began.elapsed().as_secs_f64());
        fs::remove_file("/dev/shm/htlb-load-speed").unwrap();
    }
    for ((in_flight, bytes), seconds) in cases.into_iter().zip(seconds) {
        println!(
            "{in_flight} in flight, {:5} KiB: {:.3} s/GiB",
            bytes >> 10,
            median(seconds)
        );
    }
    println!(
        "buffered read(2): {:.3} s/GiB; copied into /dev/shm: {:.3} s/GiB",
        median(buffered),
        median(copied)
    );
    fs::remove_file(path).unwrap();
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// Every page first, by one thread, then the load.
    Populated(Backing),
    /// The reads in flight find no page, and get one.
    InFlight(Backing),
    Copied,
}

#[test]
#[ignore = "a measurement: a file of 1 GiB, and 512 huge pages of 2 MiB if HTLB_TEST_MOUNT has them"]
fn a_whole_load_against_a_copy() {
    let path = source();
    let root = Path::new("/dev/shm").join(format!("htlb-load-speed-{}", std::process::id()));
    let mounts = std::env::var_os("HTLB_TEST_MOUNT").map(|path| Mount {
        path: path.into(),
        page_size: HugeSize::MIB2,
    });
    let mut ways = vec![Way::Copied];
    let huge = mounts.is_some().then_some(Backing::Hugetlb(HugeSize::MIB2));
    for backing in [Backing::SharedMemory].into_iter().chain(huge) {
        ways.extend([Way::Populated(backing), Way::InFlight(backing)]);
    }
    let store = Store::open(Config::within(&root, mounts.into_iter().collect()).unwrap()).unwrap();
    let load = |backing, populate: bool| {
        let source = Source::open(&path).unwrap();
        let mut pending = store.create("speed").unwrap();
        let part = pending.add(backing, LEN as u64).unwrap();
        let mut memory = pending.parts()[part].map().unwrap();
        memory
            .populate_from(if populate { 0 } else { LEN })
            .unwrap();
        let mut spans = [memory.span().unwrap()];
        fill(&source, &mut spans, &Options::default(), |_| {}).unwrap();
        pending.publish(LEN as u64, Meta::default()).unwrap();
    };
    let mut seconds = vec![Vec::new(); ways.len()];
    for round in 0..=ROUNDS {
        for place in 0..ways.len() {
            let case = (place + round) % ways.len();
            drop_cache(&path);
            let began = Instant::now();
            match ways[case] {
                Way::Copied => drop(fs::copy(&path, root.join("copy")).unwrap()),
                Way::Populated(backing) => load(backing, true),
                Way::InFlight(backing) => load(backing, false),
            }
            if round > 0 {
                seconds[case].push(began.elapsed().as_secs_f64());
            }
            let _ = store.remove("speed");
            let _ = fs::remove_file(root.join("copy"));
        }
    }
    for (way, seconds) in ways.into_iter().zip(seconds) {
        println!("{way:?}: {:.3} s/GiB", median(seconds));
    }
    fs::remove_dir_all(root).unwrap();
    fs::remove_file(path).unwrap();
}
