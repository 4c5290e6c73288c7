// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Who is killed: this program, which does all that the library can, or the `htlb` command.
//!
//! Before each step a victim writes down which one it is, where whoever killed it finds it. Steps of microseconds would
//! hardly ever be struck, so now and then it stays in one for a few milliseconds.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use htlb_core::{ByteLen, Error as Cause, HugeSize, PageChoice, PageCount, Request, Rung};
use htlb_user::buffer::Populate;
use htlb_user::named::{Draft, Machine, NamedError, Options};
use htlb_user::pools::{DeviceUse, Pools};
use htlb_user::store::{Config, Stage, Store, StoreError};
use htlb_user::Named;

use crate::ground::Ground;
use crate::random::Random;
use crate::this_program;

/// The name that is always there.
pub(crate) const KEPT: &str = "kept";
pub(crate) const KEPT_BYTES: usize = 2 * MIB2;
/// Names that come and go.
const OTHERS: [&str; 3] = ["x", "y", "z"];
const MIB2: usize = 2 << 20;

/// Where a victim of the library can be struck.
pub(crate) const PHASES: [&str; 15] = [
    "starting",
    "intent made",
    "intent locked",
    "file made",
    "filling",
    "sealed",
    "linked",
    "record written",
    "published",
    "name removed",
    "attached",
    "private pages promised",
    "private pages written",
    "private pages punched",
    "private pages given back",
];
/// Where all others are.
pub(crate) const COMMAND: &str = "the htlb command";

/// The same byte all over, as every buffer here has it.
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    bytes
        .first()
        .is_some_and(|first| bytes.iter().all(|byte| byte == first))
}

pub(crate) struct Victim {
    process: Child,
    phase_file: Option<PathBuf>,
}

impl Victim {
    /// One that works until it is killed, or for a while.
    pub(crate) fn library(ground: &Ground, seed: u64, end: Option<Duration>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let phase_file = ground.phase_file(number);
        fs::write(&phase_file, [0]).unwrap();
        let mut command = this_program("victim::works");
        command
            .env("HTLB_TEST_SEED", seed.to_string())
            .env("HTLB_TEST_PHASE", &phase_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if let Some(end) = end {
            command.env("HTLB_TEST_MILLIS", end.as_millis().to_string());
        }
        Self {
            process: command.spawn().unwrap(),
            phase_file: Some(phase_file),
        }
    }

    /// A load in place of what is kept, a load of another name, or its removal.
    pub(crate) fn command(ground: &Ground, random: &mut Random) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_htlb"));
        let other = OTHERS[random.below(3) as usize];
        match random.below(3) {
            0 => command.args(["rm", other]),
            choice => {
                let name = [KEPT, other][choice as usize - 1];
                command.args([
                    "load",
                    ground.source(),
                    "--page-size",
                    "2M",
                    "--strict",
                    "--name",
                    name,
                ])
            }
        };
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            process: command.spawn().unwrap(),
            phase_file: None,
        }
    }

    pub(crate) fn is_command(&self) -> bool {
        self.phase_file.is_none()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// What it was at, once it is dead.
    pub(crate) fn phase(&self) -> &'static str {
        self.phase_file.as_ref().map_or(COMMAND, |file| {
            let number = fs::read(file).unwrap();
            PHASES[usize::from(number[0])]
        })
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // Where the test failed before.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(file) = &self.phase_file {
            let _ = fs::remove_file(file);
        }
    }
}

static PHASE: OnceLock<File> = OnceLock::new();
static RANDOM: Mutex<Option<Random>> = Mutex::new(None);

fn draw(end: u64) -> u64 {
    let mut random = RANDOM.lock().unwrap();
    random.as_mut().unwrap().below(end)
}

/// The victim is about to do this, or has done it.
fn at(phase: &str) {
    let number = PHASES.iter().position(|name| *name == phase).unwrap();
    PHASE
        .get()
        .unwrap()
        .write_all_at(&[number as u8], 0)
        .unwrap();
    // The kernel takes long for some of them, and hardly any time for the others.
    let one_in = match phase {
        "starting" | "filling" | "attached" | "file made" => 12,
        "name removed" => 1,
        _ => 4,
    };
    if draw(one_in) == 0 {
        thread::sleep(Duration::from_micros(500 + draw(4000)));
    }
}

fn at_stage(stage: Stage) {
    at(match stage {
        Stage::IntentMade => "intent made",
        Stage::IntentLocked => "intent locked",
        Stage::FileMade { .. } => "file made",
        Stage::Sealed { .. } => "sealed",
        Stage::Linked { .. } => "linked",
        Stage::RecordWritten => "record written",
        Stage::Published => "published",
        Stage::Unpublished => "name removed",
        stage => panic!("{stage:?} is no phase"),
    });
}

#[test]
#[ignore = "the child of the other tests of this program"]
fn works() {
    let Some(file) = env::var_os("HTLB_TEST_PHASE") else {
        return;
    };
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    PHASE
        .set(OpenOptions::new().write(true).open(file).unwrap())
        .unwrap();
    *RANDOM.lock().unwrap() = number("HTLB_TEST_SEED").map(Random::new);
    let end = number("HTLB_TEST_MILLIS").map(Duration::from_millis);
    let began = Instant::now();
    let mut config = Config::system(Vec::new()).unwrap();
    config.on_stage = at_stage;
    let worker = Worker {
        store: Store::open(config).unwrap(),
        machine: Machine::host(),
        pools: Pools::builder()
            .device(DeviceUse::Never)
            .limit(Rung::System, HugeSize::MIB2, PageCount::new(4))
            .build()
            .unwrap(),
    };
    while end.is_none_or(|end| began.elapsed() < end) {
        let other = OTHERS[draw(3) as usize];
        match draw(6) {
            0 | 1 => worker.publish(KEPT, PageChoice::Huge(HugeSize::MIB2), KEPT_BYTES),
            2 if draw(2) == 0 => worker.publish(other, PageChoice::Base, 10_000),
            2 => worker.publish(other, PageChoice::Huge(HugeSize::MIB2), MIB2 - 5),
            3 => worker.attach([KEPT, other][draw(2) as usize]),
            4 => {
                worker.publish(other, PageChoice::Base, 100);
                worker.remove(other);
            }
            _ => worker.use_private_pages(),
        }
    }
}

struct Worker {
    store: Store,
    machine: Machine,
    pools: Pools,
}

impl Worker {
    fn publish(&self, name: &str, page: PageChoice, len: usize) {
        let request = Request::builder(ByteLen::new(len as u64))
            .page(page)
            .strict();
        let options = Options {
            threads: NonZeroUsize::new(1 + draw(2) as usize),
            ..Options::default()
        };
        let request = request.build().unwrap();
        let mut draft = match Draft::new(&self.store, name, &self.machine, &request, &options) {
            Ok(draft) => draft,
            // The others have the pages.
            Err(NamedError::Shortage(_)) => return,
            Err(error) => panic!("{name}: {error}"),
        };
        at("filling");
        let byte = 1 + draw(255) as u8;
        let content = vec![byte; len];
        let mut rest = &content[..];
        for mut span in draft.spans() {
            rest = &rest[span.write(rest)..];
        }
        assert!(rest.is_empty());
        draft.publish(len as u64, None).unwrap();
    }

    fn attach(&self, name: &str) {
        match Named::attach(&self.store, name) {
            Ok(named) => {
                at("attached");
                assert!(is_whole(named.as_slice()), "{name} is a mixture");
            }
            Err(StoreError::NotFound { .. }) => assert_ne!(name, KEPT),
            Err(error) => panic!("{name}: {error}"),
        }
    }

    fn remove(&self, name: &str) {
        match self.store.remove(name) {
            Ok(_) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// Huge pages of no name, half of them punched and had again.
    fn use_private_pages(&self) {
        let builder = self
            .pools
            .buffer(2 * MIB2 as u64)
            .page_size(HugeSize::MIB2)
            .strict();
        let mut buffer = match builder.populate(Populate::Later).create() {
            Ok(buffer) => buffer,
            Err(error) => {
                let short = matches!(error.cause(), Cause::NoRoom | Cause::OutOfPages);
                assert!(short, "{error}");
                return;
            }
        };
        at("private pages promised");
        buffer.populate(0, 2 * MIB2 as u64).unwrap();
        for page in 0..2 {
            buffer.write_at(page * MIB2 as u64, &[5; 4096]).unwrap();
        }
        at("private pages written");
        buffer.punch(0, MIB2 as u64).unwrap();
        at("private pages punched");
        drop(buffer);
        self.pools.trim();
        at("private pages given back");
    }
}
