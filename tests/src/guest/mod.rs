// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! What is tested from inside a guest, and the program `htlb-guest` that runs it there.
//!
//! ```text
//! cargo xtask vm test ─► builds modules and htlb-guest ─► boots ─► htlb-guest run ─┬─► a group: loads its modules
//!                                                                                  ├─► a case: a process of its own
//!                                                                                  └─► KTAP ─► totals
//! ```
//!
//! A [`Group`] is a file of this folder. To add one:
//!
//! 1. Write `tests/src/guest/<name>.rs` with one function of the type [`Body`] for each case, and at its top
//!
//!    ```ignore
//!    pub(super) const GROUP: Group = Group {
//!        name: "mappings",
//!        modules: &[Module::new("htlb", "")],
//!        cases: || cases![a_fault_maps_a_huge_page, a_punch_revokes_every_mapping.within(120)],
//!    };
//!    ```
//!
//! 2. Name it in [`GROUPS`], and as a `mod` below.
//! 3. `cargo xtask vm test stock --only mappings --filter punch`
//!
//! A case fails by an error or by a panic, so `assert!` and `?` both do. A crash, a signal and a hang fail that case
//! alone: each runs in a process of its own, whose whole group is killed after [`Case::within`] seconds (four times as
//! many on the debug kernel). What it prints is shown with its result. What cannot be tested in this guest is said by
//! [`skip`]; the reason is reported, and a case that is skipped on every kernel is a failure in CI.
//!
//! Before a group its modules are loaded, with these parameters and in this order; after its last case the runner looks
//! whether `/dev/htlb` is [at rest](rest), unloads them, and compares the machine's memory with what it was. So every
//! group begins with a fresh module, and needs no cleaning up at its end. A module that can never leave
//! ([`module::PERMANENT`]) is only looked at; groups that need one come last in [`GROUPS`].
//!
//! A complaint in the kernel's log fails the run, wherever it comes from: the log has a line for the start of each case, so that it
//! can be told whose it is. What a case provokes on purpose, it announces by [`expect_in_log`].

mod bad_input;
mod inject;
mod conformance;
mod drivers;
mod area;
mod child;
mod holders;
mod dmabuf;
mod giant;
mod heap;
mod import;
mod importer;
mod library;
mod machine;
mod mappings;
pub mod meminfo;
pub mod module;
mod pool;
mod permissions;
pub mod raw;
pub mod probe;
mod punch;
mod quiet;
pub mod rest;
mod run;
mod span;
mod stress;
mod threats;
mod uring;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, Context, Result};
use clap::{Parser, Subcommand};

pub use module::Module;

/// Every group, in the order in which they run.
pub const GROUPS: &[&Group] = &[
    &machine::GROUP,
    // Early: later no GiB may be free in one piece.
    &giant::GROUP,
    // This many lines even where they would fit into fewer: groups come from many hands.
    &conformance::GROUP,
    &bad_input::GROUP,
    &permissions::GROUP,
    &inject::GROUP,
    &importer::GROUP,
    &import::GROUP,
    &pool::GROUP,
    &drivers::GROUP,
    &drivers::EDU,
    &drivers::RUST,
    &mappings::GROUP,
    &library::GROUP,
    &punch::GROUP,
    &dmabuf::GROUP,
    &threats::GROUP,
    &stress::GROUP,
    &heap::GROUP,
];

/// What a case does.
pub type Body = fn() -> Result<()>;

/// Cases that need the same modules.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The name, as `--only` knows it.
    pub name: &'static str,
    /// What is loaded before it.
    pub modules: &'static [Module],
    /// Its cases.
    pub cases: fn() -> Vec<Case>,
}

/// One test.
pub struct Case {
    /// The name.
    pub name: &'static str,
    /// How long it may take on the stock kernel.
    pub limit: Duration,
    body: Box<dyn Fn() -> Result<()>>,
}

/// In the environment of a case: it is to take its time.
pub const LONG: &str = "HTLB_LONG";
/// In the environment of a case: the number that its choices come from.
pub const SEED: &str = "HTLB_SEED";

/// What every case may take, unless it says otherwise.
const LIMIT: Duration = Duration::from_secs(60);

impl Case {
    /// A case of this name.
    #[must_use]
    pub fn new(name: &'static str, body: impl Fn() -> Result<()> + 'static) -> Self {
        Self {
            name,
            limit: LIMIT,
            body: Box::new(body),
        }
    }

    /// The same, that may take so many seconds on the stock kernel.
    #[must_use]
    pub fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A list of [`Case`]s, each named like its function, which is of the type [`Body`]: `cases![one, other.within(120)]`.
#[macro_export]
macro_rules! cases {
    ($($body:ident $(.within($seconds:expr))?),* $(,)?) => {
        vec![$($crate::guest::Case::new(stringify!($body), $body)$(.within($seconds))?),*]
    };
}
pub use cases;

/// Why a case cannot be run here.
#[derive(Clone, Debug)]
struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a case that cannot be run here: `return skip("this kernel has no fault injection");`
///
/// # Errors
/// Always: that is how the runner learns of it.
pub fn skip<T>(why: impl Into<String>) -> Result<T> {
    Err(Skip(why.into()).into())
}

/// How the kernel's log says which lines of it a case provokes; [`crate::vm::findings`] reads them.
pub use crate::vm::findings::{BEGIN, EXPECT};

/// Until this case ends, lines of the kernel's log that contain `text` are no findings.
///
/// # Errors
/// The log cannot be written to.
pub fn expect_in_log(text: &str) -> io::Result<()> {
    log(&format!("{EXPECT} {text}"))
}

/// Writes a line into the kernel's log.
fn log(line: &str) -> io::Result<()> {
    let mut log = fs::OpenOptions::new().write(true).open("/dev/kmsg")?;
    // One write is one line; 6 is the level of what is only worth knowing.
    log.write_all(format!("<6>{line}\n").as_bytes())
}

/// Whether this is the debug kernel, whose checks take their time.
#[must_use]
pub fn is_debug_kernel() -> bool {
    fs::exists("/sys/kernel/debug/kmemleak").unwrap_or(false)
}

#[derive(Debug, Parser)]
#[command(name = "htlb-guest")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run groups, as KTAP
    Run(Selection),
    /// List groups and cases
    List,
    /// Run one case in this process
    Case { group: String, name: String },
}

/// Which cases.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Selection {
    /// Only this group; may be given several times
    #[arg(long, value_name = "GROUP")]
    pub only: Vec<String>,
    /// Only cases with this in their name
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Cases that put the module under pressure go on for ten times as long
    #[arg(long)]
    pub long: bool,
    /// The choices of those cases come from this number
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

impl Selection {
    /// The groups that are left, with their cases.
    fn groups(&self) -> Result<Vec<(&'static Group, Vec<Case>)>> {
        for name in &self.only {
            group(name)?;
        }
        let chosen = GROUPS
            .iter()
            .filter(|group| {
                self.only.is_empty() || self.only.iter().any(|name| *name == group.name)
            })
            .map(|group| {
                let mut cases = (group.cases)();
                cases.retain(|case| {
                    self.filter
                        .as_ref()
                        .is_none_or(|text| case.name.contains(text.as_str()))
                });
                (*group, cases)
            })
            .filter(|(_, cases)| !cases.is_empty())
            .collect::<Vec<_>>();
        if chosen.is_empty() {
            bail!("no case is left: `htlb-guest list` prints them all");
        }
        Ok(chosen)
    }
}

fn group(name: &str) -> Result<&'static Group> {
    GROUPS
        .iter()
        .copied()
        .find(|group| group.name == name)
        .with_context(|| {
            let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
            format!("no group is called {name}; there are {}", names.join(", "))
        })
}

/// The program `htlb-guest`.
#[must_use]
pub fn main() -> ExitCode {
    match act(Arguments::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("htlb-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<ExitCode> {
    match action {
        Action::Run(selection) => run::all(&selection.groups()?, &selection),
        Action::List => {
            for group in GROUPS {
                println!("{}", group.name);
                for case in (group.cases)() {
                    println!("    {}", case.name);
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Case { group: of, name } => {
            let case = (group(&of)?.cases)()
                .into_iter()
                .find(|case| case.name == name)
                .with_context(|| format!("{of} has no case {name}"))?;
            Ok(run::here(&case))
        }
    }
}
