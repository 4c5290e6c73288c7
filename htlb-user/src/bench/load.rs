// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Loading a file, and copying it by hand.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use htlb_core::{ByteLen, Request};

use crate::load::{fill, Options, Source};
use crate::named::{self, Draft, Machine};
use crate::sys::file;
use crate::sys::memfd::{Kind, Memfd};

/// Rounds that are counted; each moves gigabytes.
const ROUNDS: usize = 5;

/// What a file of some size took, in seconds, medians.
#[derive(Clone, Copy, Debug)]
pub struct Loads {
    /// `read` and `write` into shared memory, divided by a load.
    pub vs_copy: f64,
    /// A load into a named buffer: pages, direct reads, publication.
    pub load: f64,
    /// The copy by hand.
    pub copy: f64,
    /// Direct reads alone, into memory that is there.
    pub raw: f64,
}

/// Loads a file of `bytes` bytes, made in `folder`, in turns with its copy; it is dropped from the page cache before each.
///
/// # Errors
/// What the file system and the loads say.
pub fn load_vs_copy(folder: &Path, bytes: u64) -> io::Result<Loads> {
    let path = folder.join(format!("htlb-bench-{}", std::process::id()));
    let made = Made { path: &path };
    let mut sample = File::create_new(&path)?;
    write_sample(&mut sample, bytes)?;
    let machine = Machine::host();
    let store = machine.store().map_err(io::Error::other)?;
    let name = format!("htlb-bench-{}", std::process::id());
    let mut raw_memory = vec![0u8; usize::try_from(bytes).map_err(io::Error::other)?];

    let mut took = [const { [0.0; ROUNDS] }; 3];
    // The first round is not counted: it warms memory that the host has not backed yet.
    for round in 0..=ROUNDS {
        for turn in 0..3 {
            let peer = (turn + round) % 3;
            drop_from_cache(&path)?;
            let start = Instant::now();
            match peer {
                0 => {
                    let request = Request::builder(ByteLen::new(bytes))
                        .build()
                        .map_err(io::Error::other)?;
                    let options = named::Options::default();
                    let mut draft = Draft::new(&store, &name, &machine, &request, &options)
                        .map_err(io::Error::other)?;
                    let source = Source::open(&path).map_err(io::Error::other)?;
                    fill(&source, &mut draft.spans(), &Options::default(), |_| ())
                        .map_err(io::Error::other)?;
                    draft.publish(bytes, None).map_err(io::Error::other)?;
                }
                1 => {
                    let mut shared = File::from(Memfd::new(Kind::Shmem)?.share());
                    let mut from = File::open(&path)?;
                    let mut buffer = vec![0; 1 << 20];
                    loop {
                        match from.read(&mut buffer)? {
                            0 => break,
                            n => shared.write_all(buffer.get(..n).unwrap_or_default())?,
                        }
                    }
                }
                _ => {
                    let source = Source::open(&path).map_err(io::Error::other)?;
                    let mut spans = [crate::load::Span::new(&mut raw_memory)];
                    fill(&source, &mut spans, &Options::default(), |_| ())
                        .map_err(io::Error::other)?;
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            if peer == 0 {
                store.remove(&name).map_err(io::Error::other)?;
            }
            if let (Some(counted), Some(took)) = (round.checked_sub(1), took.get_mut(peer)) {
                if let Some(place) = took.get_mut(counted) {
                    *place = seconds;
                }
            }
        }
    }
    drop(made);
    let [mut load, mut copy, mut raw] = took;
    let mut ratios: [f64; ROUNDS] = std::array::from_fn(|round| copy[round] / load[round]);
    Ok(Loads {
        vs_copy: super::median(&mut ratios),
        load: super::median(&mut load),
        copy: super::median(&mut copy),
        raw: super::median(&mut raw),
    })
}

/// The sample file, removed at the end however that comes.
struct Made<'a> {
    path: &'a Path,
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // A file that is gone already needs no removal; there is nobody to tell about another reason.
        let _ = std::fs::remove_file(self.path);
    }
}

/// Bytes that no file system stores in less space.
fn write_sample(file: &mut File, bytes: u64) -> io::Result<()> {
    let mut block = vec![0u8; 1 << 20];
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut left = bytes;
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        let part = left.min(block.len() as u64);
        file.write_all(block.get(..part as usize).unwrap_or_default())?;
        left -= part;
    }
    file.sync_all()?;
    file.rewind()
}

fn drop_from_cache(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    file::drop_cache(file.as_fd());
    Ok(())
}
