// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
//! The models of what runs at once in the core: every interleaving that loom finds.

use crate::runner::{Context, Report};
use crate::steps::BUILD_LIMIT;
use crate::suite;
use std::ffi::OsString;
use std::io;
use std::time::Duration;

/// How long the models may take, on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Builds them with loom's atomics, in a target folder of their own, and runs them.
pub(crate) fn run(context: &mut Context) -> io::Result<Report> {
    let target = context.workspace.target().join("loom");
    let cargo = |last: &[&str]| {
        let mut cargo = context.workspace.cargo();
        cargo
            .args([
                "test",
                "--release",
                "--package=htlb-core",
                "--test=interleavings",
            ])
            .arg("--target-dir")
            .arg(&target)
            .args(last)
            .env("RUSTFLAGS", flags("--cfg=loom"))
            // What takes long to build and shows nothing here.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "none");
        cargo
    };
    let (mut build, mut test) = (cargo(&["--no-run"]), cargo(&["--", "--nocapture"]));
    context.log.must(&mut build, BUILD_LIMIT)?;
    let ended = context.log.run(&mut test, LIMIT)?;
    let mut report = Report {
        counts: suite::judge(&ended.output, ended.verdict),
        ..Report::default()
    };
    let explored: Vec<Explored> = ended.output.lines().filter_map(Explored::of_line).collect();
    let sum = |of: fn(&Explored) -> u64| explored.iter().map(of).sum::<u64>();
    let (models, interleavings) = (sum(|one| one.models), sum(|one| one.interleavings));
    report
        .remarks
        .push(format!("{models} models, {interleavings} interleavings"));
    if models == 0 {
        return Err(io::Error::other("no model says how much it explored"));
    }
    Ok(report)
}

/// What the environment asks of the compiler, and this.
pub(crate) fn flags(more: &str) -> OsString {
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" ");
    flags.push(more);
    flags
}

/// A model's own line: `loom: NAME: 3 models, 45 interleavings, at most 2 preemptions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Explored {
    models: u64,
    interleavings: u64,
}

impl Explored {
    /// libtest may have begun the line.
    fn of_line(line: &str) -> Option<Self> {
        let (_, said) = line.split_once("loom: ")?;
        let mut fields = said.rsplit(": ").next()?.split(", ");
        let mut number = |unit: &str| fields.next()?.strip_suffix(unit)?.trim_end().parse().ok();
        Some(Self {
            models: number("models")?,
            interleavings: number("interleavings")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_says_what_it_explored() {
        let line =
            "test a ... loom: pairs, one: left: 3 models, 45 interleavings, at most 2 preemptions";
        let explored = Explored {
            models: 3,
            interleavings: 45,
        };
        assert_eq!(Explored::of_line(line), Some(explored));
        assert_eq!(Explored::of_line("test a ... ok"), None);
        assert_eq!(Explored::of_line("loom: 3 models"), None);
    }
}
