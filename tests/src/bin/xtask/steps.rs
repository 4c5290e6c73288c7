// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The steps of `cargo xtask test`, in order.

use crate::modes::{self, Mode};
use crate::runner::{Context, Report, Scope};
use crate::{
    coverage, deny, features, freestanding, fuzz, guests, loom, msrv, repository, suite, tsan,
};
use clap::ValueEnum;
use htlb_tests::kernel::Route;
use std::io;
use std::process::Command;
use std::time::Duration;

/// For a command whose time is the compiler's.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    Repository,
    Fmt,
    Clippy,
    Doc,
    Features,
    Freestanding,
    Msrv,
    Doctests,
    Tests,
    TestsEmpty,
    TestsUnprivileged,
    TestsContainer,
    Loom,
    Tsan,
    Fuzz,
    Deny,
    KernelStock,
    Coverage,
    KernelByHand,
    VmSelftest,
    VmStock,
    KernelDebug,
    VmDebug,
}

impl Step {
    /// All of them, in the order in which they run.
    pub(crate) const ALL: [Self; 23] = [
        Self::Repository,
        Self::Fmt,
        Self::Clippy,
        Self::Doc,
        Self::Features,
        Self::Freestanding,
        Self::Msrv,
        Self::Doctests,
        Self::Tests,
        Self::TestsEmpty,
        Self::TestsUnprivileged,
        Self::TestsContainer,
        Self::Loom,
        Self::Tsan,
        Self::Fuzz,
        Self::Deny,
        Self::KernelStock,
        Self::Coverage,
        Self::KernelByHand,
        Self::VmSelftest,
        Self::VmStock,
        Self::KernelDebug,
        Self::VmDebug,
    ];

    /// The name on the command line, and of the log.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Features => "features",
            Self::Freestanding => "freestanding",
            Self::Msrv => "msrv",
            Self::Doctests => "doctests",
            Self::Tests => "tests",
            Self::TestsEmpty => "tests-empty",
            Self::TestsUnprivileged => "tests-unprivileged",
            Self::TestsContainer => "tests-container",
            Self::Loom => "loom",
            Self::Tsan => "tsan",
            Self::Fuzz => "fuzz",
            Self::Deny => "deny",
            Self::KernelStock => "kernel-stock",
            Self::Coverage => "coverage",
            Self::KernelByHand => "kernel-by-hand",
            Self::KernelDebug => "kernel-debug",
            Self::VmSelftest => "vm-selftest",
            Self::VmStock => "vm-stock",
            Self::VmDebug => "vm-debug",
        }
    }

    /// One line for `--list`.
    pub(crate) const fn about(self) -> &'static str {
        match self {
            Self::Repository => "licence lines, machine paths, sources in Cargo.lock, long files",
            Self::Fmt => "rustfmt has nothing to change",
            Self::Clippy => "no warning in any target with all features",
            Self::Doc => "the documentation builds without a warning",
            Self::Features => "htlb-core builds with every set of features, and as Kbuild does",
            Self::Freestanding => "a program without std, alloc or libc links htlb-core and runs",
            Self::Msrv => "htlb-core builds with the oldest supported compiler",
            Self::Doctests => "the documentation's examples run",
            Self::Tests => "all tests; as root with pages in the pool, else as found",
            Self::TestsEmpty => "as root, no huge page, none to be made",
            Self::TestsUnprivileged => "as a user without privileges, pages in the pool",
            Self::TestsContainer => "as root of a user namespace only, no huge page",
            Self::Loom => "every interleaving of the core's operations, in pairs and triples",
            Self::Tsan => "threads at everything the library does, under the thread sanitizer",
            Self::Fuzz => "every fuzz target for a few seconds",
            Self::Deny => "licences, sources and bans of all dependencies",
            Self::KernelStock => "Debian's kernel, and a tree to build the module against",
            Self::Coverage => {
                "the share of htlb-core's lines that tests run, and each of its errors"
            }
            Self::KernelByHand => {
                "the module's Makefile and the tree for dkms, without this repository"
            }
            Self::VmSelftest => "guests that fail, hang or panic are told from good ones",
            Self::KernelDebug => "a kernel with KASAN, lockdep, kmemleak and fault injection",
            Self::VmStock => "the module in a guest with Debian's kernel",
            Self::VmDebug => "the module in a guest with the debug kernel",
        }
    }

    /// When it runs without being named.
    pub(crate) const fn scope(self) -> Scope {
        match self {
            Self::Repository | Self::Fmt | Self::Clippy | Self::Doctests | Self::Tests => {
                Scope::Quick
            }
            _ => Scope::Full,
        }
    }

    /// Runs it. An error is one failed check.
    pub(crate) fn run(self, context: &mut Context) -> io::Result<Report> {
        match self {
            Self::Repository => repository::check(context),
            Self::Fmt => fmt(context),
            Self::Clippy => clippy(context),
            Self::Doc => doc(context),
            Self::Features => features::build(context),
            Self::Freestanding => freestanding::run(context),
            Self::Msrv => msrv::build(context),
            Self::Doctests => suite::doctests(context),
            Self::Tests => suite::run(context, self, modes::fullest()),
            Self::TestsEmpty => suite::run(context, self, Mode::Empty),
            Self::TestsUnprivileged => suite::run(context, self, Mode::Unprivileged),
            Self::TestsContainer => suite::run(context, self, Mode::Container),
            Self::Loom => loom::run(context),
            Self::Tsan => tsan::run(context),
            Self::Fuzz => fuzz::run(context),
            Self::Deny => deny::run(context),
            Self::KernelStock => guests::prepare(context, self, Route::Stock),
            Self::KernelDebug => guests::prepare(context, self, Route::Debug),
            Self::Coverage => coverage::measure(context),
            Self::KernelByHand => guests::test(context, self, &["kernel", "selftest"]),
            Self::VmSelftest => guests::test(context, self, &["vm", "selftest"]),
            Self::VmStock => guests::test(context, self, &["vm", "test", "stock"]),
            Self::VmDebug => guests::test(context, self, &["vm", "test", "debug"]),
        }
    }
}

/// Everything cargo knows, and the one source file it does not.
fn fmt(context: &mut Context) -> io::Result<Report> {
    let mut cargo = context.workspace.cargo();
    context
        .log
        .must(cargo.args(["fmt", "--all", "--check"]), BUILD_LIMIT)?;
    let mut rustfmt = Command::new("rustfmt");
    rustfmt
        .args(["--check", "--edition=2021", freestanding::SOURCE])
        .current_dir(context.workspace.root());
    context.log.must(&mut rustfmt, BUILD_LIMIT)?;
    Ok(Report::passed())
}

fn clippy(context: &mut Context) -> io::Result<Report> {
    let mut cargo = context.workspace.cargo();
    cargo.args(["clippy", "--workspace", "--all-targets", "--all-features"]);
    cargo.args(["--", "--deny=warnings"]);
    context.log.must(&mut cargo, BUILD_LIMIT)?;
    Ok(Report::passed())
}

fn doc(context: &mut Context) -> io::Result<Report> {
    let mut cargo = context.workspace.cargo();
    cargo.args(["doc", "--workspace", "--no-deps", "--all-features"]);
    cargo.env("RUSTDOCFLAGS", "--deny=warnings");
    context.log.must(&mut cargo, BUILD_LIMIT)?;
    Ok(Report::passed())
}
