// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! Kernels to build the module against and to boot: prepared on any Debian 12 machine, by any user, from the
//! machine's own mirror.
//!
//! Nothing is installed. A [`toolchain`] is a set of Debian packages of the release that carries the kernel's Rust
//! compiler, unpacked into a folder and entered in mount and process namespaces of its own, so that no mount can
//! outlive the command. From the same source tree come two routes:
//!
//! * [`Route::Stock`]: Debian's unmodified kernel, and a tree whose Rust symbols are those of that kernel;
//! * [`Route::Debug`]: a small kernel with KASAN, lockdep, kmemleak, fault injection and Rust's debug assertions.
//!
//! Everything is kept in the user's cache folder under the hash of what it was made from ([`cache`]), made in a
//! `.partial` folder and renamed when complete; an interrupted `make` goes on where it stopped.
//! [`module`] builds out-of-tree modules against a prepared tree; [`crate::vm`] boots the result.

pub mod apt;
pub mod archive;
pub mod cache;
pub mod command;
pub mod debug;
pub mod module;
pub mod packages;
pub mod progress;
pub mod selftest;
pub mod source;
pub mod stock;
pub mod toolchain;

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};

use cache::Cache;
use packages::Plan;
use progress::Progress;
use toolchain::{Bind, Toolchain};

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// Debian's unmodified kernel.
    Stock,
    /// A small kernel with KASAN, lockdep, kmemleak and fault injection.
    Debug,
}

impl Route {
    /// How long its preparation may take where nothing is cached yet, on two processors and an ordinary network.
    pub const fn budget(self) -> Duration {
        Duration::from_secs(match self {
            Self::Stock => 5 * 60,
            Self::Debug => 13 * 60,
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stock => "stock",
            Self::Debug => "debug",
        })
    }
}

/// A kernel that can be booted, and the tree that modules are built against.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Which kernel this is.
    pub route: Route,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The image for QEMU's `-kernel`.
    pub image: PathBuf,
    /// The folder of Debian's own modules for this kernel, with `modules.dep`; none where all is built in.
    pub modules: Option<PathBuf>,
    /// The compilers, QEMU and busybox.
    pub toolchain: Toolchain,
    source: PathBuf,
    entry: PathBuf,
}

impl Prepared {
    /// Where the kernel's build folder is, as seen inside the toolchain.
    pub const KDIR: &'static str = "/htlb/kernel/build";

    /// The arguments that every `make` on this tree needs.
    pub fn make_arguments(&self) -> Vec<String> {
        match self.route {
            Route::Stock => stock::make_arguments(&self.release),
            Route::Debug => debug::make_arguments(),
        }
    }

    /// The kernel's source and build folder, to be mounted when the toolchain is entered.
    pub fn binds(&self) -> Vec<Bind> {
        tree_binds(&self.source, &self.entry)
    }
}

/// Source and build folder at fixed places: the build folder's files name each other by absolute path, and these
/// stay true when a finished entry is renamed, or the cache is.
fn tree_binds(source: &Path, entry: &Path) -> Vec<Bind> {
    vec![
        Bind::at(source, "/htlb/source"),
        Bind::at(entry, "/htlb/kernel"),
    ]
}

/// This machine is not one on which kernels can be prepared: another architecture or distribution, no mirror in reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotBeHad;

/// How `cargo xtask` exits then, as `EX_UNAVAILABLE` of `sysexits.h`.
pub const CANNOT_BE_HAD: u8 = 69;

impl fmt::Display for CannotBeHad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("kernels cannot be prepared on this machine")
    }
}

/// How old the answer "what does Debian ship" may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Ask the mirror if the last answer is more than a day old.
    #[default]
    Daily,
    /// Ask the mirror now.
    Now,
}

/// Prepares one kernel, or finds it prepared.
///
/// # Errors
///
/// No mirror and nothing cached, no right to enter namespaces, a full disk, a failing build (its log is named).
pub fn prepare(route: Route) -> Result<Prepared> {
    prepare_with(route, Freshness::Daily)
}

/// As [`prepare`], with a say in whether the mirror is asked for newer packages.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_with(route: Route, freshness: Freshness) -> Result<Prepared> {
    let cache = Cache::open()?;
    archive::require_host_tools().context(CannotBeHad)?;
    // What is complete is never written again: who needs nothing made need not wait for who makes the other route.
    let _lock = if is_ready(&cache, route, freshness) {
        None
    } else {
        Some(cache.lock()?)
    };
    let progress = Progress::new(format!("{route} kernel"));
    let plan = packages::plan(&cache, freshness, &progress).context(CannotBeHad)?;

    // Two downloads and two unpackings, side by side: one is bound by the network while the other decompresses.
    let (toolchain, source) = thread::scope(|scope| {
        let source = scope.spawn(|| source::prepare(&cache, &plan, &progress));
        let toolchain = toolchain::prepare(&cache, &plan, &progress);
        let source = source
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("unpacking the source panicked")));
        (toolchain, source)
    });
    let (toolchain, source) = (toolchain?, source?);
    let prepared = match route {
        Route::Stock => stock::prepare(&cache, &plan, toolchain, source, &progress),
        Route::Debug => debug::prepare(&cache, &plan, toolchain, source, &progress),
    }
    .with_context(|| format!("preparing the {route} kernel {}", plan.kernel.version))?;
    progress.finish(route.budget());
    Ok(prepared)
}

fn is_ready(cache: &Cache, route: Route, freshness: Freshness) -> bool {
    packages::kept_plan(cache, freshness).is_some_and(|plan| {
        let kernel = match route {
            Route::Stock => Ok(stock::entry(cache, &plan)),
            Route::Debug => debug::entry(cache, &plan),
        };
        kernel.is_ok_and(|kernel| {
            [
                kernel,
                toolchain::entry(cache, &plan),
                source::entry(cache, &plan),
            ]
            .iter()
            .all(cache::Entry::is_complete)
        })
    })
}

/// The top folder of the repository.
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

/// `cargo xtask kernel`
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Prepare kernels; what is already in the cache is kept.
    Prepare {
        /// Which kernels; both when none is named.
        routes: Vec<Route>,
        /// Ask the mirror for newer packages now, not once a day.
        #[arg(long)]
        refresh: bool,
    },
    /// Build an out-of-tree module folder against a prepared kernel.
    Build {
        /// Which kernel.
        route: Route,
        /// The folder with the Kbuild file.
        folder: PathBuf,
    },
    /// Build the module by its own Makefile, from a tree staged for dkms, as on a machine without this repository.
    Selftest,
    /// Remove what earlier preparations left in the cache and the present ones do not use.
    Prune,
}

/// Runs `cargo xtask kernel`.
///
/// # Errors
///
/// What the action could not do.
pub fn run(arguments: Arguments) -> Result<()> {
    match arguments.action {
        Action::Prepare { routes, refresh } => {
            let freshness = if refresh {
                Freshness::Now
            } else {
                Freshness::Daily
            };
            let routes = if routes.is_empty() {
                vec![Route::Stock, Route::Debug]
            } else {
                routes
            };
            for route in routes {
                let kernel = prepare_with(route, freshness)?;
                println!("{route}: {} at {}", kernel.release, kernel.entry.display());
            }
        }
        Action::Build { route, folder } => {
            for object in module::build(&prepare(route)?, &folder)? {
                println!("{}", object.display());
            }
        }
        Action::Selftest => selftest::run()?,
        Action::Prune => {
            let cache = Cache::open()?;
            let _lock = cache.lock()?;
            let plan = Plan::load(&cache)?;
            let keep = [
                source::entry(&cache, &plan),
                toolchain::entry(&cache, &plan),
                stock::entry(&cache, &plan),
                debug::entry(&cache, &plan)?,
            ];
            for removed in cache.prune(&keep, &plan.files())? {
                println!("removed {}", removed.display());
            }
        }
    }
    Ok(())
}
