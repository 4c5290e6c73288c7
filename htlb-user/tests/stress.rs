// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Everything that threads of one process may do at once, on the same pools, buffers, owner and names, for a while:
//! `HTLB_STRESS_SECONDS` of them. `cargo xtask test --only tsan` runs it under the thread sanitizer.
//!
//! Each page says by its bytes who filled it, so half a page, a page of somebody else and one with old contents are seen. Threads are
//! joined one by one: the end of a scope is a wait inside std, of which the sanitizer knows nothing.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use htlb_core::{ByteLen, Error as Cause, HugeSize, PageChoice, PageCount, Request, Rung};
use htlb_tests::figures;
use htlb_user::buffer::{Layout, Populate};
use htlb_user::named::{Draft, Machine, Options};
use htlb_user::pools::Pools;
use htlb_user::store::{Config, Store, StoreError};
use htlb_user::{Buffer, Named, Owner};

const PAGE: u64 = 4096;
const PAGES: u64 = 16;
const POOL: u64 = 1024;
const THREADS: u64 = 4;
const NAMES: [&str; 3] = ["a", "b", "c"];

const KINDS: [&str; 12] = [
    "populate", "fill", "punch", "reserve", "pin", "slice", "own", "create", "publish", "attach",
    "remove", "check",
];

/// What the threads share.
struct Shared {
    pools: Pools,
    owner: Owner,
    /// One is populated and punched piece by piece; the other keeps its promises.
    buffers: [Buffer; 2],
    store: Store,
    machine: Machine,
    done: [AtomicU64; KINDS.len()],
    refused: AtomicU64,
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let shared = Path::new("/dev/shm");
        let base = match shared.is_dir() {
            true => shared.to_owned(),
            false => env::temp_dir(),
        };
        Self(base.join(format!("htlb-stress-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn next(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed >> 16
}

/// The byte that the page at `offset` is filled with.
fn byte_at(offset: u64) -> u8 {
    (offset / PAGE) as u8 + 1
}

fn is_page(bytes: &[u8], offset: u64) -> bool {
    let first = bytes[0];
    (first == 0 || first == byte_at(offset)) && bytes.iter().all(|byte| *byte == first)
}

impl Shared {
    fn new(folder: &Folder) -> Self {
        let pools = Pools::builder()
            .limit(Rung::Base, HugeSize::BASE, PageCount::new(POOL))
            .build()
            .unwrap();
        let buffer = |populate| {
            let builder = pools.buffer(PAGES * PAGE).base_pages().threads(1);
            builder
                .layout(Layout::Scattered)
                .populate(populate)
                .create()
                .unwrap()
        };
        Self {
            owner: Owner::new(&pools),
            buffers: [buffer(Populate::Later), buffer(Populate::Unpromised)],
            pools,
            store: Store::open(Config::within(&folder.0, Vec::new()).unwrap()).unwrap(),
            machine: Machine::host(),
            done: Default::default(),
            refused: AtomicU64::new(0),
        }
    }

    fn run(&self, mut seed: u64, end: Instant) {
        while Instant::now() < end {
            // Names are files, and an inspection stops everybody: both take far longer than the rest.
            let kind = match next(&mut seed) % 64 {
                0..=55 => next(&mut seed) % 6,
                56..=59 => 6 + next(&mut seed) % 2,
                _ => 8 + next(&mut seed) % 4,
            } as usize;
            let came = match kind {
                0..=5 => self.on_shared_buffer(kind, &mut seed),
                6 | 7 => self.buffer_of_its_own(kind, &mut seed),
                8..=10 => self.by_name(kind, &mut seed),
                _ => {
                    self.pools.check().unwrap();
                    if next(&mut seed) % 8 == 0 {
                        self.pools.trim();
                    }
                    true
                }
            };
            if came {
                self.done[kind].fetch_add(1, Ordering::Relaxed);
            } else {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Whether it came through; refusals must be those that the others give reason for.
    fn on_shared_buffer(&self, kind: usize, seed: &mut u64) -> bool {
        let buffer = &self.buffers[(next(seed) % 2) as usize];
        let first = next(seed) % PAGES;
        let count = 1 + next(seed) % (PAGES - first);
        let (offset, len) = (first * PAGE, count * PAGE);
        let came = match kind {
            0 => buffer.populate(offset, len).map(drop),
            1 => buffer
                .populate_with(offset, len, |page| {
                    let byte = byte_at(page.offset());
                    page.bytes().fill(byte);
                    Ok(page.bytes().len())
                })
                .map(drop),
            2 => buffer.punch(offset, len).map(drop),
            3 => buffer.reserve(offset, len).map(drop),
            4 => buffer.pin(offset).map(|pin| {
                assert_eq!(pin.page().offset, offset);
                let mut bytes = [0; PAGE as usize];
                buffer.read_at(offset, &mut bytes).unwrap();
                assert!(is_page(&bytes, offset), "a pinned page");
            }),
            _ => buffer.slice(offset, PAGE).map(|slice| {
                assert!(is_page(&slice, offset), "a page under a slice");
            }),
        };
        match came {
            Ok(()) => true,
            Err(error) => {
                let cause = error.cause();
                let may = matches!(
                    (kind, cause),
                    (2, Cause::Pinned | Cause::Sealed)
                        | (4 | 5, Cause::NotPresent)
                        | (0 | 1 | 3, Cause::NoRoom | Cause::OutOfPages)
                );
                assert!(may, "{}: {error}", KINDS[kind]);
                false
            }
        }
    }

    /// Of the shared owner, whose old pages come back as they were, or of nobody.
    fn buffer_of_its_own(&self, kind: usize, seed: &mut u64) -> bool {
        let size = (1 + next(seed) % 200) * PAGE;
        let mut builder = self.pools.buffer(size).base_pages().threads(1);
        if kind == 6 {
            builder = builder.owner(&self.owner);
        }
        if next(seed) % 2 == 0 {
            builder = builder.layout(Layout::Scattered);
        }
        match builder.create() {
            Ok(mut buffer) => {
                let mut read = [0xff];
                buffer.read_at(size - 1, &mut read).unwrap();
                let old = [0, 0xee];
                assert!(read == [0] || (kind == 6 && old.contains(&read[0])));
                buffer.write_at(size - 1, &[0xee]).unwrap();
                true
            }
            Err(error) => {
                let cause = error.cause();
                assert!(
                    matches!(cause, Cause::NoRoom | Cause::OutOfPages),
                    "{error}"
                );
                false
            }
        }
    }

    fn by_name(&self, kind: usize, seed: &mut u64) -> bool {
        let name = NAMES[(next(seed) % 3) as usize];
        let found = match kind {
            8 => {
                self.publish(name, seed);
                Ok(())
            }
            9 => Named::attach(&self.store, name).map(|named| {
                let bytes = named.as_slice();
                assert_eq!(bytes.len() as u64, 20 * u64::from(bytes[0]));
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture");
            }),
            _ => self.store.remove(name).map(drop),
        };
        match found {
            Ok(()) => true,
            Err(StoreError::NotFound { .. }) => false,
            Err(error) => panic!("{}: {error}", KINDS[kind]),
        }
    }

    /// As many twenties of a byte as it says.
    fn publish(&self, name: &str, seed: &mut u64) {
        let byte = 1 + (next(seed) % 255) as u8;
        let len = 20 * u64::from(byte);
        let request = Request::builder(ByteLen::new(len)).page(PageChoice::Base);
        let request = request.build().unwrap();
        let options = Options {
            threads: Some(std::num::NonZeroUsize::MIN),
            ..Options::default()
        };
        let mut draft = Draft::new(&self.store, name, &self.machine, &request, &options).unwrap();
        let content = vec![byte; len as usize];
        let mut rest = &content[..];
        for mut span in draft.spans() {
            rest = &rest[span.write(rest)..];
        }
        assert!(rest.is_empty());
        draft.publish(len, None).unwrap();
    }
}

#[test]
fn everything_at_once() {
    let seconds = env::var("HTLB_STRESS_SECONDS").map_or(2, |text| text.parse().unwrap());
    let folder = Folder::new();
    let shared = Shared::new(&folder);
    let end = Instant::now() + Duration::from_secs(seconds);
    thread::scope(|scope| {
        let threads: Vec<_> = (1..=THREADS)
            .map(|number| {
                let shared = &shared;
                scope.spawn(move || shared.run(number * 0x9e37_79b9_7f4a, end))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let done: Vec<String> = KINDS
        .iter()
        .zip(&shared.done)
        .map(|(kind, done)| format!("{kind} {}", done.load(Ordering::Relaxed)))
        .collect();
    let refused = shared.refused.load(Ordering::Relaxed);
    figures::note(&format!(
        "stress: {THREADS} threads, {seconds} s: {}; refused {refused}",
        done.join(", ")
    ));
    for (kind, done) in KINDS.iter().zip(&shared.done) {
        assert!(
            done.load(Ordering::Relaxed) > 0,
            "{kind} never came through"
        );
    }
    let Shared {
        pools,
        owner,
        buffers,
        store,
        ..
    } = shared;
    for name in NAMES {
        let _ = store.remove(name);
    }
    assert!(store.list().unwrap().is_empty());
    assert_eq!(store.reap().unwrap(), Default::default());
    drop((buffers, owner));
    pools.check().unwrap();
    let counts = pools
        .state()
        .into_iter()
        .find(|pool| pool.rung == Rung::Base)
        .unwrap()
        .counts;
    assert_eq!((counts.nr, counts.reserved), (counts.free, PageCount::ZERO));
}
