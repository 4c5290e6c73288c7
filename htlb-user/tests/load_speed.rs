// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Where the defaults of the load engine come from: run with
//! `cargo test --release -p htlb-user --test load_speed -- --ignored --nocapture`.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use htlb_user::load::{fill, Options, Source, Span};

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
