// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Processes that use named buffers and huge pages at once, the `htlb` command among them; and processes that are killed with
//! SIGKILL wherever they are, a thousand of them, two at a time. After each two, one `htlb ls`: then the counters of every pool,
//! the files, the ids, the locks and the names are what they were at the start.
//!
//! As root, on the machine's pool of 2 MiB pages, in a mount namespace with an empty `/run` and `/dev/shm`, and `TMPDIR` below `/run`. What a victim does, and
//! when it is killed, comes from a seed that is printed; `HTLB_SEED` sets it. `HTLB_LONG=1` kills ten times as many.

mod ground;
mod random;
mod victim;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ground::{in_a_namespace, Ground};
use random::Random;
use victim::{Victim, PHASES};

/// The huge pages of the pool. Together the processes need more, which the kernel makes as surplus: as many again at most.
const PAGES: u64 = 5;

fn seed() -> u64 {
    let given = env::var("HTLB_SEED").ok();
    given.map_or_else(
        || {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap();
            now.as_nanos() as u64 | 1
        },
        |seed| seed.parse().unwrap(),
    )
}

#[test]
fn a_thousand_kills_leave_everything_as_it_was() {
    in_a_namespace(
        "a_thousand_kills_leave_everything_as_it_was",
        "kills",
        PAGES,
    );
}

#[test]
#[ignore = "the child of a_thousand_kills_leave_everything_as_it_was"]
fn kills() {
    let Some(ground) = Ground::told() else {
        return;
    };
    let wanted = match htlb_tests::is_long() {
        true => 10_000,
        false => 1000,
    };
    let seed = seed();
    println!("killed: HTLB_SEED={seed}");
    let mut random = Random::new(seed);
    let start = ground.start();
    let began = Instant::now();
    let mut struck: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut kills, mut ended, mut names, mut surplus) = (0, 0, 0, 0);
    while kills < wanted {
        let mut victims = [(); 2].map(|()| match random.below(8) {
            0 => Victim::command(&ground, &mut random),
            _ => Victim::library(&ground, random.next(), None),
        });
        thread::sleep(Duration::from_micros(500 + random.below(16_000)));
        surplus = surplus.max(ground::surplus());
        victims.iter_mut().for_each(Victim::kill);
        for victim in &mut victims {
            let status = victim.wait();
            match status.signal() {
                Some(9) => {
                    kills += 1;
                    *struck.entry(victim.phase()).or_default() += 1;
                }
                // A command may be done, or find no page, before it is killed.
                _ => {
                    assert!(victim.is_command(), "a victim ended by itself: {status}");
                    assert!(matches!(status.code(), Some(0 | 3 | 4)), "{status}");
                    ended += 1;
                }
            }
        }
        ground.list();
        names += ground.check(&start);
    }
    let counts: Vec<String> = struck
        .iter()
        .map(|(phase, kills)| format!("{phase} {kills}"))
        .collect();
    println!(
        "killed: {kills} processes in {:.1} s, {ended} commands had ended, {names} names were left and removed, \
         at most {surplus} surplus pages; they died at: {}",
        began.elapsed().as_secs_f64(),
        counts.join(", ")
    );
    for phase in PHASES {
        assert!(struck.contains_key(phase), "none was killed at: {phase}");
    }
    assert!(
        struck.contains_key(victim::COMMAND),
        "no command was killed"
    );
}

#[test]
fn processes_and_commands_at_once() {
    in_a_namespace("processes_and_commands_at_once", "at_once", PAGES);
}

#[test]
#[ignore = "the child of processes_and_commands_at_once"]
fn at_once() {
    let Some(ground) = Ground::told() else {
        return;
    };
    let seed = seed();
    println!("at once: HTLB_SEED={seed}");
    let mut random = Random::new(seed);
    let start = ground.start();
    let end = Duration::from_secs(4);
    let began = Instant::now();
    let mut others: Vec<Victim> = (0..4)
        .map(|_| Victim::library(&ground, random.next(), Some(end)))
        .collect();
    let mut commands = 0;
    while began.elapsed() < end {
        let mut command = Victim::command(&ground, &mut random);
        let status = command.wait();
        // Nothing of that name, or too few pages: those that the others have.
        assert!(matches!(status.code(), Some(0 | 3 | 4)), "{status}");
        ground.list();
        ground.cat();
        commands += 3;
    }
    for other in &mut others {
        let status = other.wait();
        assert!(status.success(), "{status}");
    }
    ground.list();
    let names = ground.check(&start);
    println!(
        "at once: 4 processes and {commands} commands in {} s, {names} names were left and removed",
        end.as_secs()
    );
}

/// The program again, for the test that it is told.
fn this_program(test: &str) -> Command {
    // Its path, since the namespace has other folders.
    let program = fs::read_link("/proc/self/exe").unwrap();
    let mut command = Command::new(program);
    command.args([
        "--exact",
        test,
        "--include-ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}
